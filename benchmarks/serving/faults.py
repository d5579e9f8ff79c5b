"""Clients that misbehave: heads sent a byte at a time, connections cut in the middle, heads far too large."""

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from typing import Any, Final

HOST: Final = "127.0.0.1"
SLOW, CUTS_A_SECOND, HUGE_A_SECOND = 100, 20.0, 2.0
_HEAD: Final = (
    b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n"
)
_BODY: Final = b'{"text": "where is my parcel"}'


async def slow_head(port: int, until: float, seen: Counter[str], *, every_s: float = 0.5) -> None:
    """Slow loris: a header that never ends; counted is how the server ends it, if it does."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            seen["slow: refused"] += 1
            await asyncio.sleep(1.0)
            continue
        seen["slow: opened"] += 1
        with contextlib.suppress(OSError):
            writer.write(b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            while time.monotonic() < until and not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), every_s)
                    seen["slow: ended by the server"] += 1
                    break
        await _close(writer)


async def cut_connections(port: int, until: float, seen: Counter[str]) -> None:
    """Ask and go away: before the body, in the middle of it, or before the answer."""
    number = 0
    while time.monotonic() < until:
        number += 1
        message = (_HEAD, _HEAD + _BODY[:9], _HEAD + _BODY)[number % 3]
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.write(message)
            await asyncio.sleep(0.002)
            writer.transport.abort()
            seen["cut"] += 1
        await asyncio.sleep(1.0 / CUTS_A_SECOND)


async def huge_heads(port: int, until: float, seen: Counter[str]) -> None:
    """Heads of 1 MiB, in one header or in many; counted is what they are answered."""
    number = 0
    while time.monotonic() < until:
        number += 1
        fields = (
            b"X-Big: " + b"x" * 2**20 + b"\r\n" if number % 2 else b"".join(b"X-%d: x\r\n" % n for n in range(80_000))
        )
        message = _HEAD.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n") + _BODY
        answer = "huge: cut"
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection(HOST, port)
            with contextlib.suppress(OSError):
                writer.write(message)
                line = await asyncio.wait_for(reader.readline(), 5.0)
                answer = f"huge: {line.split()[1].decode()}" if line else "huge: closed without an answer"
            await _close(writer)
        seen[answer] += 1
        await asyncio.sleep(1.0 / HUGE_A_SECOND)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def misbehave(port: int, seconds: float) -> dict[str, Any]:
    """All of them at once, for some seconds; returns counts."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + min(seconds, 600.0)
    slow = [slow_head(port, until, seen) for _ in range(SLOW)]
    await asyncio.gather(*slow, cut_connections(port, until, seen), huge_heads(port, until, seen))
    return dict(sorted(seen.items()))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(misbehave(int(sys.argv[1]), float(sys.argv[2])))))
