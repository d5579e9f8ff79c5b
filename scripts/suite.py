"""Run all tests in two parts, the first several at a time, and say at the end what came of both.

    python scripts/suite.py [--workers N]

Tests that measure time or need the whole machine are marked `alone`: they are the second part, one after the other. It
runs whatever the first has shown. PYTEST_ADDOPTS gives both parts further options.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).resolve().parents[1]
#: pytest's exit codes that are a verdict on tests, and not the end of a run that did not get that far
_VERDICTS: Final = (0, 1)


def counts(report: Path) -> Counter[str]:
    """Tests by what came of them, from a report as JUnit's.

    Raises:
        OSError: there is none.
        ElementTree.ParseError: it was not written to its end.
    """
    found: Counter[str] = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # noqa: S314  pytest wrote it just now
        told = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
        found["failed"] += told["failures"]
        found["errors"] += told["errors"]
        found["skipped"] += told["skipped"]
        found["passed"] += told["tests"] - told["failures"] - told["errors"] - told["skipped"]
    return found


def _finished(command: list[str]) -> int:
    """The exit code; at Ctrl-C pytest, which hears it too, may end what its tests have started."""
    process = subprocess.Popen(command, cwd=ROOT)  # noqa: S603
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def run(name: str, options: list[str], report: Path) -> tuple[Counter[str], str]:
    """Run one part; returns its counts, and what is wrong with it or nothing."""
    sys.stdout.write(f"{name}: pytest {' '.join(options)}\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "pytest", *options, f"--junit-xml={report}", "-o", "junit_logging=no"]
    code = _finished(command)
    try:
        found = counts(report)
    except (OSError, ElementTree.ParseError):
        return Counter(), f"{name}: pytest ended with code {code} and without a report"
    if not found["passed"] + found["failed"] + found["errors"]:
        return found, f"{name}: no test ran"
    if code not in _VERDICTS:
        return found, f"{name}: pytest ended with code {code}"
    return found, f"{name}: not all passed" if code else ""


def summary(found: Counter[str], seconds: float) -> str:
    """One line with the totals, worded as pytest's own: `.ci/run` looks for it."""
    told = [f"{found[what]} {what}" for what in ("failed", "passed", "skipped", "errors") if found[what]]
    return f"{', '.join(told) or 'no tests ran'} in {seconds:.2f}s ({timedelta(seconds=int(seconds))})"


def run_all(parts: Mapping[str, list[str]]) -> int:
    """Run each part with its options, whatever the one before has shown; returns the exit code of all."""
    began = time.monotonic()
    total: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for name, options in parts.items():
            found, fault = run(name, options, Path(folder) / f"{name}.xml")
            total += found
            faults += [fault] if fault else []
    for line in (*faults, summary(total, time.monotonic() - began)):
        sys.stdout.write(f"{line}\n")
    return 1 if faults else 0


def main(arguments: list[str]) -> int:
    """Run the two parts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="suite.py", description="run all tests in two parts")
    parser.add_argument("--workers", type=int, default=2, help="how many tests at a time in the first part")
    workers = str(parser.parse_args(arguments).workers)
    # A file is run by one process, as its fixtures are many a file's own; in the order of their names, since the files
    # with the fewest tests, which xdist would run last, take longest here.
    at_once = ["-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    common = ["--continue-on-collection-errors"]  # a file that cannot be read hides no other's verdict
    return run_all({"together": ["-m", "not alone", *common, *at_once], "alone": ["-m", "alone", *common]})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
