"""Bare uvicorn: a raw ASGI application and two lanes that take up to 16 texts from one queue. No framework, no features.

This is what a server in Python can reach on this machine when it does nothing but answer: no validation to speak of, no
authentication, no ids, no records, no metrics. uvloop, httptools, no access log, a frozen heap.
"""

import asyncio
import gc
import json
import queue
import threading
from typing import Any

import uvicorn

from benchmarks.serving.peers.model import PORT, Model

LANES, BATCH = 2, 16
_HEADERS = [(b"content-type", b"application/json")]
_waiting: "queue.SimpleQueue[tuple[str, asyncio.Future[dict[str, Any]]]]" = queue.SimpleQueue()


def work(model: Model, loop: asyncio.AbstractEventLoop) -> None:
    """One lane."""
    while True:
        batch = [_waiting.get()]
        while len(batch) < BATCH:
            try:
                batch.append(_waiting.get_nowait())
            except queue.Empty:
                break
        answers = model.answer([text for text, _ in batch])
        loop.call_soon_threadsafe(deliver, [future for _, future in batch], answers)


def deliver(futures: "list[asyncio.Future[dict[str, Any]]]", answers: list[dict[str, Any]]) -> None:
    """In the event loop."""
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():
            future.set_result(answer)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        await receive()
        loop, model = asyncio.get_running_loop(), Model()
        model.answer(["warm up"])
        for _ in range(LANES):
            threading.Thread(target=work, args=(model, loop), daemon=True).start()
        gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    _waiting.put((json.loads(body)["text"], future))
    answer = json.dumps(await future).encode()
    headers = [*_HEADERS, (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=PORT, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
