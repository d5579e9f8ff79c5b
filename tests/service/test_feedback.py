"""Feedback: durable before it is acknowledged, the same id for a retry, and its outcome told as it is."""

from collections.abc import Mapping
from pathlib import Path

from core.events import Feedback, FeedbackKind, Outcome, OutcomeStatus, Prediction
from core.examples import ExampleStore
from tests.service.serving import Served, champion, interactions, serving, settings_for
from tests.support import wait_until


def feedback_in(served: Served) -> dict[str, Feedback]:
    events = interactions(served.program.settings)
    return {event.feedback_id: event for event in events if isinstance(event, Feedback)}


def tell(served: Served, body: Mapping[str, object], **headers: str) -> str:
    response = served.client.post("/v1/feedback", json=body, headers=headers)
    assert response.status_code == 202, response.text
    assert set(response.json()) == {"feedback_id"}
    return str(response.json()["feedback_id"])


def test_each_kind_reaches_the_log_as_it_was_said(served: Served) -> None:
    made = served.predict()["prediction_id"]
    told = {
        tell(served, {"prediction_id": made, "label": " beta "}): (FeedbackKind.CORRECT, "beta"),
        tell(served, {"prediction_id": made, "kind": "confirm"}): (FeedbackKind.CONFIRM, None),
        tell(served, {"prediction_id": made, "kind": "reject"}): (FeedbackKind.REJECT, None),
        tell(served, {"prediction_id": made, "kind": "implicit", "label": "new"}): (FeedbackKind.IMPLICIT, "new"),
        tell(served, {"text": "hello", "label": "beta"}): (FeedbackKind.CORRECT, "beta"),
        tell(served, {"text": "hello", "label": "beta", "kind": "confirm"}): (FeedbackKind.CONFIRM, "beta"),
    }
    wait_until(lambda: set(told) <= set(feedback_in(served)))
    found = feedback_in(served)
    assert {name: (found[name].kind, found[name].target) for name in told} == told
    for name in told:
        assert (found[name].prediction_id == made) == (found[name].inputs is None)
        assert found[name].trusted
        assert found[name].annotator == "local"


def test_a_prediction_is_in_the_log_with_what_was_answered(served: Served) -> None:
    answer = served.predict("my card is lost")

    def recorded() -> Prediction | None:
        events = interactions(served.program.settings)
        mine = [e for e in events if isinstance(e, Prediction) and e.prediction_id == answer["prediction_id"]]
        return mine[0] if mine else None

    event = wait_until(recorded)
    assert event.inputs == {"text": "my card is lost"}
    assert event.model_version == answer["model_version"] == "v-0001"
    assert event.output == {name: answer[name] for name in ("label", "score", "top")}
    assert event.confidence == answer["score"]
    assert (event.audit_probability is not None) == answer["audit"]


def test_the_annotator_and_that_they_were_asked_are_kept(served: Served) -> None:
    told = tell(served, {"text": "hello", "label": "beta", "annotator": "ann", "asked": True})
    wait_until(lambda: told in feedback_in(served))
    event = feedback_in(served)[told]
    assert (event.annotator, event.asked) == ("ann", True)


def test_a_retry_with_the_same_key_has_the_same_id(served: Served) -> None:
    body = {"text": "hello", "label": "beta"}
    first = tell(served, body, **{"Idempotency-Key": "order-1"})
    assert tell(served, body, **{"Idempotency-Key": "order-1"}) == first
    assert tell(served, body, **{"Idempotency-Key": "order-2"}) != first
    assert tell(served, body) != tell(served, body)


def test_what_became_of_it_is_told(home: Path) -> None:
    champion(home, "v-0001")
    settings = settings_for(home)
    store = ExampleStore(settings.example_store_url, settings.model)
    store.migrate()
    try:
        with serving(settings) as served:
            told = tell(served, {"text": "hello", "label": "beta"})
            pending = served.client.get(f"/v1/feedback/{told}").json()
            assert pending["status"] == "pending"
            outcome = Outcome(
                model="default", feedback_id=told, status=OutcomeStatus.ACCEPTED, reason="believed", example_id="e1"
            )
            waits = Feedback(feedback_id="waits", prediction_id="nobody", kind=FeedbackKind.REJECT)
            with store.transaction() as transaction:
                transaction.add_outcome(outcome)
                transaction.add_pending(waits)
            shown = served.client.get(f"/v1/feedback/{told}").json()
            assert (shown["status"], shown["reason"], shown["example_id"]) == ("accepted", "believed", "e1")
            assert served.client.get("/v1/feedback/waits").json()["status"] == "pending"
            assert served.client.get("/v1/feedback/never-heard-of").status_code == 404
    finally:
        store.close()


def test_feedback_that_waits_in_the_outbox_is_pending_after_a_restart(home: Path) -> None:
    champion(home, "v-0001")
    (home / "logs").write_text("a file where the log's folder should be")
    settings = settings_for(home, log_url=f"sqlite:///{home / 'logs' / 'log.db'}")
    store = ExampleStore(settings.example_store_url, settings.model)
    store.migrate()
    store.close()
    with serving(settings) as served:
        told = tell(served, {"text": "hello", "label": "beta"})
    with serving(settings) as served:
        shown = served.client.get(f"/v1/feedback/{told}")
        assert (shown.status_code, shown.json().get("status")) == (200, "pending")
        unknown = served.client.get("/v1/feedback/never-heard-of")
        assert unknown.status_code == 404
        assert "still on its way" in unknown.json()["error"]["message"]


def test_without_the_store_only_the_questions_to_it_fail(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home, examples_url=f"sqlite:///{home}/made")) as served:  # a folder, not a database
        for path in ("/v1/feedback/abc", "/v1/review"):
            response = served.client.get(path)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "store_unavailable"
            assert response.headers["retry-after"] == "1"
        served.predict()
        tell(served, {"text": "hello", "label": "beta"})


def test_before_a_model_is_live_feedback_is_taken_and_predictions_are_503(home: Path) -> None:
    with serving(settings_for(home), ready=False) as served:
        assert served.client.get("/livez").status_code == 200
        assert served.client.get("/readyz").status_code == 503
        for response in (served.client.post("/v1/predict", json={"text": "x"}), served.client.get("/v1/model")):
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "not_ready"
        tell(served, {"text": "hello", "label": "beta"})
        champion(home, "v-0001")
        wait_until(lambda: served.client.get("/readyz").status_code == 200)
        served.predict()
