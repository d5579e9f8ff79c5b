"""The trial of a version in another process: it sees what is wrong, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client import REGISTRY

from core.bundle import ModelBundle
from core.errors import TrialUnavailable, UnservableBundle
from core.runtime import Servable
from service.threads import at_low_priority
from service.trial import Trial
from service.trial_process import NICENESS, _parsed
from tests.service.bad_versions import loop_of, republish, zeros_of
from tests.service.serving import LABELS, champion, promote, publish, registry_of, serving, settings_for
from tests.support import wait_until
from tests.support_bundles import GraphEdit, make_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trial() -> Iterator[Trial]:
    made = Trial(device="cpu", timeout_s=2)
    yield made
    made.stop()


def bundle_of(folder: Path, edit: GraphEdit | None = None) -> ModelBundle:
    return make_bundle(folder, LABELS, version="v-0001", edit=edit)


def trial_process(trial: Trial) -> psutil.Process:
    assert trial.process_id is not None
    return psutil.Process(trial.process_id)


@pytest.mark.alone
def test_it_says_what_a_version_takes(trial: Trial, tmp_path: Path) -> None:
    report = trial.run(bundle_of(tmp_path))
    assert 0 < report.seconds < 0.1
    assert 0 < report.memory < 2**30
    assert report.cpu > report.seconds


def test_a_crash_and_a_hang_are_refusals_and_the_next_version_is_tried(trial: Trial, tmp_path: Path) -> None:
    with pytest.raises(UnservableBundle, match=r"v-0001: it hangs: no end after 2 s"):
        trial.run(bundle_of(tmp_path / "hangs", loop_of(2**62)))
    process = trial_process(trial)
    assert process.children() == []
    trial.run(bundle_of(tmp_path / "good"))
    assert trial_process(trial) == process


def test_a_version_may_not_take_more_than_is_there(trial: Trial, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, zeros_of(2**25))  # 128 MiB
    trial.run(bundle)
    with pytest.raises(UnservableBundle, match=r"it may take 100 MiB of memory"):
        trial.run(bundle, available=100 * 2**20)


def test_its_process_has_little_claim_no_socket_and_no_secret(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "RATCHET_API_KEYS", "PGPASSWORD", "MY_TOKEN", "PATH_TO_KEY", "SLACK_HOME")
    for name in secrets:
        monkeypatch.setenv(name, "a secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    trial.run(bundle_of(tmp_path))
    process = trial_process(trial)
    assert process.nice() == min(19, psutil.Process().nice() + NICENESS)
    assert process.num_threads() == 1
    assert process.net_connections() == []
    assert not process.environ().keys() & set(secrets)
    assert {"PATH", "CUDA_VISIBLE_DEVICES"} <= process.environ().keys()


def test_what_its_process_complains_of_is_heard(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "rubbish")
    trial.run(bundle_of(tmp_path))
    assert "rubbish" in capfd.readouterr().err


@pytest.mark.parametrize("told", [b'{"refused": "cut o', b"\xff", b"7", b"{}"])
def test_words_that_cannot_be_read_are_a_refusal(told: bytes) -> None:
    assert "cannot be read" in _parsed(told)["refused"]


def test_a_trial_that_cannot_be_held_is_nobodys_fault_and_held_again(trial: Trial, tmp_path: Path) -> None:
    hanging, good = bundle_of(tmp_path / "hangs", loop_of(2**62)), bundle_of(tmp_path / "good")
    trial.run(good)
    process = trial_process(trial)
    killer = threading.Timer(0.5, process.kill)
    killer.start()
    with pytest.raises(TrialUnavailable, match="could not be held: it has ended"):
        trial.run(hanging)
    killer.join()
    trial.run(good)
    assert trial_process(trial) != process


def test_nothing_is_started_again_after_the_end(trial: Trial, tmp_path: Path) -> None:
    trial.start()
    process = trial_process(trial)
    trial.stop()
    assert not process.is_running()
    with pytest.raises(TrialUnavailable, match="the service is ending"):
        trial.run(bundle_of(tmp_path))


def test_the_end_of_the_service_ends_a_trial_under_way(tmp_path: Path) -> None:
    bundle_of(tmp_path, loop_of(2**62))
    code = (
        "import sys; from pathlib import Path; from core.bundle import ModelBundle; from service.trial import Trial\n"
        "Trial(device='cpu', timeout_s=300).run(ModelBundle.open(Path(sys.argv[1])))"
    )
    service = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        family = wait_until(
            lambda: len(found := psutil.Process(service.pid).children(recursive=True)) == 2 and found, timeout_s=30
        )
    finally:
        os.kill(service.pid, signal.SIGKILL)
        service.wait()
    gone, alive = psutil.wait_procs(family or [], timeout=10)
    assert alive == []
    assert len(gone) == 2


def test_a_tokenizer_is_read_once_for_versions_that_share_it(tmp_path: Path) -> None:
    one, two = (Servable.load(bundle_of(tmp_path / name), device="cpu") for name in ("one", "two"))
    assert one.engine._tokenizer is two.engine._tokenizer
    shorter = make_bundle(tmp_path / "shorter", LABELS, version="v-0002", max_tokens=8)
    texts = [{"text": "word1 " * 20}]
    assert len(Servable.load(shorter, device="cpu").tokenize(texts)[0].ids) == 8
    assert len(one.tokenize(texts)[0].ids) == 20


def trials_held() -> float:
    return REGISTRY.get_sample_value("ratchet_swap_seconds_count", {"phase": "trial"}) or 0.0


def test_a_version_with_the_live_graph_is_not_tried_again(home: Path) -> None:
    made = champion(home, "v-0001")
    with serving(settings_for(home)) as served:
        before = trials_held()
        republish(home, made, version="v-0002", labels=["one", "two", "three"])
        promote(home, "v-0002")
        wait_until(lambda: served.live() == "v-0002")
        assert trials_held() == before
        champion(home, "v-0003", seed=3)
        wait_until(lambda: served.live() == "v-0003")
        assert trials_held() == before + 1


@pytest.mark.alone
def test_a_slow_version_is_refused_forwards_and_not_backwards(home: Path) -> None:
    publish(home, "v-0001", edit=loop_of(20_000))
    promote(home, "v-0001")
    with serving(settings_for(home, swap_latency_ratio=2.0)) as served:  # with nothing live, it is fast enough
        champion(home, "v-0002", favour="beta")
        wait_until(lambda: served.live() == "v-0002")
        publish(home, "v-0003", edit=loop_of(20_001))
        promote(home, "v-0003")
        wait_until(lambda: "too slow" in (served.client.get("/v1/model").json()["degraded"] or ""))
        assert served.live() == "v-0002"
        assert served.client.post("/v1/rollback", json={"reason": "x"}).status_code == 200
        wait_until(lambda: not served.client.get("/v1/model").json()["degraded"])
    champion(home, "v-0004", favour="gamma")
    with serving(settings_for(home, swap_latency_ratio=2.0, registry_poll_s=0.5)) as served:  # knows nothing of v-0001
        assert served.live() == "v-0004"
        for _ in range(2):  # in one look, so that v-0001 is not loaded before it is asked for
            registry_of(home).promotions.rollback(reason="a test", actor="test", hold_until=None)
        wait_until(lambda: served.live() == "v-0001")
        assert served.predict()["model_version"] == "v-0001"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux alone")
def test_a_load_gives_way_and_its_caller_does_not() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    assert at_low_priority(niceness) == max(before, 5)
    assert niceness() == before


def test_what_fails_at_low_priority_fails_for_the_caller() -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        at_low_priority(lambda: 1 / 0)
    wait_until(lambda: threading.active_count() == threads)
