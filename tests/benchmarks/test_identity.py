"""Whose answer it is: the check of the swap benchmark must find a mixed answer, and must not cry wolf."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.identity import CannotTell, learn
from benchmarks.serving.swap import Seen, Swap, around
from core.runtime import Servable
from tests.support_bundles import WORDS, make_bundle

LABELS = [f"label{number}" for number in range(8)]
TEXTS = [f"{one} {other}" for one in WORDS[:30] for other in WORDS[30:60]]


def test_an_answer_is_its_own_versions_and_under_another_name_it_is_mixed(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / str(seed), LABELS, version=f"version-{seed}", seed=seed) for seed in range(3)]
    offline = learn(bundles, TEXTS, count=20)
    for bundle in bundles:
        servable = Servable.load(bundle)
        outputs = servable.predict([{"text": text} for text in offline.texts])
        for text, output in enumerate(outputs):
            assert offline.judge(text, {**output, "model_version": servable.version}) == ""
            for other in offline.expected:
                if other != servable.version:
                    assert servable.version in offline.judge(text, {**output, "model_version": other})
    assert "names the version" in offline.judge(0, {"model_version": "nobody"})


def test_versions_that_answer_alike_are_no_proof(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / str(number), LABELS, version=f"version-{number}", seed=1) for number in range(2)]
    with pytest.raises(CannotTell, match="0 of 20"):
        learn(bundles, TEXTS, count=20)


def test_latency_around_swaps_is_kept_apart_from_steady_latency() -> None:
    intended = np.arange(0.0, 40.0, 0.01)
    latency = np.full(len(intended), 0.010)
    swaps = [
        Swap(version=f"version-{number}", published=10.0 * number - 2.0, at=10.0 * number, rss_mib=1.0)
        for number in (1, 2)
    ]
    version = np.full(len(intended), "version-0", dtype=object)
    for swap in swaps:
        version[intended >= swap.at + 0.5] = swap.version
        latency[(intended >= swap.published) & (intended < swap.at)] = 0.020  # its trial
        latency[(intended >= swap.at) & (intended < swap.at + 1.0)] = 0.030
    seen = Seen(
        intended=intended, done=intended + latency, good=np.ones(len(intended), dtype=bool), version=version.tolist()
    )
    found = around(seen, swaps)
    assert found["seen"] == 2
    assert found["steady_ms"]["max"] == 10.0
    assert found["p99_over_the_swap"] == found["p99_first_20"] == 3.0
    assert found["visible_s"]["max"] == pytest.approx(0.53, abs=0.02)
