"""README's file tree: every folder and file of the programs with the first sentence that it says of itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_BEGIN: Final = "<!-- tree: made by `make docs` -->\n"
_END: Final = "<!-- end of the tree -->\n"
PACKAGES: Final = ("core", "service", "feedback", "trainer", "cli")
_WHOLE: Final = (*PACKAGES, "deploy", "scripts", "docs")
_PHRASES: Final = {
    "cli/demo/intents/LICENSE": "CC BY 4.0",
    "cli/demo/intents/test.jsonl": "240 held-out texts",
    "cli/demo/intents/train.jsonl": "1,056 texts with 24 labels",
    "core/examples/migrations/": "The schema's steps (Alembic)",
    "core/examples/migrations/versions/": "One file a step",
    "cli/demo/intents/": "Customer-service intents, our own writing",
    "deploy/": "Images and a compose file to run it in production",
    "docs/": "What is too long for this page",
    "docs/benchmarks/": "The record of `make bench`",
    "docs/benchmarks/serving.svg": "Throughput and latency by concurrency",
    "docs/decisions/": "Why it is built as it is, half a page each",
    "scripts/": "What the Makefile and CI call",
    "scripts/kafka/": "The Maven file with the broker's version",
    "scripts/kafka/pom.xml": "The artifacts of a Kafka broker",
    "service/console/": "The page for people",
    "service/console/index.html": "Try a text, correct it, watch the versions",
    "tests/": "By room; contracts/ has one suite a seam, for all implementations; acceptance/ starts real programs",
    "benchmarks/": "What was measured, in LOG.md, and the programs that measure it: serving/ beside its peers",
    ".ci/run": "What CI runs: the real servers, make check, make test",
    "bentofile.yaml": "What goes into the Bento",
    "pyproject.toml": "Dependencies, an extra for each program, and the tools' rules",
    "requirements.lock": "All dependencies with hashes and without hosts",
}


def with_tree(readme: str) -> str:
    """README with the file tree between its two marks brought up to date."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        return readme
    lines = "\n".join(tree_lines())
    return f"{before}{begin}```\n{lines}\n```\n{end}{after}"


def tree_lines() -> list[str]:
    """A line for each folder and file, with the first sentence that it says of itself."""
    entries: list[tuple[str, str]] = []
    for top in _WHOLE:
        entries += [(_indented(path), _phrase(path)) for path in _walk(ROOT / top)]
    for name in (
        "tests/",
        "benchmarks/",
        ".ci/run",
        "bentofile.yaml",
        "pyproject.toml",
        "requirements.lock",
        "Makefile",
    ):
        if (ROOT / name).exists():
            entries.append((name, _phrase(ROOT / name)))
    width = max(len(name) for name, _ in entries) + 2
    return [f"{name:<{width}}{phrase}".rstrip() for name, phrase in entries]


def _walk(folder: Path) -> Iterator[Path]:
    """A folder and what is in it, files before folders; an ``__init__.py`` speaks for its folder."""
    inside = [path for path in folder.iterdir() if path.name not in ("__pycache__", "__init__.py", ".env")]
    if not inside:
        return
    yield folder
    for path in sorted(inside, key=lambda path: (path.is_dir(), path.name)):
        yield from _walk(path) if path.is_dir() else [path]


def _indented(path: Path) -> str:
    name = path.relative_to(ROOT)
    return "  " * (len(name.parts) - 1) + name.name + ("/" if path.is_dir() else "")


def _phrase(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
    if name in _PHRASES:
        return _PHRASES[name]
    source = path / "__init__.py" if path.is_dir() else path
    text = source.read_text(encoding="utf-8") if source.is_file() else ""
    if source.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    elif source.suffix == ".md":
        said = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "")
    else:
        comment = re.search(r"(?:^# ?[^!\n].*\n)+", text, re.MULTILINE)
        said = re.sub(r"^# ?", "", comment[0], flags=re.MULTILINE) if comment else ""
    paragraph = " ".join(said.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[^.])\.(?= |$)", paragraph, maxsplit=1)[0]
    return re.sub(r":\w+:`([^`]*)`", r"\1", sentence).replace("`", "")
