"""Write or check the documents that are made from the code: settings, metrics, commands, and README's file tree.

python scripts/docs.py write    bring them up to date (`make docs`)
python scripts/docs.py check    exit code 1 and a line for each that is not
python scripts/docs.py golden   accept the present metrics as the golden list of tests/test_metrics_golden.py
"""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.file_tree import with_tree  # noqa: E402  # the path is set above

GOLDEN: Final = ROOT / "tests" / "golden" / "metrics.txt"
PROGRAMS: Final = ("service", "feedback", "trainer")
_MADE: Final = "<!-- Made from the code by `make docs`; a change by hand would be lost. -->\n"
_SETTINGS: Final = """# Settings

Everything that can be set, with its default. The first found wins: an option of the command, the variable
`RATCHET_<NAME>` in the environment, the TOML file named by `RATCHET_CONFIG` (else `ratchet.toml` in the working
folder), the default. Lists and tables are JSON in a variable. A misspelt name, in the file or in a variable that
begins with `RATCHET_`, is an error. All faults are reported at once, with exit code 2.

```toml
# ratchet.toml
port = 8080
trigger_count = 500
log_url = "kafka://broker:9092"
```

`RATCHET_KEY` is the API key that the commands send (see [commands](cli.md)).
"""
_API_KEYS: Final = """
## An entry of api_keys

In a variable: `RATCHET_API_KEYS='[{"id": "app", "key": "at-least-16-characters", "roles": ["predict"]}]'`.

"""
_METRICS: Final = """# Metrics

Each program answers `GET /metrics` in Prometheus' text format: the service on `port`, the other two on
`feedback_port` and `trainer_port` (see [settings](settings.md)). The processes' own metrics (`process_…`) are there,
too. What to watch is in [operations](operations.md); rules for alerts are in `deploy/alerts.yml`.
"""
_COMMANDS: Final = """# Commands

`ratchet COMMAND --help` says the same. A command that fails prints one sentence and ends with exit code 2.
Commands with `--url` speak to a running service over HTTP; where it has API keys, name one with `--key` or
`RATCHET_KEY`. The others read the [settings](settings.md).
"""


def main(arguments: list[str]) -> int:
    """Run one of the three; returns the exit code."""
    if arguments == ["golden"]:
        GOLDEN.write_text("".join(f"{line}\n" for line in golden_lines()), encoding="utf-8")
        return 0
    if arguments not in (["write"], ["check"]):
        sys.stderr.write("usage: python scripts/docs.py write | check | golden\n")
        return 2
    stale = {path: made for path, made in documents().items() if _read(path) != made}
    for path, made in stale.items():
        if arguments == ["write"]:
            path.write_text(made, encoding="utf-8")
        else:
            sys.stderr.write(f"{path.relative_to(ROOT)} does not fit the code: run `make docs`\n")
    return 1 if stale and arguments == ["check"] else 0


def documents() -> dict[Path, str]:
    """Every document that is made from the code, as it should be."""
    readme = ROOT / "README.md"
    return {
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "docs" / "metrics.md": metrics_page(),
        ROOT / "docs" / "cli.md": cli_page(),
        readme: with_tree(_read(readme)),
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


# settings


def settings_page() -> str:
    """docs/settings.md."""
    from core.settings import ApiKey, Settings  # noqa: PLC0415  # the path is set above

    page = _MADE + _SETTINGS
    fields = Settings.model_json_schema()["properties"]
    for section, names in _sections(Settings):
        rows = [[f"`{name}`", *_field(fields[name], _default(Settings, name))] for name in names]
        page += f"\n## {section}\n\n" + _table(("setting", "takes", "default", "what"), rows)
    keys = ApiKey.model_json_schema()["properties"]
    rows = [[f"`{name}`", *_field(field, _default(ApiKey, name))] for name, field in keys.items()]
    return page + _API_KEYS + _table(("field", "takes", "default", "what"), rows)


def _sections(model: Any) -> Iterator[tuple[str, list[str]]]:
    """The settings' names under the comments that head them in the source."""
    section, names = "", list[str]()
    for line in inspect.getsource(model).splitlines():
        if heading := re.fullmatch(r"    # (\w[\w ]*)", line):
            if names:
                yield section, names
            section, names = heading[1][0].upper() + heading[1][1:], []
        elif (field := re.match(r"    (\w+): ", line)) and field[1] in model.model_fields:
            names.append(field[1])
    yield section, names


def _default(model: Any, name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "needed"
    value = field.default
    if value is None or value in ("", (), {}):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | frozenset):
        return f"`{', '.join(sorted(map(str, value)))}`"
    return f"`{_number(value)}`" if isinstance(value, int) else f"`{value}`"


def _number(value: float) -> str:
    return f"{value:_}" if value >= 100_000 else f"{value:g}"


def _field(schema: dict[str, Any], default: str) -> tuple[str, str, str]:
    """What a setting takes, its default and what it is."""
    kinds = [schema, *schema.get("anyOf", [])]
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "a list"}
    names["object"] = "a table"
    kind = next((names[item["type"]] for item in kinds if item.get("type") in names), "text")
    if "enum" in schema:
        kind = " or ".join(f"`{value}`" for value in schema["enum"])
    elif "const" in schema:
        kind = f"`{schema['const']}`"
    low, above, high = (
        _number(schema[key]) if key in schema else "" for key in ("minimum", "exclusiveMinimum", "maximum")
    )
    limits = (
        f"from {low} to {high}" if low and high else f"of at least {low}" if low else f"above {above}" if above else ""
    )
    return f"{kind} {limits}".strip(), default, schema.get("description", "what the caller may do")


# metrics


@dataclass(frozen=True, order=True)
class Metric:
    """A metric family of one program."""

    name: str
    kind: str
    labels: tuple[str, ...]
    what: str


def metrics_of(program: str) -> list[Metric]:
    """The families that a program declares in its metrics.py, by name."""
    from prometheus_client.metrics import MetricWrapperBase  # noqa: PLC0415

    module = importlib.import_module(f"{program}.metrics")
    found = []
    for collector in vars(module).values():
        if isinstance(collector, MetricWrapperBase):
            family = next(iter(collector.describe()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.append(Metric(name, family.type, tuple(collector._labelnames), _sentence(family.documentation)))
    read = getattr(module, "GAUGES", {})  # the service's gauges are read when they are asked for
    labels = _labels_of_readings(program) if read else {}
    found += [Metric(name, "gauge", labels[name], _sentence(what)) for name, what in read.items()]
    return sorted(found)


def _labels_of_readings(program: str) -> dict[str, tuple[str, ...]]:
    """The labels of each ``Reading("name", value, {labels})`` in a program's source."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted((ROOT / program).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="Reading"), args=[ast.Constant(value=str(name)), _, ast.Dict(keys=keys)]
                ):
                    found[name] = tuple(key.value for key in keys if isinstance(key, ast.Constant))  # type: ignore[misc]
    return found


def golden_lines() -> list[str]:
    """A line for each metric: program, name, type and labels."""
    return [
        f"{program} {metric.name}{{{','.join(metric.labels)}}} {metric.kind}"
        for program in PROGRAMS
        for metric in metrics_of(program)
    ]


def metrics_page() -> str:
    """docs/metrics.md."""
    page = _MADE + _METRICS
    for program in PROGRAMS:
        rows = [
            (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.what)
            for metric in metrics_of(program)
        ]
        page += f"\n## {program}\n\n" + _table(("metric", "type", "labels", "what"), rows)
    return page


def _sentence(text: str) -> str:
    return text.strip().removesuffix(".")


# commands


def cli_page() -> str:
    """docs/cli.md."""
    page = _MADE + _COMMANDS
    for name, command in commands().items():
        arguments = "".join(_argument(item) for item in command.params if item.param_type_name == "argument")
        options = " [OPTIONS]" if any(item.param_type_name == "option" for item in command.params) else ""
        page += f"\n## ratchet {name}\n\n`ratchet {name}{arguments}{options}`\n\n{command.help}\n"
        if command.params:
            page += "\n" + _table(("option", "default", "what"), map(_parameter, command.params))
    return page


def commands() -> dict[str, Any]:
    """Typer's commands by name."""
    import typer.main  # noqa: PLC0415

    from cli.main import app  # noqa: PLC0415

    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        parts = getattr(command, "commands", {"": command})  # a group's own commands, by their full names
        found |= {f"{name} {part}".strip(): item for part, item in parts.items()}
    return found


def _argument(item: Any) -> str:
    return f" {item.name.upper()}" if item.required else f" [{item.name.upper()}]"


def _parameter(item: Any) -> tuple[str, str, str]:
    if item.param_type_name == "argument":
        return f"`{item.name.upper()}`", "needed" if item.required else "", item.help or "the version's name"
    shown = item.show_default if isinstance(item.show_default, str) else item.default
    default = "" if shown is None or shown is False else f"`{shown}`"
    what = f"{item.help} Also from `{item.envvar}`." if item.envvar else item.help
    return ", ".join(f"`{option}`" for option in [*item.opts, *item.secondary_opts]), default, what


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
