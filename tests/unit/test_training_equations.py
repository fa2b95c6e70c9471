"""A run does what its settings say: whole runs against a loop written from the equations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.data import preprocess
from oliveira.errors import UserError
from oliveira.lifecycle import stages
from oliveira.registry import create
from oliveira.tasks.language_modelling import next_token_loss
from oliveira.training.curves import read_curve
from oliveira.training.loop import CHECKPOINT, Job, train
from oliveira.training.loss import cross_entropy_reference
from oliveira.training.optim import AdamWReference, make_optimizer
from oliveira.training.settings import TrainSection
from oliveira.world import World

# Every setting away from its default and from its neighbours, clipping and decay large enough to be seen.
ODD = TrainSection(
    steps=12, accumulate=2, lr=0.05, min_lr=0.2, warmup_steps=4, weight_decay=0.5, beta1=0.7, beta2=0.6, clip=0.02
)
D_MODEL = 6


def network() -> nn.Module:
    """Matrices, biases and a gain."""
    torch.manual_seed(0)
    made: Any = nn.Sequential(nn.Linear(3, D_MODEL), nn.LayerNorm(D_MODEL), nn.Tanh(), nn.Linear(D_MODEL, 2)).double()
    made.config = SimpleNamespace(d_model=D_MODEL)
    return made


def batch(number: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(number)
    x, y = (torch.randn(5, n, generator=random, dtype=torch.float64) for n in (3, 2))
    return x, y


def squared(model: nn.Module, rows: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(rows[0]), rows[1])


def rate(step: int, config: TrainSection) -> float:
    """The schedules as the papers have them: warm-up to the peak at step `warmup_steps`, then down."""
    if config.schedule == "noam":
        return config.lr * D_MODEL**-0.5 * min(step**-0.5, step * config.warmup_steps**-1.5)
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.lr * (config.min_lr + (1 - config.min_lr) * (1 + math.cos(math.pi * done)) / 2)


def by_the_equations(config: TrainSection) -> nn.Module:
    """The mean gradient of the micro-batches, scaled to the norm `clip`, through `AdamWReference`; biases and gains
    are not decayed."""
    model, betas = network(), (config.beta1, config.beta2)
    matrices, rest = ([p for p in model.parameters() if (p.dim() == 2) == wanted] for wanted in (True, False))
    parts = [
        AdamWReference(matrices, lr=0.0, betas=betas, weight_decay=config.weight_decay),
        AdamWReference(rest, lr=0.0, betas=betas, weight_decay=0.0),
    ]
    for step in range(1, config.steps + 1):
        numbers = [(step - 1) * config.accumulate + micro for micro in range(config.accumulate)]
        losses = torch.stack([squared(model, batch(number)) for number in numbers])
        gradients = torch.autograd.grad(losses.mean(), list(model.parameters()))
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        assert norm > config.clip, "else clipping would not be seen"
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient * (config.clip / (norm + 1e-6))
        for part in parts:
            part.lr = rate(step, config)
            part.step()
    return model


@pytest.mark.parametrize("schedule", ["cosine", "noam"])
def test_a_run_is_its_equations(schedule: str, tmp_path: Path) -> None:
    config = ODD.model_copy(update=dict(schedule=schedule))
    ours, wanted = network(), by_the_equations(config)
    train(ours, Job(batch=batch, loss=squared), config, tmp_path, seed=0)
    for (name, x), y in zip(ours.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10, msg=name)
    rows = read_curve(tmp_path / "curve.jsonl")
    assert [row["lr"] for row in rows] == pytest.approx([rate(step, config) for step in range(1, 13)])
    first = torch.stack([squared(network(), batch(number)) for number in range(config.accumulate)]).mean()
    assert rows[0]["loss"] == pytest.approx(first.item()), "the loss of a step is the mean of its micro-batches"


def test_a_schedule_by_width_wants_a_width(tmp_path: Path) -> None:
    """No other width is taken for one that is not there."""
    config = ODD.model_copy(update=dict(schedule="noam"))
    with pytest.raises(UserError, match=r"noam needs a d_model, which a Linear does not have\. Use cosine\."):
        train(nn.Linear(3, 2).double(), Job(batch=batch, loss=squared), config, tmp_path, seed=0)


def test_muon_has_the_settings_of_the_run_and_leaves_embeddings_alone() -> None:
    model = create("gpt", vocab_size=64, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32, max_len=32)
    adamw, muon = make_optimizer(model, kind="muon", lr=1e-3, betas=(0.7, 0.6), weight_decay=0.5).parts
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in taken}
    assert names == {name for name, p in model.named_parameters() if name.startswith("blocks.") and p.dim() == 2}
    assert not any("embedding" in name or "head" in name for name in names)
    assert {group["weight_decay"] for group in muon.param_groups} == {0.5}
    assert {group["betas"] for group in adamw.param_groups} == {(0.7, 0.6)}


# Looks -------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


LOOKS = ODD.model_copy(update=dict(checkpoint_every=4, evaluate_every=4, sample_every=6))


@pytest.mark.parametrize("killed_at", [4, 8, 12])
@pytest.mark.parametrize("by", ["evaluate", "sample"])
def test_a_kill_while_it_looks_costs_no_step_and_no_look(killed_at: int, by: str, tmp_path: Path) -> None:
    """Interval for interval: the checkpoint of the very step must be there. A look that draws random numbers shows
    whether one was lost or made twice. The resumed curve is the whole one."""

    def job(killed_at: int) -> Job[Any]:
        steps: list[int] = []

        def counted(number: int) -> tuple[Tensor, Tensor]:
            steps.append(number // ODD.accumulate + 1)
            begun.append(steps[0])
            return batch(number)

        def evaluate(model: nn.Module) -> dict[str, float]:
            if by == "evaluate" and steps and steps[-1] == killed_at:
                raise Killed
            return {"drawn": float(torch.rand(())), "weight": float(next(model.parameters()).sum())}

        def sample(model: nn.Module) -> str:
            if by == "sample" and steps and steps[-1] >= killed_at:
                raise Killed
            return f"{float(torch.rand(()))}"

        return Job(batch=counted, loss=squared, evaluate=evaluate, sample=sample)

    begun: list[int] = []
    whole = train(network(), job(99), LOOKS, tmp_path / "whole", seed=0)
    with pytest.raises(Killed):
        train(network(), job(killed_at), LOOKS, tmp_path / "killed", seed=0)
    begun.clear()
    resumed = train(network(), job(99), LOOKS, tmp_path / "killed", seed=0)
    if by == "evaluate":
        assert begun[:1] == ([killed_at + 1] if killed_at < 12 else []), "from the step that was looked at"
    assert resumed == whole

    def lines(name: str) -> list[dict[str, Any]]:
        rows = read_curve(tmp_path / name / "curve.jsonl")
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    assert lines("killed") == lines("whole")
    assert sum("drawn" in row for row in lines("whole")) == 3 and sum("sample" in row for row in lines("whole")) == 2


def test_a_finished_run_is_not_trained_again_and_says_its_last_metrics(tmp_path: Path) -> None:
    job = Job(batch=batch, loss=squared, evaluate=lambda model: {"weight": float(next(model.parameters()).sum())})
    first = train(network(), job, LOOKS, tmp_path, seed=0)
    assert train(network(), job, LOOKS, tmp_path, seed=0) == first
    assert (tmp_path / CHECKPOINT).exists()


def test_a_model_is_looked_at_without_dropout_and_without_gradients(tmp_path: Path) -> None:
    seen = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append((model.training, torch.is_grad_enabled()))
        return {"one": 1.0}

    def loss(model: nn.Module, rows: tuple[Tensor, Tensor]) -> Tensor:
        assert model.training and torch.is_grad_enabled()
        return squared(model, rows)

    def sample(model: nn.Module) -> str:
        return str(evaluate(model))

    train(network(), Job(batch=batch, loss=loss, evaluate=evaluate, sample=sample), LOOKS, tmp_path, seed=0)
    assert seen == [(False, False)] * 5


# Label smoothing ---------------------------------------------------------------------------------------------------


def smoothed(model: nn.Module, rows: Tensor, smoothing: float) -> Tensor:
    return cross_entropy_reference(model(rows[:, :-1]), rows[:, 1:], label_smoothing=smoothing)


def test_next_token_loss_smooths() -> None:
    torch.manual_seed(0)
    model = create("gpt", vocab_size=64, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=32, max_len=32)
    model.embedding.weight.data.mul_(30)  # a fresh model says all alike: smoothing would change nothing
    rows = torch.randint(0, 64, (2, 9))
    found = [next_token_loss(smoothing)(model, rows) for smoothing in (0.0, 0.3)]
    for value, smoothing in zip(found, (0.0, 0.3), strict=True):
        torch.testing.assert_close(value, smoothed(model, rows, smoothing), rtol=1e-5, atol=1e-6)
    assert abs(found[0] - found[1]) > 0.01


class Taken(Exception):
    pass


def test_the_training_stage_gives_the_loop_what_the_world_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smoothing, schedule and width reach the job: a setting that is read and dropped is a lie."""
    words = ["casa", "rio", "sol", "lua", "mar", "pedra", "flor", "vento", "chuva", "noite"]
    texts = [" ".join(words[(i * k) % 10] for k in range(60)) for i in range(1, 41)]
    lines = [json.dumps({"name": str(i), "text": f"{i} {text}"}) for i, text in enumerate(texts)]
    (tmp_path / "base").mkdir()
    (tmp_path / "documents.jsonl").write_text("\n".join(lines), encoding="utf-8")
    world = World.model_validate(
        {
            "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "d_ff": 32, "max_len": 32},
            "train": {"label_smoothing": 0.3, "schedule": "noam", "threads": 1},
            "data": {"vocab_size": 300, "validation": 0.2, "test": 0.2, "min_chars": 1, "near_duplicate": 1.0},
        }
    )
    preprocess.prepare(
        tmp_path / "documents.jsonl", tmp_path / "base", config=world.data, seed=0, tokenizer=None,
        progress=lambda share, text: None,
    )  # fmt: skip
    taken: list[Any] = []

    def take(model: nn.Module, job: Job[Any], config: TrainSection, folder: Path, *, seed: int) -> None:
        taken.extend((model, job, config))
        raise Taken

    monkeypatch.setattr(stages, "train", take)
    for check in ("enough_text", "check_held_out"):
        monkeypatch.setattr(stages, check, lambda *args: None)
    context: Any = SimpleNamespace(
        world=world, results={"preprocess": tmp_path}, home=tmp_path, key="k" * 16, should_stop=lambda: False,
        ledger=SimpleNamespace(begin_run=lambda *args: None),
    )  # fmt: skip
    with pytest.raises(Taken):
        stages._train(context)
    model, job, config = taken
    assert config == world.train
    rows = job.batch(0)
    model.embedding.weight.data.mul_(30)
    torch.testing.assert_close(job.loss(model, rows), smoothed(model, rows, 0.3), rtol=1e-5, atol=1e-6)
