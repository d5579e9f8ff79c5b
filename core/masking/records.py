"""What of a record is masked: the texts that people wrote. Ids, versions, figures and what a model answered stay."""

import hashlib
import hmac
import json
import re
from typing import Any, TypeVar

from core.events import Command, Event, Example, Feedback, Prediction
from core.masking.masker import Masker

T = TypeVar("T", bound=Event)


def mask_event(event: T, masker: Masker, key: bytes) -> T:
    """The event without personal data; the very same where it has none.

    Args:
        event: as it came.
        masker: what finds and replaces.
        key: of the HMACs that stand for annotators, see :func:`mask_annotator`.
    """
    changed = {name: value for name, value in _masked(event, masker, key).items() if value != getattr(event, name)}
    return event.model_copy(update=changed) if changed else event


def _masked(event: Event, masker: Masker, key: bytes) -> dict[str, Any]:
    """The fields that hold what people wrote, masked."""
    changes: dict[str, Any] = {}
    if isinstance(event, Prediction | Example):
        changes["inputs"] = masker.mask_inputs(event.inputs)
    elif isinstance(event, Feedback):
        if event.inputs is not None:
            changes["inputs"] = masker.mask_inputs(event.inputs)
        changes["annotator"] = mask_annotator(event.annotator, masker, key)
    elif isinstance(event, Command):
        changes["reason"] = masker.mask(event.reason)
    if isinstance(event, Feedback | Example):
        changes["target"] = masker.mask_document(event.target)
    return changes


def mask_annotator(annotator: str, masker: Masker, key: bytes) -> str:
    """A person's name as it may be kept: where it is an address or a number, a keyed digest of it in its place.

    A bare placeholder would make one person of all, and a second source would never be one.
    """
    kind = masker.kind_of(annotator)
    if kind is None:
        return annotator
    digest = hmac.new(key, f"annotator\n{annotator.casefold()}".encode(), hashlib.sha256).hexdigest()
    return f"[{kind}_{digest[:16]}]"


def mask_bytes(value: bytes, masker: Masker) -> bytes:
    """A record that nobody could read, masked as JSON where it is JSON, else as text; whatever is no text stays."""
    text = value.decode("utf-8", errors="surrogateescape")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        plain = re.sub(r"\\u(00[2-7][0-9a-fA-F]|ff[0-5][0-9a-fA-F])", lambda found: chr(int(found[1], 16)), text)
        masked = masker.mask(plain)
        return value if masked == plain else masked.encode("utf-8", errors="surrogateescape")
    masked_document = masker.mask_document(document)
    if masked_document == document:
        return value
    dumped = json.dumps(masked_document, ensure_ascii=False)
    try:
        return dumped.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:  # a lone half of a pair that JSON smuggled in
        return dumped.encode("utf-8", errors="surrogatepass")
