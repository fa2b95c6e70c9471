"""A linear layer that multiplies stored codes directly, in C++.

    y = x Ŵᵀ + b,   Ŵ = what the stored format means (oliveira.compression), never written out

Equal to `QuantisedLinear`, its pure-torch twin, up to the order of summation (1e-5 relative). A row's result has the
same bits whatever rows stand beside it and whatever the number of threads.

Memory a weight: int4 4.5 bits (codes, fp16 minimum and step a block of 64), nf4 4.5 bits (codes, the scale decoded to
fp32: double quantisation would save 0.37 bits here and cost two gathers a block), int6 6.25 bits, int8 8 bits.

Shapes: x (…, d_in) float32 → (…, d_out). d_in is a multiple of 64, or 16, 32; d_out is free.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.compression.int4 import Int4, quantise_int4
from oliveira.compression.int8 import Int8Linear
from oliveira.compression.linear import CODECS, QuantisedLinear
from oliveira.compression.nf4 import Nf4, dequantise_absmax, quantise_nf4
from oliveira.errors import UserError
from oliveira.kernels.build import library, mirrors

_LANES, _GROUP = 16, 64
ACTIVATIONS = {"fp32": False, "int8": True}


class Kind(IntEnum):
    fp32 = 0
    int8 = 1
    int4 = 2
    nf4 = 3
    int6 = 4  # for an output matrix: blocks of 64, x ≈ q · scale, q = -31 … 31, one fp16 scale a block


_KINDS = {Int4: Kind.int4, Nf4: Kind.nf4}  # what is stored, whatever found it


@mirrors("Matrix")
class MatrixStruct(ctypes.Structure):
    """`Matrix` of source/types.h."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("d_out", ctypes.c_int32),
        ("d_in", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


def refusal(kind: Kind, d_in: int) -> str | None:
    """Why a matrix of that width cannot be packed."""
    if d_in % _LANES or d_in <= 0:
        return f"d_in = {d_in} is not a multiple of {_LANES}."
    if kind in (Kind.int4, Kind.nf4, Kind.int6) and d_in % _GROUP and _GROUP % d_in:
        return f"d_in = {d_in}: blocks of {_GROUP} weights would cross rows."
    return None


class PackedMatrix:
    """Weights (d_out, d_in) in the layout of the kernels. Filled by `put`, from one or more layers."""

    def __init__(self, kind: Kind, d_out: int, d_in: int) -> None:
        if reason := refusal(kind, d_in):
            raise UserError(f"{reason} Use the torch layer.")
        self.kind, self.d_out, self.d_in = kind, d_out, d_in
        lib = library()
        size = lib.oliveira_bytes(kind, d_out, d_in)
        self.data = torch.empty(size, dtype=torch.uint8)
        lib.oliveira_huge_pages(self.data.data_ptr(), size)
        self.data.zero_()
        padded = -(-d_out // (4 * _LANES)) * 4 * _LANES
        self.scale = torch.zeros(padded if kind == Kind.int8 else 0)
        self.bias: Tensor | None = None
        self.struct = MatrixStruct(kind, d_out, d_in, 0, self.data.data_ptr(), self.scale.data_ptr(), None)

    def put(self, layer: nn.Module, *, first: int = 0, step: int = 1) -> None:
        """Rows of `layer` go to the panels (16 outputs each) first, first + step, …"""
        d_out, d_in = shape_of(layer)
        n_panels = -(-d_out // _LANES)
        last = first + (n_panels - 1) * step
        if d_in != self.d_in or first < 0 or step < 1 or last * _LANES >= self.d_out:
            raise UserError(
                f"a layer ({d_out}, {d_in}) does not fit panels {first} … {last} of ({self.d_out}, {self.d_in})."
            )
        codes, a, b, scale = stored(layer, self.kind)
        tensors = [None if t is None else t.detach().contiguous() for t in (codes, a, b)]
        pointers = [None if t is None else t.data_ptr() for t in tensors]
        library().oliveira_pack(ctypes.byref(self.struct), *pointers, d_out, first, step)
        if scale is not None:
            self._spread(self.scale, scale, first, step)
        bias: Any = layer.bias
        if bias is not None:
            if self.bias is None:
                self.bias = torch.zeros(-(-self.d_out // _LANES) * _LANES)
                self.struct.bias = self.bias.data_ptr()
            self._spread(self.bias, bias.detach().float(), first, step)

    @staticmethod
    def _spread(target: Tensor, values: Tensor, first: int, step: int) -> None:
        n_panels = -(-len(values) // _LANES)
        rows = target.view(-1, _LANES)[first : first + n_panels * step : step]
        padded = torch.cat([values, values.new_zeros(n_panels * _LANES - len(values))])
        rows.copy_(padded.view(-1, _LANES))

    def taken(self, d_out: int, *, first: int = 0, step: int = 1) -> Tensor:
        """The rows that `put` has put there, as fp32 (d_out, d_in)."""
        out = torch.empty(d_out, self.d_in)
        library().oliveira_unpack(ctypes.byref(self.struct), out.data_ptr(), d_out, first, step)
        return out

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.data, self.scale, self.bias) if t is not None)


def kind_of(layer: nn.Module) -> Kind:
    """The format in which `layer` is stored. Raises `UserError` for what is not a linear layer."""
    if isinstance(layer, QuantisedLinear):
        return _KINDS[CODECS[layer.method].stored]
    if isinstance(layer, Int8Linear):
        return Kind.int8
    if type(layer) is nn.Linear:
        return Kind.fp32
    raise UserError(f"{type(layer).__name__} is not a layer that the kernels know. Merge or dequantise it first.")


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(d_out, d_in)."""
    if isinstance(layer, QuantisedLinear):
        return layer.out_features, layer.in_features
    weights: Any = layer.codes if isinstance(layer, Int8Linear) else layer.weight
    return tuple(weights.shape)


def stored(layer: nn.Module, kind: Kind) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Codes, two block tensors and a scale a row, of a layer that has that format or of fp32 weights brought to it."""
    weights: Any = layer
    if kind_of(layer) != kind:
        if kind_of(layer) != Kind.fp32:
            raise UserError(f"a layer stored as {kind_of(layer).name} is not turned into {kind.name}. Start from fp32.")
        if kind == Kind.int6:
            return *_six_bits(weights.weight), None, None
        if kind == Kind.int8:
            weights = Int8Linear(weights)
        else:
            weights = (quantise_int4 if kind == Kind.int4 else quantise_nf4)(weights.weight)
    match kind:
        case Kind.fp32:
            return weights.weight.float(), None, None, None
        case Kind.int8:
            return weights.codes, None, None, weights.scale.flatten()
        case Kind.int4:
            return weights.codes, weights.minimum, weights.step, None
        case Kind.nf4:
            return weights.codes, dequantise_absmax(weights), None, None
    raise UserError(f"{kind.name} has no stored form here. Use fp32, int8, int4 or nf4.")


def _six_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers int8 (n,) and scales fp16, one for 64."""
    blocks = weight.detach().float().reshape(-1, _GROUP)
    scale = (blocks.abs().amax(dim=1, keepdim=True) / 31).half()
    q = (blocks / scale.float().clamp(min=1e-30)).round().clamp(-31, 31)
    return q.to(torch.int8).flatten(), scale.flatten()


def multiply(matrix: PackedMatrix, x: Tensor, threads: int, *, int8: bool = False) -> Tensor:
    """`int8`: x is rounded to 8 bits a group of 64 first, unless the weights are fp32."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or x.shape[-1] != matrix.d_in:
        raise UserError(f"the kernels take float32 (…, {matrix.d_in}) on the CPU, not {x.dtype} {tuple(x.shape)}.")
    x = x.contiguous()
    y = torch.empty(*x.shape[:-1], matrix.d_out)
    rows = x.numel() // matrix.d_in
    if rows:
        library().oliveira_linear(ctypes.byref(matrix.struct), x.data_ptr(), y.data_ptr(), rows, int8, threads)
    return y


class NativeLinear(nn.Module):
    """Replaces a `QuantisedLinear`, `Int8Linear` or `nn.Linear` for inference: it has no parameters and no gradient."""

    def __init__(self, layer: nn.Module, *, activations: str = "fp32", threads: int | None = None) -> None:
        """`activations`: "int8" rounds the inputs too, and multiplies whole numbers (docs/kernels.md has the loss).

        `threads`: None = torch's number at each call. They rest while torch works, as torch's do while they work."""
        super().__init__()
        kind = kind_of(layer)
        self.out_features, self.in_features = shape_of(layer)
        self.threads, self.int8 = threads, ACTIVATIONS[activations]
        self.matrix = PackedMatrix(kind, self.out_features, self.in_features)
        self.matrix.put(layer)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(self.matrix, x.detach(), self.threads or torch.get_num_threads(), int8=self.int8)

    def dequantised(self) -> Tensor:
        """Ŵ (d_out, d_in), float32."""
        return self.matrix.taken(self.out_features)

    def bits_per_weight(self) -> float:
        return 8 * (self.matrix.data.nbytes + self.matrix.scale.nbytes) / (self.in_features * self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.matrix.kind.name}, {self.bits_per_weight():.3f} bits"
