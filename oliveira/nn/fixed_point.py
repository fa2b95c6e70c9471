"""Fixed points z = f(z) of a batch of rows, and their gradient without the steps that led there.

Papers: Anderson 1965; Walker & Ni 2011 (the mixing below); implicit gradient: Bai et al. 2019, arXiv:1909.01377.

    plain      z ← f(z)
    Anderson   z ← Σ_i α_i f(z_i) over the last m iterates,  α = argmin ‖Σ_i α_i (f(z_i) − z_i)‖², Σ α_i = 1
    residual   ‖f(z) − z‖ / ‖f(z)‖, of each row by itself
    gradient   ∂L/∂θ = uᵀ ∂f/∂θ,  u = ∂L/∂z + (∂f/∂z)ᵀ u                   (a fixed point too: the same solver)

A row stops changing when its own residual is small enough, and the loop ends when all have or at `max_iter`: what a
row becomes does not depend on its neighbours. A row that turns NaN keeps the best it had, residual infinite if none.

Shapes: z (B, …), f maps (B, …) to the same shape, row by row; residual (B,).
Complexity: O(m·B·D + B·m³) a step beside f; memory O(m·B·D) while solving, one evaluation of f while training.
Checked against: torchdeq.get_deq (Anderson), 1e-5; the gradient of 200 unrolled steps in float64, 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Map = Callable[[Tensor], Tensor]
RIDGE = 1e-8  # of the Gram matrix, relative to its mean diagonal: keeps the small system solvable in float32


class Solution(NamedTuple):
    z: Tensor  # (B, …), the iterate with the smallest residual of each row
    residual: Tensor  # (B,), relative
    n_evals: int  # evaluations of f, the same for all rows


class _Best:
    """The best iterate of each row so far; a row that is good enough is frozen."""

    def __init__(self, z_BD: Tensor, tol: float) -> None:
        self.z, self.tol = z_BD, tol
        self.residual = z_BD.new_full((len(z_BD),), torch.inf)

    def offer(self, z_BD: Tensor, difference_BD: Tensor) -> bool:
        """Takes f(z) and f(z) − z. Returns whether every row is done. NaN never wins a comparison."""
        residual = difference_BD.norm(dim=1) / (z_BD.norm(dim=1) + 1e-12)
        better = (residual < self.residual) & (self.residual > self.tol)
        self.z = torch.where(better[:, None], z_BD, self.z)
        self.residual = torch.where(better, residual, self.residual)
        return bool((self.residual <= self.tol).all())


def iterate(f: Map, z: Tensor, *, tol: float = 1e-6, max_iter: int = 50) -> Solution:
    """Plain iteration: the readable twin of `anderson`. Converges where f is a contraction."""
    best, n_evals = _Best(z.flatten(1), tol), 0
    for n_evals in range(1, max_iter + 1):  # noqa: B007
        new = f(z)
        if best.offer(new.flatten(1), (new - z).flatten(1)):
            break
        z = new
    return Solution(best.z.view_as(z), best.residual, n_evals)


def anderson(f: Map, z: Tensor, *, tol: float = 1e-6, max_iter: int = 50, memory: int = 5) -> Solution:
    """Anderson acceleration, each row with its own mixture of its last `memory` iterates."""
    shape, (n_rows, width) = z.shape, z.flatten(1).shape
    best, n_evals = _Best(z.flatten(1), tol), 0
    images = z.new_zeros(n_rows, memory, width)  # f(z_i)
    differences = torch.zeros_like(images)  # f(z_i) − z_i
    gram = z.new_zeros(n_rows, memory, memory)
    for n_evals in range(1, max_iter + 1):
        image = f(z).flatten(1)
        difference = image - z.flatten(1)
        if best.offer(image, difference):
            break
        slot, filled = (n_evals - 1) % memory, min(n_evals, memory)
        images[:, slot], differences[:, slot] = image, difference
        gram[:, slot] = (differences @ difference[:, :, None])[:, :, 0]
        gram[:, :, slot] = gram[:, slot]
        alpha = _mixture(gram[:, :filled, :filled])
        mixed = (alpha[:, None] @ images[:, :filled])[:, 0]
        z = torch.where(mixed.isfinite().all(dim=1, keepdim=True), mixed, image).view(shape)
    return Solution(best.z.view(shape), best.residual, n_evals)


def _mixture(gram_BMM: Tensor) -> Tensor:
    """(B, M): the weights, summing to 1, of the shortest combination of the differences."""
    diagonal = gram_BMM.diagonal(dim1=1, dim2=2)
    ridge = RIDGE * diagonal.mean(dim=1) + torch.finfo(gram_BMM.dtype).tiny
    ones = torch.ones_like(diagonal)
    alpha = torch.linalg.solve_ex(gram_BMM + torch.diag_embed(ridge[:, None] * ones), ones)[0]
    return alpha / alpha.sum(dim=1, keepdim=True)


def fixed_point(
    f: Map, z: Tensor, *, tol: float = 1e-6, max_iter: int = 50, solve: Callable[..., Solution] = anderson
) -> Solution:
    """The fixed point of f from the start z, with the implicit gradient to everything that f has closed over.

    Under `torch.export` it is `max_iter` plain steps: a graph has no loop that ends when it is good enough.
    """
    if torch.compiler.is_exporting():
        for _ in range(max_iter - 1):
            z = f(z)
        new = f(z)
        difference = (new - z).flatten(1)
        return Solution(new, difference.norm(dim=1) / (new.flatten(1).norm(dim=1) + 1e-12), max_iter)
    with torch.no_grad():
        found = solve(f, z, tol=tol, max_iter=max_iter)
    if not torch.is_grad_enabled():
        return found
    start = found.z.detach().requires_grad_()
    settings = dict(tol=tol, max_iter=max_iter)
    return found._replace(z=_Implicit.apply(f(start), start, solve, settings))


def contraction(weight: Tensor, factor: float, squarings: int = 4) -> Tensor:
    """The matrix, scaled down where needed so that it shortens every vector to at most `factor` of its length.

    The bound is σ_max(W) ≤ ‖(WᵀW)^p‖_F^(1/2p), p = 2^squarings, never too small and for 128 columns at most 8 % too
    large. It takes products only, so that it exports, and is differentiable.
    """
    gram, log = weight.mT @ weight, weight.new_zeros(())
    for _ in range(squarings):
        size = gram.norm().clamp(min=torch.finfo(weight.dtype).tiny)
        gram = (gram / size) @ (gram / size)
        log = 2 * (log + size.log())
    size = gram.norm().clamp(min=torch.finfo(weight.dtype).tiny)
    bound = ((log + size.log()) / 2 ** (squarings + 1)).exp()
    return weight * (factor / bound).clamp(max=1)


class _Implicit(torch.autograd.Function):
    """The identity on f(z*); backwards it turns ∂L/∂z into u, which then flows on through the one evaluation of f."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, start: Tensor, solve: Callable[..., Solution], settings: Any) -> Tensor:
        ctx.save_for_backward(image, start)
        ctx.solve, ctx.settings = solve, settings
        return image.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        image, start = ctx.saved_tensors

        def adjoint(u: Tensor) -> Tensor:
            return torch.autograd.grad(image, start, u, retain_graph=True)[0] + gradient

        return ctx.solve(adjoint, gradient, **ctx.settings).z, None, None, None
