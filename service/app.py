"""The service as BentoML starts it: ``bentoml serve service.app:Ratchet``.

BentoML gives the process, its supervision, the build into a Bento and the files that metrics are shared in. Requests go
straight to our own application: BentoML's own routes (an API schema, probes that answer before a model is there, a page
with loaded scripts) and its middlewares (a label per unknown path, a timer per request that outlives it) stay closed.
"""

import sys
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import BadSettings
from core.settings import Settings, load_settings
from service.run import check, listening_address


class _Service(bentoml.Service[Any]):  # type: ignore[misc] # bentoml loads the name lazily
    """A BentoML service that answers HTTP with our application alone."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application; BentoML's keeps the lifespan, in which ours is nested."""
        # BentoML calls this in the worker. Its supervisor and `bentoml build` import this module, too, and would wait
        # seconds for ONNX Runtime and the database drivers that they never use.
        from service.connection import install  # noqa: PLC0415
        from service.routes import ENDPOINTS  # noqa: PLC0415
        from service.web import Application, start_program  # noqa: PLC0415

        install(  # uvicorn is configured after this
            head_timeout_s=_SETTINGS.request_timeout_s, idle_timeout_s=_SETTINGS.idle_connection_s
        )
        web = Application(ENDPOINTS, lambda: start_program(end_with_parent=_is_worker()))
        self.mount_asgi_app(web, path="/")
        inner: ASGIApp = super().to_asgi(is_main=is_main)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await (web if scope["type"] == "http" else inner)(scope, receive, send)

        return app


def _is_worker() -> bool:
    return bentoml.server_context.worker_index is not None


def _settings() -> Settings:
    try:
        return load_settings()
    except BadSettings:  # building a Bento needs none; serving reports them
        return Settings.model_construct()


def _address(settings: Settings) -> dict[str, Any]:
    """Where to listen when BentoML is not told: never on all addresses, which is its own default."""
    return {"host": listening_address(settings.host), "port": settings.port}


_SETTINGS = _settings()


@bentoml.service(
    service_class=_Service,
    name="ratchet",
    workers=_SETTINGS.workers,
    http=_address(_SETTINGS),
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Ratchet:
    """Answers predictions with the champion and keeps what users say to them."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Refuse to start with settings that cannot work, before BentoML begins to start workers over and over."""
        try:
            check(load_settings())
        except BadSettings as error:
            sys.stderr.write(f"ratchet: {error}\n")
            sys.exit(2)
