"""What operators ask and order: versions, promotions, holds, training."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from core.bundle import is_version_name
from core.errors import BundleError, Conflict, UnknownVersion
from core.events import INTERACTIONS, Command, encode, new_id, now
from core.registry import Promotion
from core.settings import Role
from service.auth import Caller
from service.problems import JsonResponse
from service.program import Program
from service.schemas import parse_hold, parse_limit, parse_reason, parse_version, show_version, stable_id
from service.web import Endpoint, header, read_document


async def versions(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v1/versions?limit=``: the newest versions, promotions and runs, newest first."""
    limit = parse_limit(request.query_params.get("limit"), default=50, most=1_000)
    return JsonResponse(await program.ask_registry(partial(_versions, program, limit)))


def _versions(program: Program, limit: int) -> dict[str, Any]:
    registry = program.registry
    shown = []
    for version in reversed(registry.versions()[-limit:]):
        try:
            shown.append(show_version(registry.summary(version)))
        except UnknownVersion:
            continue  # its manifest is not written yet
        except BundleError as error:
            shown.append({"version": version, "error": str(error)})
    live = program.swapper.live
    return {
        "live": live.version if live else None,
        "versions": shown,
        "bad_versions": sorted(registry.promotions.bad_versions()),
        "promotions": registry.promotions.entries()[: -limit - 1 : -1],
        "runs": registry.runs(newest=limit)[::-1],
    }


async def version(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v1/versions/{version}``: all there is to know of one."""
    name = _version_name(request)
    return JsonResponse(await program.ask_registry(partial(_version, program, name)))


def _version(program: Program, name: str) -> dict[str, Any]:
    summary = program.registry.summary(name)
    promotions = program.registry.promotions
    return {
        "version": name,
        "manifest": summary.manifest.model_dump(mode="json", exclude={"probes"}),
        "verdict": summary.verdict,
        "refusals": summary.refusals,
        "bad": name in promotions.bad_versions(),
        "promotions": [entry for entry in promotions.entries() if entry.version == name],
    }


async def promote(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/versions/{version}/promote``: only what was loaded and tried here."""
    name = _version_name(request)
    reason = _reason(program, await read_document(request))
    seen = await program.prepare(partial(_prepare, program, name))
    entry = await program.order(partial(_promote, program, name, reason, caller.id, seen))
    return _moved(program, entry)


def _prepare(program: Program, name: str) -> int:
    """Load and try a version, which may take long. Returns how many entries the promotion log had before."""
    entries = program.registry.promotions.entries()
    _check_not_live(entries, name)
    program.swapper.prepare(name)
    return len(entries)


def _promote(program: Program, name: str, reason: str, actor: str, seen: int) -> Promotion:
    promotions = program.registry.promotions
    entries = promotions.entries()
    _check_not_live(entries, name)
    if any(name in entry.bad for entry in entries[seen:]):
        raise Conflict(f"{name} was rolled back while it was tried; look again")
    return promotions.promote_by_operator(name, reason=reason, actor=actor)


def _check_not_live(entries: list[Promotion], name: str) -> None:
    if entries and entries[-1].version == name:
        raise Conflict(f"{name} is the champion already")


async def rollback(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/rollback``: back to the newest good version, and automatic promotions held."""
    document = await read_document(request)
    reason = _reason(program, document, others=("version",))
    bad_version = parse_version(document)
    hold_s = program.settings.rollback_hold_s
    entry = await program.order(
        lambda: program.registry.promotions.rollback(
            reason=reason,
            actor=caller.id,
            hold_until=now() + timedelta(seconds=hold_s) if hold_s else None,
            bad_version=bad_version,
        )
    )
    return _moved(program, entry)


async def pause(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/pause``: hold automatic promotions."""
    document = await read_document(request)
    reason = _reason(program, document, others=("until_s",))
    seconds = parse_hold(document)
    until = now() + timedelta(seconds=seconds) if seconds is not None else None
    entry = await program.order(lambda: program.registry.promotions.pause(reason=reason, actor=caller.id, until=until))
    return _moved(program, entry)


async def resume(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/resume``: end a hold."""
    reason = _reason(program, await read_document(request))
    entry = await program.order(lambda: program.registry.promotions.resume(reason=reason, actor=caller.id))
    return _moved(program, entry)


async def train(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/train``: a command to the trainer, through the log."""
    reason = _reason(program, await read_document(request, required=False), required=False)
    key = header(request.scope, b"idempotency-key")
    command_id = stable_id(key, api_key_id=caller.id, model=program.settings.model) or new_id()
    command = Command(model=program.settings.model, command_id=command_id, actor=caller.id, reason=reason)
    await program.outbox.put(INTERACTIONS, command_id, encode(command))
    return JsonResponse({"command_id": command_id}, status_code=202)


def _reason(
    program: Program, document: Mapping[str, Any], *, others: tuple[str, ...] = (), required: bool = True
) -> str:
    """The ``reason`` of an order, masked: it is kept as long as the registry is. Raises InvalidInput."""
    return program.masker.mask(parse_reason(document, others=others, required=required))


def _version_name(request: Request) -> str:
    name: str = request.path_params["version"]
    if not is_version_name(name):
        raise UnknownVersion(f"there is no version {name[:100]!r}")
    return name


def _moved(program: Program, entry: Promotion) -> Response:
    program.swapper.wake()
    return JsonResponse({"promotion": entry})


def _operator(method: str, path: str, name: str, handler: Any) -> Endpoint:
    return Endpoint(method=method, path=path, name=name, role=Role.OPERATOR, handler=handler)


OPERATOR_ENDPOINTS = (
    _operator("GET", "/v1/versions", "versions", versions),
    _operator("GET", "/v1/versions/{version}", "version", version),
    _operator("POST", "/v1/versions/{version}/promote", "promote", promote),
    _operator("POST", "/v1/rollback", "rollback", rollback),
    _operator("POST", "/v1/pause", "pause", pause),
    _operator("POST", "/v1/resume", "resume", resume),
    _operator("POST", "/v1/train", "train", train),
)
