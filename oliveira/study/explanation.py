"""One step of learning in numbers: predictions, loss, one weight's gradient, its update, the loss afterwards.

    L(w)                                       the task's loss on one small batch, dropout off
    g = ∂L/∂w                                  by backpropagation …
    g ≈ (L(w + h) − L(w − h)) / 2h             … and by nudging that one weight, in float64
    SGD      w ← w − η g                       to first order L falls by η ‖g‖²
    AdamW    w ← w − η g / (|g| + ε) − η λ w   its first step: m̂ = g, v̂ = g²        arXiv:1711.05101, algorithm 2

Each rule moves all weights of a fresh model; one is shown.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oliveira import kinds
from oliveira.errors import UserError
from oliveira.tasks.base import Batch, Data

Language = Literal["en", "pt"]
SHOWN = 4  # predictions
NUDGE = 1e-5
DECAY, EPS = 0.01, 1e-8  # λ and ε of AdamW


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A number and its target; or a class, its target, and the probability the model gives the target."""

    predicted: float
    target: float
    error: float  # ŷ − y; for a class p(target) − 1
    probability: float | None  # of the target class


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one rule does to the weight, and to the loss when all weights move by it."""

    rule: Literal["sgd", "adamw"]
    weight: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Explanation:
    model: str
    task: str
    seed: int
    batch: int
    parameters: int
    predictions: list[Prediction]
    loss: float
    weight: str  # "blocks.0.mixer.input.weight[3, 5]"
    value: float
    gradient: float
    by_difference: float
    lr: float
    gradient_norm: float  # of all weights
    foreseen: float  # loss after SGD, to first order
    steps: list[Step]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def disagreement(self) -> float:
        """Of the two gradients, as a share of the larger."""
        return abs(self.gradient - self.by_difference) / max(abs(self.gradient), abs(self.by_difference), 1e-12)

    def text(self, language: Language = "en") -> str:
        return "\n".join(_lines(self, WORDS[language]))


def explain(
    model: str,
    task: str = "",
    *,
    home: str | Path = ".oliveira",
    seed: int = 0,
    batch: int = 4,
    weight: str = "",
    lr: float = 0.0,
    **values: Any,
) -> Explanation:
    """One step of a fresh model on `batch` examples of a task (empty: the first that fits it, a probe if there is one).

    `weight` names a parameter (empty: the one with the steepest single number); its steepest number is shown. `lr` 0:
    that of the task's training. `values` are fields of the model's config. Raises `UserError` for a wrong name.
    """
    from oliveira.runs.run import build
    from oliveira.tasks.catalogue import pair

    wanted, found = pair(task or _first_task(model), model)
    data = wanted.open(Path(home).absolute(), lambda text: None)
    network = build(wanted, data, found, values, seed=seed)
    lr = lr or float({**wanted.train, **found.train}.get("lr", 2e-3))
    examples = data.batch(0, seed=seed, size=batch)
    count = kinds.eats(wanted.eats).count(examples.inputs)
    return explain_step(
        network, data, examples, model=model, task=wanted.name, count=count, seed=seed, weight=weight, lr=lr
    )


def explain_step(
    network: nn.Module,
    data: Data,
    batch: Batch,
    *,
    model: str,
    task: str,
    count: int,
    seed: int,
    weight: str = "",
    lr: float,
) -> Explanation:
    """The same for a model and a batch of `count` examples at hand. The model is left as it was."""
    network = _twin(network)
    loss = _loss(network, batch, data)
    loss.backward()
    name, place = _chosen(network, weight)
    parameter = network.get_parameter(name)
    assert parameter.grad is not None
    gradients = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    with torch.no_grad():
        torch.manual_seed(0)
        output = network(*batch.inputs, **batch.named)
    return Explanation(
        model=model,
        task=task,
        seed=seed,
        batch=count,
        parameters=sum(p.numel() for p in network.parameters()),
        predictions=_predictions(_first(output), _first(batch.targets)),
        loss=loss.item(),
        weight=f"{name}[{', '.join(map(str, place))}]" if place else name,
        value=parameter[place].item(),
        gradient=parameter.grad[place].item(),
        by_difference=_difference(network, batch, data, name, place),
        lr=lr,
        gradient_norm=norm,
        foreseen=loss.item() - lr * norm**2,
        steps=[
            _stepped("sgd", lambda w, g: w - lr * g, network, gradients, batch, data, name, place),
            _stepped(
                "adamw",
                lambda w, g: w - lr * g / (g.abs() + EPS) - lr * DECAY * w,
                network, gradients, batch, data, name, place,
            ),
        ],
    )  # fmt: skip


def _first_task(model: str) -> str:
    from oliveira.registry import entry
    from oliveira.tasks.catalogue import tasks

    found = entry(model)
    fitting = [task.name for task in tasks().values() if found.fits(task.eats, task.gives)]
    return min(fitting, key=lambda name: not name.startswith("probe/"))


def _twin(network: nn.Module) -> Any:
    """A copy without gradients, in `eval` mode."""
    twin = copy.deepcopy(network)
    twin.zero_grad(set_to_none=True)
    return twin.eval()


def _loss(network: nn.Module, batch: Batch, data: Data) -> Tensor:
    torch.manual_seed(0)  # a model that draws (its hashes) draws the same each time
    return data.objective(network, batch)


def _chosen(network: nn.Module, weight: str) -> tuple[str, tuple[int, ...]]:
    """Name of a parameter and the place of its number with the largest gradient."""
    steep = {name: p.grad.abs().max().item() for name, p in network.named_parameters() if p.grad is not None}
    if weight and weight not in steep:
        raise UserError(f"--weight {weight!r} is not a trained weight of this model. Give one of {', '.join(steep)}.")
    # A matrix tells more than a bias.
    matrices = {name: size for name, size in steep.items() if network.get_parameter(name).dim() >= 2} or steep
    name = weight or max(matrices, key=matrices.__getitem__)
    gradient = network.get_parameter(name).grad
    assert gradient is not None
    flat = int(gradient.abs().argmax())
    return name, tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), gradient.shape))


@torch.no_grad()
def _difference(network: nn.Module, batch: Batch, data: Data, name: str, place: tuple[int, ...]) -> float:
    """(L(w + h) − L(w − h)) / 2h of a float64 copy."""
    exact = _twin(network).double()
    named = {name: _double(x) for name, x in batch.named.items()}
    doubled = Batch(tuple(_double(x) for x in batch.inputs), _double(batch.targets), named)
    weight = exact.get_parameter(name)
    value = weight[place].item()
    losses = []
    for nudge in (NUDGE, -NUDGE):
        weight[place] = value + nudge
        losses.append(_loss(exact, doubled, data).item())
    return (losses[0] - losses[1]) / (2 * NUDGE)


def _double(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_double(part) for part in x)
    return x.double() if x.is_floating_point() else x


@torch.no_grad()
def _stepped(
    rule: Literal["sgd", "adamw"],
    update: Callable[[Tensor, Tensor], Tensor],
    network: nn.Module,
    gradients: dict[str, Tensor],
    batch: Batch,
    data: Data,
    name: str,
    place: tuple[int, ...],
) -> Step:
    moved = _twin(network)
    for key, gradient in gradients.items():
        parameter = moved.get_parameter(key)
        parameter.copy_(update(parameter, gradient))
    return Step(rule=rule, weight=moved.get_parameter(name)[place].item(), loss=_loss(moved, batch, data).item())


def _first(parts: Any) -> Tensor:
    return parts if isinstance(parts, Tensor) else parts[0]


def _predictions(output: Tensor, targets: Tensor) -> list[Prediction]:
    """The first few that count."""
    if targets.is_floating_point():
        pairs = list(zip(output.flatten().tolist(), targets.flatten().tolist(), strict=False))[:SHOWN]
        return [Prediction(predicted=p, target=t, error=p - t, probability=None) for p, t in pairs]
    rows, classes = output.reshape(-1, output.shape[-1]), targets.reshape(-1)
    shown = (classes >= 0).nonzero()[:SHOWN, 0]
    chances = rows[shown].softmax(dim=-1)
    made = []
    for chance, target in zip(chances, classes[shown].tolist(), strict=True):
        p = chance[target].item()
        made.append(Prediction(predicted=float(chance.argmax()), target=float(target), error=p - 1, probability=p))
    return made


WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "title": "One step of {model} on {task}: {batch} examples, {parameters:,} weights, seed {seed}",
        "predict": "1  predict    ŷ = f(x; w)",
        "number": "   ŷ = {predicted:+.4f}   y = {target:+.4f}   error ŷ − y = {error:+.4f}",
        "class": "   likeliest {predicted:.0f}   right {target:.0f}   p(right) = {probability:.4f}   "
        "error p − 1 = {error:+.4f}",
        "loss": "2  judge      L = mean over all that is judged = {loss:.6f}",
        "of_classes": "              of −ln p(right)",
        "of_numbers": "              of the distance between ŷ and y",
        "gradient": "3  blame      g = ∂L/∂w for w = {weight} = {value:+.6f}",
        "backward": "   by backpropagation              g = {gradient:+.6f}",
        "difference": "   by (L(w + h) − L(w − h)) / 2h   g = {by_difference:+.6f}   they differ by {share:.2%}",
        "update": "4  correct    learning rate η = {lr:g}",
        "sgd": "   SGD    w − η g                          = {value:+.6f} − {lr:g} · ({gradient:+.6f}) = {weight:+.6f}",
        "adamw": "   AdamW  w − η g/(|g| + ε) − η λ w        = {weight:+.6f}",
        "again": "5  judge again, all weights moved",
        "after": "   {rule:<6} L = {loss:.6f}   {change:+.6f}",
        "foreseen": "   foreseen for SGD: L − η ‖g‖² = {foreseen:.6f}   ‖g‖ = {gradient_norm:.4f}",
    },
    "pt": {
        "title": "Um passo de {model} em {task}: {batch} exemplos, {parameters:,} pesos, semente {seed}",
        "predict": "1  prever     ŷ = f(x; w)",
        "number": "   ŷ = {predicted:+.4f}   y = {target:+.4f}   erro ŷ − y = {error:+.4f}",
        "class": "   mais provável {predicted:.0f}   certo {target:.0f}   p(certo) = {probability:.4f}   "
        "erro p − 1 = {error:+.4f}",
        "loss": "2  julgar     L = média de tudo o que é julgado = {loss:.6f}",
        "of_classes": "              de −ln p(certo)",
        "of_numbers": "              da distância entre ŷ e y",
        "gradient": "3  atribuir   g = ∂L/∂w para w = {weight} = {value:+.6f}",
        "backward": "   por retropropagação             g = {gradient:+.6f}",
        "difference": "   por (L(w + h) − L(w − h)) / 2h  g = {by_difference:+.6f}   diferem em {share:.2%}",
        "update": "4  corrigir   taxa de aprendizado η = {lr:g}",
        "sgd": "   SGD    w − η g                          = {value:+.6f} − {lr:g} · ({gradient:+.6f}) = {weight:+.6f}",
        "adamw": "   AdamW  w − η g/(|g| + ε) − η λ w        = {weight:+.6f}",
        "again": "5  julgar de novo, com todos os pesos movidos",
        "after": "   {rule:<6} L = {loss:.6f}   {change:+.6f}",
        "foreseen": "   previsto para SGD: L − η ‖g‖² = {foreseen:.6f}   ‖g‖ = {gradient_norm:.4f}",
    },
}


def _lines(e: Explanation, words: dict[str, str]) -> list[str]:
    facts = {**dataclasses.asdict(e), "share": e.disagreement}

    def say(key: str, **more: Any) -> str:
        return words[key].format(**{**facts, **more})

    lines = [say("title"), say("predict")]
    classes = e.predictions[0].probability is not None
    lines += [say("class" if classes else "number", **dataclasses.asdict(p)) for p in e.predictions]
    lines += [say("loss"), say("of_classes" if classes else "of_numbers")]
    lines += [say("gradient"), say("backward"), say("difference"), say("update")]
    lines += [say(step.rule, weight=step.weight) for step in e.steps]
    lines.append(say("again"))
    names = {"sgd": "SGD", "adamw": "AdamW"}
    lines += [say("after", rule=names[s.rule], loss=s.loss, change=s.loss - e.loss) for s in e.steps]
    lines.append(say("foreseen"))
    return lines
