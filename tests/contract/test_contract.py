"""Every check on every entry, and broken models that the checks must catch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from checks import CHECKS, Form, build, forms
from torch import Tensor, nn

from oliveira import registry
from oliveira.models.gpt import GPT
from oliveira.models.gru import GRU
from oliveira.registry import Entry, entries, entry

EXPORTS = "onnx_equals_torch"


def marks(found: Entry, name: str) -> list[Any]:
    expected = [pytest.mark.xfail(reason=found.xfail[name], strict=False)] if name in found.xfail else []
    return expected + [pytest.mark.slow] * (name == EXPORTS)


def cases() -> list[Any]:
    """Every entry, each of its forms, every check; an export takes seconds, so only the first and last form of each."""
    return [
        pytest.param(
            found,
            form,
            check,
            id=f"{found.name}-{'-'.join(form)}-{name}",
            marks=marks(found, name),
        )
        for found in entries()
        for form in forms(found)
        for name, check in CHECKS.items()
        if name != EXPORTS or form in (forms(found)[0], forms(found)[-1])
    ]


@pytest.mark.parametrize(("found", "form", "check"), cases())
def test_contract(found: Entry, form: Form, check: Any) -> None:
    check(found, form)


def test_exceptions_name_a_check() -> None:
    assert not {name for found in entries() for name in found.xfail} - CHECKS.keys()


class SeesTheFuture(GPT):
    def hidden(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        x = super().hidden(tokens_BT, **arguments)
        return x + 1e-3 * x.mean(dim=1, keepdim=True)


class MixesTheBatch(GPT):
    def hidden(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        x = super().hidden(tokens_BT, **arguments)
        return x + 1e-3 * x.mean(dim=0, keepdim=True)


class ForgetsTheCache(GPT):
    def forward(self, tokens_BT: Tensor, *, cache: Any = None, **arguments: Any) -> Tensor:
        return super().forward(tokens_BT, **arguments)


class HasADeadParameter(GPT):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dead = nn.Parameter(torch.zeros(3))


class DrawsAtRandom(GPT):
    def hidden(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        x = super().hidden(tokens_BT, **arguments)
        return x + 1e-3 * torch.randn_like(x)


class CannotLearn(GPT):
    def hidden(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        return super().hidden(tokens_BT, **arguments).detach()


class IgnoresPosition(GPT):
    def hidden(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        return self.norm(self.embedding(tokens_BT))


class ShowsPadding(GRU):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


class CountsItsCalls(GRU):
    calls = 0  # outside the state: a resumed run starts from another number

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        type(self).calls += 1
        return super().forward(x, mask) * (1 + 0.1 * (self.calls % 5))


@pytest.mark.parametrize(
    ("model", "check"), [(ShowsPadding, "padding_is_invisible"), (CountsItsCalls, "resume_is_bit_equal")]
)
def test_broken_sequence_models_are_caught(model: type, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dataclasses.replace(entry("gru"), model=model)
    monkeypatch.setitem(registry._ENTRIES, "gru", broken)
    with pytest.raises(AssertionError):
        CHECKS[check](broken, ("tokens", "one"))


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (SeesTheFuture, "causal"),
        (MixesTheBatch, "batch_of_two_is_two_singles"),
        (ForgetsTheCache, "cache_equals_full_recompute"),
        (HasADeadParameter, "every_parameter_gets_a_gradient"),
        (DrawsAtRandom, "same_seed_same_bits"),
        (CannotLearn, "overfits_one_batch"),
        (IgnoresPosition, "position_matters"),
    ],
)
def test_broken_models_are_caught(model: type, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dataclasses.replace(entry("gpt"), model=model)
    monkeypatch.setitem(registry._ENTRIES, "gpt", broken)
    form = forms(broken)[0]
    assert type(build(broken, form)) is model
    with pytest.raises(AssertionError):
        CHECKS[check](broken, form)
