"""A body from elsewhere under a fresh head: its features frozen, or tuned.

    frozen   the body keeps its bits, its dropout is off and its batch statistics stand still: only the head learns
    lora     as frozen, but that LoRA of its linear layers learns too, and is merged at the end
    tuned    everything goes on learning                                        (Devlin et al. 2019, §5.3)

The head is what the model's entry says (`Entry.head`); all else is the body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.registry import Entry, entry_of

Features = Literal["frozen", "lora", "tuned"]
WORDS: tuple[str, ...] = get_args(Features)


def take_body(model: nn.Module, theirs: dict[str, Tensor], where: str) -> None:
    """Weights and statistics of another model's body; the head stays fresh. `UserError` where they do not fit."""
    found = _entry(model)
    state = model.state_dict()
    for name, own in state.items():
        if found.head_has(name):
            continue
        if name not in theirs or theirs[name].shape != own.shape:
            there = f"is {tuple(theirs[name].shape)}" if name in theirs else "is not there"
            raise UserError(
                f"start = {where}: {name} {there}, here it is {tuple(own.shape)}. Start from a {found.name} that reads "
                "what this task gives it, with the same fields."
            )
        state[name] = theirs[name]
    model.load_state_dict(state)


def frozen(model: nn.Module) -> Callable[[nn.Module], object]:
    """Freezes the body. Returns what puts the model into training: the head alone."""
    found = _entry(model)
    names = {id(p): name for name, p in model.named_parameters()}  # a tied weight has the name of the body's part
    learns = [parameter for parameter in model.parameters() if found.head_has(names[id(parameter)])]
    if not learns:
        raise UserError(
            f"features = frozen leaves nothing to learn: the head of this {found.name} is part of its body. "
            "Say features=tuned, or tied=false where it has that field."
        )
    model.requires_grad_(False)
    for parameter in learns:
        parameter.requires_grad_(True)

    def head_only(model: nn.Module) -> None:
        model.eval()
        for name, part in model.named_children():
            part.train(found.head_has(name))

    return head_only


def _entry(model: nn.Module) -> Entry:
    found = entry_of(model)
    if found is None or "features" not in found.can:
        name = found.name if found else type(model).__name__
        raise UserError(f"a {name} has no features under its head that another task could start from. Leave out start.")
    return found
