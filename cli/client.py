"""The HTTP API as the commands use it."""

from typing import Any, Self

import httpx
from rich.console import Console
from rich.table import Table

from core.errors import RatchetError
from core.tasks import TASKS, Task


class RequestFailed(RatchetError):
    """The service did not do what was asked."""


class Client:
    """Connections to a service, for a ``with`` block. Raises RequestFailed with the service's own words."""

    def __init__(self, url: str, key: str | None) -> None:
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url
        try:
            self._http = httpx.Client(base_url=url, headers=self.headers, timeout=30.0)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise RequestFailed(f"the URL or the key cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, *, field: str | None = None) -> Any:
        """The JSON object at a path, which must have the field."""
        return self._request("GET", path, None, field=field)

    def task(self) -> Task:
        """The task of the live model."""
        name = self.get("/v1/model").get("task")
        if name not in TASKS:
            raise RequestFailed(f"this ratchet cannot play the task {name!r}; there are: {', '.join(sorted(TASKS))}")
        return TASKS[name]

    def post(
        self, path: str, body: dict[str, Any], *, field: str | None = None, idempotency_key: str | None = None
    ) -> Any:
        """Send JSON, return a JSON object, which must have the field."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._request("POST", path, body, headers, field=field)

    def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        headers: dict[str, str] | None = None,
        *,
        field: str | None = None,
    ) -> Any:
        try:
            response = self._http.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise RequestFailed(
                f"no answer from {self.url}: {error or type(error).__name__}; is it running?"
            ) from error
        try:
            document = response.json()
        except ValueError:
            document = None
        if response.is_error:
            problem = document.get("error") if isinstance(document, dict) else None
            message = problem.get("message") if isinstance(problem, dict) else None
            raise RequestFailed(f"{path}: {message or response.status_code}")
        if not isinstance(document, dict) or (field and field not in document):
            raise RequestFailed(f"{path}: the answer of {self.url} is not that of a ratchet service")
        return document


def print_promotion(answer: dict[str, Any], console: Console) -> None:
    """Say what an operator's request has done."""
    promotion = answer["promotion"]
    held = "automatic promotions are held" if promotion.get("hold") else "automatic promotions go on"
    console.print(f"{promotion['kind']}: live is {promotion['version']} (promotion {promotion['number']}); {held}")


def print_versions(found: dict[str, Any], console: Console) -> None:
    """Versions as a table, newest last."""
    table = Table("version", "lane", "parent", "holdout", "verdict", "why")
    for item in found["versions"]:
        verdict = item.get("verdict") or {}
        holdout = (item.get("evaluation") or {}).get("holdout") or {}
        accuracy = f"{100 * holdout['accuracy']:.1f} %" if holdout else "–"
        ruling = ("passed" if verdict.get("passed") else "rejected") if verdict else "–"
        reasons = verdict.get("reasons") or [""]
        name = item["version"] + (" (live)" if item["version"] == found["live"] else "")
        table.add_row(name, item.get("lane", "–"), item.get("parent") or "–", accuracy, ruling, reasons[0])
    console.print(table)
