"""Write requirements.lock with uv, or check without a network that it still fits pyproject.toml.

    python scripts/lock.py write [--upgrade]
    python scripts/lock.py check

The lock names no host: an index is a matter of each machine. Its head carries a digest of what it was resolved from.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "requirements.lock"
COMMAND: Final = (
    *("uv", "pip", "compile", "pyproject.toml", "--all-extras", "--group", "dev", "--universal"),
    *("--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header"),
)
_HEAD: Final = "# Made by `make lock` with uv; a change by hand would be lost.\n# resolved from: sha256:{digest}\n"
_PIN: Final = re.compile(r"[a-z0-9._-]+==[^\s;\\]+(?: ; [^\\]+?)?")
_HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def digest_of_inputs() -> str:
    """SHA-256 of everything in pyproject.toml that a resolution depends on."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    inputs = {
        "requires-python": project["requires-python"],
        "dependencies": project["dependencies"],
        "extras": project["optional-dependencies"],
        "groups": document["dependency-groups"],
        "uv": document.get("tool", {}).get("uv", {}),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def faults(document: str) -> list[str]:
    """What is wrong with a lock: out of date, a pin without a hash, or a host named."""
    found = []
    if f"sha256:{digest_of_inputs()}" not in document:
        found.append("it was resolved from another pyproject.toml: run `make lock`")
    if re.search(r"://|@ |--(extra-)?index-url|--find-links", document):
        found.append("it names a host or an index: run `make lock`")
    body = "".join(line for line in document.splitlines(keepends=True) if not line.startswith("#"))
    for entry in body.replace("\\\n", " ").splitlines():
        pin, *hashes = re.split(r"\s+(?=--hash)", entry.strip())
        if not _PIN.fullmatch(pin) or not hashes or not all(_HASH.fullmatch(item) for item in hashes):
            found.append(f"{pin[:80]!r} is not a pin with hashes")
    return found


def write(arguments: list[str]) -> None:
    """Resolve; versions in the present lock are kept where they fit, unless ``--upgrade`` is among the arguments."""
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([str(uv), *COMMAND[1:], *arguments, "--quiet", "-o", str(LOCK)], cwd=ROOT, check=True)  # noqa: S603
    body = LOCK.read_text(encoding="utf-8")
    LOCK.write_text(_HEAD.format(digest=digest_of_inputs()) + body, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run one of the two; returns the exit code."""
    if arguments[:1] == ["write"]:
        write(arguments[1:])
    elif arguments != ["check"]:
        sys.stderr.write("usage: python scripts/lock.py write [--upgrade] | check\n")
        return 2
    found = faults(LOCK.read_text(encoding="utf-8"))
    for fault in found:
        sys.stderr.write(f"requirements.lock: {fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
