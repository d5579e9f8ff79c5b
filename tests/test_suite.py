"""The verdict on all tests, from parts that pass, fail, or run nothing."""

import re
from pathlib import Path

import pytest

from scripts import suite

ROOT = Path(__file__).resolve().parents[1]
GOOD = "def test_good(): pass\n"
BAD = "def test_bad(): assert 0\n"
SKIPPED = "import pytest\n@pytest.mark.skip\ndef test_skipped(): pass\n"
HALF = "import pytest\n@pytest.fixture\ndef left():\n    yield\n    assert 0\ndef test_good(left): pass\n"


@pytest.mark.parametrize(
    ("parts", "code", "told"),
    [
        ({"one": GOOD, "two": GOOD + SKIPPED}, 0, "2 passed, 1 skipped in "),
        ({"one": BAD, "two": GOOD}, 1, "one: not all passed\n1 failed, 1 passed in "),
        (
            {"one": "import nothing_of_this_name", "two": GOOD},
            1,
            "one: pytest ended with code 2\n1 passed, 1 errors in ",
        ),
        ({"one": HALF, "two": GOOD}, 1, "one: not all passed\n"),
        ({"one": GOOD, "two": SKIPPED}, 1, "two: no test ran\n1 passed, 1 skipped in "),
        (
            {"one": "", "two": "import os\nos._exit(0)"},
            1,
            "one: no test ran\ntwo: pytest ended with code 0 and without",
        ),
    ],
    ids=["good", "bad", "cannot be imported", "fails at its end", "nothing but skipped", "nothing at all"],
)
def test_every_part_runs_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    parts: dict[str, str], code: int, told: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, content in parts.items():
        (tmp_path / f"test_{name}.py").write_text(content)
    assert (
        suite.run_all({name: ["-c", f"{tmp_path}/pytest.ini", f"{tmp_path}/test_{name}.py"] for name in parts}) == code
    )
    said = capfd.readouterr().out
    assert told in said
    last = said.splitlines()[-1]
    wanted = re.search(r"grep -E '(.+)' \"\$log\"", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert wanted is not None
    assert re.search(wanted[1], last), "CI would not find it"
