"""A GGUF file taken apart: its settings, and its tensors as they lie there. Every number is checked before it is used.

    magic, version, counts │ settings: name, type, value … │ tensors: name, sizes, type, place … │ gap │ data

No count is believed that the file has no room for; tensors lie within the data, apart from each other. Nothing of the
data is read before it is asked for. Source: llama.cpp, ggml/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from oliveira.errors import CorruptError, UserError

# Type of a value → how struct reads it. 8 is text, 9 a list.
_NUMBERS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"))) | {10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _LIST = 8, 9
_MAX_TEXT, _MAX_NAME = 1 << 20, 1 << 8
_Q = GGMLQuantizationType
COVERED = (_Q.F32, _Q.F16, _Q.BF16, _Q.Q8_0, _Q.Q4_0, _Q.Q4_1, _Q.Q5_0, _Q.Q5_1, _Q.Q4_K, _Q.Q5_K, _Q.Q6_K)


class Packed(NamedTuple):
    """A tensor as it lies in the file."""

    name: str
    shape: tuple[int, ...]  # rows first, as torch has it
    type: GGMLQuantizationType
    data: memoryview

    def unpack(self) -> Tensor:
        """In float32. Raises `CorruptError` where a number is none."""
        rows = np.frombuffer(self.data, dtype=np.uint8).reshape(*self.shape[:-1], -1)
        if self.type == _Q.F32:
            values = rows.view(np.float32)
        elif self.type == _Q.F16:
            values = rows.view(np.float16)
        else:
            with np.errstate(all="ignore"):
                values = dequantize(rows, self.type)
        tensor = torch.from_numpy(np.array(values, dtype=np.float32).reshape(self.shape))
        if not tensor.isfinite().all():
            raise CorruptError(f"{self.name} of this GGUF file holds numbers that are not finite.")
        return tensor


class _Bytes:
    def __init__(self, data: memoryview) -> None:
        self.data, self.place = data, 0

    def take(self, n: int) -> memoryview:
        if n > len(self.data) - self.place:
            raise ValueError(f"it ends within {n} bytes at {self.place}")
        self.place += n
        return self.data[self.place - n : self.place]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, smallest: int, what: str) -> int:
        """Of things that need `smallest` bytes each, which must be there."""
        n = int(self.number("<Q"))
        if n * smallest > len(self.data) - self.place:
            raise ValueError(f"it says that it has {n} {what}, and has no room for them")
        return n

    def text(self, longest: int = _MAX_TEXT) -> str:
        n = self.count(1, "letters")
        if n > longest:
            raise ValueError(f"a text of {n} bytes at {self.place}")
        return str(self.take(n), "utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self.number(self.form(kind))
        inner = self.number("<I")
        if inner == _TEXT:
            return [self.text() for _ in range(self.count(8, "texts"))]
        form = self.form(inner)
        size = struct.calcsize(form)
        n = self.count(size, "numbers")
        return np.frombuffer(self.take(n * size), dtype=np.dtype(form)).tolist()

    @staticmethod
    def form(kind: int) -> str:
        if kind not in _NUMBERS:
            raise ValueError(f"a value of the unknown type {kind}")
        return _NUMBERS[kind]


def open_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Its settings and its tensors by their names. Raises `CorruptError` for another or a broken file."""
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _read(_Bytes(data))
    except (ValueError, OSError, struct.error) as error:
        raise CorruptError(f"{path.name} is not a GGUF file that can be read: {str(error)[:200]}.") from None


def _read(file: _Bytes) -> tuple[dict[str, Any], dict[str, Packed]]:
    if bytes(file.take(4)) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if (version := file.number("<I")) not in (2, 3):
        raise ValueError(f"version {version} is not 2 or 3")
    n_tensors, n_values = file.count(24, "tensors"), file.count(13, "settings")
    values: dict[str, Any] = {}
    for _ in range(n_values):
        name = file.text(_MAX_NAME)
        if name in values:
            raise ValueError(f"{name} stands there twice")
        values[name] = file.value(file.number("<I"))
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment not in [1 << n for n in range(3, 17)]:
        raise ValueError(f"general.alignment = {alignment} is none")
    found = [_described(file) for _ in range(n_tensors)]
    start = -(-file.place // alignment) * alignment
    room = len(file.data) - start
    tensors: dict[str, Packed] = {}
    end = 0
    for place, size, name, shape, kind in sorted(found):
        if name in tensors:
            raise ValueError(f"the tensor {name} stands there twice")
        if place % alignment or place < end or place + size > room:
            raise ValueError(f"the tensor {name} lies out of the file, askew or within another")
        end = place + size
        tensors[name] = Packed(name, shape, _Q(kind), file.data[start + place : start + end])
    return values, tensors


def _described(file: _Bytes) -> tuple[int, int, str, tuple[int, ...], int]:
    name = file.text(_MAX_NAME)
    n_sizes = file.number("<I")
    if not 1 <= n_sizes <= 4:
        raise ValueError(f"the tensor {name} has {n_sizes} sizes")
    sizes = [file.number("<Q") for _ in range(n_sizes)]
    kind, place = file.number("<I"), file.number("<Q")
    if kind not in [int(covered) for covered in COVERED]:
        said = _Q(kind).name if kind in [int(known) for known in _Q] else str(kind)
        raise UserError(
            f"{name} of this GGUF file is of the type {said}, which is not read here. "
            f"Give one in {', '.join(covered.name for covered in COVERED)}."
        )
    block, size = GGML_QUANT_SIZES[_Q(kind)]
    count = 1
    for each in sizes:
        count *= each
        if not 0 < count < 1 << 48:
            raise ValueError(f"the tensor {name} has the sizes {sizes}")
    if sizes[0] % block:
        raise ValueError(f"rows of the tensor {name} are {sizes[0]} long, which is no multiple of {block}")
    return place, count // block * size, name, tuple(reversed(sizes)), int(kind)
