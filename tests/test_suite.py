"""The verdict on all tests, from parts that pass, fail, or run nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import suite

ROOT = Path(__file__).resolve().parents[1]
GOOD = "def test_good(): pass\n"
SKIPPED = "import pytest\n@pytest.mark.skip\ndef test_skipped(): pass\n"
PARTS = {
    "failing": "def test_bad(): assert 0\n" + GOOD,
    "unclean": "import pytest\n@pytest.fixture\ndef left():\n    yield\n    assert 0\ndef test_good(left): pass\n",
    "broken": "import nothing_of_this_name\n",
    "skipped": SKIPPED,
    "empty": "",
    "dying": "import os\nos._exit(0)\n",
    "good": GOOD,
}
VERDICTS = [
    "failing: not all passed",
    "unclean: not all passed",
    "broken: pytest ended with code 2",
    "skipped: no test ran",
    "empty: no test ran",
    "dying: pytest ended with code 0 and without a report",
]


@pytest.fixture
def verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """Runs parts of one file each; returns the exit code and the lines that were printed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(parts: dict[str, str]) -> tuple[int, list[str]]:
        for name, content in parts.items():
            (tmp_path / f"test_{name}.py").write_text(content)
        code = suite.run_all({name: ["-c", f"{tmp_path}/pytest.ini", f"{tmp_path}/test_{name}.py"] for name in parts})
        return code, capfd.readouterr().out.splitlines()

    return run


def found_by_ci(line: str) -> bool:
    pattern = re.search(r"grep -E '(.+)' \"\$log\"", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert pattern is not None
    return re.search(pattern[1], line) is not None


def test_every_part_runs_whatever_the_one_before_has_shown(verdict: Callable[..., tuple[int, list[str]]]) -> None:
    code, said = verdict(PARTS)
    assert code == 1
    assert said[-len(VERDICTS) - 1 : -1] == VERDICTS
    assert said[-1].startswith("1 failed, 2 passed, 1 skipped, 2 errors in ")
    assert found_by_ci(said[-1])


def test_where_all_pass_the_totals_are_all_that_is_said(verdict: Callable[..., tuple[int, list[str]]]) -> None:
    code, said = verdict({"one": GOOD, "two": GOOD + SKIPPED})
    assert code == 0
    assert said[-1].startswith("2 passed, 1 skipped in ")
    assert found_by_ci(said[-1])
    assert "two: " not in said[-2]
