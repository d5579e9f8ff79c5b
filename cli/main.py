"""``ratchet``: every command, what it takes, and how its errors are told: one sentence and exit code 2."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console

from core.errors import BadSettings, RatchetError
from core.events import Origin, Split
from core.logs import configure_logs
from core.settings import Settings, load_settings

app = typer.Typer(
    name="ratchet",
    help="A model server that learns from its users' corrections and never slips back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
letters = typer.Typer(help="The records that could not be processed.", no_args_is_help=True)
app.add_typer(letters, name="dead-letters")
data = typer.Typer(help="What the loop has learned from.", no_args_is_help=True)
app.add_typer(data, name="data")

Home = Annotated[Path | None, typer.Option("--home", help="Folder that holds all state.", show_default=".ratchet")]
Url = Annotated[str, typer.Option("--url", help="Where the service answers.")]
Key = Annotated[str | None, typer.Option("--key", help="API key, where the service has keys.", envvar="RATCHET_KEY")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LOCAL = "http://127.0.0.1:3000"
_SEED_FORMS = "JSON Lines, a JSON array, CSV, TSV, Label Studio's JSON, or a folder of such files."


def _settings(**overrides: Any) -> Settings:
    return load_settings(**{name: value for name, value in overrides.items() if value is not None})


def _console(*, stderr: bool = False) -> Console:
    """Prints what it is given: a label or a file name may look like markup."""
    return Console(stderr=stderr, markup=False, highlight=False)


def _check_writable(file: Path | None) -> None:
    """Before long work, not after it."""
    try:
        if file:
            file.open("a", encoding="utf-8").close()
    except OSError as error:
        raise BadSettings(f"{file} cannot be written: {error.strerror}") from error


def _print_promotion(url: str, key: str | None, path: str, reason: str, **more: str) -> None:
    from cli.client import Client, print_promotion

    with Client(url, key) as client:
        print_promotion(client.post(path, {"reason": reason, **more}, field="promotion"), _console())


def _program(name: str) -> tuple[Settings, threading.Event]:
    """Settings, logs and an event that SIGTERM and SIGINT set."""
    settings = _settings()
    configure_logs(program=name, level=settings.log_level, masking=settings.masking_policy)
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return settings, stop


@app.command()
def up(
    seed: Annotated[
        Path | None, typer.Option(help="Labelled data, as `ratchet seed` takes them; without it, the demo data.")
    ] = None,
    home: Home = None,
    port: Annotated[int | None, typer.Option(help="Port of the service.", show_default="3000")] = None,
    kafka: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Kafka broker; without it, the embedded log.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Folder or hub id of the encoder to start from.")] = None,
) -> None:
    """Start everything: first model, service, feedback consumer and trainer. Ctrl-C ends all of it."""
    from cli.up import Up

    log_url = f"kafka://{kafka}" if kafka else None
    settings = _settings(home=home.resolve() if home else None, port=port, log_url=log_url, base_model=base)
    raise typer.Exit(Up(settings, seed).run())


@app.command()
def service() -> None:
    """Run the service alone."""
    from service.run import main as run_service

    run_service()


@app.command()
def feedback() -> None:
    """Run the feedback consumer alone."""
    settings, stop = _program("feedback")
    from feedback.consumer import run_feedback

    run_feedback(settings, stop)


@app.command()
def trainer() -> None:
    """Run the trainer alone."""
    # Torch's threads otherwise burn the cores that serving needs while they wait for each other; read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    settings, stop = _program("trainer")  # first: what is wrong with it is told at once
    from trainer.loop import run_trainer

    run_trainer(settings, stop)


@app.command()
def seed(
    file: Annotated[Path, typer.Argument(help=_SEED_FORMS)],
    home: Home = None,
    text_column: Annotated[
        str | None, typer.Option(help="The column with the text.", show_default="found by name, else by content")
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="The column (Label Studio: the choices) with the label.", show_default="found, too"),
    ] = None,
    keep_splits: Annotated[
        bool, typer.Option("--keep-splits", help="Keep what file names or a column 'split' say; test is the holdout.")
    ] = False,
    skip_faults: Annotated[
        bool, typer.Option("--skip-faults", help="Leave out lines with faults instead of storing nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Report and store nothing. Exit code 1: it cannot be stored.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check labelled data, report what was found, and store them as the first examples."""
    from cli.seeding import check_file, print_validation, seed_file
    from feedback.intake import SeedOptions

    options = SeedOptions(
        text_column=text_column, label_column=label_column, keep_splits=keep_splits, skip_faults=skip_faults
    )
    settings, stored = _settings(home=home), None
    if check:
        found = check_file(settings, file, options)
    else:
        found, report = seed_file(settings, file, options, _console(stderr=as_json))
        stored = report.stored
    if as_json:
        _console().print_json(data={**found.as_json(), "stored": stored})
    else:
        print_validation(found, _console())
    raise typer.Exit(1 if found.problem else 0)


@app.command()
def export(
    format_name: Annotated[str, typer.Option("--format", help="jsonl, csv or label-studio.")] = "jsonl",
    split: Annotated[
        list[Split] | None, typer.Option(help="Only of this split; may be given again.", show_default="all")
    ] = None,
    origin: Annotated[
        list[Origin] | None, typer.Option(help="Only of this origin; may be given again.", show_default="all")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write them here.", show_default="standard output")] = None,
    home: Home = None,
) -> None:
    """Write the stored examples with label, origin, split, trust and sources, in a form that `ratchet seed` reads."""
    from cli.export import Wanted
    from cli.export import export as export_examples

    _check_writable(out)
    wanted = Wanted(splits=split or (), origins=origin or ())
    count = export_examples(_settings(home=home), format_name, wanted, out)
    _console(stderr=True).print(f"{count} examples exported")


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Say what each part is doing."""
    from cli.status import collect_status, print_status

    found = collect_status(_settings(home=home))
    console = _console()
    if as_json:
        console.print_json(data=found)
    else:
        print_status(found, console)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Labelled JSON Lines, played from its first line to its last.")],
    url: Url = _LOCAL,
    rate: Annotated[float, typer.Option(min=0, help="Texts a second; 0: as fast as they are answered.")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many texts.")] = None,
    window: Annotated[int, typer.Option(min=1, help="Texts a row of the report stands for.")] = 500,
    audits: Annotated[bool, typer.Option(help="Answer the audits that the service asks for.")] = True,
    key: Key = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
) -> None:
    """Play a labelled stream as users would: predict, then correct what was wrong."""
    from cli.client import Client
    from cli.replay import Replay, print_report

    _check_writable(json_file)
    with Client(url, key) as client:
        replay = Replay(client, rate=rate, window=window, audits=audits)
        report = replay.run(file, limit=limit, console=_console(stderr=True))
    print_report(report, _console(), json_file)


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="Labelled JSON Lines that the loop has never been shown.")],
    url: Url = _LOCAL,
    key: Key = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
) -> None:
    """Score the live model on a labelled file over HTTP."""
    from cli.client import Client
    from cli.evaluate import evaluate as evaluate_file
    from cli.evaluate import print_evaluation

    _check_writable(json_file)
    with Client(url, key) as client:
        report = evaluate_file(client, file, _console(stderr=True))
    print_evaluation(report, _console(), json_file)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="JSON Lines; fields that are not the task's are not sent.")],
    url: Url = _LOCAL,
    out: Annotated[
        Path | None, typer.Option(help="Write the answers here, a line each.", show_default="standard output")
    ] = None,
    key: Key = None,
) -> None:
    """Answer a whole file over one stream. Exit code 1: lines were refused; each has its error among the answers."""
    import time

    from cli.bulk import predict_file, print_bulk
    from cli.client import Client

    _check_writable(out)
    began = time.monotonic()
    with Client(url, key) as client:
        report = predict_file(client, file, out, _console(stderr=True))
    print_bulk(report, time.monotonic() - began, _console(stderr=True))
    raise typer.Exit(1 if report.refused else 0)


@app.command()
def review(
    url: Url = _LOCAL,
    key: Key = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="End after so many answers.")] = 50,
) -> None:
    """Answer in the terminal what the review queue asks: the predictions most worth a human answer."""
    from cli.client import Client
    from cli.review import review as ask_for_answers

    with Client(url, key) as client:
        given = ask_for_answers(client, limit=limit, console=_console(), ask=input)
    _console().print(f"{given} answers given")


@app.command()
def train(url: Url = _LOCAL, key: Key = None, reason: Reason = "by hand") -> None:
    """Ask for a training run now."""
    from cli.client import Client

    with Client(url, key) as client:
        answer = client.post("/v1/train", {"reason": reason}, field="command_id")
    _console().print(f"asked for a training run (command {answer['command_id']})")


@app.command()
def rollback(
    url: Url = _LOCAL,
    key: Key = None,
    reason: Reason = "by hand",
    bad: Annotated[
        str | None, typer.Option("--bad", help="The version that is meant; refused if it is not live.")
    ] = None,
) -> None:
    """Return to the newest good version before the live one, and hold automatic promotions."""
    _print_promotion(url, key, "/v1/rollback", reason, **({"version": bad} if bad else {}))


@app.command()
def pause(url: Url = _LOCAL, key: Key = None, reason: Reason = "by hand") -> None:
    """Hold automatic promotions."""
    _print_promotion(url, key, "/v1/pause", reason)


@app.command()
def resume(url: Url = _LOCAL, key: Key = None, reason: Reason = "by hand") -> None:
    """Let automatic promotions go on."""
    _print_promotion(url, key, "/v1/resume", reason)


@app.command()
def promote(version: str, url: Url = _LOCAL, key: Key = None, reason: Reason = "by hand") -> None:
    """Make a version the live one, whatever the gate said of it."""
    _print_promotion(url, key, f"/v1/versions/{quote(version, safe='')}/promote", reason)


@app.command()
def versions(url: Url = _LOCAL, key: Key = None, as_json: Json = False) -> None:
    """List all versions with what the gate said of them."""
    from cli.client import Client, print_versions

    with Client(url, key) as client:
        found = client.get("/v1/versions", field="versions")
    if as_json:
        _console().print_json(data=found)
    else:
        print_versions(found, _console())


@letters.command("list")
def list_letters(
    home: Home = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that were replayed, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the records that could not be processed, with the reason and their place."""
    from cli.dead_letters import dead_letters, print_letters

    with dead_letters(_settings(home=home)) as found:
        chosen = found.all() if everything else found.waiting()
    if as_json:
        _console().print_json(data=[letter.content.model_dump(mode="json") for letter in chosen])
    else:
        print_letters(chosen, _console())


@letters.command("show")
def show_letter(letter: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET.")], home: Home = None) -> None:
    """Print one as JSON, with the record."""
    from cli.dead_letters import dead_letters

    with dead_letters(_settings(home=home)) as found:
        _console().print_json(data=found.find(letter).content.model_dump(mode="json"))


@letters.command("replay")
def replay_letters(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PLACE]...", help="TOPIC/PARTITION/OFFSET, one or several; none: all."),
    ] = None,
    home: Home = None,
) -> None:
    """Put records back into their topic, where they are tried anew. Exit code 1: some were kept only in part."""
    from cli.dead_letters import dead_letters
    from cli.dead_letters import replay_letters as replay_them

    with dead_letters(_settings(home=home)) as found:
        complete = replay_them(found, places or [], _console())
    raise typer.Exit(0 if complete else 1)


@data.command("report")
def data_report(
    home: Home = None,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write the report as a page instead of printing it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is in the example store: labels, sources, duplicates, what was refused, doubtful labels, coverage, drift."""
    # One thread, read when numpy is loaded: the programs beside it need the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from dataclasses import asdict

    from cli.data_report.collect import collect_report
    from cli.data_report.page import render_page
    from cli.data_report.show import print_report

    settings = _settings(home=home)
    _check_writable(page)
    report = collect_report(settings)
    if page:
        page.write_text(render_page(report), encoding="utf-8")
    if as_json:
        _console().print_json(data=asdict(report))
    elif not page:
        print_report(report, _console())


def main() -> None:
    """Run a command; an error of ours is one sentence on standard error and exit code 2."""
    try:
        app()
    except RatchetError as error:
        sys.stderr.write(f"ratchet: {error}\n")
        raise SystemExit(2) from None
