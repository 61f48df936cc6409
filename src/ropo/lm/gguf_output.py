"""Write a merged model as a `.gguf` file: the file of its base model, in which only the changed tensors are new.

What transformers does to a tensor when it reads such a file (llama.cpp keeps the rows of Llama's query and key weights
in another order, and GPT-2's weights transposed) is found out by letting it read numbered entries, and done backwards.
"""

from __future__ import annotations

__all__ = ["Written", "write_gguf"]

import math
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ropo.core.errors import UserError

KINDS = ("f16", "q8_0", "bf16", "f32")
_OFF = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": math.sqrt(32) * (1 / 254 + 2.0**-11)}
"""The most that a type may put a tensor off, relative Frobenius norm.

F16 and BF16 round to nearest. Q8_0 has 127 steps up to the largest of 32 numbers, and keeps that in F16; the norm of
the 32 is at least the largest of them.
"""
_TINY = 2.0**-25  # half the smallest step of F16


@dataclass(frozen=True)
class Written:
    """Say what a file was made of.

    Attributes:
        changed: Names of the tensors that were written anew, with their types.
        kept: Number of tensors that are as they were.
    """

    changed: dict[str, str]
    kept: int


def write_gguf(model: PreTrainedModel, source: Path, target: Path, kind: str) -> Written:
    """Write a model over the file that its base model was read from.

    The header's keys and values and the bytes of unchanged tensors are those of the source. Biases and norms stay F32,
    as llama.cpp wants them, and rows that blocks of 32 do not fill are F16.

    Args:
        model: Merged, in float32; its changed weights then have the values that are in the file.
        source: The base model's file.
        target: The file to write.
        kind: Type of the changed tensors, one of `KINDS`.

    Returns:
        What was written.

    Raises:
        UserError: If a changed weight has no tensor of its own in the file, or does not fit the type.

    Cost: two reads of the source's header by the library gguf, 5 s each for a vocabulary of 49,152, and one pass over
        its tensors.
    """
    from gguf import GGUFReader

    reader: Any = GGUFReader(source)
    if reader.byte_order == "S":
        other = "big-endian" if sys.byteorder == "little" else "little-endian"
        raise UserError(f"model {source}: has the bytes of a {other} machine; convert it with llama.cpp first")
    replaced = dict(_changed(model, reader, source, kind))
    _write(reader, target, replaced)
    return Written({name: each.kind.name for name, each in replaced.items()}, len(reader.tensors) - len(replaced))


@dataclass(frozen=True)
class _Tensor:
    kind: Any
    data: np.ndarray


def _changed(model: PreTrainedModel, reader: Any, source: Path, kind: str) -> Iterator[tuple[str, _Tensor]]:
    """Yield each tensor whose weight is no longer what the file has, and put what is written into the model."""
    from gguf.quants import dequantize
    from transformers import modeling_gguf_pytorch_utils as reading

    architecture = str(reader.fields["general.architecture"].contents())
    processor = reading.TENSOR_PROCESSORS.get(architecture, reading.TensorProcessor)(config=model.config.to_dict())
    names = reading.get_gguf_hf_weights_map(model, processor)
    weights = model.state_dict()
    assembled: dict[str, Any] = {"tensors": {}}  # weights that several tensors make, as experts

    def as_read(values: np.ndarray, name: str) -> Any:
        return processor.process(weights=values, name=name, tensor_key_mapping=names, parsed_parameters=assembled)

    written = set()
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        found = as_read(values, tensor.name)
        if found.name not in names:
            continue
        name = names[found.name]
        written.add(name)
        weight = weights[name]
        if torch.equal(weight, _tensor(found.weights)):
            continue
        with torch.no_grad():
            order = as_read(np.arange(values.size).reshape(values.shape), tensor.name).weights
            if found.name != tensor.name or not _is_rearrangement(order, weight):
                raise UserError(_not_alone(source, name))
            laid_out = np.empty(values.size, dtype=np.float32)
            laid_out[order.ravel()] = weight.numpy().ravel()
            new = _quantised(laid_out.reshape(values.shape), kind, source, tensor.name)
            weight.copy_(_tensor(as_read(dequantize(new.data, new.kind), tensor.name).weights))
        yield tensor.name, new
    for name, weight in assembled["tensors"].items():
        written.add(name)
        if not torch.equal(weights[name], weight):
            raise UserError(_not_alone(source, name))
    missing = [name for name, _ in model.named_parameters() if name not in written]  # names a tied weight once
    if missing:
        raise UserError(_not_alone(source, missing[0]))


def _is_rearrangement(order: np.ndarray, weight: torch.Tensor) -> bool:
    return order.shape == weight.shape and bool((np.sort(order, axis=None) == np.arange(order.size)).all())


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def _quantised(values: np.ndarray, kind: str, source: Path, name: str) -> _Tensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    types = GGMLQuantizationType
    chosen = types.F32 if values.ndim == 1 else types[kind.upper()]
    if values.shape[-1] % GGML_QUANT_SIZES[chosen][0]:
        chosen = types.F16
    with np.errstate(over="ignore"):
        data = quantize(values, chosen)
    off = float(np.linalg.norm(dequantize(data, chosen) - values))
    if not off <= _OFF[chosen.name] * float(np.linalg.norm(values)) + _TINY * math.sqrt(values.size):
        raise UserError(
            f"quantise: {chosen.name} cannot hold {name} of {source} (largest weight {np.abs(values).max():.3g}); use "
            "--quantise bf16 or f32"
        )
    return _Tensor(chosen, data)


def _write(reader: Any, target: Path, replaced: Mapping[str, _Tensor]) -> None:
    """Copy the file with other tensors: names and shapes stay, types and places are written anew.

    The end of a tensor's entry in the header is its type, 4 bytes, and its place, 8 bytes (ggml, docs/gguf.md).
    """
    start = min((tensor.field.offset for tensor in reader.tensors), default=reader.data_offset)
    head, place = bytearray(reader.data[:start].tobytes()), 0
    for tensor in reader.tensors:
        new = replaced.get(tensor.name)
        entry = b"".join(part.tobytes() for part in tensor.field.parts)
        head += entry[:-12] + struct.pack("=IQ", int(new.kind if new else tensor.tensor_type), place)
        place += _padded(new.data.nbytes if new else tensor.n_bytes, reader.alignment)
    with target.open("wb") as file:
        file.write(head.ljust(_padded(len(head), reader.alignment), b"\0"))
        for tensor in reader.tensors:
            new = replaced.get(tensor.name)
            end = tensor.data_offset + tensor.n_bytes
            data = (new.data if new else reader.data[tensor.data_offset : end]).tobytes()
            file.write(data.ljust(_padded(len(data), reader.alignment), b"\0"))


def _padded(size: int, alignment: int) -> int:
    return -(-size // int(alignment)) * int(alignment)


def _not_alone(source: Path, name: str) -> str:
    return (
        f"output: {name} was trained, and is no tensor of {source} that can be replaced by itself; merge into a "
        "folder, and convert that with llama.cpp's convert_hf_to_gguf.py"
    )
