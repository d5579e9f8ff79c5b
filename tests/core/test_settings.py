"""The settings: every fault is told, no secret is, and the key that names examples is made once."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import BadSettings
from core.settings import Settings, id_key, load_settings

SECRET = "hunter2-hunter2-hunter2"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def _fault_of(**overrides: object) -> str:
    with pytest.raises(BadSettings) as refused:
        load_settings(**overrides)
    return str(refused.value)


def test_all_faults_are_told_at_once_each_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_PROT", "3000")
    monkeypatch.setenv("RATCHET_PORT", "many")
    told = _fault_of(epochs=0, task="cooking", model="../other")
    for part in ("RATCHET_PROT: no such setting", "port: ", "epochs: ", "task: ", "model: "):
        assert part in told
    assert len(told.splitlines()) == 6


def test_settings_that_do_not_fit_together_are_told_together() -> None:
    key = {"id": "app", "key": SECRET}
    told = _fault_of(holdout_share=0.5, validation_share=0.5, log_url="amqp://guest:guest@host", api_keys=[key, key])
    assert [part in told for part in ("holdout_share", "log_url", "ids must differ")] == [True] * 3
    assert "guest" not in told


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_without_keys_only_a_loopback_address_is_listened_on(host: str) -> None:
    assert "api_keys is empty" in _fault_of(host=host)
    assert load_settings(host=host, api_keys=[{"id": "app", "key": SECRET}]).host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_every_loopback_address_does_without_keys(host: str) -> None:
    assert load_settings(host=host).host == host


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        (f'[[api_keys]]\nid = "a"\nkey = "{SECRET}"\nrole = "admin"', "api_keys.0.role"),
        (f'[[api_keys]]\nid = ""\nkey = "{SECRET}"', "api_keys.0.id"),
        (f'api_keys = ["{SECRET}"]', "api_keys.0"),
        (f'api_key = "{SECRET}"', "api_key: no such setting"),
        (f'id_key = ["{SECRET}"]', "id_key"),
        (f'log_url = "postgresql://ratchet:{SECRET}@host/db"', "log_url is"),
        (f'port = "http://u:{SECRET}@host"', "port: "),
    ],
)
def test_a_fault_beside_a_secret_does_not_show_it(toml: str, place: str) -> None:
    Path("ratchet.toml").write_text(toml)
    with pytest.raises(BadSettings) as refused:
        load_settings()
    assert place in str(refused.value)
    error: BaseException | None = refused.value
    while error is not None:  # a traceback shows the causes, too
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


def test_secrets_are_not_shown_by_the_settings_themselves() -> None:
    assert SECRET not in repr(load_settings(id_key=SECRET, api_keys=[{"id": "app", "key": SECRET}]))


def test_arguments_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text('epochs = 7\nport = 4001\nmodel = "from-file"\nallowed_hosts = ["*"]')
    monkeypatch.setenv("RATCHET_CONFIG", "other.toml")
    monkeypatch.setenv("RATCHET_PORT", "4002")
    monkeypatch.setenv("RATCHET_EPOCHS", "8")
    found = load_settings(epochs=9)
    assert (found.epochs, found.port, found.model, found.allowed_hosts) == (9, 4002, "from-file", ("*",))


@pytest.mark.parametrize(
    ("toml", "told"), [(None, "which is not a file"), ("port = ", "cannot be read"), ("port: 3", "cannot be read")]
)
def test_a_settings_file_that_cannot_be_read_is_an_error(
    toml: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if toml is not None:
        Path("other.toml").write_text(toml)
    monkeypatch.setenv("RATCHET_CONFIG", "other.toml")
    assert told in _fault_of()


def test_what_is_embedded_lives_below_home(tmp_path: Path) -> None:
    found = Settings(home=tmp_path)
    assert found.event_log_url == f"sqlite:///{tmp_path}/log.db"
    assert found.example_store_url == f"sqlite:///{tmp_path}/examples.db"
    assert found.registry_store_url == f"file://{tmp_path}/registry"


def test_programs_that_start_at_once_agree_on_the_key_that_names_examples(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from core.settings import Settings, id_key; s = Settings(home=pathlib.Path(sys.argv[1]));"
        "print('ready', flush=True); sys.stdin.readline(); print(id_key(s).decode())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "home")]
    racers = [
        subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    keys = {racer.communicate()[0].strip() for racer in racers}
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["id.key"]
    assert (tmp_path / "home" / "id.key").stat().st_mode & 0o077 == 0


def test_a_key_that_is_set_is_used_and_an_empty_one_is_none(tmp_path: Path) -> None:
    assert id_key(load_settings(home=tmp_path, id_key="mine")) == b"mine"
    made = id_key(load_settings(home=tmp_path, id_key=""))
    assert len(made) == 64
    assert id_key(Settings(home=tmp_path)) == made


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
def test_a_damaged_key_file_is_an_error_and_not_a_new_key(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "id.key").write_bytes(content)
    with pytest.raises(BadSettings, match="does not hold a key"):
        id_key(Settings(home=tmp_path))


def test_a_home_that_cannot_be_made_is_an_error_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="cannot be used: Not a directory"):
        id_key(Settings(home=tmp_path / "file" / "home"))
