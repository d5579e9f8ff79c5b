"""The seam of masking: what finds personal data in a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final, Protocol

from core.errors import BadSettings

GROUP: Final = "ratchet.recognisers"
"""The entry points of recognisers from other packages: each a function without arguments that gives a Recogniser."""


@dataclass(frozen=True, slots=True)
class Found:
    """A stretch of a text that is to be masked, from ``start`` up to and without ``end``."""

    start: int
    end: int
    #: what the placeholder names: capitals and underscores
    kind: str


class Recogniser(Protocol):
    """Finds what must not be written down. Called from several threads at once, and for each text that comes in."""

    def find(self, text: str) -> Sequence[Found]:
        """What is in a text, in any order; of what overlaps, the first and longest counts."""
        ...


def load_recogniser(name: str) -> Recogniser:
    """The recogniser of another package, by its entry point: so a manifest can name only what is installed for this.

    Raises:
        BadSettings: there is none of that name, or it does not load.
    """
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise BadSettings(
            f"no recogniser {name!r} is installed (entry points {GROUP!r}); there are: {', '.join(sorted(found)) or 'none'}"
        )
    try:
        recogniser: Recogniser = found[name].load()()
    except Exception as error:  # whatever a package of somebody else's does
        raise BadSettings(f"the recogniser {name!r} does not load: {type(error).__name__}: {error}") from error
    return recogniser
