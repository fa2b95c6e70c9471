"""What every model of the catalogue must do: one small function a promise. `test_contract.py` runs them.

A check takes the Entry and raises AssertionError. An exception to a promise stands in the Entry:
`xfail={"check": "reason"}`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira import artifact
from oliveira.export.onnx import export_onnx, verify_onnx
from oliveira.nn.attention import ConcatCache
from oliveira.registry import Entry, create

LENGTH = 9


def build(entry: Entry, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return create(entry.name, **{**entry.tiny, **changes})


def example(entry: Entry, batch: int = 2, seed: int = 1) -> Tensor:
    """An input of the kind that the entry eats."""
    random = torch.Generator().manual_seed(seed)
    match entry.eats:
        case "tokens":
            return torch.randint(entry.tiny["vocab_size"], (batch, LENGTH), generator=random)
    raise AssertionError(f"{entry.name} eats {entry.eats!r}: teach tests/contract/checks.py what that looks like")


def check_builds(entry: Entry) -> None:
    model = build(entry)
    assert isinstance(model, nn.Module) and isinstance(model.config, entry.config)
    assert entry.paper and entry.family
    fields = dataclasses.fields(entry.config)
    assert all(field.kw_only for field in fields), "config fields are keyword-only"
    try:
        setattr(model.config, fields[0].name, None)
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError("the config is not frozen")


def check_config_through_json(entry: Entry) -> None:
    config = build(entry).config
    assert entry.config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def check_shapes_and_finite(entry: Entry) -> None:
    model, x = build(entry).eval(), example(entry, batch=3)
    y = model(x)
    if entry.eats == "tokens":
        assert y.shape == (3, LENGTH, entry.tiny["vocab_size"])
    assert y.dtype == torch.float32 and y.isfinite().all()


def check_every_parameter_gets_a_gradient(entry: Entry) -> None:
    model = build(entry)
    model(example(entry)).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent, f"no gradient: {silent}"


def check_same_seed_same_bits(entry: Entry) -> None:
    first, again, other = build(entry, seed=3), build(entry, seed=3), build(entry, seed=4)
    assert artifact.same_weights(first, again) and not artifact.same_weights(first, other)
    x = example(entry)
    assert torch.equal(first.eval()(x), again.eval()(x))


def check_batch_of_two_is_two_singles(entry: Entry) -> None:
    model, x = build(entry).eval(), example(entry, batch=2)
    together = model(x)
    for row in range(2):
        torch.testing.assert_close(together[row], model(x[row : row + 1])[0], atol=1e-6, rtol=1e-5)


def check_causal(entry: Entry) -> None:
    """What comes later changes no bit of what came before, and does change what follows."""
    if not entry.causal:
        return
    model, x = build(entry).eval(), example(entry)
    before = model(x)
    for place in range(1, LENGTH):
        changed = x.clone()
        changed[:, place:] = (changed[:, place:] + 1) % entry.tiny["vocab_size"]
        after = model(changed)
        assert torch.equal(after[:, :place], before[:, :place]), f"position {place} is seen too early"
        assert not torch.equal(after[:, place:], before[:, place:])


def check_position_matters(entry: Entry) -> None:
    if entry.eats != "tokens":
        return
    model, x = build(entry).eval(), example(entry)
    turned = x.flip(1)
    assert not torch.allclose(model(x).flip(1), model(turned), atol=1e-6)


def check_cache_equals_full_recompute(entry: Entry) -> None:
    if not entry.causal:
        return
    model, x = build(entry).eval(), example(entry)
    expected = model(x)
    for pieces in ([LENGTH], [1] * LENGTH, [5, 3, 1]):
        cache = ConcatCache()
        got = torch.cat([model(part, cache=cache) for part in x.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def check_save_and_load_are_bit_equal(entry: Entry) -> None:
    model, x = build(entry).eval(), example(entry)
    with TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer.json"
        tokenizer.write_text("{}")
        made = artifact.write(
            Path(folder) / "a", model=model, name=entry.name, tokenizer=tokenizer, lineage={}, metrics={}
        )
        loaded = made.load_model()
    assert artifact.same_weights(loaded, model) and loaded.config == model.config
    assert torch.equal(loaded(x), model(x))


def check_onnx_equals_torch(entry: Entry) -> None:
    if not entry.exportable:
        return
    model = build(entry).eval()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        prompts = example(entry).tolist()
        figures = verify_onnx(model, path, [*prompts, prompts[0][:1]], new_tokens=6, max_logit_error=1e-4)
    assert figures["texts_equal"] == 3


def check_overfits_one_batch(entry: Entry) -> None:
    """A model that cannot learn three sequences by heart cannot learn."""
    model, x = build(entry), example(entry, batch=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.0)
    for _ in range(120):
        logits = model(x[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05, f"loss {loss.item():.3f} after 120 steps"


CHECKS: dict[str, Callable[[Entry], None]] = {
    name.removeprefix("check_"): check for name, check in sorted(globals().items()) if name.startswith("check_")
}
