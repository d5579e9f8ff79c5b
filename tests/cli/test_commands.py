"""The command line: what is wrong is told in one message and with exit code 2, and every report is what it says."""

import fcntl
import json
import logging
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog

from cli.main import app, main
from cli.processes import Child, Children
from tests.service.serving import Served, champion, serving, settings_for
from tests.support import free_port, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICE_COMMANDS = ["rollback", "pause", "resume", "train", "versions", "review", "promote v-0001"]


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The one error message, which there must be."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.count("ratchet: ") == 1
        assert self.err.startswith("ratchet: ")
        assert "Traceback" not in self.err + self.out
        return self.err.removeprefix("ratchet: ").strip()


Ratchet = Callable[..., Done]


@pytest.fixture
def ratchet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Ratchet]:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    root_handlers = list(logging.root.handlers)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["ratchet", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        found = capsys.readouterr()
        return Done(int(str(code or 0)), found.out, found.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.root.handlers = root_handlers
    structlog.reset_defaults()


def _labelled(path: Path, count: int = 6, labels: tuple[str, ...] = ("alpha", "beta")) -> Path:
    rows = [{"text": f"word{number} parcel", "label": labels[number % len(labels)]} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# help and settings


def test_help_lists_every_command_and_loads_no_framework() -> None:
    script = (
        "import sys; sys.argv = ['ratchet', '--help']\n"
        "from cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'bentoml', 'onnxruntime', 'transformers', 'sqlalchemy'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) == 17
    for name in names:
        assert f" {name} " in done.stdout
    assert done.stdout.strip().endswith("[]")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_an_unknown_setting_ends_every_command(ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_PROT", "1")
    for command in ("status", "up", "feedback", "trainer"):
        assert "RATCHET_PROT: no such setting" in ratchet(command).told


def test_an_unknown_command_or_option_ends_with_code_2(ratchet: Ratchet) -> None:
    for arguments in (
        ["dance"],
        ["up", "--prot", "1"],
        ["replay"],
        ["replay", "x", "--rate", "-1"],
        ["up", "--port", "x"],
    ):
        done = ratchet(*arguments)
        assert done.code == 2
        assert "Traceback" not in done.err


def test_the_port_of_a_program_that_is_taken_is_told(ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("RATCHET_FEEDBACK_PORT", str(taken.getsockname()[1]))
        assert "cannot be listened on: Address already in use" in ratchet("feedback").told


# seed


def test_a_seed_file_is_stored_and_counted(ratchet: Ratchet, tmp_path: Path) -> None:
    file = _labelled(tmp_path / "[red] seed.jsonl", 12)
    done = ratchet("seed", file, "--home", tmp_path / "home")
    assert done.code == 0
    assert "[red] seed.jsonl: 12 rows, 2 labels; 12 new examples, 0 duplicates" in done.out
    found = json.loads(ratchet("status", "--json", "--home", tmp_path / "home").out)
    assert found["examples"]["by_origin"] == {"seed": 12}


def test_a_bad_seed_file_is_told_with_its_lines(ratchet: Ratchet, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "x", "label": "a"}\nnot json\n{"text": "x"}\n')
    for arguments in (["seed", "bad.jsonl"], ["up", "--seed", "bad.jsonl", "--port", free_port()]):
        told = ratchet(*arguments, "--home", tmp_path / "home").told
        assert "bad.jsonl: 2 of 3 lines cannot be used" in told
        assert "line 2: " in told
        assert "line 3: the field 'label' is missing" in told


@pytest.mark.parametrize("command", [["seed"], ["up", "--seed"]])
def test_a_missing_seed_file_is_told(ratchet: Ratchet, command: list[str]) -> None:
    assert "nothing.jsonl cannot be read: No such file" in ratchet(*command, "nothing.jsonl", "--home", "home").told


# up


@pytest.fixture(autouse=True)
def _no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_FEEDBACK_PORT", "0")
    monkeypatch.setenv("RATCHET_TRAINER_PORT", "0")


@pytest.mark.parametrize("which", ["port", "RATCHET_FEEDBACK_PORT", "RATCHET_TRAINER_PORT"])
def test_up_tells_that_a_port_is_taken_before_it_starts_anything(
    ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, which: str
) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if which != "port":
            monkeypatch.setenv(which, str(port))
        told = ratchet("up", "--home", tmp_path / "home", "--port", port if which == "port" else free_port()).told
    assert f"port {port} on 127.0.0.1 cannot be used (Address already in use)" in told
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["up.lock"]


@pytest.mark.parametrize("command", [["up"], ["seed", "seed.jsonl"], ["feedback"]])
def test_a_home_that_cannot_be_written_to_is_told(
    ratchet: Ratchet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    _labelled(tmp_path / "seed.jsonl")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "file" / "home"))
    assert "Not a directory" in ratchet(*command).told


def test_a_home_in_use_is_told_with_the_process_that_uses_it(ratchet: Ratchet, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with (home / "up.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ratchet("up", "--home", home).told == f"{home} is in use by another `ratchet up` (process 4711)"


def test_a_program_that_dies_again_and_again_is_started_again_with_patience(tmp_path: Path) -> None:
    children = Children({}, tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], start_new_session=True)
    ended.wait()
    child = Child(name="x", process=ended, log=tmp_path / "x.log", started=float("inf"), deaths=5_000)
    (told,) = children._watch(child)
    assert "died (exit code 1)" in told
    assert "started again in 30 s" in told


# status


def test_status_of_an_empty_home_is_json_and_leaves_no_trace(ratchet: Ratchet, tmp_path: Path) -> None:
    done = ratchet("status", "--json", "--home", tmp_path / "home")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert {name: part["state"] for name, part in found["programs"].items()} == dict.fromkeys(
        ("service", "feedback", "trainer"), "not started"
    )
    assert (found["registry"]["version"], found["examples"]["stored"], found["log"]["records"]) == (None, 0, 0)
    assert not (tmp_path / "home").exists()
    assert ratchet("status", "--home", tmp_path / "home").code == 0


def test_status_tells_of_a_damaged_part_and_shows_the_others(ratchet: Ratchet, tmp_path: Path) -> None:
    home = tmp_path / "home"
    champion(home, "v-0001")
    (home / "log.db").write_bytes(b"no database" * 1_000)
    (home / "examples.db").mkdir()
    (home / "status").mkdir()
    (home / "status" / "trainer.json").write_text('{"program": "trainer", "pid": 99999999, "state": "training"}')
    found = json.loads(ratchet("status", "--json", "--home", home).out)
    assert found["registry"]["version"] == "v-0001"
    assert found["programs"]["trainer"]["state"] == "died"
    assert "not an event log" in found["log"]["error"]
    assert "cannot be used" in found["examples"]["error"]
    assert ratchet("status", "--home", home).code == 0
    (home / "registry" / "default" / "promotions" / "00000002.json").write_text("{")
    assert "is damaged" in json.loads(ratchet("status", "--json", "--home", home).out)["registry"]["error"]


# commands that ask the service


def test_without_a_service_every_command_that_needs_one_says_so(ratchet: Ratchet, tmp_path: Path) -> None:
    file = _labelled(tmp_path / "rows.jsonl")
    url = f"http://127.0.0.1:{free_port()}"
    for command in [*SERVICE_COMMANDS, f"replay {file}", f"evaluate {file}", f"predict {file}"]:
        told = ratchet(*command.split(), "--url", url).told
        assert told.startswith(f"no answer from {url}: ")
        assert told.endswith("is it running?")


@pytest.mark.parametrize(
    "arguments", [["--url", "nonsense"], ["--url", "http://[::1"], ["--url", "http://h:99999"], ["--key", "schlüssel"]]
)
def test_a_url_or_key_that_cannot_be_is_told(ratchet: Ratchet, arguments: list[str]) -> None:
    assert ratchet("rollback", *arguments).told


class _Stranger(BaseHTTPRequestHandler):
    """Some other web server, answering everything with what its path says."""

    answer = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"[]", b"null", b"{}", b'{"task": "cooking"}', b"\xff"])
def test_another_server_at_the_url_is_told(ratchet: Ratchet, tmp_path: Path, answer: bytes) -> None:
    file = _labelled(tmp_path / "rows.jsonl")
    with HTTPServer(("127.0.0.1", 0), type("Stranger", (_Stranger,), {"answer": answer})) as server:
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for command in (["evaluate", file], ["replay", file], ["predict", file], ["rollback"], ["versions"]):
            told = ratchet(*command, "--url", url).told
            assert "ratchet" in told
        server.shutdown()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with one toy model, which answers `alpha` to everything."""
    home = tmp_path_factory.mktemp("home")
    champion(home, "v-0001", favour="alpha")
    with serving(settings_for(home, audit_rate=0.0)) as running:
        yield running


@pytest.fixture
def url(served: Served) -> str:
    """Where it answers."""
    return f"http://127.0.0.1:{served.port}"


@pytest.mark.parametrize("command", ["replay", "evaluate"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "rows.jsonl cannot be read: No such file"),
        (b"", "rows.jsonl has no rows"),
        (b'{"text": "x", "label": "a"}\n{"text": "x"}', "rows.jsonl, line 2: the field 'label' is missing"),
        (b"[1]", "rows.jsonl, line 1: "),
        (b'{"text": "", "label": "a"}', "rows.jsonl, line 1: 'text' is empty"),
        (b"[" * 50_000, "rows.jsonl, line 1: "),
        (b'{"text": "\xff", "label": "a"}', "rows.jsonl is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_played_is_told(
    ratchet: Ratchet, url: str, tmp_path: Path, command: str, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "rows.jsonl").write_bytes(content)
    assert told in ratchet(command, "rows.jsonl", "--url", url).told


@pytest.mark.parametrize("command", ["replay", "evaluate"])
def test_a_report_that_cannot_be_written_is_told_before_any_work(
    ratchet: Ratchet, tmp_path: Path, command: str
) -> None:
    file = _labelled(tmp_path / "rows.jsonl")
    told = ratchet(command, file, "--url", "http://127.0.0.1:1", "--json", tmp_path / "no" / "report.json").told
    assert "report.json cannot be written: No such file or directory" in told


def test_evaluate_scores_and_tells_the_loop_nothing(ratchet: Ratchet, url: str, served: Served, tmp_path: Path) -> None:
    file = _labelled(tmp_path / "[red] rows.jsonl", 8, labels=("alpha", "[/red] beta"))
    done = ratchet("evaluate", file, "--url", url, "--json", "report.json")
    assert done.code == 0
    assert "accuracy 50.00 %" in done.out
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["accuracy"], report["count"], report["versions"]) == (0.5, 8, {"v-0001": 8})
    assert report["interval_95"] == pytest.approx([0.215, 0.785], abs=0.001)
    assert report["per_label"]["[/red] beta"] == {"recall": 0.0, "support": 4}


def test_replay_corrects_what_was_wrong_and_reports_every_window(
    ratchet: Ratchet, url: str, served: Served, tmp_path: Path
) -> None:
    file = _labelled(tmp_path / "[red] rows.jsonl", 9, labels=("alpha", "beta", "[/b]"))
    done = ratchet("replay", file, "--url", url, "--window", 3, "--limit", 7, "--json", "report.json")
    assert done.code == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [(window["texts"], window["right"], window["corrections"]) for window in report["windows"]] == [
        (3, 1, 2), (3, 1, 2), (1, 1, 0),
    ]  # fmt: skip
    assert report["versions"] == {"v-0001": 0}
    assert report["failures"] == []
    assert report["accuracy"] == pytest.approx(3 / 7)


def test_predict_answers_every_line_of_a_file_in_order(ratchet: Ratchet, url: str, tmp_path: Path) -> None:
    file = _labelled(tmp_path / "[red] rows.jsonl", 5_000)
    done = ratchet("predict", file, "--url", url, "--out", "answers.jsonl")
    assert done.code == 0
    assert "5000 texts answered" in done.err
    assert "by v-0001 (5000); 0 lines refused" in done.err
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, 5_001))
    assert {answer["label"] for answer in answers} == {"alpha"}


def test_predict_says_which_lines_were_refused_and_ends_with_code_1(ratchet: Ratchet, url: str, tmp_path: Path) -> None:
    rows = ['\ufeff{"text": "word1", "id": 7}', "", '{"text": ""}', "[/red]", '{"txt": "x"}', '{"text": "word2"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    done = ratchet("predict", "rows.jsonl", "--url", url)
    assert done.code == 1
    assert [json.loads(line)["line"] for line in done.out.splitlines()] == [1, 3, 4, 5, 6]
    assert "2 texts answered" in done.err
    assert "line 3: 'text' is empty" in done.err
    assert "3 lines refused" in done.err


def test_predict_tells_what_it_cannot_do(ratchet: Ratchet, url: str, tmp_path: Path) -> None:
    assert "rows.jsonl cannot be read: No such file" in ratchet("predict", "rows.jsonl", "--url", url).told
    file = _labelled(tmp_path / "some.jsonl")
    assert "cannot be written" in ratchet("predict", file, "--url", url, "--out", tmp_path / "no" / "out").told
    (tmp_path / "kept.jsonl").write_text("an earlier run's")
    ratchet("predict", file, "--url", f"http://127.0.0.1:{free_port()}", "--out", "kept.jsonl")
    assert (tmp_path / "kept.jsonl").read_text() == "an earlier run's"


def test_predict_tells_why_a_stream_was_refused(ratchet: Ratchet, tmp_path: Path) -> None:
    home = tmp_path / "home"
    champion(home, "v-0001")
    file = _labelled(tmp_path / "rows.jsonl")
    with serving(settings_for(home, max_streams=1)) as running:
        url = f"http://127.0.0.1:{running.port}"

        def endless() -> Iterator[bytes]:
            yield b'{"text": "x"}\n'
            wait_until(lambda: refused)

        refused: list[str] = []
        content = {"content": endless(), "headers": {"Content-Type": "application/x-ndjson"}}
        thread = threading.Thread(target=lambda: running.client.post("/v1/predict/stream", **content))
        thread.start()
        wait_until(running.program.streams.locked)
        done = ratchet("predict", file, "--url", url)
        refused.append(done.err)
        thread.join()
    assert done.code == 2
    assert done.err.endswith("ratchet: /v1/predict/stream: 1 streams run already; try again when one has ended\n")


def test_operators_commands_do_as_they_say(ratchet: Ratchet, url: str) -> None:
    assert "there is no good version before v-0001" in ratchet("rollback", "--url", url).told
    assert "pause: live is v-0001 (promotion 2); automatic promotions are held" in ratchet("pause", "--url", url).out
    assert "automatic promotions go on" in ratchet("resume", "--url", url).out
    assert "'v-0009'" in ratchet("promote", "v-0009", "--url", url).told
    assert ratchet("promote", "../../metrics", "--url", url).told
    assert "v-0001 (live)" in ratchet("versions", "--url", url).out
    assert json.loads(ratchet("versions", "--json", "--url", url).out)["live"] == "v-0001"
    assert "asked for a training run" in ratchet("train", "--url", url).out
