"""Keys of near texts: found by them, told from others, and nothing to try a guess with."""

import numpy as np
import pytest

from feedback.near.minhash import BANDS, Grams, MinHash, jaccard

KEY = b"k" * 64


def _shared(one: str, other: str, key: bytes = KEY) -> int:
    bands = MinHash(key, model="m").bands(Grams.of([one, other]))
    return int((bands[0] == bands[1]).sum())


def test_the_pieces_of_a_text_are_its_three_characters_and_of_han_two() -> None:
    def pieces(*parts: str) -> set[int]:
        return {sum(ord(char) << shift for char, shift in zip(part, (42, 21, 0), strict=False)) for part in parts}

    sets = Grams.of(["abc", "a", "", "退款", "x退款"]).sets()
    assert sets[0] == pieces(" ab", "abc", "bc ")
    assert sets[1] == pieces(" a ")
    assert sets[2] == pieces("   ")
    assert sets[3] == pieces(" 退款", "退款")
    assert sets[4] == pieces(" x退", "x退款", "退款")


def test_near_texts_share_bands_as_their_similarity_says() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    found = dict.fromkeys((True, False), 0)
    for _ in range(300):
        text = rng.choice(letters, size=80)
        changed = text.copy()
        changed[rng.integers(80, size=2)] = "#"
        one, other = "".join(text), "".join(changed)
        assert jaccard(*Grams.of([one, other]).sets()) >= 0.8
        found[True] += _shared(one, other) >= 2
        found[False] += _shared(one, "".join(rng.choice(letters, size=80))) >= 1
    assert found == {True: 300, False: 0}


def test_the_keys_depend_on_key_and_model_and_on_nothing_else() -> None:
    texts = ["where is my parcel", "送金を取り消したい", "x" * 5_000]
    bands = MinHash(KEY, model="m").bands(Grams.of(texts))
    assert bands.shape == (3, BANDS)
    assert bands.dtype == np.int64
    for row, text in enumerate(texts):
        assert (MinHash(KEY, model="m").bands(Grams.of(["other", text]))[1] == bands[row]).all()
    for key, model in ((b"o" * 64, "m"), (KEY, "n")):
        other = MinHash(key, model=model).bands(Grams.of(texts))
        assert not np.intersect1d(other, bands).size


@pytest.mark.parametrize(
    ("one", "other", "similarity"), [("abc", "abc", 1.0), ("abc", "xyz", 0.0), ("abcd", "abce", 2 / 6)]
)
def test_similarity_is_what_is_shared_of_all(one: str, other: str, similarity: float) -> None:
    assert jaccard(*Grams.of([one, other]).sets()) == pytest.approx(similarity)
