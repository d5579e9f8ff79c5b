"""Batches in captured graphs of fixed shapes against ONNX Runtime as it is called otherwise, on a GPU.

    python -m benchmarks.gpu BUNDLE [--rounds 5] [--json FILE]

BUNDLE is the folder of a version in the registry. The ways take turns, each with one caller and with two; the figures are
texts/s in those of the plain call with as many callers, and their spread. Without a GPU it says so and measures nothing.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime

from core.bundle import MODEL
from core.sessions import PlainRuns, gpu_options, wants_gpu
from core.shaped import Array, Ids, ShapedRuns, fixed_shapes

_SHAPES: Final = ((1, 16), (1, 64), (8, 32), (16, 32), (32, 32), (64, 32), (64, 64))
_TURN_S: Final = 0.3
_OUTPUTS: Final = ["embedding"]
_Run = Callable[[Ids, Ids, Sequence[str]], list[Array]]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if not wants_gpu("auto"):
        print("there is no GPU here")
        return
    onnxruntime.preload_dlls()
    ways: dict[str, _Run] = {
        "plain": PlainRuns(_session(chosen.bundle, capture=False)).run,
    }
    try:
        graphs = ShapedRuns(_session(chosen.bundle, capture=True), pad=0, device="cuda")
    except Exception as error:  # ONNX Runtime raises its own kinds
        print(f"not captured: {str(error)[:300]}")
    else:
        _tell_capturing(graphs)
        ways["captured"] = graphs.run
    found = {
        f"{rows} x {width}, {callers} caller{'s' * (callers > 1)}": _measure(
            ways, (rows, width), callers, chosen.rounds
        )
        for rows, width in _SHAPES
        for callers in (1, 2)
    }
    print("| texts x tokens | " + " | ".join(ways) + " |\n|---|" + "---|" * len(ways))
    for name, rates in found.items():
        base = statistics.median(rates["plain"])
        cells = [f"{statistics.median(of) / base:.2f} ({min(of):.0f}-{max(of):.0f}/s)" for of in rates.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if chosen.json:
        chosen.json.write_text(json.dumps(found), encoding="utf-8")


def _measure(ways: dict[str, _Run], shape: tuple[int, int], callers: int, rounds: int) -> dict[str, list[float]]:
    """Texts a second of every round, by way."""
    ids = np.random.default_rng(0).integers(100, 1000, shape)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            rates[name].append(shape[0] * _calls_a_second(run, ids, callers))
    return rates


def _tell_capturing(graphs: ShapedRuns) -> None:
    """How long the warm-up of a swap takes, for texts of up to 128 tokens."""
    shapes = fixed_shapes(128)
    started = time.perf_counter()
    for shape in shapes:
        ids = np.full(shape, 7, dtype=np.int64)
        graphs.run(ids, np.ones_like(ids), _OUTPUTS)
    taken = time.perf_counter() - started
    print(f"{len(graphs.shapes)} of {len(shapes)} shapes captured in {taken:.2f} s")


def _session(bundle: Path, *, capture: bool) -> onnxruntime.InferenceSession:
    options = gpu_options(0, capture=capture)
    session = onnxruntime.InferenceSession(str(bundle / MODEL), providers=[("CUDAExecutionProvider", options)])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise SystemExit("ONNX Runtime fell back to the CPU: see its messages above")
    return session


def _calls_a_second(run: _Run, ids: Ids, callers: int) -> float:
    mask = np.ones_like(ids)
    run(ids, mask, _OUTPUTS)
    counts = [0] * callers
    started = time.perf_counter()

    def work(caller: int) -> None:
        while time.perf_counter() - started < _TURN_S:
            run(ids, mask, _OUTPUTS)
            counts[caller] += 1

    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
