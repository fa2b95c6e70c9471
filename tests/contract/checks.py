"""What every model of the catalogue must do: one small function a promise. `test_contract.py` runs them.

A check takes an Entry and a form, one of the (eats, gives) pairs that the entry declares, and raises AssertionError.
What arrays look like, the kinds say (`oliveira.kinds`). An exception to a promise stands in the Entry:
`xfail={"check": "reason"}`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira import artifact
from oliveira.adaptation.lora import add_lora, layers, merge
from oliveira.compression.model import quantise_model
from oliveira.errors import Interrupted, UserError
from oliveira.export.forward import ForwardRunner, export_forward
from oliveira.export.onnx import export_onnx, verify_onnx
from oliveira.kinds import STEPS, Argument, Form, Kind, eats, gives, sizes_of
from oliveira.lifecycle.compression_report import size_in_bytes
from oliveira.nn.attention import ConcatCache
from oliveira.registry import Entry, create
from oliveira.training.features import frozen
from oliveira.training.loop import Job, train
from oliveira.training.settings import TrainSection

LENGTH, VOCAB = 9, 37
SIZES = {"vocab_size": VOCAB, "target_vocab_size": 29, "d_in": 3, "channels": 1, "height": 8, "width": 8, "d_out": 5}
SIZES |= {"max_len": 16}


def build(entry: Entry, form: Form, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return create(entry.name, gives=form[1], **{**entry.tiny, **entry.sizes(form, SIZES)})


def example(form: Form, batch: int = 2, seed: int = 1, length: int = LENGTH) -> tuple[Tensor, ...]:
    """Inputs of the kind that the form eats."""
    return eats(form[0]).example(SIZES, batch=batch, seed=seed, steps=length, source=length + 2)


def turned(parts: tuple[Tensor, ...], kind: Kind) -> tuple[Tensor, ...]:
    """Arrays back to front on every axis whose order matters."""
    pairs = zip(parts, kind.arguments, strict=True)
    return tuple(part.flip(argument.places(ordered=True)) for part, argument in pairs)


def other(x: Tensor, argument: Argument) -> Tensor:
    """Another value everywhere."""
    return x + 1 if argument.dtype == "float32" else (x + 1) % SIZES[str(argument.below)]


def parts_of(output: Any) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(output)


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else torch.cat([part.flatten(1) for part in output], dim=1)


def masked(model: nn.Module, inputs: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    return first(model(*inputs, mask=mask))


def check_builds(entry: Entry, form: Form) -> None:
    model = build(entry, form)
    assert isinstance(model, nn.Module) and isinstance(model.config, entry.config)
    assert entry.paper and entry.family and entry.reference
    fields = dataclasses.fields(entry.config)
    assert all(field.kw_only for field in fields), "config fields are keyword-only"
    try:
        setattr(model.config, fields[0].name, None)
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError("the config is not frozen")


def check_config_through_json(entry: Entry, form: Form) -> None:
    config = build(entry, form).config
    assert entry.config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def check_shapes_and_finite(entry: Entry, form: Form) -> None:
    model, inputs = build(entry, form).eval(), example(form, batch=3)
    y, sizes = model(*inputs), sizes_of(form, SIZES)
    lengths = {"batch": 3, "steps": LENGTH}
    assert [part.shape for part in parts_of(y)] == [a.shape(sizes, lengths) for a in gives(form[1]).arguments]
    assert first(y).dtype == torch.float32 and first(y).isfinite().all()


def check_float32_is_float64_rounded(entry: Entry, form: Form) -> None:
    """tests/parity computes in float64, users in float32: answers and gradients are the same but for the rounding."""
    single, inputs = build(entry, form).eval(), example(form)
    double = copy.deepcopy(single).double()
    answers, gradients = [], []
    for model in (single, double):
        kind = next(model.parameters()).dtype
        y = first(model(*(x.to(kind) if x.is_floating_point() else x for x in inputs)))
        y.square().sum().backward()
        answers.append(y.detach().double())
        gradients.append(torch.cat([p.grad.flatten().double() for p in model.parameters()]))
    for got, exact in (answers, gradients):
        assert (got - exact).norm() <= 1e-4 * exact.norm(), ((got - exact).norm(), exact.norm())


def check_every_parameter_gets_a_gradient(entry: Entry, form: Form) -> None:
    model = build(entry, form)
    first(model(*example(form, batch=4))).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent, f"no gradient: {silent}"


def check_same_seed_same_bits(entry: Entry, form: Form) -> None:
    one, again, other = build(entry, form, seed=3), build(entry, form, seed=3), build(entry, form, seed=4)
    assert artifact.same_weights(one, again) and not artifact.same_weights(one, other)
    inputs = example(form)
    assert torch.equal(first(one.eval()(*inputs)), first(again.eval()(*inputs)))


def check_batch_of_two_is_two_singles(entry: Entry, form: Form) -> None:
    model, inputs = build(entry, form).eval(), example(form, batch=2)
    together = first(model(*inputs))
    for row in range(2):
        alone = first(model(*(x[row : row + 1] for x in inputs)))[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


def check_causal(entry: Entry, form: Form) -> None:
    """What comes later changes no bit of what came before, and does change what follows."""
    given = gives(form[1])
    if not (entry.causal or given.causal) or STEPS not in given.arguments[0].axes:
        return
    model, inputs = build(entry, form).eval(), example(form)
    before = model(*inputs)
    for place in range(1, LENGTH):
        changed = inputs[-1].clone()
        changed[:, place:] = other(changed[:, place:], eats(form[0]).arguments[-1])
        after = model(*inputs[:-1], changed)
        assert torch.equal(after[:, :place], before[:, :place]), f"position {place} is seen too early"
        assert not torch.equal(after[:, place:], before[:, place:])


def check_position_matters(entry: Entry, form: Form) -> None:
    model, inputs = build(entry, form).eval(), example(form)
    before, after = model(*inputs), model(*turned(inputs, eats(form[0])))
    assert not torch.allclose(first(turned(parts_of(before), gives(form[1]))), first(parts_of(after)), atol=1e-6)


def check_padding_is_invisible(entry: Entry, form: Form) -> None:
    """A short row in a padded batch gives what it gives alone; a row of nothing but padding gives finite numbers."""
    kind, given = eats(form[0]), gives(form[1])
    if kind.mask is None or "decodes" in entry.can:
        return
    model = build(entry, form).eval()
    inputs, short = example(form), LENGTH - 4
    padded = inputs[0]  # the source of a pair
    mask = torch.ones(padded.shape[:2], dtype=torch.bool)
    mask[1, short:] = False
    together = model(*inputs, mask=mask)
    alone = model(padded[1:, :short], *(x[1:] for x in inputs[1:]), mask=mask[1:, :short])
    follows = [kind.mask.axes[1] in argument.axes for argument in given.arguments]  # padding has answers of its own
    for both, single, cut in zip(parts_of(together), parts_of(alone), follows, strict=True):
        torch.testing.assert_close(both[1, :short] if cut else both[1], single[0], atol=1e-5, rtol=1e-4)
    changed = padded.clone()
    changed[1, short:] = other(padded[1, short:], kind.arguments[0])
    if not any(follows):
        got = masked(model, (changed, *inputs[1:]), mask)
        torch.testing.assert_close(got, first(together), atol=1e-6, rtol=1e-6)
    mask[1] = False
    assert masked(model, inputs, mask).isfinite().all(), "an all-padding row gives NaN"


def check_cache_equals_full_recompute(entry: Entry, form: Form) -> None:
    if "decodes" not in entry.can:
        return
    model, (x,) = build(entry, form).eval(), example(form)
    expected = model(x)
    for pieces in ([LENGTH], [1] * LENGTH, [5, 3, 1]):
        cache = ConcatCache()
        got = torch.cat([model(part, cache=cache) for part in x.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def check_features_are_what_the_head_reads(entry: Entry, form: Form) -> None:
    """Finite, states of steps or one row, of the same body the same bits under any head; and all of the answer."""
    if "features" not in entry.can:
        return
    model, inputs = build(entry, form).eval(), example(form, batch=3)
    features, parts = model.features(*inputs), dict(model.named_children())
    of_steps = any(STEPS in gives(head).arguments[0].axes for head in entry.heads)
    assert features.shape[:-1] == ((3, LENGTH) if of_steps else (3,)) and features.isfinite().all()
    body = {name: tensor for name, tensor in model.state_dict().items() if name.split(".")[0] not in entry.head}
    for head in entry.heads:
        causal = entry.causal or gives(head).causal == gives(form[1]).causal  # attention may be so for one head only
        if (form[0], head) in entry.forms and causal:
            other = build(entry, (form[0], head), seed=9)
            other.load_state_dict(body, strict=False)
            assert torch.equal(other.eval().features(*inputs), features), head
    features.sum().backward()
    own = {name for name, p in model.named_parameters() if p.grad is None}
    assert {name.split(".")[0] for name in own} <= set(entry.head), "features need no head"
    assert set(entry.head) & parts.keys(), "there is a head"
    for name in entry.head:
        for parameter in model.get_submodule(name).parameters() if parts.get(name) else ():
            parameter.data.zero_()
    answers = parts_of(model(*inputs))
    assert all(torch.equal(answer[:1].expand_as(answer), answer) for answer in answers), "another way to the answer"


def check_frozen_features_keep_their_bits(entry: Entry, form: Form) -> None:
    """The body is the same to the bit, statistics included, while every weight of the head that is its own learns."""
    if "features" not in entry.can:
        return
    model = build(entry, form)
    before = copy.deepcopy(model.state_dict())
    own = {name for name, _ in model.named_parameters() if entry.head_has(name)}  # what is tied has the body's name
    if not own:
        with pytest.raises(UserError, match="features = frozen leaves nothing to learn"):
            frozen(model)
        return
    section = TrainSection(steps=3, batch_size=2, lr=1e-2, warmup_steps=1, checkpoint_every=3, evaluate_every=2)
    job: Job[Any] = Job(
        batch=lambda number: (example(form, seed=number), form), loss=_loss_of_all, learn=frozen(model),
        evaluate=lambda model: {"loss": 0.0},
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        train(model, job, section, Path(folder), seed=0)
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved == own, moved ^ own


def check_capabilities_keep_their_word(entry: Entry, form: Form) -> None:
    """What is declared beyond `forward` agrees with `forward`."""
    model, inputs = build(entry, form).eval(), example(form)
    expected = model(*inputs)
    if "matrix_head" in entry.can:
        torch.testing.assert_close(model.head(model.features(*inputs)), expected)
    if "auxiliary_loss" in entry.can:
        output, auxiliary = model.forward_with_auxiliary(*inputs)
        assert torch.equal(output, expected) and auxiliary.dim() == 0 and 0 < auxiliary.item() < float("inf")
    if "attention_map" in entry.can:
        weights = model.attention_map(*inputs)
        assert weights.shape == (2, LENGTH, LENGTH + 2)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, LENGTH))
    if "keeps_state" in entry.can:
        state, answers = None, []
        for x in inputs[0].unbind(dim=1):
            y, state = model.step(x, state)
            answers.append(y)
        got = torch.stack(answers, dim=1) if STEPS in gives(form[1]).arguments[0].axes else answers[-1]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def check_save_and_load_are_bit_equal(entry: Entry, form: Form) -> None:
    model, inputs = build(entry, form).eval(), example(form)
    with TemporaryDirectory() as folder:
        made = artifact.write(Path(folder) / "a", model=model, name=entry.name, lineage={}, metrics={})
        loaded: Any = made.load_model()
    assert artifact.same_weights(loaded, model) and loaded.config == model.config
    assert torch.equal(first(loaded(*inputs)), first(model(*inputs)))


def check_onnx_equals_torch(entry: Entry, form: Form) -> None:
    if not entry.exportable:
        return
    model, inputs = build(entry, form).eval(), example(form)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if "decodes" in entry.can:
            export_onnx(model, path)
            prompts = inputs[0].tolist()
            figures = verify_onnx(model, path, [*prompts, prompts[0][:1]], new_tokens=6, max_logit_error=1e-4)
            assert figures["texts_equal"] == 3
            return
        export_forward(model, inputs, path, form)
        runner = ForwardRunner(path)
        for batch in (2, 1, 3):  # the batch axis is free
            fed = example(form, batch=batch, seed=5 + batch)
            got = runner(*(x.numpy() for x in fed))
            parts = tuple(map(torch.from_numpy, got if isinstance(got, tuple) else (got,)))
            torch.testing.assert_close(first(parts), first(parts_of(model(*fed))), atol=1e-4, rtol=1e-4)


def check_int8_agrees(entry: Entry, form: Form) -> None:
    """Weights of a byte each: the answers stay near, and fewer bytes hold them."""
    model, inputs = build(entry, form).eval(), example(form, batch=4)
    expected = first(model(*inputs))
    before = size_in_bytes(model)
    got = first(quantise_model(model, "int8")(*inputs))
    assert size_in_bytes(model) < before
    scale = expected.abs().max().clamp(min=1e-6)
    assert (got - expected).abs().max() / scale < 0.1, f"off by {(got - expected).abs().max() / scale:.3f} of the range"


def check_lora_learns_and_merges(entry: Entry, form: Form) -> None:
    """Steps of LoRA on every linear layer: the loss falls, what is frozen keeps its bits, merged = unmerged."""
    base, inputs = build(entry, form), example(form, batch=3)
    frozen = {name: tensor.clone() for name, tensor in base.named_parameters()}
    model = add_lora(copy.deepcopy(base), 4, 8.0, None)
    torch.testing.assert_close(first(model.eval()(*inputs)), first(base.eval()(*inputs)), atol=1e-6, rtol=1e-5)
    parameters = [p for p in model.train().parameters() if p.requires_grad]
    assert parameters and len(parameters) == 2 * len(layers(model))
    optimizer, losses = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1), []
    for _ in range(12):
        losses.append(_loss(model, (inputs, form)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0], (losses[0].item(), losses[-1].item())
    kept = {_plain(name): tensor for name, tensor in model.named_parameters() if not tensor.requires_grad}
    assert kept.keys() == frozen.keys() and all(torch.equal(kept[name], frozen[name]) for name in frozen)
    expected = first(model.eval()(*inputs))
    merge(model)
    torch.testing.assert_close(first(model(*inputs)), expected, atol=1e-6, rtol=1e-5)
    assert model.state_dict().keys() == base.state_dict().keys() and not artifact.same_weights(model, base)


def _plain(name: str) -> str:
    """A frozen weight's name in the model without LoRA."""
    name = name.replace(".linear.", ".").removeprefix("linear.")
    return name.replace("parametrizations.", "").removesuffix(".original")


def _loss(model: nn.Module, batch: tuple[tuple[Tensor, ...], Form]) -> Tensor:
    inputs, form = batch
    torch.manual_seed(0)
    output = parts_of(model(*inputs))[0]
    if eats(form[0]).arguments[0].dtype == "float32":
        return (output - torch.linspace(-1, 1, output.numel()).view_as(output)).square().mean()
    classes = torch.arange(output.numel() // output.shape[-1]) * 7 % output.shape[-1]
    return F.cross_entropy(output.flatten(0, -2), classes)


def _loss_of_all(model: nn.Module, batch: tuple[tuple[Tensor, ...], Form]) -> Tensor:
    """Of everything that the model gives."""
    return torch.stack([part.square().mean() for part in parts_of(model(*batch[0]))]).sum()


def check_overfits_one_batch(entry: Entry, form: Form) -> None:
    """A model that cannot learn three examples by heart cannot learn."""
    model, inputs = build(entry, form), example(form, batch=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.0)
    loss = torch.tensor(0.0)
    for _ in range(300):
        loss = _loss(model, (inputs, form))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.03:
            break
    assert loss.item() < 0.05, f"loss {loss.item():.3f} after 300 steps"


def check_resume_is_bit_equal(entry: Entry, form: Form) -> None:
    """Six steps in one go, and three, a restart, three more: the same bits."""
    section = TrainSection(steps=6, batch_size=2, lr=1e-2, warmup_steps=1, checkpoint_every=3, evaluate_every=6)

    def batch(number: int) -> tuple[tuple[Tensor, ...], Form]:
        return example(form, seed=number), form

    def run(folder: Path, stops: bool) -> nn.Module:
        model, steps = build(entry, form), 0

        def stop() -> bool:
            nonlocal steps
            steps += 1
            return stops and steps == 3

        job: Job[Any] = Job(batch=batch, loss=_loss, should_stop=stop)
        train(model, job, section, folder, seed=0)
        return model

    with TemporaryDirectory() as folder:
        whole, parted = Path(folder) / "whole", Path(folder) / "parted"
        for path in (whole, parted):
            path.mkdir()
        expected = run(whole, stops=False)
        with pytest.raises(Interrupted, match="stopped at step 3"):
            run(parted, stops=True)
        assert artifact.same_weights(run(parted, stops=False), expected)


CHECKS: dict[str, Callable[[Entry, Form], None]] = {
    name.removeprefix("check_"): check for name, check in sorted(globals().items()) if name.startswith("check_")
}
