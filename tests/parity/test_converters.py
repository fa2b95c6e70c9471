"""Every converter runs its reference beside its copy, refuses by name what it does not read, and answers in a sentence.

The table below holds each kind of reference that `from_reference` takes; a model of the catalogue without a row fails.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypnettorch.hnets import ChunkedHMLP
from linformer import LinformerLM
from mambapy.mamba import Mamba as MambaPy
from mambapy.mamba import MambaConfig as MambaPyConfig
from sklearn.neural_network import MLPClassifier
from test_hyper import HyperLSTM as PaperHyperLSTM
from torch import Tensor, nn

from oliveira.convert import CONVERTERS, from_reference
from oliveira.convert import base as convert
from oliveira.convert.bert import bert_from_weights
from oliveira.convert.recurrent import to_recurrent
from oliveira.convert.reference import Options
from oliveira.errors import UserError
from oliveira.nn.hyper import mlp_shapes
from oliveira.registry import entries, entry

pytestmark = [
    pytest.mark.float32,  # what a person converts; the check itself goes up to float64
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
]
IDS: dict[str, Any] = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
GPT2 = dict(vocab_size=19, n_embd=12, n_layer=1, n_head=2, n_positions=16, **IDS)
LLAMA = dict(
    vocab_size=19, hidden_size=12, intermediate_size=10, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=16, **IDS,
)  # fmt: skip
BERT = dict(
    vocab_size=19, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=10,
    max_position_embeddings=16, num_labels=3,
)  # fmt: skip
BIGBIRD = {**BERT, **IDS, "sep_token_id": 2, "block_size": 2, "num_random_blocks": 1, "max_position_embeddings": 32}
REFORMER = dict(
    vocab_size=19, hidden_size=12, num_attention_heads=2, attention_head_size=6, feed_forward_size=10, num_buckets=4,
    attn_layers=["local", "lsh"], axial_pos_embds=False, lsh_attn_chunk_length=4, local_attn_chunk_length=4,
    max_position_embeddings=32, is_decoder=True, hash_seed=3, **{**IDS, "eos_token_id": 1},
)  # fmt: skip
MARIAN = dict(
    vocab_size=19, d_model=12, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=10,
    decoder_attention_heads=2, decoder_ffn_dim=10, max_position_embeddings=16, scale_embedding=True, pad_token_id=18,
    eos_token_id=1, decoder_start_token_id=18, activation_function="relu", forced_eos_token_id=None,
)  # fmt: skip
RESNET = dict(num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3)
VIT = dict(
    hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=10, image_size=[8, 12], patch_size=4,
    num_channels=1, num_labels=3,
)  # fmt: skip
MIXTRAL = {**LLAMA, "num_local_experts": 3, "num_experts_per_tok": 2}
MAMBA = dict(vocab_size=19, hidden_size=12, num_hidden_layers=1, state_size=3, **IDS)


def shaken(module: nn.Module) -> Any:
    """No weight as its class begins it: a swapped pair shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def of_hf(kind: str, config: str, sizes: dict[str, Any]) -> Callable[..., Any]:
    def make(**changes: Any) -> Any:
        return shaken(getattr(hf, kind)(getattr(hf, config)(**{**sizes, **changes})))

    return make


def fitted(**changes: Any) -> MLPClassifier:
    x = np.random.default_rng(0).normal(size=(30, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MLPClassifier(**{"hidden_layer_sizes": (5,), "max_iter": 3, **changes}).fit(x, np.arange(30) % 3)


def torch_transformer(**changes: Any) -> nn.Transformer:
    sizes: dict[str, Any] = dict(d_model=12, nhead=2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=10)
    return shaken(nn.Transformer(**{**sizes, **changes}))


def chunked() -> ChunkedHMLP:
    shapes = [list(shape) for shape in mlp_shapes([6, 5, 3])]
    sizes = dict(chunk_emb_size=4, cond_chunk_embs=True, cond_in_size=0, num_cond_embs=1, layers=(9,))
    return shaken(ChunkedHMLP(shapes, 11, verbose=False, **sizes))


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3))


# Model of the catalogue, how its reference is made, what else `from_reference` takes.
Row = tuple[str, Callable[..., Any], Callable[[], dict[str, Any]]]
ENDS: Callable[[], dict[str, Any]] = lambda: dict(vocab_size=9, target_vocab_size=8, max_len=16)  # noqa: E731


def around(width: int) -> Callable[[], dict[str, Any]]:
    return lambda: {"input": nn.Embedding(9, 6), "output": nn.Linear(width, 3)}


def no_more() -> dict[str, Any]:
    return {}


def fresh() -> dict[str, Any]:
    return {"gives": "one", "d_out": 2}


TABLE: dict[str, Row] = {
    "gpt2": ("gpt", of_hf("GPT2LMHeadModel", "GPT2Config", GPT2), no_more),
    "llama": ("gpt", of_hf("LlamaForCausalLM", "LlamaConfig", LLAMA), no_more),
    "mixtral": ("moe", of_hf("MixtralForCausalLM", "MixtralConfig", MIXTRAL), no_more),
    "mamba": ("mamba", of_hf("MambaForCausalLM", "MambaConfig", MAMBA), no_more),
    "mambapy": ("mamba", lambda: shaken(MambaPy(MambaPyConfig(d_model=8, n_layers=1, d_state=3))), no_more),
    "bert": ("bert", of_hf("BertForPreTraining", "BertConfig", BERT), no_more),
    "bert-one": ("bert", of_hf("BertForSequenceClassification", "BertConfig", BERT), no_more),
    "bert-steps": ("bert", of_hf("BertForTokenClassification", "BertConfig", BERT), no_more),
    "bert-fresh": ("bert", of_hf("BertModel", "BertConfig", BERT), fresh),
    "bigbird": ("bigbird", of_hf("BigBirdForMaskedLM", "BigBirdConfig", BIGBIRD), no_more),
    "reformer": ("reformer", of_hf("ReformerModelWithLMHead", "ReformerConfig", REFORMER), no_more),
    "linformer": ("linformer", lambda: shaken(LinformerLM(19, 12, 16, 1, k=5, heads=2)), no_more),
    "marian": ("transformer", of_hf("MarianMTModel", "MarianConfig", MARIAN), no_more),
    "torch": ("transformer", torch_transformer, ENDS),
    "resnet": ("cnn", of_hf("ResNetForImageClassification", "ResNetConfig", RESNET), no_more),
    "vit": ("vit", of_hf("ViTForImageClassification", "ViTConfig", VIT), no_more),
    "sequential": ("mlp", sequential, no_more),
    "sklearn": ("mlp", fitted, no_more),
    "rnn": ("rnn", lambda: shaken(nn.RNN(6, 6)), around(6)),
    "lstm": ("lstm", lambda: shaken(nn.LSTM(6, 6, 2, batch_first=True, dropout=0.5)), around(6)),
    "gru": ("gru", lambda: shaken(nn.GRU(6, 6)), around(6)),
    "bilstm": ("bilstm", lambda: shaken(nn.LSTM(6, 6, bidirectional=True)), around(12)),
    "bigru": ("bigru", lambda: shaken(nn.GRU(6, 6, bidirectional=True)), around(12)),
    "hyperlstm": ("hyperlstm", lambda: shaken(PaperHyperLSTM(6, 6, 5, 3, 1)), around(6)),
    "hypernetwork": ("hypernetwork", chunked, no_more),
}


def copy_of(name: str, reference: Any) -> nn.Module:
    model, _, more = TABLE[name]
    return from_reference(entry(model).model, reference, **more())


def test_every_model_that_copies_a_reference_is_in_the_table() -> None:
    copying = {found.name for found in entries() if found.model in CONVERTERS}
    assert copying == {model for model, *_ in TABLE.values()}


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_weight_of_ours_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, one in the middle and the last, each changed after it was read."""
    loaded = convert.Converted._load
    reference, changed = TABLE[name][1](), 0

    def load(self: convert.Converted, ours: nn.Module) -> None:
        loaded(self, ours)
        read = [n for n, _ in ours.named_parameters() if not n.startswith(self.fresh or "-") and "key.bias" not in n]
        parameter = ours.get_parameter(read[[0, len(read) // 2, -1][changed]])
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))

    monkeypatch.setattr(convert.Converted, "_load", load)
    for changed in range(3):  # noqa: B007
        with pytest.raises(UserError, match=r"differ by .* is allowed\. Look at"):
            copy_of(name, reference)


@pytest.mark.parametrize("name", TABLE)
def test_the_check_leaves_no_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers as without it; the reference in its mode, with its weights; ours in `eval` mode and float32."""
    reference = TABLE[name][1]()
    before = {k: v.clone() for k, v in reference.state_dict().items()} if isinstance(reference, nn.Module) else {}
    modes = [m.training for m in reference.modules()] if before else []

    def after() -> tuple[Any, ...]:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        model = copy_of(name, reference)
        assert not model.training and all(p.dtype == torch.float32 for p in model.parameters())
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]

    checked = after()
    monkeypatch.setattr(convert.Converted, "_compare", lambda *_: None)
    assert after() == checked
    assert all(torch.equal(before[k], v) for k, v in before.items())
    assert modes == ([m.training for m in reference.modules()] if before else [])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["gpt2", "mamba", "bert", "reformer", "resnet", "lstm"])
def test_weights_of_another_width(name: str, dtype: torch.dtype) -> None:
    reference = TABLE[name][1]().to(dtype)
    assert copy_of(name, reference)
    assert next(reference.parameters()).dtype == dtype


# What was wrong without a word -----------------------------------------------------------------


def edited(name: str, edit: Callable[[Any], Any]) -> Any:
    module = TABLE[name][1]()
    with torch.no_grad():
        edit(module)
    return module


def put(path: str, **settings: Any) -> Callable[[Any], None]:
    """Settings of one part, by hand."""

    def edit(module: nn.Module) -> None:
        for name, value in settings.items():
            setattr(module.get_submodule(path), name, value)

    return edit


def replaced(path: str, part: nn.Module) -> Callable[[Any], None]:
    def edit(module: nn.Module) -> None:
        above, _, name = path.rpartition(".")
        setattr(module.get_submodule(above), name, part)

    return edit


ROUND = nn.Conv2d(1, 4, 7, 2, 3, bias=False, padding_mode="circular")
STEM = "resnet.embedder.embedder"
EDITED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "stem-stride": ("resnet", put(f"{STEM}.convolution", stride=(1, 1)), "stride"),
    "padding-mode": ("resnet", replaced(f"{STEM}.convolution", ROUND), "padding_mode"),
    "batch-norm-eps": ("resnet", put(f"{STEM}.normalization", eps=1e-3), "eps"),
    "another-activation": ("resnet", replaced(f"{STEM}.activation", nn.GELU()), "activation is a GELU"),
    "pooling": ("resnet", put("resnet.embedder.pooler", stride=1), "stride"),
    "norm-first": ("torch", put("encoder.layers.1", norm_first=True), "norm_first"),
    "layer-activation": ("torch", put("decoder.layers.1", activation=nn.functional.gelu), "activation = gelu"),
    "layer-eps": ("torch", put("decoder.layers.0.norm2", eps=1e-3), "eps"),
    "layer-bias": ("torch", replaced("encoder.layers.1.linear1", nn.Linear(12, 10, bias=False)), "linear1"),
    "layer-width": ("torch", replaced("encoder.layers.1", nn.TransformerEncoderLayer(12, 2, 9)), "linear1"),
    "max-norm": ("gpt2", put("transformer.wte", max_norm=1.0), "max_norm"),
    "by-frequency": ("bert", put("bert.embeddings.word_embeddings", scale_grad_by_freq=True), "scale_grad_by_freq"),
    "eps": ("bert", put("bert.encoder.layer.0.output.LayerNorm", eps=1e-3), "eps"),
    "heads": ("llama", put("model.layers.0.self_attn", scaling=1.0), "scaling"),
    "own-forward": ("gpt2", put("transformer.ln_f", forward=lambda x: x), "Look at transformer.ln_f"),
    "top-k": ("mixtral", put("model.layers.0.mlp.gate", top_k=1), "top_k"),
    "extra": ("mamba", lambda module: module.register_parameter("extra", nn.Parameter(torch.zeros(1))), "extra"),
    "extra-buffer": ("lstm", lambda module: module.register_buffer("extra", torch.zeros(1)), "extra"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED)
def test_what_was_changed_by_hand_is_named(case: str) -> None:
    name, edit, word = EDITED[case]
    with pytest.raises(UserError, match=word) as refused:
        copy_of(name, edited(name, edit))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("setting", ["max_norm", "scale_grad_by_freq"])
def test_an_input_that_is_no_plain_embedding(setting: str) -> None:
    embedding = nn.Embedding(9, 6, **{setting: 1})
    with pytest.raises(UserError, match=setting):
        from_reference(entry("lstm").model, nn.LSTM(6, 6), input=embedding, output=nn.Linear(6, 3))


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta", "Camembert", "Data2VecText"])
@pytest.mark.parametrize("more", [{}, {"gives": "one", "d_out": 2}], ids=["head", "fresh"])
def test_kin_of_bert_that_count_positions_otherwise(kind: str, more: dict[str, Any]) -> None:
    sizes = {**BERT, "type_vocab_size": 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    module = getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(**sizes))
    with pytest.raises(UserError, match=f"{kind}Model"):
        from_reference(entry("bert").model, module, **more)
    with pytest.raises(UserError, match="model_type"):
        bert_from_weights(module.config.to_dict(), module.state_dict(), gives="one", d_out=2)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_tied_config_with_another_head(name: str) -> None:
    """The weights say whether a head is tied."""
    module = TABLE[name][1](tie_word_embeddings=True)
    assert copy_of(name, module).config.tied
    module.lm_head = nn.Linear(12, 19, bias=False)
    ours = copy_of(name, module)
    assert not ours.config.tied
    assert torch.equal(ours.head.weight, module.lm_head.weight)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "mamba"])
def test_a_head_with_a_bias(name: str) -> None:
    """Read where ours has one, else refused by name."""
    module = TABLE[name][1]()
    module.lm_head = nn.Linear(12, 19)
    if name in ("mixtral", "mamba"):
        assert torch.equal(copy_of(name, module).output.project.bias, module.lm_head.bias)
        return
    with pytest.raises(UserError, match="lm_head"):
        copy_of(name, module)


@pytest.mark.parametrize("added", [True, False])
def test_the_bias_of_a_reformers_head(added: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers ≥ 5.24 adds `lm_head.decoder.bias`; before, there was `lm_head.bias`, which nothing added."""
    head = hf.models.reformer.modeling_reformer.ReformerOnlyLMHead
    begin = head.__init__

    def of_either_version(self: Any, config: Any) -> None:
        begin(self, config)
        self.decoder = nn.Linear(24, 19, bias=added)

    monkeypatch.setattr(head, "__init__", of_either_version)
    module = TABLE["reformer"][1]()
    bias = copy_of("reformer", module).output.project.bias
    assert torch.equal(bias, module.lm_head.decoder.bias) if added else not bias.any()
    assert module.lm_head.bias.any()


def test_a_reformer_that_hashes_anew_at_each_call() -> None:
    assert copy_of("reformer", TABLE["reformer"][1](hash_seed=None))


@pytest.mark.parametrize("length", [6, 7, 9, 13, 14, 15, 20])
def test_bigbird_at_all_lengths(length: int) -> None:
    """Blocks of two: up to 14 steps the reference attends in full, and has gone over for good; beyond in blocks."""
    theirs = TABLE["bigbird"][1]().eval()
    ours = copy_of("bigbird", theirs)
    batch = torch.randint(1, 19, (3, 20))
    lengths = torch.tensor([length, 20, 3])[:, None]
    got = ours(batch, torch.arange(20) < lengths)
    with torch.no_grad():
        for row, steps in ((1, 20), (0, length), (2, 3)):  # the long one first
            expected = theirs(input_ids=batch[row : row + 1, :steps]).logits
            torch.testing.assert_close(got[row : row + 1, :steps], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(ours(batch[row : row + 1, :steps]), expected, atol=1e-5, rtol=1e-5)


def test_a_bigbird_that_has_gone_over_to_full_attention() -> None:
    theirs = TABLE["bigbird"][1]().eval()
    with torch.no_grad():
        theirs(input_ids=torch.randint(1, 19, (1, 3)))
        assert theirs.bert.attention_type == "original_full"
        ours, batch = copy_of("bigbird", theirs), torch.randint(1, 19, (2, 20))
        assert ours.config.attention == "full"
        torch.testing.assert_close(ours(batch), theirs(input_ids=batch).logits, atol=1e-5, rtol=1e-5)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def test_a_subclass_of_sequential() -> None:
    with pytest.raises(UserError, match="Residual"):
        from_reference(entry("mlp").model, Residual(nn.Linear(3, 3)))
    with pytest.raises(UserError, match="part 0"):
        from_reference(entry("mlp").model, nn.Sequential(nn.Sequential(nn.Linear(3, 3))))
    with pytest.raises(UserError, match="Flatten"):
        from_reference(entry("mlp").model, nn.Sequential(nn.Flatten(0), nn.Linear(3, 3)))


ROPE = {"rope_type": "default", "rope_theta": 1e4}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "scale_attn_by_inverse_layer_idx": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 2}),
    "activation_function": ("gpt2", {"activation_function": "silu"}),
    "scale_attn_weights": ("gpt2", {"scale_attn_weights": False}),
    "rope_type": ("llama", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}),
    "partial_rotary_factor": ("llama", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}),
    "sliding_window": ("mixtral", {"sliding_window": 8}),
    "use_conv_bias": ("mamba", {"use_conv_bias": False}),
    "intermediate_size": ("mamba", {"intermediate_size": 20}),
    "is_decoder": ("bert", {"is_decoder": True}),
    "lsh_num_chunks_before": ("reformer", {"lsh_num_chunks_before": 2}),
    "scale_embedding": ("marian", {"scale_embedding": False}),
    "patch_size": ("vit", {"patch_size": (4, 2)}),
    "leaves pixels over": ("vit", {"image_size": [9, 12]}),
    "does not split": ("llama", {"num_attention_heads": 4, "num_key_value_heads": 3}),
}  # fmt: skip


@pytest.mark.parametrize("word", OPTIONS)
def test_an_option_that_is_not_covered_is_named(word: str) -> None:
    name, changes = OPTIONS[word]
    try:
        reference = TABLE[name][1](**changes)
    except (ValueError, AssertionError, RuntimeError, TypeError):
        pytest.skip("the reference itself refuses it")
    with pytest.raises(UserError, match=word):
        copy_of(name, reference)


def test_numbers_in_another_order_are_no_other_function() -> None:
    assert copy_of("gpt2", TABLE["gpt2"][1](reorder_and_upcast_attn=True))
    assert copy_of("bert", TABLE["bert"][1](chunk_size_feed_forward=4))
    assert copy_of("mamba", TABLE["mamba"][1](residual_in_fp32=False))
    assert copy_of("vit", TABLE["vit"][1](patch_size=(4, 4)))


class NewConfig:
    """Of a version to come: an option that nobody here has heard of."""

    def __init__(self, **changes: Any) -> None:
        self.width, self.dropout_of_heads, self.soft_cap = 8, 0.1, 0.0
        vars(self).update(changes)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def test_an_option_that_nobody_asked_for() -> None:
    for changes, refused in (({}, False), ({"dropout_of_heads": 0.3}, False), ({"soft_cap": 30.0}, True)):
        options = Options.of(type("Model", (), {"config": NewConfig(**changes)}))
        assert options.width == 8
        if refused:
            with pytest.raises(UserError, match=r"soft_cap = 30\.0"):
                options.close()
        else:
            options.close()


def test_an_option_of_a_file_that_nobody_asked_for() -> None:
    module = TABLE["bert-fresh"][1]()
    config, weights = module.config.to_dict(), module.state_dict()
    copy = bert_from_weights
    assert copy({**config, "pooler_type": "first", "something": None}, weights, gives="one", d_out=2)
    for changes, word in (
        ({"soft_cap": 3.0}, "soft_cap"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_size": "twelve"}, "BERT"),
        ({"hidden_size": 14}, "shape"),
        ({"num_attention_heads": 5}, "n_heads"),
    ):
        with pytest.raises(UserError, match=word):
            copy({**config, **changes}, weights, gives="one", d_out=2)
    del config["hidden_size"]
    with pytest.raises(UserError, match="hidden_size"):
        copy(config, weights, gives="one", d_out=2)
    with pytest.raises(UserError, match="position_ids"):
        copy(module.config.to_dict(), {**weights, "embeddings.position_ids": torch.arange(2, 18)}, gives="one", d_out=2)


# What is no reference at all -------------------------------------------------------------------


def on_meta(module: Any) -> Any:
    return module.to("meta")


def half(module: Any) -> Any:
    """Without its last part that has weights, or its last weight."""
    last = [name for name, part in module.named_modules() if list(part.parameters(recurse=False))][-1]
    above, _, name = last.rpartition(".")
    delattr(module.get_submodule(above), name or list(module._parameters)[-1])
    return module


def poisoned(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float("nan"))
    return module


def packed(module: Any) -> Any:
    """Its first layer quantised, as libraries do it: weights that are no floating numbers."""
    part = next(part for part in module.modules() if list(part.parameters(recurse=False)))
    name, weight = next(part.named_parameters(recurse=False))
    part._parameters[name] = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    return module


STRANGE: dict[str, Callable[[Any], Any]] = {
    "none": lambda _: None,
    "name": lambda _: "gpt2",
    "class": type,
    "config": lambda module: getattr(module, "config", 3),
    "linear": lambda _: nn.Linear(2, 2),
    "another": lambda module: TABLE["vit" if "Bert" in type(module).__name__ else "bert-one"][1](),
    "meta": on_meta,
    "half": half,  # not of a ChunkedHMLP, which keeps each weight in three lists
    "nan": poisoned,
    "int8": packed,
}


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("name", [name for name in TABLE if name != "sklearn"])
def test_a_strange_object_is_refused_in_a_sentence(name: str, what: str) -> None:
    if (name, what) == ("hypernetwork", "half"):
        what = "none"
    with pytest.raises(UserError) as refused:
        copy_of(name, STRANGE[what](TABLE[name][1]()))
    assert "\n" not in str(refused.value) and "Error" not in str(refused.value), str(refused.value)


def test_a_layer_quantised_by_torch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(sequential(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UserError, match="quantised"):
        copy_of("sequential", small)


def test_parts_that_do_not_fit() -> None:
    for more, word in (
        ({"input": nn.Embedding(9, 5), "output": nn.Linear(6, 3)}, "shape"),
        ({"input": nn.Linear(4, 6, bias=False), "output": nn.Linear(6, 3)}, "bias"),
        ({"input": nn.Conv1d(4, 6, 1), "output": nn.Linear(6, 3)}, "Conv1d"),
        ({"input": nn.Embedding(9, 6), "output": nn.Identity()}, "Identity"),
    ):
        with pytest.raises(UserError, match=word):
            from_reference(entry("lstm").model, nn.LSTM(6, 6), **more)


def test_layers_alone_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert.Converted, "_load", lambda *_: None)
    with pytest.raises(UserError, match="differ by"):
        to_recurrent(nn.GRU(4, 5))


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "lstm"])
def test_a_large_model_is_checked_without_copies_of_its_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "SMALL", 0)
    reference, seen = TABLE[name][1](), set[int]()

    def copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
        made = kept(module, dtype)
        seen.update(parameter.data_ptr() for parameter in made.parameters())
        return made

    kept = convert._copied
    monkeypatch.setattr(convert, "_copied", copied)
    ours = copy_of(name, reference)
    assert {p.data_ptr() for p in (*reference.parameters(), *ours.parameters())} <= seen
    monkeypatch.setattr(convert.Converted, "_load", lambda *_: None)
    with pytest.raises(UserError, match="differ by"):
        copy_of(name, reference)
