"""Nothing that people type in confidence reaches the disk: a service and a consumer at work, then every byte of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.events import DEAD_LETTERS, INTERACTIONS, encode
from core.examples import ExampleStore
from core.settings import Settings
from feedback.seed import import_seed
from tests.feedback.harness import feedback as said
from tests.feedback.harness import prediction, running
from tests.service.serving import Served, champion, serving, settings_for
from tests.support import wait_until

#: what is typed, and what of it must be nowhere
SECRETS = {
    "mail": ("anna.leak@example.com", "anna.leak"),
    "mobile": ("13898765432", "13898765432"),
    "spaced": ("138 9876 5431", "9876 5431"),
    "wide": ("１３９９８７６５４３２", "１３９９８７６５４３２"),
    "card": ("4929 1234 5678 9015", "1234 5678 9015"),
    "iban": ("DE89370400440532013000", "370400440532013000"),
    "id": ("11010519491231002X", "19491231002"),
    "ip": ("203.0.113.77", "203.0.113.77"),
    "key": ("gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "e5F6g7H8i9J0"),
    "hidden": ("anna\u200b.hidden@example.com", ".hidden@example"),
}
TEXT = "write to {} or {}, wide {}, card {}, iban {}, 身份证{}，ip {} key {} {} {}".format(
    *(SECRETS[name][0] for name in ("mail", "mobile", "wide", "card", "iban", "id", "ip", "key", "spaced", "hidden"))
)


def leaks(home: Path) -> list[str]:
    """Which secrets are in which files, as any program may have spelt them."""
    found = []
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for name, (_, part) in SECRETS.items():
            utf8 = part.encode()
            spelt = {utf8, part.encode("utf-16-le"), json.dumps(part)[1:-1].encode(), utf8.hex().encode()}
            if any(form in content for form in spelt):
                found.append(f"{path.relative_to(home)}: {name}")
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    champion(home, "v-0001")
    return settings_for(home, device="cpu", log_partitions=2)


@pytest.fixture
def served(settings: Settings) -> Iterator[Served]:
    with serving(settings) as found:
        yield found


def _post(served: Served, path: str, status: int, document: Any, **headers: str) -> dict[str, Any]:
    response = served.client.post(path, json=document, headers=headers)
    assert response.status_code == status, response.text
    return dict(response.json())


def _use_every_way_in(served: Served) -> list[str]:
    """Predictions and feedback through each interface; returns the feedback ids."""
    made = _post(served, "/v1/predict", 200, {"text": TEXT})
    _post(served, "/v1/predict", 200, {"inputs": [{"text": TEXT}, {"text": f"again {TEXT}"}]})
    line = json.dumps({"text": TEXT}).encode() + b"\n"
    streamed = served.client.post("/v1/predict/stream", content=line, headers={"Content-Type": "application/x-ndjson"})
    assert streamed.status_code == 200
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    _post(served, "/v2/models/default/infer", 200, {"inputs": [tensor]})
    told = [
        {"prediction_id": made["prediction_id"], "label": "beta", "annotator": SECRETS["mail"][0]},
        {"text": TEXT, "label": SECRETS["mobile"][0], "annotator": SECRETS["mobile"][0]},
        {"text": f"{TEXT} twice", "label": "gamma"},
    ]
    _post(served, "/v1/train", 202, {"reason": f"asked by {SECRETS['mail'][0]}"})
    _post(served, "/v1/pause", 200, {"reason": f"asked by {SECRETS['mail'][0]}"})
    _post(served, "/v1/predict", 422, {"text": 5, SECRETS["mail"][0]: TEXT})
    _post(served, "/v1/feedback", 422, {"prediction_id": made["prediction_id"], "kind": TEXT})
    return [_post(served, "/v1/feedback", 202, document)["feedback_id"] for document in told]


def test_no_raw_value_is_in_any_file_of_the_home(
    served: Served, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("feedback.consumer._SWEEP_S", 0.05)
    seed = settings.home.parent / "seed.jsonl"
    rows = [{"text": f"{TEXT} {label}", "label": label} for label in ("alpha", "beta")]
    seed.write_text("\n".join(json.dumps(row) for row in rows))
    with running(settings) as around:
        store = ExampleStore(settings.example_store_url, settings.model)
        import_seed(store, seed, settings, b"k" * 64, lambda done, total: None)
        store.close()
        ids = _use_every_way_in(served)
        wait_until(lambda: set(ids) <= set(around.outcomes()), what="the outcomes")
        around.drain()
        assert len(around.store.examples()) >= 4
        assert "[EMAIL_1]" in str(around.store.examples()[-1].inputs)
    assert leaks(settings.home) == []
    page = served.client.get("/metrics").text
    assert float(re.search(r'ratchet_masked_values_total\{kind="EMAIL"\} (\S+)', page)[1]) >= 5
    captured = capfd.readouterr()
    assert not any(part in captured.out + captured.err for _, part in SECRETS.values())


def test_the_search_finds_what_is_there_when_masking_is_off(tmp_path: Path) -> None:
    """The test above could not fail otherwise."""
    home = tmp_path / "home"
    champion(home, "v-0001")
    with serving(settings_for(home, device="cpu", masking=False)) as served:
        served.predict(TEXT)
        wait_until(lambda: not served.program.recorder.pending, what="the record")
    found = {entry.split(": ")[1] for entry in leaks(home)}
    assert found >= set(SECRETS) - {"hidden"}


def test_what_older_services_wrote_is_masked_before_it_is_stored_or_dead_lettered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log holds it then, as it came; nothing else of the consumer's does."""
    home = tmp_path / "home"
    champion(home, "v-0001")
    log = tmp_path / "older.db"
    settings = settings_for(home, device="cpu", log_url=f"sqlite:///{log}", log_partitions=2)

    def fragile(text: str) -> str:
        if "boom" in text:
            raise ValueError(f"a library quotes {text}")
        return text

    monkeypatch.setattr("ftfy.fix_text", fragile)
    early, late = prediction(1, TEXT), said(1, 1, "beta", annotator=SECRETS["mail"][0])
    newer = encode(early).replace(b'"schema_version":1', b'"schema_version":9')
    misspelt = encode(late).replace(b'"target"', json.dumps(SECRETS["mail"][0]).encode())
    with running(settings) as around:
        around.send(early, late, said(2, text=f"own {TEXT}", target=SECRETS["mobile"][0]))
        around.send(said(3, text=f"boom {TEXT}", target="beta"), TEXT.encode(), newer, misspelt, encode(late)[:-9])
        around.drain()
        letters = around.dead_letters()
        assert len(letters) == 4
        assert around.store.parked_count() == 1
        shown = " ".join(letter.model_dump_json() for letter in letters)
        assert not [name for name, (_, part) in SECRETS.items() if part in shown]
        assert "[EMAIL_1]" in shown
        assert {"f1", "f2", "f3"} <= set(around.outcomes())
        raw = around.log.read(INTERACTIONS, dict.fromkeys(around.log.ends(INTERACTIONS), 0), limit=100)
        assert any(SECRETS["mobile"][0].encode() in record.value for record in raw)
        assert sum(around.log.ends(DEAD_LETTERS).values()) == 4
    assert leaks(home) == []
