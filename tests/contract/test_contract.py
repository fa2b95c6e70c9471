"""Every check on every entry, and broken models that the checks must catch."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
from checks import CHECKS, build
from torch import Tensor, nn

from oliveira import kinds, registry
from oliveira.errors import UserError
from oliveira.kinds import Form
from oliveira.models.gpt import GPT
from oliveira.models.gru import GRU
from oliveira.registry import Entry, can, decoding, entries, entry, entry_of
from oliveira.tasks.catalogue import pair, tasks

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
        for form in found.forms
        for name, check in CHECKS.items()
        if name != EXPORTS or form in (found.forms[0], found.forms[-1])
    ]


@pytest.mark.parametrize(("found", "form", "check"), cases())
def test_contract(found: Entry, form: Form, check: Any) -> None:
    check(found, form)


def test_exceptions_name_a_check() -> None:
    assert not {name for found in entries() for name in found.xfail} - CHECKS.keys()


METHODS = {"keeps_state": "step", "auxiliary_loss": "forward_with_auxiliary", "attention_map": "attention_map"}
METHODS |= {"grows": "resize", "features": "features"}


@pytest.mark.parametrize("found", entries(), ids=lambda found: found.name)
def test_what_a_model_can_is_declared(found: Entry) -> None:
    model = build(found, found.forms[0])
    has = {capability for capability, method in METHODS.items() if hasattr(model, method)}
    assert has == set(found.can) & METHODS.keys()
    assert ("decodes" in found.can) == ("cache" in inspect.signature(model.forward).parameters)
    assert can(model, "decodes") == ("decodes" in found.can) and entry_of(model) is found
    assert entry_of(nn.Linear(1, 1)) is None and not can(nn.Linear(1, 1), "decodes")


def test_what_does_not_continue_a_text_is_refused() -> None:
    gpt = build(entry("gpt"), entry("gpt").forms[0])
    assert decoding(gpt) is gpt
    with pytest.raises(UserError, match=r"^serve.draft = x: a gru does not continue a text. Give one of: gpt.$"):
        decoding(build(entry("gru"), ("tokens", "next")), "serve.draft = x: ")


HEADS = [found.name for found in entries() if "n_heads" in found.tiny]


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_do_not_fit_are_refused_alike(name: str) -> None:
    form, wrong = entry(name).forms[0], {"d_model": 16, "n_heads": 3}
    with pytest.raises(UserError, match=rf"{name}: d_model = 16 does not split into n_heads = 3 heads.*Use .*2, 4"):
        registry.create(name, **{**entry(name).tiny, **entry(name).sizes(form), **wrong})


FORMS = [(eats, gives) for eats in kinds.EATS for gives in kinds.GIVES]


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_a_form_that_is_not_declared_is_refused_by_name(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = dataclasses.replace(tasks()["probe/adding"], name="stub/form", eats=form[0], gives=form[1])
    monkeypatch.setitem(tasks(), "stub/form", stub)
    fit = [found.name for found in entries() if form in found.forms]
    for found in entries():
        if form in found.forms:
            assert pair("stub/form", found.name) == (stub, found)
            continue
        words = f"{found.name} does not fit stub/form, which eats {form[0]} and gives {form[1]}. Models that do: "
        with pytest.raises(UserError) as refused:
            pair("stub/form", found.name)
        assert str(refused.value) == words + f"{', '.join(fit) or 'none yet'}."


def test_forms_that_used_to_be_accepted_are_not() -> None:
    assert not entry("transformer").fits("pairs", "one") and not entry("lstm").fits("series", "next")
    assert entry("lstm").fits("tokens", "next") and entry("transformer").fits("tokens", "next")


def test_every_form_and_every_task_is_of_known_kinds() -> None:
    assert {form for found in entries() for form in found.forms} <= set(FORMS)
    assert {(found.eats, found.gives) for found in tasks().values()} <= set(FORMS)


class SeesTheFuture(GPT):
    def features(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        x = super().features(tokens_BT, **arguments)
        return x + 1e-3 * x.mean(dim=1, keepdim=True)


class MixesTheBatch(GPT):
    def features(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        x = super().features(tokens_BT, **arguments)
        return x + 1e-3 * x.mean(dim=0, keepdim=True)


class ForgetsTheCache(GPT):
    def forward(self, tokens_BT: Tensor, *, cache: Any = None, **arguments: Any) -> Tensor:
        return super().forward(tokens_BT, **arguments)


class HasADeadParameter(GPT):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dead = nn.Parameter(torch.zeros(3))


class DrawsAtRandom(GPT):
    def features(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        x = super().features(tokens_BT, **arguments)
        return x + 1e-3 * torch.randn_like(x)


class CannotLearn(GPT):
    def features(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
        return super().features(tokens_BT, **arguments).detach()


class IgnoresPosition(GPT):
    def features(self, tokens_BT: Tensor, **arguments: Any) -> Tensor:
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
    form = broken.forms[0]
    assert type(build(broken, form)) is model
    with pytest.raises(AssertionError):
        CHECKS[check](broken, form)
