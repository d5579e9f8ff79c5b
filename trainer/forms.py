"""The forms that a graph can be served in: fp32 as exported, int8 for CPUs, fp16 for GPUs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.transformers.float16 import convert_float_to_float16

from core.bundle import Precision


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way to write a graph anew: ``make(graph, target)`` writes the file ``target``."""

    precision: Precision
    variant: str
    make: Callable[[Path, Path], None]

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.precision} ({self.variant})"


def _int8(variant: str, operators: Sequence[str], *, narrow: bool = False) -> Form:
    """Dynamic quantisation, weights by output channel.

    The linear head (the one ``Gemm``) and the pooling behind the encoder stay fp32; the quantiser makes a ``MatMul`` of
    the head before it looks for its name.
    ``narrow`` keeps weights to 7 bits: a CPU without VNNI adds pairs of products in 16 bits, and 8 can overflow there.
    """

    def make(graph: Path, target: Path) -> None:
        model = onnx.load(graph)
        del model.graph.value_info[:]  # shapes that an exporter or optimiser left may contradict those inferred below
        heads = [node.name for node in model.graph.node if node.op_type == "Gemm"]
        add_pre_process_metadata(model)  # without, the quantiser advises a preparation that this graph does not need
        quantize_dynamic(
            model,
            target,
            per_channel=True,
            reduce_range=narrow,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=[name for head in heads for name in (head, f"{head}_MatMul")],
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )

    return Form(precision=Precision.INT8, variant=variant, make=make)


def _copy(graph: Path, target: Path) -> None:
    shutil.copyfile(graph, target)


def _to_fp16(graph: Path, target: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(graph), keep_io_types=True), str(target))


AS_EXPORTED: Final = Form(precision=Precision.FP32, variant="graph", make=_copy)
INT8: Final = (_int8("matmul+embeddings", ["MatMul", "Gather"]), _int8("matmul", ["MatMul"]))
INT8_NARROW: Final = _int8("matmul+embeddings, 7 bits", ["MatMul", "Gather"], narrow=True)
FP16: Final = Form(precision=Precision.FP16, variant="all", make=_to_fp16)
