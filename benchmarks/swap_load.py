"""What requests feel while a version is tried and loaded: the trial and the low priority against neither, interleaved.

    python -m benchmarks.swap_load --bundle FOLDER --home WORK_FOLDER [--rounds 10] [--load 0.7]

``FOLDER`` holds a bundle (manifest.json, model.onnx, tokenizer.json). Two services run side by side, of which one is asked
at a time: *gentle* as it is shipped, *plain* without a trial and with the load at the priority of everything else. A client
in this process sends texts at a fixed share of the saturation it has measured, on a schedule (latencies count from the
scheduled moment, so a stall costs every request that should have been sent meanwhile). In every round each service gets a
version whose graph it has not seen: the same weights under another digest. Rounds in which other programs took more than
``--others`` cores are shown and left out of the medians. Prints a JSON document.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from core.bundle import MODEL, TOKENIZER, ModelBundle
from core.registry import Registry
from core.settings import load_settings

ARMS = ("gentle", "plain")
TEXT = "where is the parcel number {} that was to come last week and did not"
Sample = tuple[float, float, str]
"""Scheduled moment, seconds to the answer, the version that answered."""


def serve(arm: str) -> None:
    """Be one of the two services; the settings are in the environment."""
    import uvicorn  # noqa: PLC0415 - the client needs none of these

    import service.threads as threads  # noqa: PLC0415, PLR0402
    from service.program import Program  # noqa: PLC0415
    from service.routes import ENDPOINTS  # noqa: PLC0415
    from service.web import Application  # noqa: PLC0415

    settings = load_settings()
    if arm == "plain":
        threads._LOW_PRIORITY = 0  # type: ignore[misc]
    program = Program(settings)
    if arm == "plain":
        program.loader._trial = None

    def start() -> Program:
        program.start()
        return program

    uvicorn.run(
        Application(ENDPOINTS, start), port=settings.port, log_config=None, access_log=False, timeout_keep_alive=600
    )


class Client:
    """Connections to one service that are kept open; speaks just enough HTTP/1.1, so that it takes little of the machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def predict(self, number: int) -> str:
        """The version that answered; empty where the answer was an error."""
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps({"text": TEXT.format(number)}).encode()
        writer.write(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        answer = json.loads(await reader.readexactly(int(length.split(b":")[1])))
        self._free.append((reader, writer))
        return str(answer.get("model_version", ""))

    async def saturation(self, seconds: float, *, callers: int = 32) -> float:
        """Answers a second in a closed loop."""
        count, end = 0, time.perf_counter() + seconds

        async def call() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await self.predict(count)
                count += 1

        await asyncio.gather(*(call() for _ in range(callers)))
        return count / seconds

    async def schedule(self, rate: float, until: asyncio.Event) -> list[Sample]:
        """Send ``rate`` texts a second until told to end."""
        samples: list[Sample] = []
        tasks: set[asyncio.Task[None]] = set()
        began = time.perf_counter()

        async def one(at: float, number: int) -> None:
            version = await self.predict(number)
            samples.append((at, time.perf_counter() - at, version))

        number = 0
        while not until.is_set():
            at = began + number / rate
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            task = asyncio.create_task(one(at, number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        return samples


def publish(registry: Registry, source: ModelBundle, folder: Path, version: str) -> None:
    """The same network under another digest: a last field of the file, its doc_string, is overwritten."""
    folder.mkdir(parents=True)
    shutil.copy(source.path(TOKENIZER), folder / TOKENIZER)
    text = version.encode()
    (folder / MODEL).write_bytes(source.path(MODEL).read_bytes() + b"\x32" + bytes([len(text)]) + text)
    fields = {name: value for name, value in source.manifest if name != "files"}
    registry.publish(ModelBundle.write(folder, **{**fields, "version": version, "model": "default"}))
    shutil.rmtree(folder)


def phases(port: int) -> dict[str, float]:
    """Seconds that the phases of all swaps so far took, as the service's metrics have it."""
    page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("ratchet_swap_seconds_sum{")]
    return {line.split('"')[1] + "_s": float(line.split()[-1]) for line in lines}


class Others:
    """How many cores other programs take."""

    def __init__(self) -> None:
        self._at, self._busy, self._ours = time.perf_counter(), *self._now()

    def cores(self) -> float:
        """Since this was made."""
        busy, ours = self._now()
        return (busy - self._busy - (ours - self._ours)) / (time.perf_counter() - self._at)

    def _now(self) -> tuple[float, float]:
        machine = psutil.cpu_times()
        ours = 0.0
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            times = process.cpu_times()
            ours += times.user + times.system + times.children_user + times.children_system
        return sum(machine) - machine.idle - machine.iowait, ours


async def round_of(client: Client, registry: Registry, version: str, rate: float) -> dict[str, float]:
    """Steady for three seconds, then a promotion, until two seconds after the first answer of the new version."""
    over, others, before = asyncio.Event(), Others(), await asyncio.to_thread(phases, client.port)
    sending = asyncio.create_task(client.schedule(rate, over))
    await asyncio.sleep(3)
    promoted = time.perf_counter()
    await asyncio.to_thread(
        registry.promotions.promote_by_operator, version, reason="a measurement", actor="benchmarks"
    )
    while await client.predict(0) != version:
        await asyncio.sleep(0.02)
    live = time.perf_counter()
    await asyncio.sleep(2)
    over.set()
    samples = await sending
    after = await asyncio.to_thread(phases, client.port)
    steady = [taken for at, taken, _ in samples if promoted - 2.5 < at < promoted]
    during = [taken for at, taken, _ in samples if promoted <= at <= live]
    return {
        "to_live_s": live - promoted,
        "steady_p50_ms": 1e3 * float(np.quantile(steady, 0.5)),
        "steady_p99_ms": 1e3 * float(np.quantile(steady, 0.99)),
        "during_p50_ms": 1e3 * float(np.quantile(during, 0.5)),
        "during_p99_ms": 1e3 * float(np.quantile(during, 0.99)),
        "failed": sum(not version for _, _, version in samples),
        "during_max_ms": 1e3 * max(during),
        "others_cores": others.cores(),
        **{name: total - before.get(name, 0.0) for name, total in after.items()},
    }


async def measure(arguments: argparse.Namespace, registries: dict[str, Registry]) -> dict[str, Any]:
    """All rounds, the order of the two turned round every time."""
    source = ModelBundle.open(arguments.bundle)
    clients = {arm: Client(arguments.port + index) for index, arm in enumerate(ARMS)}
    for arm, client in clients.items():
        while True:
            try:
                if await client.predict(0):
                    break
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.2)
        print(arm, "answers", file=sys.stderr)
    saturation = max([await client.saturation(4) for client in clients.values() for _ in range(2)])
    rate = saturation * arguments.load
    rounds: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for number in range(arguments.rounds):
        for arm in ARMS if number % 2 else ARMS[::-1]:
            version = f"v-{number:04}"
            publish(registries[arm], source, arguments.home / "made" / version, version)
            await asyncio.sleep(2)
            rounds[arm].append(await round_of(clients[arm], registries[arm], version, rate))
            print(arm, json.dumps({name: round(value, 2) for name, value in rounds[arm][-1].items()}), file=sys.stderr)
    quiet = {arm: [item for item in rounds[arm] if item["others_cores"] <= arguments.others] for arm in ARMS}
    medians = {
        arm: {"rounds": len(items)}
        | {name: round(statistics.median(item[name] for item in items), 3) for name in items[0]}
        for arm, items in quiet.items()
        if items
    }
    return {"saturation_per_s": round(saturation), "rate_per_s": round(rate), "medians": medians, "rounds": rounds}


def main() -> None:
    """Start both services, measure, end them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--others", type=float, default=0.2)
    parser.add_argument("--port", type=int, default=3470)
    parser.add_argument("--serve", choices=ARMS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    registries, services = {}, []
    for index, arm in enumerate(ARMS):
        home = (arguments.home / arm).resolve()
        registries[arm] = Registry((home / "registry").as_uri(), "default")
        publish(registries[arm], ModelBundle.open(arguments.bundle), arguments.home / "made" / "first", "v-first")
        registries[arm].promotions.promote_by_operator("v-first", reason="the first", actor="benchmarks")
        environment = {**os.environ, "RATCHET_HOME": str(home), "RATCHET_PORT": str(arguments.port + index)}
        environment["RATCHET_LOG_LEVEL"] = "warning"
        command = [sys.executable, "-m", "benchmarks.swap_load", "--serve", arm]
        services.append(subprocess.Popen(command, env=environment))
    try:
        print(json.dumps(asyncio.run(measure(arguments, registries)), indent=1))
    finally:
        for process in services:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
