"""What every model of the catalogue must do: one small function a promise. `test_contract.py` runs them.

A check takes an Entry and a form, one of the (eats, gives) pairs that the entry declares, and raises AssertionError. An
exception to a promise stands in the Entry: `xfail={"check": "reason"}`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
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
from oliveira.compression.int8 import quantise_int8
from oliveira.errors import Interrupted
from oliveira.export.forward import ForwardRunner, export_forward
from oliveira.export.onnx import export_onnx, verify_onnx
from oliveira.nn.attention import ConcatCache
from oliveira.registry import Entry, create
from oliveira.training.loop import Job, train
from oliveira.world import TrainSection

LENGTH, VOCAB, TARGET_VOCAB, NUMBERS, CLASSES, MAX_LEN = 9, 37, 29, 3, 5, 16
Form = tuple[str, str]  # eats, gives


def forms(entry: Entry) -> list[Form]:
    """Every pair that the entry declares and that means something."""
    wanted = []
    for eats in entry.eats:
        gives = [g for g in entry.gives if (g == "next" or eats != "pairs") and (g != "mlm+nsp" or eats == "tokens")]
        wanted += [(eats, g) for g in gives if (eats, g) != ("series", "next") and (eats != "image" or g == "one")]
    return wanted


def sizes(entry: Entry, form: Form) -> dict[str, Any]:
    """What a task of this form would set, cut down to the fields that the config has."""
    eats, gives = form
    n_out = {"next": VOCAB, "mlm+nsp": VOCAB}.get(gives, CLASSES)
    wanted: dict[str, Any] = {"d_out": n_out, "gives": gives, "max_len": MAX_LEN}
    match eats:
        case "tokens":
            wanted |= {"vocab_size": VOCAB}
        case "series":
            wanted |= {"d_in": NUMBERS}
        case "image":
            wanted |= {"channels": 1, "height": 8, "width": 8}
        case "pairs":
            wanted |= {"vocab_size": VOCAB, "target_vocab_size": TARGET_VOCAB}
    known = {field.name for field in dataclasses.fields(entry.config)}
    return {key: value for key, value in wanted.items() if key in known}


def build(entry: Entry, form: Form, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return create(entry.name, **{**entry.tiny, **sizes(entry, form)})


def example(form: Form, batch: int = 2, seed: int = 1, length: int = LENGTH) -> tuple[Tensor, ...]:
    """Inputs of the kind that the form eats."""
    random = torch.Generator().manual_seed(seed)
    match form[0]:
        case "tokens":
            return (torch.randint(VOCAB, (batch, length), generator=random),)
        case "series":
            return (torch.randn(batch, length, NUMBERS, generator=random),)
        case "image":
            return (torch.randn(batch, 1, 8, 8, generator=random),)
        case "pairs":
            source = torch.randint(VOCAB, (batch, length + 2), generator=random)
            return source, torch.randint(TARGET_VOCAB, (batch, length), generator=random)
    raise AssertionError(f"{form[0]!r}: teach tests/contract/checks.py what that looks like")


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else torch.cat([part.flatten(1) for part in output], dim=1)


def takes_mask(model: nn.Module) -> bool:
    return "mask" in inspect.signature(model.forward).parameters


def masked(model: nn.Module, inputs: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    return first(model(*inputs, mask=mask))


def is_gpt(entry: Entry) -> bool:
    """The entry whose mask is of another kind: it decodes with a cache and is served by the engine."""
    return entry.gives == ("next",) and entry.eats == ("tokens",)


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
    y = model(*inputs)
    n_out = {"pairs": TARGET_VOCAB}.get(form[0], {"next": VOCAB, "mlm+nsp": VOCAB}.get(form[1], CLASSES))
    expected = (3, n_out) if form[1] == "one" else (3, LENGTH, n_out)
    if form[1] == "mlm+nsp":
        assert y[0].shape == expected and y[1].shape == (3, 2)
    else:
        assert y.shape == expected, (y.shape, expected)
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
    if not (entry.causal or form[1] == "next") or form[1] == "one":
        return
    model, inputs = build(entry, form).eval(), example(form)
    before = model(*inputs)
    for place in range(1, LENGTH):
        changed = inputs[-1].clone()
        vocab = TARGET_VOCAB if form[0] == "pairs" else VOCAB
        changed[:, place:] = (changed[:, place:] + 1) % vocab if form[0] != "series" else changed[:, place:] + 1
        after = model(*inputs[:-1], changed)
        assert torch.equal(after[:, :place], before[:, :place]), f"position {place} is seen too early"
        assert not torch.equal(after[:, place:], before[:, place:])


def check_position_matters(entry: Entry, form: Form) -> None:
    model, inputs = build(entry, form).eval(), example(form)
    turned = tuple(x.flip(2 if form[0] == "image" else 1) for x in inputs)
    before, after = first(model(*inputs)), first(model(*turned))
    assert not torch.allclose(before if form[1] == "one" else before.flip(1), after, atol=1e-6)


def check_padding_is_invisible(entry: Entry, form: Form) -> None:
    """A short row in a padded batch gives what it gives alone; a row of nothing but padding gives finite numbers."""
    if form[0] == "image" or is_gpt(entry):
        return
    model = build(entry, form).eval()
    assert takes_mask(model), "forward takes no mask"
    inputs, short = example(form), LENGTH - 4
    padded = inputs[0]  # the source of a pair
    mask = torch.ones(padded.shape[:2], dtype=torch.bool)
    mask[1, short:] = False
    together = model(*inputs, mask=mask)
    alone = model(padded[1:, :short], *(x[1:] for x in inputs[1:]), mask=mask[1:, :short])
    for both, single in zip(*((out,) if isinstance(out, Tensor) else out for out in (together, alone)), strict=True):
        real = both[1, : single.shape[1]] if single.dim() == 3 else both[1]
        torch.testing.assert_close(real, single[0], atol=1e-5, rtol=1e-4)
    other = padded.clone()
    other[1, short:] = other[1, short:] + 1 if form[0] == "series" else (other[1, short:] + 1) % VOCAB
    changed = masked(model, (other, *inputs[1:]), mask)
    if form[1] == "one" or form[0] == "pairs":
        torch.testing.assert_close(changed, first(together), atol=1e-6, rtol=1e-6)
    mask[1] = False
    assert masked(model, inputs, mask).isfinite().all(), "an all-padding row gives NaN"


def check_cache_equals_full_recompute(entry: Entry, form: Form) -> None:
    if not is_gpt(entry):
        return
    model, (x,) = build(entry, form).eval(), example(form)
    expected = model(x)
    for pieces in ([LENGTH], [1] * LENGTH, [5, 3, 1]):
        cache = ConcatCache()
        got = torch.cat([model(part, cache=cache) for part in x.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


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
        if is_gpt(entry):
            export_onnx(model, path)
            prompts = inputs[0].tolist()
            figures = verify_onnx(model, path, [*prompts, prompts[0][:1]], new_tokens=6, max_logit_error=1e-4)
            assert figures["texts_equal"] == 3
            return
        export_forward(model, inputs, path)
        runner = ForwardRunner(path)
        for batch in (2, 1, 3):  # the batch axis is free
            fed = example(form, batch=batch, seed=5 + batch)
            got = runner(*(x.numpy() for x in fed))
            parts = tuple(map(torch.from_numpy, got)) if isinstance(got, tuple) else torch.from_numpy(got)
            torch.testing.assert_close(first(parts), first(model(*fed)), atol=1e-4, rtol=1e-4)


def check_int8_agrees(entry: Entry, form: Form) -> None:
    """Weights of a byte each: the answers stay near, and fewer bytes hold them."""
    model, inputs = build(entry, form).eval(), example(form, batch=4)
    expected = first(model(*inputs))
    before = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    report = quantise_int8(model)
    got = first(model(*inputs))
    assert report.bytes < before or not report.layers
    scale = expected.abs().max().clamp(min=1e-6)
    assert (got - expected).abs().max() / scale < 0.1, f"off by {(got - expected).abs().max() / scale:.3f} of the range"


def _loss(model: nn.Module, batch: tuple[tuple[Tensor, ...], Form]) -> Tensor:
    inputs, form = batch
    torch.manual_seed(0)
    output = model(*inputs)
    if not isinstance(output, Tensor):
        output = output[0]
    if form[0] == "series":
        return (output - torch.linspace(-1, 1, output.numel()).view_as(output)).square().mean()
    classes = torch.arange(output.numel() // output.shape[-1]) * 7 % output.shape[-1]
    return F.cross_entropy(output.flatten(0, -2), classes)


def check_overfits_one_batch(entry: Entry, form: Form) -> None:
    """A model that cannot learn three examples by heart cannot learn."""
    model, inputs = build(entry, form), example(form, batch=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.0)
    loss = torch.tensor(0.0)
    for _ in range(200):
        loss = _loss(model, (inputs, form))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.03:
            break
    assert loss.item() < 0.05, f"loss {loss.item():.3f} after 200 steps"


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
