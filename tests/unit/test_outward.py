"""What leaves a home: transformers, llama.cpp's form and peft read it, and compute what is served here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from oliveira import artifact
from oliveira.adaptation.lora import add_lora, load_adapter, save_adapter
from oliveira.artifact import Artifact
from oliveira.compression.model import quantise_model
from oliveira.convert.gguf import read_gguf
from oliveira.data.brought_tokenizer import BroughtTokenizer, bring
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError, UserError
from oliveira.lifecycle.outward import add_peft, write_out
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.tasks.language_modelling import generate
from tests import tiny_tokenizers

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
GPT2 = dict(norm="layernorm", feed_forward="gelu", positions="learned", bias=True, n_kv_heads=3, tied=False)
GEMMA = dict(
    feed_forward="geglu", post_norms=True, n_kv_heads=1, d_ff=96, d_head=24, embedding_scale=96**0.5, tied=False
)
FORMS: dict[str, dict[str, Any]] = {
    "llama": dict(n_kv_heads=1, d_ff=100),
    "untied": dict(n_kv_heads=3, d_ff=96, tied=False, rope_base=500.0),
    "gpt2": dict(**GPT2, d_ff=384),  # transformers reads no other width from GGUF
    "rope scaling": dict(n_kv_heads=3, d_ff=96, rope_scaling={"type": "linear", "factor": 2.0}),
    "llama3": dict(
        n_kv_heads=1,
        d_ff=96,
        d_head=24,
        rope_scaling=dict(
            type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
        ),
    ),
    "mistral": dict(n_kv_heads=1, d_ff=96, window=11),
    "qwen2": dict(n_kv_heads=1, d_ff=96, qkv_bias=True, tied=False),
    "qwen3": dict(n_kv_heads=1, d_ff=96, qk_norm=True, d_head=128),  # transformers takes 128 for granted in GGUF
    "smollm3": dict(n_kv_heads=3, d_ff=96, no_rope_every=2, n_layers=4),
    "gemma2": dict(**GEMMA, window=9, full_every=2, attention_cap=20.0, logit_cap=15.0, attention_scale=0.2),
    "gemma3": dict(**GEMMA, window=9, full_every=3, n_layers=3, qk_norm=True, rope_base_local=700.0),
    "relu": dict(GPT2, feed_forward="relu", d_ff=96),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    Tokenizer.train(["o estudante deve ler, e ler bem; 12 ou 1999 palavras"] * 4, 300).save(path)
    return path


def made(folder: Path, tokenizer: Path, weights: str = "fp32", **sizes: Any) -> Artifact:
    torch.manual_seed(3)
    vocab_size = Tokenizer.load(tokenizer).vocab_size
    model = GPT(
        GPTConfig(**{"vocab_size": vocab_size, "d_model": 96, "n_layers": 2, "n_heads": 3, "max_len": 96} | sizes)
    )
    for name, parameter in model.named_parameters():  # weights that say many different words
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        else:
            nn.init.normal_(parameter, std=0.1 if "embedding" in name else 0.4)
    if weights != "fp32":
        quantise_model(model, weights)
    return artifact.write(
        folder,
        model=model,
        name="gpt",
        weights=weights,
        tokenizer=tokenizer,
        lineage={"traffic": "ana"},
        metrics={"a": 1.5},
    )


def greedy(model: Any, prompt: list[int], n: int) -> list[int]:
    with torch.no_grad():
        answer = model.generate(
            torch.tensor([prompt]), max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return answer[0, len(prompt) :].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_transformers_computes_the_same(form: str, tmp_path: Path, tokenizer: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made_here = made(tmp_path / "a", tokenizer, **FORMS[form])
    write_out(tmp_path, made_here, "hf", tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    # AutoTokenizer gives every qwen2 the way of Qwen to cut a text, whatever its files say.
    kind = transformers.PreTrainedTokenizerFast if form == "qwen2" else transformers.AutoTokenizer
    words = kind.from_pretrained(tmp_path / "hf")
    ours = made_here.load_model()
    text = "O estudante, em 1999, lê “a\u0301”: 😀\n\n  fim"
    prompt = Tokenizer.load(tokenizer).encode(text)
    assert words(text)["input_ids"] == prompt
    with torch.no_grad():
        logits = theirs(torch.tensor([prompt])).logits
        assert torch.allclose(logits, ours(torch.tensor([prompt])), atol=1e-4 * float(logits.abs().max()))
    start = prompt[:20]
    written = generate(ours, start, 64, max_len=96)
    assert greedy(theirs, start, 64) == written and len(set(written)) >= 16


@pytest.mark.parametrize("form", ["llama", "untied", "qwen2", "qwen3", "gpt2"])
def test_a_gguf_file_holds_the_same_bits(form: str, tmp_path: Path, tokenizer: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made_here = made(
        tmp_path / "a", tokenizer, **FORMS[form] | {"max_len": 1024}
    )  # transformers takes 1,024 for granted
    told = write_out(tmp_path, made_here, "gguf", tmp_path / "m.gguf")
    assert told["cuts_words_as"] == "gpt-2" and not told["cut_alike"]
    ours, tokens = made_here.load_model(), torch.randint(200, (2, 30))
    with torch.no_grad():
        expected = ours(tokens)
        if form in ("llama", "untied"):  # what is read here as well
            assert torch.equal(read_gguf(tmp_path / "m.gguf").model(tokens), expected)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval()
        assert torch.allclose(theirs(tokens).logits, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("relu", "gelu, not relu"),
        ("llama3", "rope_scaling"),
        *((form, "not written as GGUF") for form in ("mistral", "smollm3", "gemma2", "gemma3")),
    ],
)
def test_a_gguf_that_would_lie_is_refused(form: str, said: str, tmp_path: Path, tokenizer: Path) -> None:
    made_here = made(tmp_path / "a", tokenizer, **FORMS[form])
    with pytest.raises(UserError, match=said):
        write_out(tmp_path, made_here, "gguf", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("weights", ["int8", "nf4", "int4"])
def test_what_few_bits_have_lost_is_written_out(weights: str, tmp_path: Path, tokenizer: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made_here = made(tmp_path / "a", tokenizer, weights, n_kv_heads=1, d_ff=128, d_model=192)
    assert write_out(tmp_path, made_here, "hf", tmp_path / "hf")["from"] == weights
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.randint(200, (2, 30))
    with torch.no_grad():
        logits = theirs(tokens).logits
        assert torch.allclose(logits, made_here.load_model()(tokens), atol=1e-4 * float(logits.abs().max()))


@pytest.mark.parametrize(
    "sizes",
    [
        dict(positions="learned"),
        dict(bias=True, norm="layernorm"),
        dict(GPT2, n_kv_heads=1),
        dict(GPT2, bias=False),
        dict(parallel=True),
        dict(window=5, full_every=2),
    ],
)
def test_what_no_class_computes_is_refused(sizes: dict[str, Any], tmp_path: Path, tokenizer: Path) -> None:
    made_here = made(tmp_path / "a", tokenizer, **{"n_kv_heads": 3, **sizes})
    for form, target in (("hf", "hf"), ("gguf", "m.gguf")):
        with pytest.raises(UserError, match="no class of transformers"):
            write_out(tmp_path, made_here, form, tmp_path / target)  # type: ignore[arg-type]
        assert not (tmp_path / target).exists()


def test_nothing_is_written_over(tmp_path: Path, tokenizer: Path) -> None:
    made_here = made(tmp_path / "a", tokenizer, n_kv_heads=1)
    (tmp_path / "there").write_text("mine")
    for form in ("hf", "gguf"):
        with pytest.raises(UserError, match="exists already"):
            write_out(tmp_path, made_here, form, tmp_path / "there")  # type: ignore[arg-type]
    assert (tmp_path / "there").read_text() == "mine"


def test_the_card_says_what_is_known_and_not_whose_it_was(tmp_path: Path, tokenizer: Path) -> None:
    made_here = made(tmp_path / "a", tokenizer, n_kv_heads=1)
    write_out(tmp_path, made_here, "hf", tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith("---\n") and made_here.digest in card and "| a | 1.5 |" in card and "ana" not in card


# Other people's tokenizers -----------------------------------------------------------------------------------------

TEXTS = ("O rato roeu a roupa, em 1999!\n\n\tfim", " it's 12345  <|im_end|> </s> <eos>", "açaí a\u0301 日本 😀")


def brought(folder: Path, kind: str, *, begins: bool | None = None) -> tuple[Artifact, BroughtTokenizer]:
    tokenizer = bring(tiny_tokenizers.make(kind), named=tiny_tokenizers.NAMED[kind], ends=(), begins=begins)
    tokenizer.save(folder / "tokenizer.json")
    sizes = {"vocab_size": tokenizer.vocab_size, "n_kv_heads": 3}
    return made(folder / "artifact", folder / "tokenizer.json", **sizes), tokenizer


@pytest.mark.parametrize("begins", [None, True])
@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_transformers_cuts_as_a_tokenizer_that_was_brought_in(kind: str, begins: bool | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if begins and "bos_token" not in tiny_tokenizers.NAMED[kind]:
        begins = None
    made_here, ours = brought(tmp_path, kind, begins=begins)
    write_out(tmp_path, made_here, "hf", tmp_path / "hf")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "hf")
    for text in TEXTS:
        if kind == "unigram" and "</s>" in text:
            continue  # transformers finds the command among the pieces of a text; here it is text
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.prompt(text)
    ends = json.loads((tmp_path / "hf" / "generation_config.json").read_text())["eos_token_id"]
    assert theirs.eos_token_id == (ends[0] if isinstance(ends, list) else ends)
    assert {*(ends if isinstance(ends, list) else [ends])} == {*ours.stops}


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_a_gguf_file_cuts_as_a_tokenizer_that_was_brought_in(kind: str, tmp_path: Path) -> None:
    made_here, ours = brought(tmp_path, kind)
    if kind in ("llama2", "gemma", "unigram"):
        with pytest.raises(UserError, match="no byte-level BPE"):
            write_out(tmp_path, made_here, "gguf", tmp_path / "m.gguf")
        return
    assert write_out(tmp_path, made_here, "gguf", tmp_path / "m.gguf")["cut_alike"]
    again = read_gguf(tmp_path / "m.gguf").tokenizer
    for text in TEXTS:
        if kind != "qwen2" or text.isascii():  # which composes characters; a GGUF file cannot say so
            assert again.prompt(text) == ours.prompt(text)
    assert again.stops == ours.stops and again.begin == ours.begin


# Adapters -----------------------------------------------------------------------------------------------------------


def adapted(folder: Path, made_here: Artifact, targets: list[str]) -> nn.Module:
    model = add_lora(made_here.load_model(), 4, 8.0, targets)
    for name, parameter in model.named_parameters():
        if "lora_b" in name:
            nn.init.normal_(parameter, std=0.1)
    folder.mkdir(parents=True)
    save_adapter(folder, model, base=made_here.files[artifact.WEIGHTS])
    return model


@pytest.mark.parametrize(("form", "targets"), [("llama", ["query", "value", "down"]), ("gpt2", ["output", "up"])])
def test_peft_adds_the_same_and_gives_it_back(form: str, targets: list[str], tmp_path: Path, tokenizer: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    made_here = made(tmp_path / "artifact", tokenizer, **FORMS[form])
    ours = adapted(tmp_path / "adapters" / "ana", made_here, targets)
    write_out(tmp_path, made_here, "hf", tmp_path / "hf")
    write_out(tmp_path, made_here, "peft", tmp_path / "peft", adapter="ana")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    tokens = torch.randint(200, (2, 30))
    with torch.no_grad():
        expected = ours(tokens)
        assert torch.allclose(theirs(tokens).logits, expected, atol=1e-4 * float(expected.abs().max()))
        theirs.save_pretrained(tmp_path / "back")  # what peft itself writes
        add_peft(tmp_path, made_here, "bia", tmp_path / "back")
        again = load_adapter(
            tmp_path / "adapters" / "bia", made_here.load_model(), base=made_here.files[artifact.WEIGHTS]
        )
        assert torch.equal(again(tokens), expected)


def test_an_adapter_that_is_not_there_is_named(tmp_path: Path, tokenizer: Path) -> None:
    made_here = made(tmp_path / "artifact", tokenizer, **FORMS["llama"])
    with pytest.raises(UserError, match="'nobody' is not in"):
        write_out(tmp_path, made_here, "peft", tmp_path / "peft", adapter="nobody")


def test_an_adapter_that_peft_cannot_say_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    made_here = made(tmp_path / "artifact", tokenizer, **FORMS["gpt2"])
    adapted(tmp_path / "adapters" / "ana", made_here, ["query"])
    with pytest.raises(UserError, match="peft cannot say"):
        write_out(tmp_path, made_here, "peft", tmp_path / "peft", adapter="ana")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"use_rslora": True}, "use_rslora"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": 5}, "shapes"),
        ({"r": 0}, "no numbers above 0"),
        ({"r": "4"}, "no numbers above 0"),
        ({"lora_alpha": float("inf")}, "no numbers above 0"),
    ],
)
def test_what_lora_here_does_not_compute_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path, tokenizer: Path
) -> None:
    made_here = made(tmp_path / "artifact", tokenizer, **FORMS["llama"])
    adapted(tmp_path / "adapters" / "ana", made_here, ["query"])
    write_out(tmp_path, made_here, "peft", tmp_path / "peft", adapter="ana")
    config = tmp_path / "peft" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(UserError, match=said):
        add_peft(tmp_path, made_here, "bia", tmp_path / "peft")
    assert not (tmp_path / "adapters" / "bia").exists()


@pytest.mark.parametrize("bytes_", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 100])
def test_a_damaged_folder_of_peft_is_one_sentence(bytes_: bytes, tmp_path: Path, tokenizer: Path) -> None:
    made_here = made(tmp_path / "artifact", tokenizer, **FORMS["llama"])
    adapted(tmp_path / "adapters" / "ana", made_here, ["query"])
    write_out(tmp_path, made_here, "peft", tmp_path / "peft", adapter="ana")
    (tmp_path / "peft" / "adapter_model.safetensors").write_bytes(bytes_)
    with pytest.raises((CorruptError, UserError)):
        add_peft(tmp_path, made_here, "bia", tmp_path / "peft")
    assert not (tmp_path / "adapters" / "bia").exists()
