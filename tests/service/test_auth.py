"""Who may do what."""

from collections.abc import Iterator

import pytest

from core.events import Feedback
from core.settings import ApiKey, Role
from service.auth import Hosts, Keys
from service.problems import HttpError
from tests.service.serving import Served, champion, interactions, serving, settings_for
from tests.support import wait_until

SECRETS = {role: f"secret-of-{role.value}-0123456789" for role in Role}
ROUTES = [
    ("POST", "/v1/predict", Role.PREDICT),
    ("GET", "/v1/model", Role.PREDICT),
    ("POST", "/v1/feedback", Role.FEEDBACK),
    ("GET", "/v1/feedback/abc", Role.FEEDBACK),
    ("GET", "/v1/versions", Role.OPERATOR),
    ("GET", "/v1/versions/v-0001", Role.OPERATOR),
    ("POST", "/v1/versions/v-none/promote", Role.OPERATOR),
    ("POST", "/v1/rollback", Role.OPERATOR),
    ("POST", "/v1/pause", Role.OPERATOR),
    ("POST", "/v1/resume", Role.OPERATOR),
    ("POST", "/v1/train", Role.OPERATOR),
    ("GET", "/v1/review", Role.OPERATOR),
]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with a key for each role, of which only the operator's is trusted."""
    home = tmp_path_factory.mktemp("home")
    champion(home, "v-0001")
    keys = tuple(
        ApiKey(id=role.value, key=secret, roles=frozenset({role}), trusted=role is Role.OPERATOR)
        for role, secret in SECRETS.items()
    )
    with serving(settings_for(home, api_keys=keys, audit_rate=0)) as running:
        yield running


@pytest.mark.parametrize(("method", "path", "needed"), ROUTES)
@pytest.mark.parametrize("role", list(Role))
def test_a_role_opens_its_own_routes_and_an_operator_opens_all(
    locked: Served, method: str, path: str, needed: Role, role: Role
) -> None:
    json = {"prediction_id": "a", "kind": "nonsense"} if method == "POST" else None
    response = locked.client.request(method, path, json=json, headers={"Authorization": f"Bearer {SECRETS[role]}"})
    if role in (needed, Role.OPERATOR):
        assert response.status_code not in (401, 403), response.text
    else:
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "forbidden"


@pytest.mark.parametrize(("method", "path", "_needed"), ROUTES)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic " + SECRETS[Role.OPERATOR], SECRETS[Role.OPERATOR]]
)
def test_without_a_known_key_nothing_is_told(
    locked: Served, method: str, path: str, _needed: Role, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = locked.client.request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"


def test_probes_metrics_and_the_page_need_no_key(locked: Served) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/"):
        assert locked.client.get(path).status_code == 200


def test_the_events_say_whose_key_it_was_and_how_far_it_is_trusted(locked: Served) -> None:
    body = {"text": "where", "label": "beta"}
    for role in (Role.FEEDBACK, Role.OPERATOR):
        headers = {"Authorization": f"bearer {SECRETS[role]}"}
        assert locked.client.post("/v1/feedback", json=body, headers=headers).status_code == 202
    settings = locked.program.settings

    def told() -> list[Feedback]:
        return [event for event in interactions(settings) if isinstance(event, Feedback)]

    wait_until(lambda: len(told()) == 2)
    assert {(event.api_key_id, event.annotator, event.trusted) for event in told()} == {
        ("feedback", "feedback", False),
        ("operator", "operator", True),
    }


def test_one_key_cannot_take_the_idempotency_key_of_another(locked: Served) -> None:
    body = {"text": "where", "label": "beta"}
    ids = set()
    for role in (Role.FEEDBACK, Role.OPERATOR, Role.FEEDBACK):
        headers = {"Authorization": f"Bearer {SECRETS[role]}", "Idempotency-Key": "one"}
        ids.add(locked.client.post("/v1/feedback", json=body, headers=headers).json()["feedback_id"])
    assert len(ids) == 2


def test_without_keys_only_this_machine_is_answered() -> None:
    keys = Keys([])
    for here in ("127.0.0.1", "::1", None):
        assert keys.identify(None, here).trusted
    with pytest.raises(HttpError) as refused:
        keys.identify(None, "192.0.2.7")
    assert refused.value.code == "keys_required"


def test_a_star_allows_every_host_and_page() -> None:
    hosts = Hosts(["*"])
    hosts.check_host(None)
    hosts.check_host("any.example:1")
    hosts.check_origin("https://any.example")


@pytest.mark.parametrize("host", [None, "", ":3000", "[::1", "a.example.evil", "xa.example"])
def test_odd_hosts_are_foreign(host: str | None) -> None:
    with pytest.raises(HttpError):
        Hosts(["a.example", "[::1]x"]).check_host(host)
