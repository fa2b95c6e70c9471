"""LoRA: what trains, what is merged, what is saved."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oliveira import artifact
from oliveira.adaptation.lora import (
    LoRALinear,
    add_lora,
    layers,
    load_adapter,
    lora_targets,
    merge,
    save_adapter,
)
from oliveira.adaptation.settings import AdaptSection
from oliveira.adaptation.training import train_adapter
from oliveira.errors import CorruptError, Interrupted, OliveiraError, UserError
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.nn.recurrent import Recurrent
from oliveira.tasks.language_modelling import TokenBatches, next_token_loss
from oliveira.training.loop import Job, train
from oliveira.training.settings import TrainSection

SMALL = GPTConfig(vocab_size=37, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=32, max_len=24)
TARGETS = ["query", "value", "down"]
TOKENS = torch.arange(18).view(2, 9)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def trained(model: nn.Module) -> nn.Module:
    """As if after training: neither factor is zero."""
    with torch.no_grad():
        for layer in layers(model).values():
            layer.lora_b.normal_()
    return model


def outputs(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(TOKENS)


def test_starts_as_the_model_it_adapts() -> None:
    model = GPT(SMALL)
    before = outputs(model)
    add_lora(model, 4, 8.0, TARGETS)
    assert torch.equal(outputs(model), before)


def test_shapes_are_the_papers_and_the_term_is_the_product() -> None:
    linear = nn.Linear(5, 7)
    plain = copy.deepcopy(linear)
    layer = LoRALinear(linear, rank=3, alpha=6.0)
    assert layer.lora_a.shape == (3, 5) and layer.lora_b.shape == (7, 3)
    assert layer.lora_b.abs().max() == 0 and layer.lora_a.abs().min() > 0
    with torch.no_grad():
        layer.lora_b.normal_()
    x = torch.randn(2, 5)
    expected = plain(x) + 6.0 / 3 * x @ (layer.lora_b @ layer.lora_a).T
    torch.testing.assert_close(layer(x), expected)


def test_only_the_factors_train() -> None:
    model = add_lora(GPT(SMALL), 4, 8.0, TARGETS)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(names) == 2 * 2 * len(TARGETS)
    assert all(name.endswith(("lora_a", "lora_b")) for name in names)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):  # B is zero at first, so A moves from the second step on
        optimizer.zero_grad()
        model(TOKENS).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])
    assert all(layer.lora_b.abs().max() > 0 for layer in layers(model).values())


def test_merged_equals_unmerged() -> None:
    model = trained(add_lora(GPT(SMALL), 4, 8.0, TARGETS))
    with torch.no_grad():
        for layer in layers(model).values():
            layer.lora_b.mul_(0.05)
    expected = outputs(model)
    merge(model)
    torch.testing.assert_close(outputs(model), expected, atol=1e-6, rtol=0)
    assert not layers(model) and model.state_dict().keys() == GPT(SMALL).state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_save_and_load(tmp_path: Path) -> None:
    base = GPT(SMALL)
    model = trained(add_lora(copy.deepcopy(base), 4, 8.0, TARGETS))
    save_adapter(tmp_path, model, base="a" * 64)
    (tmp_path / "neighbour").write_text("stays")
    loaded = load_adapter(tmp_path, copy.deepcopy(base), base="a" * 64)
    assert torch.equal(outputs(loaded), outputs(model))
    assert (tmp_path / "neighbour").exists()
    assert (tmp_path / "lora.safetensors").stat().st_size < 12_000  # the factors, not the model


def test_another_base_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path, add_lora(GPT(SMALL), 4, 8.0, TARGETS), base="a" * 64)
    with pytest.raises(UserError, match=r"aaaaaaaaaaaa, not on bbbbbbbbbbbb"):
        load_adapter(tmp_path, GPT(SMALL), base="b" * 64)


def test_another_architecture_is_refused_and_left_alone(tmp_path: Path) -> None:
    save_adapter(tmp_path, add_lora(GPT(SMALL), 4, 8.0, TARGETS), base="a" * 64)
    other = GPT(GPTConfig(**{**SMALL.__dict__, "d_ff": 40}))
    before = outputs(other)
    with pytest.raises(CorruptError, match="other layers or shapes"):
        load_adapter(tmp_path, other, base="a" * 64)
    assert not layers(other) and torch.equal(outputs(other), before)


@pytest.mark.parametrize("file", ["lora.safetensors", "adapter.json"])
def test_a_flipped_bit_is_refused(tmp_path: Path, file: str) -> None:
    save_adapter(tmp_path, trained(add_lora(GPT(SMALL), 2, 8.0, ["query"])), base="a" * 64)
    written = (tmp_path / file).read_bytes()
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        bit = int(torch.randint(8 * len(written), (), generator=random))
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(CorruptError):
            load_adapter(tmp_path, GPT(SMALL), base="a" * 64)
    (tmp_path / file).unlink()
    with pytest.raises(CorruptError, match="cannot be read"):
        load_adapter(tmp_path, GPT(SMALL), base="a" * 64)


@pytest.mark.parametrize("told", ["[]", "1", '{"digest": 1}', "[" * 100_000])
def test_a_strange_description_is_refused(tmp_path: Path, told: str) -> None:
    save_adapter(tmp_path, add_lora(GPT(SMALL), 2, 8.0, ["query"]), base="a" * 64)
    (tmp_path / "adapter.json").write_text(told)
    with pytest.raises(CorruptError):
        load_adapter(tmp_path, GPT(SMALL), base="a" * 64)


def test_refusals() -> None:
    with pytest.raises(UserError, match="rank = 0"):
        add_lora(GPT(SMALL), 0, 8.0, TARGETS)
    with pytest.raises(UserError, match=r"'q_proj' names no linear layer of GPT\. Use some of down, gate"):
        add_lora(GPT(SMALL), 4, 8.0, ["query", "q_proj"])
    with pytest.raises(UserError, match="'head' shares its weight"):
        add_lora(GPT(SMALL), 4, 8.0, ["head"])
    with pytest.raises(UserError, match="already"):
        add_lora(add_lora(GPT(SMALL), 4, 8.0, TARGETS), 4, 8.0, TARGETS)
    with pytest.raises(OliveiraError, match="no LoRA"):
        save_adapter(Path("nowhere"), GPT(SMALL), base="a" * 64)


def test_description_names_what_it_needs(tmp_path: Path) -> None:
    save_adapter(tmp_path, add_lora(GPT(SMALL), 4, 8.0, TARGETS), base="a" * 64)
    told = json.loads((tmp_path / "adapter.json").read_text())
    assert (told["rank"], told["alpha"], told["targets"]) == (4, 8.0, sorted(TARGETS))


def test_learns_a_new_domain_with_few_numbers() -> None:
    """A model that counts up learns to count down, nearly as well as by training everything."""

    def batch(step: int) -> Tensor:
        return (torch.randint(37, (32, 1)) + step * torch.arange(24)) % 37

    def loss_on(model: nn.Module, step: int) -> Tensor:
        tokens = batch(step)
        return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def fit(model: nn.Module, step: int, steps: int, lr: float) -> float:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_on(model, step).backward()
            optimizer.step()
        with torch.no_grad():
            return loss_on(model, step).item()

    base = GPT(SMALL)
    assert fit(base, +1, 100, 1e-2) < 0.3
    with torch.no_grad():
        before = loss_on(base, -1).item()
    full = copy.deepcopy(base)
    fully = before - fit(full, -1, 100, 1e-2)
    adapted = add_lora(copy.deepcopy(base), 4, 8.0, [*TARGETS, "key", "output", "gate", "up"])
    trained_share = sum(p.numel() for p in adapted.parameters() if p.requires_grad) / sum(
        p.numel() for p in base.parameters()
    )
    by_lora = before - fit(adapted, -1, 100, 2e-2)
    assert trained_share < 0.5  # tiny layers: rank 4 of width 16 is not small, but it is less
    assert fully > 2 and by_lora > 0.8 * fully
    with torch.no_grad():
        assert loss_on(merge(adapted), -1).item() == pytest.approx(before - by_lora, abs=0.1)


def test_a_rank_above_the_narrowest_side_is_refused() -> None:
    narrow = GPT(GPTConfig(vocab_size=20, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, max_len=8))
    add_lora(copy.deepcopy(narrow), 8, 8.0, ["key"])
    with pytest.raises(UserError, match=r"adapt.rank = 9 is above 8, the narrower side of layer 'key' \(16 → 8\)"):
        add_lora(narrow, 9, 8.0, ["key"])
    assert not layers(narrow)


class NoLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("model", [NoLinear, Tied])
def test_a_model_without_a_linear_layer_is_refused_by_name(model: type[nn.Module]) -> None:
    made = model()
    with pytest.raises(UserError, match=f"^{model.__name__} has no linear layer that LoRA may change"):
        add_lora(made, 4, 8.0, None)
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_narrow_layers_get_the_rank_that_they_can_have_and_are_not_saved(tmp_path: Path) -> None:
    model = add_lora(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2)), 8, 32.0, None)
    assert [(layer.rank, layer.scale) for layer in layers(model).values()] == [(8, 4.0), (2, 4.0)]
    with pytest.raises(OliveiraError, match="several ranks"):
        save_adapter(tmp_path, model, base="a" * 64)


def test_recurrent_kernels_are_adapted_saved_and_put_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    base = Recurrent("gru", 6, 5, n_layers=2, bidirectional=True)
    model, x = trained(add_lora(copy.deepcopy(base), 2, 4.0, ["weight_ih", "weight_hh"])), torch.randn(2, 4, 6)
    assert len(layers(model)) == 2 * 2 * 2 and not torch.allclose(model(x), base(x))
    save_adapter(tmp_path, model, base="a" * 64)
    loaded = load_adapter(tmp_path, copy.deepcopy(base), base="a" * 64)
    assert torch.equal(loaded(x), model(x))
    expected = model(x).detach()
    merge(model)
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=0)
    assert model.state_dict().keys() == base.state_dict().keys() and not layers(model)
    other = Recurrent("gru", 6, 5)
    kept = copy.deepcopy(other.state_dict())
    with pytest.raises(CorruptError, match="other layers"):
        load_adapter(tmp_path, other, base="a" * 64)
    assert all(torch.equal(kept[name], value) for name, value in other.state_dict().items())


def test_training_is_what_its_three_callers_did_by_hand(tmp_path: Path) -> None:
    """Same seed, same bits; stopped and begun again too."""
    section, base = AdaptSection(rank=2, alpha=4.0, steps=4, batch_size=2), GPT(SMALL)
    training = section.training(TrainSection(), steps=4, n_threads=1).model_copy(update={"checkpoint_every": 2})
    batches, loss, steps = TokenBatches(torch.arange(60).numpy() % 37, 8, 2, 5), next_token_loss(), list[int]()

    def adapted(folder: Path, *, stops: bool = False) -> nn.Module:
        (tmp_path / folder).mkdir(exist_ok=True)
        return train_adapter(
            copy.deepcopy(base),
            section,
            training,
            tmp_path / folder,
            targets=lora_targets(base, section),
            batch=batches,
            loss=loss,
            seed=5,
            tokens_per_batch=16,
            on_progress=lambda progress: steps.append(progress.step),
            should_stop=lambda: stops and steps[-1] == 2,
        )

    expected = copy.deepcopy(base)
    torch.manual_seed(5)
    add_lora(expected, 2, 4.0, ["down", "gate", "key", "output", "query", "up", "value"])
    (tmp_path / "hand").mkdir()
    train(expected, Job(batch=batches, loss=loss), training, tmp_path / "hand", seed=5)
    whole = adapted(Path("whole"))
    assert artifact.same_weights(whole, expected) and not whole.training
    with pytest.raises(Interrupted):
        adapted(Path("parted"), stops=True)
    assert artifact.same_weights(adapted(Path("parted")), expected) and steps == [1, 2, 3, 4, 1, 2, 3, 4]
