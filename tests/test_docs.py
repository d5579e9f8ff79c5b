"""The documents against the code: what they list exists, and what exists is listed."""

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from scripts import docs, file_tree, lock
from service.routes import ENDPOINTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
#: written in halves, so that this file does not hold what it looks for
REGISTRIES = [
    *("pypi" + ".org", "python" + "hosted.org", "docker" + ".io", "ghcr" + ".io", "quay" + ".io", "gcr" + ".io"),
    *("maven." + "apache.org/maven2", "repo1." + "maven.org", "registry." + "npmjs", "huggingface" + ".co"),
    *("pytorch" + ".org/whl", "conda." + "anaconda.org", "nexus" + ".", "artifactory" + "."),
]
LEFTOVERS = ["TO" + "DO", "FIX" + "ME", "X" + "XX"]
MACHINE_PATHS = ["/wo" + "rk/", "/ro" + "ot/", "/home" + "/"]
#: the words of the design document
WORDS = [
    *("champion", "challenger", "correction", "gate", "promotion", "rollback", "holdout", "replay buffer", "flip"),
    *("negative flip", "forgetting", "swap", "lane"),
]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def files_of_the_tree() -> list[Path]:
    """Everything that git keeps or would keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


# made from the code


@pytest.mark.parametrize(
    "path", [Path("README.md"), *(Path("docs") / f"{name}.md" for name in ("settings", "metrics", "cli"))]
)
def test_documents_made_from_the_code_are_fresh(path: Path) -> None:
    assert read(ROOT / path) == docs.documents()[ROOT / path], f"{path} does not fit the code: run `make docs`"


def test_every_setting_is_documented_with_default_and_description() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|(.+)$", read(ROOT / "docs" / "settings.md"), re.MULTILINE))
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} has no description"
        assert field.description in rows[name], name
        if isinstance(field.default, float) or field.default in ("auto", "margin"):
            assert f"`{field.default}`" in rows[name], name


def test_every_metric_is_documented() -> None:
    page = read(ROOT / "docs" / "metrics.md")
    for program in docs.PROGRAMS:
        metrics = docs.metrics_of(program)
        assert metrics
        for metric in metrics:
            assert metric.what, metric
            assert f"| `{metric.name}` | {metric.kind} |" in page


def test_every_command_is_documented_with_its_options() -> None:
    page = read(ROOT / "docs" / "cli.md")
    for name, command in docs.commands().items():
        assert command.help, f"{name} has no help"
        section = page.split(f"## ratchet {name}\n")[1].split("\n## ")[0]
        for item in command.params:
            assert item.help or item.param_type_name == "argument", f"{name}: {item.name} has no help"
            assert all(option in section or option.upper() in section for option in item.opts), f"{name}: {item.name}"


def test_the_tree_lists_every_file_of_the_programs_and_no_other() -> None:
    block = read(ROOT / "README.md").split("<!-- tree")[1].split("```")[1]
    listed, folders = set(), list[str]()
    for line in block.strip().splitlines():
        name = line.split()[0]
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        if name.endswith("/"):
            folders.append(name)
        listed.add("".join([*folders, *([] if name.endswith("/") else [name])]))
        assert len(line.split()) > 1, f"{name} says nothing of itself"
    kept = [path.relative_to(ROOT) for path in files_of_the_tree()]
    for package in file_tree.PACKAGES:
        files = {path.as_posix() for path in kept if path.parts[0] == package and path.name != "__init__.py"}
        assert {name for name in listed if name.startswith(f"{package}/") and not name.endswith("/")} == files


# HTTP


def test_every_route_is_documented_with_its_role() -> None:
    rows = re.findall(r"^\| `(GET|POST) (\S+)` \|([^|]*)\|", read(ROOT / "docs" / "http-api.md"), re.MULTILINE)
    documented = {(method, path): role.strip() for method, path, role in rows}
    assert documented == {(item.method, item.path): item.role.value if item.role else "" for item in ENDPOINTS}


def test_every_error_code_is_documented() -> None:
    used = {
        (str(status), code) for path in sorted((ROOT / "service").glob("*.py")) for status, code in error_codes(path)
    }
    listed = re.findall(r"^\| (\d{3}|other) \| `(\w+)` \|", read(ROOT / "docs" / "http-api.md"), re.MULTILINE)
    assert used - {("other", "http_error")} == set(listed) - {("other", "http_error")}


def error_codes(path: Path) -> list[tuple[int, str]]:
    """The ``(status, code)`` pairs of a file: in errors raised, in the table of classes, in the names of statuses."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(read(path))):
        match node:
            case ast.Call(
                func=ast.Name(id="HttpError"), args=[ast.Constant(value=int(status)), ast.Constant(value=code), *_]
            ):
                found.append((status, str(code)))
            case ast.Tuple(elts=[ast.Name(), ast.Constant(value=int(status)), ast.Constant(value=str(code))]):
                found.append((status, code))
            case ast.AnnAssign(target=ast.Name(id="_CODES"), value=ast.Dict() as codes):
                found += ast.literal_eval(codes).items()
    return found


# words, links, commands in the text


@pytest.mark.parametrize("word", WORDS)
def test_the_glossary_explains(word: str) -> None:
    assert re.search(rf"^\*\*{word}\.\*\* .+|\*\*{word}\*\* ", read(ROOT / "docs" / "glossary.md"), re.MULTILINE | re.I)


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\*\*(.+?)\.\*\*", read(ROOT / "docs" / "glossary.md"), re.MULTILINE)
    assert words == sorted(words, key=str.casefold)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(read(page))):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", read(path), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_settings_in_the_text_exist(page: Path) -> None:
    text = read(page)
    known = docs.commands()
    for name, second, rest in re.findall(r"(?:`|^|bin/)ratchet ([a-z-]+)\b( [a-z]+)?([^`\n]*)", text, re.MULTILINE):
        name = name + second if name + second in known else name  # noqa: PLW2901  a group's command has two words
        assert name in known, f"ratchet {name}"
        options = {option for item in known[name].params for option in [*item.opts, *item.secondary_opts]}
        assert set(re.findall(r"(?<!\w)--[a-z-]+", rest.split("#")[0])) <= options | {"--help"}, f"ratchet {name}{rest}"
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    for name in re.findall(r"(?:`|^)make ([a-z-]+)\b", text, re.MULTILINE):
        assert name in targets, f"make {name}"
    names = {f"RATCHET_{name.upper()}" for name in Settings.model_fields} | {
        "RATCHET_CONFIG",
        "RATCHET_KEY",
        "RATCHET_",
    }
    assert set(re.findall(r"RATCHET_[A-Z_]*", text)) <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_named_in_the_text_exist(page: Path) -> None:
    rooms = "core|service|feedback|trainer|cli|deploy|scripts|docs|tests"
    for name in re.findall(rf"`((?:{rooms})/[\w./-]+)`", read(page)):
        assert (ROOT / name).exists(), name


def test_the_readme_tells_the_two_commands_and_the_labels_way_in() -> None:
    text = read(ROOT / "README.md")
    assert re.search(r"^make up\b", text, re.MULTILINE)
    assert re.search(r"^make test\b", text, re.MULTILINE)
    seeds = read(ROOT / "cli" / "demo" / "intents" / "train.jsonl")
    assert "store_pickup" in text
    assert '"store_pickup"' not in seeds


def test_decisions_are_numbered_without_gaps() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        assert read(path).startswith(f"# {int(path.name[:4])}. "), path.name
        assert all(f"\n## {part}\n" in read(path) for part in ("Context", "Choice", "What was given up")), path.name


def test_make_help_lists_every_target() -> None:
    makefile = read(ROOT / "Makefile")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=plain_environment()
    )
    assert all(f"  {name} " in shown.stdout for name in phony[1].split())


def plain_environment() -> dict[str, str]:
    """This environment without what a make that runs the tests hands down."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


# the tree


def texts_of_the_tree() -> list[tuple[Path, str]]:
    found = []
    for path in files_of_the_tree():
        try:
            found.append((path, read(path)))
        except UnicodeDecodeError:
            continue
    return found


def test_nothing_names_a_package_registry_or_a_path_of_one_machine() -> None:
    for path, text in texts_of_the_tree():
        for word in [*REGISTRIES, *MACHINE_PATHS]:
            assert word not in text, f"{path.relative_to(ROOT)}: {word}"


def test_nothing_is_left_to_do_in_the_tree() -> None:
    for path, text in texts_of_the_tree():
        for word in LEFTOVERS:
            assert not re.search(rf"\b{word}\b", text), f"{path.relative_to(ROOT)}: {word}"


# the lock


def test_the_lock_is_fresh_and_names_no_host() -> None:
    assert lock.faults(read(ROOT / "requirements.lock")) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--index-url https" + "://mirror.example/simple\n", "host"),
        ("extra @ https" + "://mirror.example/extra.whl\n", "host"),
        ("--find-links /srv/wheels\n", "host"),
        ("bare==1.0\n", "not a pin"),
        ("loose>=1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n", "not a pin"),
        ("weak==1.0 \\\n    --hash=md5:" + "0" * 32 + "\n", "not a pin"),
    ],
)
def test_a_faulty_lock_is_noticed(line: str, complaint: str) -> None:
    assert any(complaint in fault for fault in lock.faults(read(ROOT / "requirements.lock") + line))


def test_a_stale_lock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_digest() -> str:
        return "0" * 64

    monkeypatch.setattr(lock, "digest_of_inputs", other_digest)
    assert lock.faults(read(ROOT / "requirements.lock")) == [
        "it was resolved from another pyproject.toml: run `make lock`"
    ]


def test_the_lock_has_every_dependency_that_is_asked_for() -> None:
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", read(ROOT / "requirements.lock"), re.MULTILINE))
    for asked in dependencies():
        assert asked in pinned, asked


def dependencies() -> list[str]:
    document: dict[str, Any] = tomllib.loads(read(ROOT / "pyproject.toml"))
    project = document["project"]
    groups = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *document["dependency-groups"].values(),
    ]
    names = [re.split(r"[\[<>=;~! ]", item)[0].lower() for group in groups for item in group]
    return [name for name in names if name != project["name"]]
