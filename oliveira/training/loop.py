"""The one training loop: any model, any batch, any loss.

Bit-identical resume: batch `i` is a function of the seed and of `i`, the checkpoint holds model, optimiser, random
state and step, and it is written before the evaluation, so that a slow or failing evaluation cannot cost it. A run that
ended between the two looks first: no evaluation is lost, and no older one stands for it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from oliveira.errors import Interrupted, TrainingError, UserError
from oliveira.kernels.fast import fast_layers
from oliveira.training import schedules
from oliveira.training.checkpoint import load_checkpoint, save_checkpoint
from oliveira.training.curves import Curve
from oliveira.training.optim import Optimizer, Replaced, Turn, clip_gradients, make_optimizer
from oliveira.training.seeds import seed_everything
from oliveira.training.settings import TrainSection

Batch = TypeVar("Batch")
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progress:
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds: float


@dataclass
class Job(Generic[Batch]):
    """What differs from run to run."""

    batch: Callable[[int], Batch]  # micro-batch number → batch
    loss: Callable[[nn.Module, Batch], Tensor]  # mean loss of a batch
    turns: Callable[[nn.Module, TrainSection], list[Turn]] = lambda model, section: []  # empty: one, of `loss`
    after_step: Callable[[nn.Module, int], Mapping[str, Tensor] | None] = lambda model, step: None  # as `Data`'s
    learn: Callable[[nn.Module], object] = nn.Module.train  # puts the model, or the part that learns, into training
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None
    sample: Callable[[nn.Module], str] | None = None
    tokens_per_batch: int = 0
    on_progress: Callable[[Progress], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False


def train(model: nn.Module, job: Job[Any], config: TrainSection, folder: Path, *, seed: int) -> dict[str, float]:
    """Trains in place, resuming from `folder` when it holds a checkpoint. Returns the last metrics.

    Raises Interrupted (state saved, the next call goes on) and TrainingError (NaN; names the last good checkpoint).
    """
    turns = turns_of(model, job, config)
    optimizer = Optimizer([part for turn in turns for part in turn.optimizer.parts])
    checkpoint = folder / CHECKPOINT
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "metrics": {}, "looked": 0}
    seed_everything(seed)
    if checkpoint.exists():
        state = load_checkpoint(checkpoint, model, optimizer)
    begun, unseen = state["step"], state.get("looked", 0) < state["step"]
    curve = Curve(folder / "curve.jsonl", resume_at=begun, drop_looks=unseen)
    started = time.monotonic() - state["seconds"]
    saved = begun

    def save_now(step: int) -> None:
        nonlocal saved
        save_checkpoint(
            checkpoint,
            model,
            optimizer,
            {**state, "step": step, "seconds": time.monotonic() - started},
        )
        saved = step

    def look(step: int) -> None:
        """What is due after this step: the metrics, a sample."""
        last, at = step == config.steps, dict(step=step, seconds=round(time.monotonic() - started, 3))
        if job.evaluate and (step % config.evaluate_every == 0 or last):
            state["metrics"] = _evaluating(model, job, job.evaluate)
            curve.add({**at, **state["metrics"]})
        if job.sample and (step % config.sample_every == 0 or last):
            curve.add({**at, "sample": _evaluating(model, job, job.sample)})
        state["looked"] = step

    with fast_layers(model), contextlib.closing(curve):
        job.learn(model)
        if unseen:
            look(begun)
        for step in range(begun + 1, config.steps + 1):
            loss, norm, lr, apart = one_step(model, job, config, turns, step)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                where = (
                    f"The last good checkpoint is step {saved} in {folder}." if saved else "There is no checkpoint yet."
                )
                raise TrainingError(
                    f"the loss became {loss} at step {step} (gradient norm {norm}). {where} "
                    f"Lower the learning rate, {config.lr:g}: write lr={config.lr / 10:g} after the model of "
                    "`oliveira train`, or train.lr in a world."
                )
            optimizer.follow(_grown(model, job, step))
            seconds = time.monotonic() - started
            tokens = step * config.accumulate * job.tokens_per_batch
            row = dict(step=step, seconds=round(seconds, 3), loss=loss, lr=lr, grad_norm=norm, tokens=tokens)
            curve.add(row | apart)
            job.on_progress(Progress(step, config.steps, loss, tokens / max(seconds, 1e-9), seconds))
            last = step == config.steps
            if step % config.checkpoint_every == 0 or last:
                save_now(step)
            look(step)
            if job.should_stop() and not last:
                save_now(step)
                raise Interrupted(f"stopped at step {step} of {config.steps}; start again to go on from there.")
    return state["metrics"]


def _grown(model: nn.Module, job: Job[Any], step: int) -> list[Replaced]:
    """Lets the job have its say after the step. Returns what it put in the place of other parameters."""
    before = dict(model.named_parameters())
    rows = job.after_step(model, step) or {}
    changed = {name: now for name, now in model.named_parameters() if now is not before.get(name)}
    if unsaid := sorted(changed.keys() ^ rows.keys()):
        raise ValueError(f"after_step replaces {', '.join(changed)} and says the rows of {', '.join(rows)}: {unsaid}")
    return [Replaced(before[name], changed[name], rows[name]) for name in rows]


def turns_of(model: nn.Module, job: Job[Any], config: TrainSection) -> list[Turn]:
    """The job's own, or one of the optimiser that the configuration names."""
    return job.turns(model, config) or [
        Turn(
            make_optimizer(
                model,
                kind=config.optimizer,
                lr=config.lr,
                betas=(config.beta1, config.beta2),
                weight_decay=config.weight_decay,
            ),
            job.loss,
        )
    ]


class Step(NamedTuple):
    loss: float  # of all turns together
    norm: float  # of the gradient before clipping
    lr: float
    apart: dict[str, float]  # of each turn that has a name: "loss_NAME"


def one_step(model: nn.Module, job: Job[Any], config: TrainSection, turns: list[Turn], step: int) -> Step:
    """Each turn: forward, loss, backward, clipping, update of its own parameters.

    A loss or a norm that is not finite leaves these weights as they were and ends the step.
    """
    lr = learning_rate(step, config, model)
    losses, norms = list[float](), list[float]()
    for turn in turns:
        loss = 0.0
        for micro in range(config.accumulate):
            part = turn.loss(model, job.batch((step - 1) * config.accumulate + micro)) / config.accumulate
            part.backward()
            loss += part.item()
        mine = {id(parameter) for parameter in turn.optimizer.parameters()}
        norm = clip_gradients([p for p in model.parameters() if id(p) in mine], config.clip)
        losses.append(loss)
        norms.append(norm)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            turn.optimizer.set_lr(lr, config.lr)
            turn.optimizer.step()
        model.zero_grad(set_to_none=True)  # of the other turns' parameters too
        if not finite:
            break
    apart = {f"loss_{turn.name}": loss for turn, loss in zip(turns, losses, strict=False) if turn.name}
    return Step(sum(losses), math.hypot(*norms), lr, apart)


Result = TypeVar("Result")


def _evaluating(model: nn.Module, job: Job[Any], look: Callable[[nn.Module], Result]) -> Result:
    model.eval()
    with torch.no_grad():
        result = look(model)
    job.learn(model)
    return result


def learning_rate(step: int, config: TrainSection, model: nn.Module) -> float:
    if config.schedule == "noam":
        return schedules.noam(step, d_model=_width(model), warmup_steps=config.warmup_steps, factor=config.lr)
    return schedules.cosine(
        step, peak=config.lr, warmup_steps=config.warmup_steps, steps=config.steps, min_lr=config.min_lr
    )


def _width(model: nn.Module) -> int:
    """Every config of the catalogue has a `d_model`; a model without one has no such schedule."""
    network: Any = model
    try:
        return int(network.config.d_model)
    except AttributeError:
        name = type(model).__name__
        raise UserError(f"train.schedule = noam needs a d_model, which a {name} does not have. Use cosine.") from None
