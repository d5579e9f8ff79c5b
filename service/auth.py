"""Who calls, what they may do, and which requests a browser must not be tricked into sending."""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from core.settings import ApiKey, Role
from service.problems import HttpError

_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request."""

    id: str
    roles: frozenset[Role]
    #: feedback of this caller skips quarantine
    trusted: bool

    def require(self, role: Role) -> None:
        """Refuse a caller without the role. Raises HttpError 403."""
        if role not in self.roles and Role.OPERATOR not in self.roles:
            raise HttpError(403, "forbidden", f"the key {self.id!r} does not have the role {role.value!r}")


LOCAL: Final = Caller(id="local", roles=frozenset(Role), trusted=True)
"""Everybody, where no keys are set: then only the machine itself is answered."""


class Keys:
    """The API keys, by digest, so that comparing takes the same time whatever the key and its length."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._callers = [
            (_digest(key.key.get_secret_value()), Caller(id=key.id, roles=key.roles, trusted=key.trusted))
            for key in keys
        ]

    def identify(self, authorization: str | None, client: str | None) -> Caller:
        """The caller of a request.

        Args:
            authorization: the ``Authorization`` header.
            client: address that the request came from; None where it came over a Unix socket.

        Raises:
            HttpError: 401 for no or a wrong key, 403 where no keys are set and the caller is another machine.
        """
        if not self._callers:
            if client is not None and not _is_loopback(client):
                raise HttpError(
                    403, "keys_required", "without api_keys only this machine itself is answered; set api_keys"
                )
            return LOCAL
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise HttpError(401, "unauthorized", "send an API key as `Authorization: Bearer <key>`", _CHALLENGE)
        digest = _digest(secret.strip())
        found = None
        for known, caller in self._callers:  # no early end: the time must not tell which key it was
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise HttpError(401, "unauthorized", "this API key is not known", _CHALLENGE)
        return found


class Hosts:
    """The Host headers that are answered: a foreign one means that a web page talks to us under a name of its own."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = "*" in allowed
        self._allowed = {host.lower() for host in allowed}

    def check_host(self, header: str | None) -> None:
        """Refuse a Host that is not ours. Raises HttpError 421."""
        if not self._any and _without_port(header or "") not in self._allowed:
            raise HttpError(421, "foreign_host", f"Host {header!r} is not in allowed_hosts")

    def check_origin(self, header: str | None) -> None:
        """Refuse a browser's request on behalf of another site. Raises HttpError 403."""
        if header is None or self._any:
            return
        if _without_port(_site(header)) not in self._allowed:
            raise HttpError(403, "foreign_origin", f"requests from a page of {header!r} are not answered")


def _site(origin: str) -> str:
    """Host and port of an origin; nothing where it is not one."""
    try:
        return urlsplit(origin).netloc if "//" in origin else ""
    except ValueError:  # brackets without an address in them
        return ""


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


@lru_cache(maxsize=1024)
def _without_port(host: str) -> str:
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
