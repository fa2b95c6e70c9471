"""The loop and its parts: twins equal torch, schedules follow their formulas, a resumed run is the same run."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oliveira.errors import CorruptError, Interrupted, TrainingError
from oliveira.kernels import products
from oliveira.kernels.fast import fast_layers
from oliveira.registry import create
from oliveira.tasks.language_modelling import TokenBatches, next_token_loss
from oliveira.training.curves import Curve, draw_curve, read_curve
from oliveira.training.loop import CHECKPOINT, Job, train
from oliveira.training.loss import cross_entropy, cross_entropy_reference, head_cross_entropy, next_token
from oliveira.training.optim import AdamWReference, clip_gradients, make_optimizer
from oliveira.training.schedules import cosine, noam
from oliveira.training.settings import TrainSection

TINY = dict(vocab_size=64, d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=32, max_len=32, dropout=0.1)
CONFIG = TrainSection(
    steps=12, batch_size=2, lr=3e-3, warmup_steps=3, checkpoint_every=4, evaluate_every=6, sample_every=6
)
TOKENS = (np.random.default_rng(0).integers(0, 9, 4000).cumsum() % 64).astype(np.uint16)


def job(**changes: object) -> Job[torch.Tensor]:
    settings: dict = dict(batch=TokenBatches(TOKENS, 32, 2, seed=0), loss=next_token_loss(), tokens_per_batch=64)
    return Job(**(settings | changes))


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return create("gpt", **TINY)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_adamw_reference_is_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours = [torch.randn(5, 3, requires_grad=True), torch.randn(7, requires_grad=True)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    reference = AdamWReference(ours, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
    fused = torch.optim.AdamW(theirs, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    for _ in range(20):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        reference.step()
        fused.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
    # In double precision the two are the same formula to 1e-7 and far below.
    a = [torch.randn(4, dtype=torch.float64, requires_grad=True)]
    b = [a[0].detach().clone().requires_grad_()]
    one, two = AdamWReference(a, lr=1e-2), torch.optim.AdamW(b, lr=1e-2)
    for _ in range(50):
        a[0].grad = torch.randn(4, dtype=torch.float64)
        b[0].grad = a[0].grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula_and_torchs(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11, requires_grad=True)
    targets = torch.randint(0, 11, (3, 5))
    targets[0, :2] = -100
    fast = cross_entropy(logits, targets, label_smoothing=smoothing)
    slow = cross_entropy_reference(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)
    soft = torch.softmax(torch.randn(3, 5, 11), -1)
    torch.testing.assert_close(cross_entropy(logits, soft), cross_entropy_reference(logits, soft), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(fast, logits)
    assert torch.equal(gradient[0, :2], torch.zeros(2, 11)), "ignored targets must not move anything"


def test_probability_zero_costs_a_finite_loss() -> None:
    assert cross_entropy(torch.tensor([[200.0, -200.0]]), torch.tensor([1])).item() == pytest.approx(400.0)


def test_noam_is_the_formula_of_the_paper() -> None:
    values = [noam(step, d_model=512, warmup_steps=4000) for step in range(1, 10_000)]
    assert values[0] == pytest.approx(512**-0.5 * 4000**-1.5)
    assert max(range(len(values)), key=values.__getitem__) + 1 == 4000
    assert values[3999] == pytest.approx((512 * 4000) ** -0.5)
    with pytest.raises(ValueError, match="counts from 1"):
        noam(0, d_model=512, warmup_steps=4000)


def test_cosine_rises_and_falls() -> None:
    values = [cosine(step, peak=1.0, warmup_steps=10, steps=100, min_lr=0.1) for step in range(1, 101)]
    assert values[9] == 1.0 and values[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(values[:10]))
    assert all(a > b for a, b in itertools.pairwise(values[9:]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, optimizer: str, stop_at: int) -> None:
    """Dropout is on: random state, optimiser state and data position must all come back."""
    config = CONFIG.model_copy(update=dict(optimizer=optimizer))
    whole, halved = fresh(), fresh()
    train(whole, job(), config, tmp_path / "whole", seed=1)
    turns = itertools.count(1)
    with pytest.raises(Interrupted, match=f"step {stop_at} of 12"):
        train(halved, job(should_stop=lambda: next(turns) >= stop_at), config, tmp_path / "halved", seed=1)
    resumed = fresh()
    train(resumed, job(), config, tmp_path / "halved", seed=1)
    assert same(whole, resumed)
    losses = [
        [r["loss"] for r in read_curve(tmp_path / name / "curve.jsonl") if "loss" in r] for name in ("whole", "halved")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    a, b = fresh(), fresh()
    train(a, job(), CONFIG, tmp_path / "a", seed=1)
    train(b, job(), CONFIG, tmp_path / "b", seed=2)
    assert not same(a, b), "dropout must depend on the seed, or the test above proves nothing"


def test_nan_stops_the_run_and_names_the_checkpoint(tmp_path: Path) -> None:
    def loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        value = next_token_loss()(model, rows)
        return value * math.nan if (tmp_path / CHECKPOINT).exists() else value

    with pytest.raises(TrainingError, match=r"step 5 .* last good checkpoint is step 4"):
        train(fresh(), job(loss=loss), CONFIG, tmp_path, seed=0)


def test_a_gradient_without_end_leaves_the_weights_though_the_loss_is_finite(tmp_path: Path) -> None:
    def loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        weight = next(model.parameters())
        return next_token_loss()(model, rows) + (weight - weight.detach()).abs().sqrt().sum()

    model = fresh()
    with pytest.raises(TrainingError, match="step 1"):
        train(model, job(loss=loss), CONFIG, tmp_path, seed=0)
    assert same(model, fresh())


def test_asked_to_stop_at_its_last_step_it_has_ended(tmp_path: Path) -> None:
    steps = iter([False] * (CONFIG.steps - 1) + [True])
    train(fresh(), job(should_stop=lambda: next(steps)), CONFIG, tmp_path, seed=0)


def test_the_checkpoint_is_written_before_the_evaluation(tmp_path: Path) -> None:
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert (tmp_path / CHECKPOINT).exists()
        raise RuntimeError("evaluation breaks")

    with pytest.raises(RuntimeError, match="evaluation breaks"):
        train(fresh(), job(evaluate=evaluate), CONFIG, tmp_path, seed=0)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(fresh(), job(), CONFIG, tmp_path, seed=0)
    path = tmp_path / CHECKPOINT
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptError, match="Remove it"):
        train(fresh(), job(), CONFIG, tmp_path, seed=0)


def test_muon_takes_only_the_matrices_inside_blocks() -> None:
    model = fresh()
    adamw, muon = make_optimizer(model, kind="muon", lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1).parts
    count = sum(p.numel() for group in muon.param_groups for p in group["params"])
    assert count == sum(
        p.numel() for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2
    )
    rest = sum(p.numel() for group in adamw.param_groups for p in group["params"])
    assert count + rest == sum(p.numel() for p in model.parameters())


def test_accumulated_gradients_equal_one_large_batch(tmp_path: Path) -> None:
    plain = CONFIG.model_copy(update=dict(steps=4, warmup_steps=1))
    torch.manual_seed(0)
    a, b = (create("gpt", **(TINY | dict(dropout=0.0))) for _ in range(2))
    b.load_state_dict(a.state_dict())
    rows = TokenBatches(TOKENS, 32, 4, seed=0)
    train(a, job(batch=rows), plain, tmp_path / "a", seed=0)
    halves = job(batch=lambda number: rows(number // 2)[2 * (number % 2) : 2 * (number % 2) + 2])
    train(b, halves, plain.model_copy(update=dict(accumulate=2)), tmp_path / "b", seed=0)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=2e-5)


def test_curve_drops_what_comes_after_the_checkpoint_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    curve = Curve(path)
    for step in range(1, 6):
        curve.add({"step": step, "loss": 1.0 / step})
    curve.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    assert [row["step"] for row in read_curve(path)] == [1, 2, 3, 4, 5]
    Curve(path, resume_at=3).close()
    assert [row["step"] for row in read_curve(path)] == [1, 2, 3]


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    rows = [{"step": s, "loss": 5.0 / s, "lr": 1e-3} for s in range(1, 9)] + [
        {"step": 8, "validation_bits_per_byte": 2.0}
    ]
    draw_curve(rows, tmp_path / "curve.png", title="test", lines={"xz": 2.5})
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products through oneDNN too, as large ones are."""
    monkeypatch.setattr(products, "SMALLEST", 0)


@pytest.mark.parametrize("shape", [(7,), (2, 5), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_fast_linear_is_torchs(fast: None, shape: tuple[int, ...], bias: bool) -> None:
    """Value and gradients, any number of dimensions; through _Linear, or torch would be compared with itself."""
    torch.manual_seed(0)
    ours = [torch.randn(*shape, 6), torch.randn(9, 6), torch.randn(9) if bias else None]
    theirs = [None if t is None else t.clone() for t in ours]
    for tensor in filter(lambda t: t is not None, [*ours, *theirs]):
        tensor.requires_grad_()
    y, z = products.linear(*ours), nn.functional.linear(*theirs)
    assert y.grad_fn.name() == "_LinearBackward"
    torch.testing.assert_close(y, z)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (z * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        if a is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_fast_linear_has_a_second_derivative(fast: None) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(4, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    second = []
    for product in (products.linear, nn.functional.linear):
        (first,) = torch.autograd.grad(product(x, w).pow(3).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), w)[0])
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-3)  # numbers around 15, from cubes


def test_fast_layers_leave_no_trace_and_touch_no_evaluation(fast: None) -> None:
    model = create("gpt", **(TINY | dict(dropout=0.0)))
    rows = torch.randint(0, 64, (2, 32))
    with torch.no_grad():
        before = model(rows)
    with fast_layers(model):
        assert model.blocks[0].attention.query(torch.randn(2, 3, 16)).grad_fn.name() == "_LinearBackward"
        with torch.no_grad():
            assert torch.equal(model(rows), before)
    assert not [m for m in model.modules() if "forward" in vars(m)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [4, 512])
def test_head_cross_entropy_is_cross_entropy(smoothing: float, rows: int) -> None:
    """Loss and both gradients, in pieces and whole, ignored targets, scaled as accumulation does."""
    torch.manual_seed(0)
    targets = torch.randint(0, 11, (2, 7))
    targets[0, :3] = -100
    ours = [torch.randn(2, 7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    a = head_cross_entropy(*ours, targets, label_smoothing=smoothing, rows=rows)
    b = cross_entropy(theirs[0] @ theirs[1].T, targets, label_smoothing=smoothing)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    (a / 3).backward()
    (b / 3).backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [3, 512])
def test_the_gradients_of_head_cross_entropy_are_those_of_its_values(smoothing: float, rows: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 4).double().requires_grad_(), torch.randn(6, 4).double().requires_grad_()
    targets = torch.tensor([0, 5, -100, 2, 2, -100, 1])

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return head_cross_entropy(hidden, weight, targets, label_smoothing=smoothing, rows=rows)

    assert torch.autograd.gradcheck(loss, (hidden, weight))


LOSSES = {
    "head": lambda h, w, t, **how: head_cross_entropy(h, w, t, **how),
    "reference": lambda h, w, t, **how: cross_entropy_reference(h @ w.T, t, **how),
    "fast": lambda h, w, t, **how: cross_entropy(h @ w.T, t, **how),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("target", "ignored", "counts"),
    [(-100, -100, False), (-1, -1, False), (-1, -100, None), (-100, -1, None), (-2, -100, None), (11, -100, None)],
)
def test_a_target_is_a_class_or_ignored_or_refused(name: str, target: int, ignored: int, counts: bool | None) -> None:
    """As torch's: −1 is no class 0, and what nobody named as ignored is an error."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    targets = torch.tensor([3, target, 0, 7])
    if counts is None:
        with pytest.raises(IndexError, match=f"Target {target} is out of bounds"):
            LOSSES[name](hidden, weight, targets, ignore_index=ignored)
        return
    loss = LOSSES[name](hidden, weight, targets, ignore_index=ignored)
    others = [0, 2, 3]
    torch.testing.assert_close(loss, nn.functional.cross_entropy(hidden[others] @ weight.T, targets[others]))
    loss.backward()
    assert torch.equal(hidden.grad[1], torch.zeros(5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_all_targets_are_ignored_nothing_moves(smoothing: float) -> None:
    hidden, weight = torch.randn(2, 3, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    loss = head_cross_entropy(hidden, weight, torch.full((2, 3), -100), label_smoothing=smoothing)
    loss.backward()
    assert loss.isnan() and not hidden.grad.any() and not weight.grad.any()


def test_head_cross_entropy_of_probability_zero_is_finite() -> None:
    loss = head_cross_entropy(
        torch.tensor([[200.0]]).requires_grad_(), torch.tensor([[1.0], [-1.0]]), torch.tensor([1])
    )
    assert loss.item() == pytest.approx(400.0)


@pytest.mark.parametrize("tied", [True, False])
def test_next_token_is_the_loss_of_the_logits(fast: None, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = create("gpt", **(TINY | dict(dropout=0.0, tied=tied)))
    rows = torch.randint(0, 64, (2, 33))
    found = []
    for smallest in (0, 1 << 60):
        monkeypatch.setattr(products, "SMALLEST", smallest)
        loss = next_token(model, rows[:, :-1], rows[:, 1:], label_smoothing=0.1)
        assert (loss.grad_fn.name() == "_HeadCrossEntropyBackward") == (smallest == 0)
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()} | {"loss": loss.detach()})
        model.zero_grad()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("size", [1e-3, 10.0, math.nan])
def test_clipping_is_torchs_to_the_bit(size: float) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(2))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    for p, q in zip(ours[:2], theirs[:2], strict=True):
        p.grad = torch.randn_like(p) * size
        q.grad = p.grad.clone()
    norm = float(nn.utils.clip_grad_norm_(theirs, 1.0))
    assert clip_gradients(ours, 1.0) == pytest.approx(norm, rel=0, abs=0, nan_ok=True)
    for p, q in zip(ours[:2], theirs[:2], strict=True):
        assert torch.equal(p.grad.isnan(), q.grad.isnan()) and torch.equal(p.grad.nan_to_num(), q.grad.nan_to_num())
