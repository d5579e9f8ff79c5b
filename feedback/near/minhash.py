"""MinHash: texts that share most of their short pieces share a key, so that near ones are found without comparing all.

Broder, "On the resemblance and containment of documents", SEQUENCES 1997: the probability that the smallest hash of two sets
is the same is their Jaccard similarity. Banding: Indyk and Motwani, "Approximate nearest neighbors", STOC 1998. With 24 bands
of 4 hashes, two texts of similarity 0.8 share at least two bands in 9,999 of 10,000 cases.

The hashes are drawn from the store's key: who has the rows and not the key can try out no text against them.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

BANDS: Final = 24
ROWS: Final = 4
Words = NDArray[np.uint64]
_HASHES: Final = BANDS * ROWS
_CODE_BITS: Final = np.uint64(21)
_HALF: Final = np.uint64(32)
_SHIFT: Final = np.uint64(33)
_MIX: Final = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_HAN: Final = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


@dataclass(frozen=True, kw_only=True)
class Grams:
    """The short pieces of some texts, one text after the other."""

    #: each is exact, not a hash: three characters of 21 bits
    values: Words
    #: where each text begins in ``values``, and at the end where the last one ends
    bounds: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """All pieces of three characters, and of two where both are Han; a text counts as if it had spaces around it.

        Args:
            texts: at least one, each normalised.
        """
        padded = [f" {text or ' '} " for text in texts]
        codes = np.frombuffer("".join(padded).encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        lengths = np.array([len(text) for text in padded])
        ends = np.cumsum(lengths)
        inside = np.ones(len(codes), dtype=np.bool_)
        inside[ends - 1] = inside[ends - 2] = False
        (places,) = np.nonzero(inside)
        first, second, third = (codes[places + step].astype(np.uint64) for step in range(3))
        third = np.where(_is_han(first) & _is_han(second), np.uint64(0), third)
        bounds = np.concatenate([[0], np.cumsum(lengths - 2)])
        return cls(values=((first << _CODE_BITS | second) << _CODE_BITS) | third, bounds=bounds)

    def sets(self) -> list[frozenset[int]]:
        """The pieces of each text."""
        values = self.values.tolist()
        return [frozenset(values[start:end]) for start, end in zip(self.bounds, self.bounds[1:], strict=False)]


class MinHash:
    """Band keys under one key; the same key gives the same ones in every process."""

    def __init__(self, key: bytes, *, model: str) -> None:
        """Draw the hash functions.

        Args:
            key: the store's, of the HMACs that name examples.
            model: so that equal texts of two models share nothing.
        """
        seed = hmac.new(key, f"minhash\n{model}".encode(), hashlib.sha256).digest()
        drawn = np.frombuffer(hashlib.shake_256(seed).digest(8 * (2 * _HASHES + BANDS + 1)), dtype="<u8")
        self._factors = drawn[:_HASHES] | np.uint64(1)
        self._terms = drawn[_HASHES : 2 * _HASHES]
        self._band_keys = drawn[2 * _HASHES : -1]
        self._key = drawn[-1]

    def bands(self, grams: Grams) -> NDArray[np.int64]:
        """Keys of shape (texts, 24); texts that share several are worth comparing."""
        mixed, starts = _mixed(grams.values ^ self._key), grams.bounds[:-1]
        # Multiply-shift: Dietzfelbinger et al., "A reliable randomized algorithm for the closest-pair problem", 1997.
        smallest = [
            np.minimum.reduceat((mixed * factor + term) >> _HALF, starts)
            for factor, term in zip(self._factors, self._terms, strict=True)
        ]
        rows = np.stack(smallest).reshape(BANDS, ROWS, -1)
        keys = np.repeat(self._band_keys[:, None], rows.shape[2], axis=1)
        for row in range(ROWS):
            keys = _mixed(keys ^ rows[:, row])
        return np.ascontiguousarray(keys.T).view(np.int64)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """What two texts share of all pieces that they have, 0 to 1; both have at least one."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _mixed(values: Words) -> Words:
    """Murmur's finaliser: every bit of a value moves every bit of the result."""
    for factor in _MIX:
        values = (values ^ (values >> _SHIFT)) * factor
    return values ^ (values >> _SHIFT)


def _is_han(codes: Words) -> NDArray[np.bool_]:
    found = np.zeros(len(codes), dtype=np.bool_)
    for start, end in _HAN:
        found |= (codes >= start) & (codes <= end)
    return found
