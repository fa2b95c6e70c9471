"""Causal attention while a model trains, in C++: the products of a head stay in the second cache.

    O = P V,   P = softmax(Q Kᵀ / √K) below the diagonal
    ∂V = Pᵀ ∂O,   ∂P = ∂O Vᵀ,   ∂S = P ⊙ (∂P − rowsum(∂O ⊙ O)),   ∂Q = ∂S K / √K,   ∂K = ∂Sᵀ Q / √K

Paper: FlashAttention, Dao et al. 2022, arXiv:2205.14135, algorithm 4. P is computed again on the way back from the
logarithm of its sums. torch's kernel does the same with MKL's products, which are slow on AMD for matrices this small.

Shapes: q (B, H, T, K), k, v (B, H_kv, T, K), float32, any strides but for the last → (B, H, T, K), stored as
(B, T, H, K). K is a multiple of 16. Complexity: O(B·H·T²·K), half of it above the diagonal left out in blocks of 64.
Checked against: torch.nn.functional.scaled_dot_product_attention, value and three gradients, 1e-5.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from oliveira.kernels.build import library, mirrors, unavailable

_LANES = 16
# Below so many multiply-adds of a product torch is faster: Python and waking a thread cost more than they save.
SMALLEST = 1 << 21


@mirrors("Slab")
class _Slab(ctypes.Structure):
    """`Slab` of source/types.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("position", ctypes.c_int64),
    )


@mirrors("Causal")
class _Job(ctypes.Structure):
    """`Causal` of source/types.h."""

    _fields_ = (
        *((name, _Slab) for name in ("q", "k", "v", "out", "d_out", "d_q", "d_k", "d_v")),
        ("log_sum", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("n_batch", "heads", "kv_heads", "length", "d_head")),
        ("scale", ctypes.c_float),
    )


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (_dense(x) for x in (q, k, v))
        out, log_sum = _empty(q), q.new_empty(q.shape[:3])
        _run(log_sum, q=q, k=k, v=v, out=out)
        ctx.save_for_backward(q, k, v, out, log_sum)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, log_sum = ctx.saved_tensors
        d_q, d_k, d_v = _empty(q), _empty(k).zero_(), _empty(v).zero_()
        _run(log_sum, q=q, k=k, v=v, out=out, d_out=_dense(gradient), d_q=d_q, d_k=d_k, d_v=d_v)
        return d_q, d_k, d_v


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty(x: Tensor) -> Tensor:
    """Like x (B, H, T, K), stored as (B, T, H, K), so that joining the heads copies nothing."""
    b, h, t, k = x.shape
    return x.new_empty(b, t, h, k).transpose(1, 2)


def _run(log_sum: Tensor, **slabs: Tensor) -> None:
    (b, h, t, d_head), kv_heads = slabs["q"].shape, slabs["k"].shape[1]
    job = _Job(log_sum=log_sum.data_ptr(), n_batch=b, heads=h, kv_heads=kv_heads, length=t, d_head=d_head)
    job.scale = d_head**-0.5
    for name, x in slabs.items():
        setattr(job, name, _Slab(x.data_ptr(), *x.stride()[:3]))
    library().oliveira_causal(ctypes.byref(job), torch.get_num_threads())


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether something trains, of shapes and kinds that the kernel has, on a machine that has the kernel."""
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (q, k, v))
    alike = q.dim() == 4 and k.shape == v.shape and q.shape[0] == k.shape[0] and q.shape[2:] == k.shape[2:]
    fits = alike and q.numel() > 0 and q.shape[-1] % _LANES == 0 and q.shape[1] % k.shape[1] == 0
    # A thread takes a head of keys and values: with fewer of them torch divides the work better.
    enough = fits and k.shape[0] * k.shape[1] >= torch.get_num_threads() and q.numel() * q.shape[2] >= SMALLEST
    return trains and plain and enough and not torch.compiler.is_exporting() and not unavailable()


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """For what it `takes`."""
    result: Tensor = _Causal.apply(q, k, v)
    return result
