"""The metrics' names are an interface: dashboards and alerts hang on them. A change must be meant, so it shows here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "metrics.txt"
LINE = re.compile(r"(service|feedback|trainer) (?P<name>ratchet_[a-z_]+)\{(?P<labels>[a-z,]*)\} (?P<kind>\w+)")
#: what a label may be: few values each, never an id, a text or a user
LABELS = {
    *("device", "kind", "lane", "origin", "phase", "provider", "reason", "result", "role", "route", "split", "status"),
    *("bound", "part", "precision", "topic", "type", "version"),
}


@pytest.fixture(scope="module")
def declared() -> list[str]:
    """The metrics of all programs; they are declared in one process, so no two may have one name."""
    script = "from scripts.docs import golden_lines; print(*golden_lines(), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return found.stdout.splitlines()


def test_metrics_are_those_of_the_golden_list(declared: list[str]) -> None:
    golden = GOLDEN.read_text(encoding="utf-8").splitlines()
    missing, new = sorted(set(golden) - set(declared)), sorted(set(declared) - set(golden))
    assert not missing, f"metrics are gone; if that is meant, run `python scripts/docs.py golden`: {missing}"
    assert not new, f"metrics are new; if that is meant, run `python scripts/docs.py golden`: {new}"


def test_names_follow_the_conventions_of_prometheus(declared: list[str]) -> None:
    for line in declared:
        match = LINE.fullmatch(line)
        assert match, line
        name, kind = match["name"], match["kind"]
        assert (kind == "counter") == name.endswith("_total"), line
        assert kind != "histogram" or name.endswith(("_seconds", "_size", "_bytes")), line
        assert kind == "gauge" or not name.endswith("_info"), line
        assert not re.search(r"_(ms|millis|minutes|percent)$", name), line


def test_labels_have_few_values(declared: list[str]) -> None:
    for line in declared:
        match = LINE.fullmatch(line)
        assert match
        assert set(match["labels"].split(",")) - {""} <= LABELS, line
