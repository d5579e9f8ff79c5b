"""One text a call and batches, in fixed shapes and captured graphs against ONNX Runtime as it is called otherwise, on a GPU.

    python -m benchmarks.gpu BUNDLE [--rounds 7]

BUNDLE is the folder of a version in the registry. The ways take turns; the figures are texts/s in those of the plain call, and
their spread. Without a GPU it says so and measures nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime

from core.bundle import MODEL
from core.sessions import gpu_options, wants_gpu
from core.shaped import Array, Ids, ShapedRuns

_SHAPES: Final = ((1, 16), (1, 64), (8, 32), (16, 32), (64, 32))
_TURN_S: Final = 0.5
_OUTPUTS: Final = ["embedding"]
_Run = Callable[[Ids, Ids, Sequence[str]], list[Array]]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    if not wants_gpu("auto"):
        print("there is no GPU here")
        return
    onnxruntime.preload_dlls()
    plain = ShapedRuns(_session(chosen.bundle, capture=False), pad=0, device="cuda", capture=False)
    graphs = ShapedRuns(_session(chosen.bundle, capture=True), pad=0, device="cuda", capture=True)
    ways = {"plain": plain.run_plain, "fixed shapes": plain.run, "fixed shapes, captured": graphs.run}
    print("| texts x tokens | " + " | ".join(ways) + " |")
    for rows, width in _SHAPES:
        ids = np.random.default_rng(0).integers(100, 1000, (rows, width))
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(chosen.rounds):
            for name, run in ways.items():
                rates[name].append(rows * _calls_a_second(run, ids))
        base = statistics.median(rates["plain"])
        cells = [f"{statistics.median(of) / base:.2f} ({min(of):.0f}-{max(of):.0f}/s)" for of in rates.values()]
        print(f"| {rows} x {width} | " + " | ".join(cells) + " |")


def _session(bundle: Path, *, capture: bool) -> onnxruntime.InferenceSession:
    options = gpu_options(0, capture=capture)
    session = onnxruntime.InferenceSession(str(bundle / MODEL), providers=[("CUDAExecutionProvider", options)])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise SystemExit("ONNX Runtime fell back to the CPU: see its messages above")
    return session


def _calls_a_second(run: _Run, ids: Ids) -> float:
    mask = np.ones_like(ids)
    run(ids, mask, _OUTPUTS)
    count, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < _TURN_S:
        run(ids, mask, _OUTPUTS)
        count += 1
    return count / taken


if __name__ == "__main__":
    main()
