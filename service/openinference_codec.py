"""The Open Inference Protocol's tensors over HTTP, as JSON and as binary data behind the JSON.

Source: https://github.com/kserve/open-inference-protocol (inference_rest.md) and, for the binary tensor data extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md. All tensors here are
text, numbers or truth values, and none is sparse.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from service.problems import HttpError

HEADER_LENGTH: Final = b"inference-header-content-length"
"""How many bytes of the body are JSON; the binary data follows them."""
_LENGTH: Final = struct.Struct("<I")
_MOST_DIGITS: Final = 18
#: what we would have to do for the answer to be true, and do not
_UNSUPPORTED: Final = ("sequence_id", "sequence_start", "sequence_end")
_UNSUPPORTED_OF_TENSORS: Final = ("shared_memory_region", "shared_memory_byte_size", "classification")

Tensor = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An output that was asked for."""

    name: str
    #: as binary data or as JSON; None: as the request says of all outputs
    binary: bool | None


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """An inference request, decoded: texts by input name, all of one length."""

    id: str | None
    inputs: dict[str, list[str]]
    #: None: all there are
    outputs: list[Wanted] | None
    #: whether outputs that say nothing of it come as binary data
    binary: bool
    #: the client's own deadline
    timeout_s: float | None


@dataclass(frozen=True, kw_only=True)
class Output:
    """A tensor of an answer. ``values``: text, or an array of FP32 or BOOL, of shape (texts, …)."""

    name: str
    values: Sequence[str] | NDArray[np.float32] | NDArray[np.bool_]

    @property
    def datatype(self) -> str:
        """The protocol's name of the type."""
        if not isinstance(self.values, np.ndarray):
            return "BYTES"
        return "BOOL" if self.values.dtype == np.bool_ else "FP32"

    @property
    def shape(self) -> list[int]:
        """The sizes of the dimensions."""
        return list(self.values.shape) if isinstance(self.values, np.ndarray) else [len(self.values)]


def malformed(message: str) -> HttpError:
    """400: the request is not what the protocol says."""
    return HttpError(400, "malformed", message)


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """The JSON and the binary data of a body.

    Args:
        body: the body.
        header: the value of Inference-Header-Content-Length; None: everything is JSON.

    Raises:
        HttpError: 400 where the length is no number or longer than the body.
    """
    if header is None:
        return body, memoryview(b"")
    if not header.isascii() or not header.isdigit() or len(header) > _MOST_DIGITS or int(header) > len(body):
        raise malformed(
            f"Inference-Header-Content-Length must be a number of bytes within the body's {len(body)}, "
            f"got {header[:20]!r}"
        )
    size = int(header)
    return body[:size], memoryview(body)[size:]


def decode_request(document: Mapping[str, Any], binary: memoryview, *, most: int) -> InferRequest:
    """Read a request; text is checked by the task, later.

    Args:
        document: the JSON part.
        binary: the binary data of the inputs, one behind the other.
        most: elements that a tensor may have.

    Raises:
        HttpError: 400 with what is wrong and where.
    """
    parameters = _parameters(document, "the request", refused=_UNSUPPORTED)
    return InferRequest(
        id=_optional_text(document, "id"),
        inputs=_decode_inputs(document.get("inputs"), binary, most),
        outputs=_decode_outputs(document.get("outputs")),
        binary=bool(_truth(parameters, "binary_data_output", "the request")),
        timeout_s=_timeout_s(parameters),
    )


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    raw = parameters.get("timeout")
    if raw is None:
        return None
    if isinstance(raw, str) and raw.isascii() and raw.isdigit():  # Triton's own clients send either
        raw = int(raw[:_MOST_DIGITS])
    if isinstance(raw, bool) or not isinstance(raw, int) or raw <= 0:
        raise malformed("the parameter 'timeout' must be a number of microseconds above 0")
    return min(raw, 10**_MOST_DIGITS) / 1e6


def _decode_inputs(raw: Any, binary: memoryview, most: int) -> dict[str, list[str]]:
    if not isinstance(raw, list) or not raw:
        raise malformed("'inputs' must be a list of at least one tensor")
    found: dict[str, list[str]] = {}
    offset = 0
    for tensor in raw:
        name = _name(tensor, "an input")
        if name in found:
            raise malformed(f"the input {name!r} is there twice")
        count = _check_tensor(tensor, name, most)
        parameters = _parameters(tensor, f"the input {name!r}", refused=_UNSUPPORTED_OF_TENSORS)
        size = parameters.get("binary_data_size")
        if size is None:
            found[name] = _texts(tensor, name, count)
            continue
        if "data" in tensor:
            raise malformed(f"the input {name!r} has both 'data' and 'binary_data_size'")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - offset:
            raise malformed(
                f"the input {name!r}: 'binary_data_size' must be a number of bytes within the "
                f"{len(binary) - offset} that are left of the body"
            )
        found[name] = _unpack(binary[offset : offset + size], name, count)
        offset += size
    if offset != len(binary):
        raise malformed(f"{len(binary) - offset} bytes follow the inputs' data")
    return found


def _check_tensor(tensor: Tensor, name: str, most: int) -> int:
    """The number of elements, as the shape says it."""
    if tensor.get("datatype") != "BYTES":
        raise malformed(f"the input {name!r} must have the datatype BYTES, got {str(tensor.get('datatype'))[:20]!r}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or shape[0] < 1:
        raise malformed(f"the input {name!r} must have the shape [n], n the number of texts, got {str(shape)[:50]}")
    if shape[0] > most:
        raise malformed(f"the input {name!r} has {shape[0]} elements; at most {most} are allowed")
    return int(shape[0])


def _texts(tensor: Tensor, name: str, count: int) -> list[str]:
    data = tensor.get("data")
    if not isinstance(data, list) or len(data) != count:
        raise malformed(f"the input {name!r} must have 'data', a list of {count} strings as its shape says")
    for item in data:
        if not isinstance(item, str):
            raise malformed(f"the input {name!r} must hold strings only")
    return data


def _unpack(data: memoryview, name: str, count: int) -> list[str]:
    """BYTES elements: each its length in four bytes, little end first, and its bytes."""
    texts: list[str] = []
    offset = 0
    while offset < len(data):
        start = offset + _LENGTH.size
        size = _LENGTH.unpack_from(data, offset)[0] if start <= len(data) else 0
        if start + size > len(data):
            raise malformed(f"the input {name!r}: its binary data ends within element {len(texts)}")
        try:
            texts.append(str(data[start : start + size], "utf-8"))
        except UnicodeDecodeError as error:
            raise malformed(f"the input {name!r}: element {len(texts)} is not UTF-8: {error.reason}") from None
        offset = start + size
    if len(texts) != count:
        raise malformed(f"the input {name!r}: its binary data holds {len(texts)} elements, its shape says {count}")
    return texts


def _decode_outputs(raw: Any) -> list[Wanted] | None:
    if raw is None or raw == []:
        return None
    if not isinstance(raw, list):
        raise malformed("'outputs' must be a list")
    wanted = []
    for output in raw:
        name = _name(output, "an output")
        parameters = _parameters(output, f"the output {name!r}", refused=_UNSUPPORTED_OF_TENSORS)
        wanted.append(Wanted(name=name, binary=_truth(parameters, "binary_data", f"the output {name!r}")))
    return wanted


def _name(tensor: Any, what: str) -> str:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise malformed(f"{what} must be an object with a 'name'")
    name: str = tensor["name"]
    return name


def _parameters(holder: Mapping[str, Any], what: str, *, refused: Sequence[str]) -> Mapping[str, Any]:
    """The parameters; ones that we do not know are the client's own and mean nothing here, as the protocol has it."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise malformed(f"'parameters' of {what} must be an object")
    for name in refused:
        if parameters.get(name):
            raise malformed(f"{what}: the parameter {name!r} is not supported")
    return parameters


def _truth(parameters: Mapping[str, Any], name: str, what: str) -> bool | None:
    raw = parameters.get(name)
    if raw is not None and not isinstance(raw, bool):
        raise malformed(f"{what}: the parameter {name!r} must be true or false")
    return raw


def _optional_text(document: Mapping[str, Any], name: str) -> str | None:
    raw = document.get(name)
    if raw is not None and not isinstance(raw, str):
        raise malformed(f"{name!r} must be a string")
    return raw


def encode_response(head: dict[str, Any], outputs: Sequence[tuple[Output, bool]]) -> tuple[bytes, int | None]:
    """A response's body, and how much of it is JSON.

    Args:
        head: the fields beside ``outputs``.
        outputs: each tensor, and whether it comes as binary data.

    Returns:
        The body, and the length of its JSON; None where everything is JSON.
    """
    tensors: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for output, binary in outputs:
        tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if binary:
            parts.append(_pack(output))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = _flat(output)
        tensors.append(tensor)
    document = pydantic_core.to_json({**head, "outputs": tensors}, inf_nan_mode="null")
    return b"".join([document, *parts]), len(document) if parts else None


def _flat(output: Output) -> list[Any]:
    values = output.values
    return values.ravel().tolist() if isinstance(values, np.ndarray) else list(values)


def _pack(output: Output) -> bytes:
    if isinstance(output.values, np.ndarray):
        little = "<f4" if output.datatype == "FP32" else np.bool_
        return output.values.astype(little, copy=False).tobytes()
    encoded = [text.encode() for text in output.values]
    return b"".join(part for item in encoded for part in (_LENGTH.pack(len(item)), item))
