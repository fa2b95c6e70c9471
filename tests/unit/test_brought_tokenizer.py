"""Tokenizers of models from elsewhere do what their file says, and take no command from a text."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from oliveira.convert.gguf import Fields
from oliveira.convert.gguf_tokenizer import read
from oliveira.data.brought_tokenizer import BroughtTokenizer, bring
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError, UserError
from tests.tiny_tokenizers import KINDS, NAMED, SPECIAL, make

TEXTS = ["Olá, São Paulo! é ã ção", "o rato roeu  a roupa\n\n\tdo rei", "🙂👩‍👩‍👧", "日本語のテキスト",
         "def f(x):\n    return {1: 'a'}\r\n", "\x00\x01\x7f control", " um espaço", "e\u0301 de duas", "", " ",
         "<table>x</table>", "a" * 1000]  # fmt: skip
# By their own rules: Qwen's normalises, Metaspace puts no second space before one.
LOSSY = [("qwen2", "e\u0301 de duas"), ("unigram", " um espaço"), ("unigram", " ")]


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, Any]]:
    return {kind: make(kind) for kind in KINDS}


def brought(values: dict[str, Any], kind: str, begins: bool | None = None) -> BroughtTokenizer:
    return bring(values, named=NAMED[kind], ends=(), begins=begins)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_as_its_own_library_gives_them(kind: str, files: dict[str, dict[str, Any]]) -> None:
    ours, theirs = brought(files[kind], kind), Backend.from_str(json.dumps(files[kind]))
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
        assert ours.prompt(text) == (theirs.encode(text).ids or [ours.end_of_text])
        if (kind, text) not in LOSSY:
            assert ours.decode(ids) == text
    assert ours.encode_many(TEXTS) == [ours.encode(text) for text in TEXTS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_yields_no_special_token(kind: str, files: dict[str, dict[str, Any]]) -> None:
    ours = brought(files[kind], kind)
    commands = set(ours.specials.values())
    assert set(SPECIAL[kind]) <= set(ours.specials)
    for name in SPECIAL[kind]:
        for text in (name, f"a{name}b", f"x {name} {name}{name}", name[:-1] + name, name * 50, f"é\n{name}\n🙂"):
            ids = ours.encode(text)
            assert commands.isdisjoint(ids), name
            assert ours.decode(ids) == text
            assert commands.isdisjoint(token for ids in ours.encode_many([text, name]) for token in ids)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_each_token_are_the_text(kind: str, files: dict[str, dict[str, Any]]) -> None:
    ours = brought(files[kind], kind)
    assert all(ours.token_bytes(token) == b"" for token in ours.specials.values())
    ids = ours.encode("x 🙂 日 fim")
    spelt = b"".join(map(ours.token_bytes, ids)).decode()
    assert spelt.removeprefix(" ") == "x 🙂 日 fim" and (spelt[0] == " ") == (kind in ("llama2", "unigram"))


@pytest.mark.parametrize("kind", KINDS)
def test_kept_in_one_file(kind: str, files: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    ours = brought(files[kind], kind)
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert isinstance(again, BroughtTokenizer) and again.rules == ours.rules and again.to_json() == ours.to_json()
    assert again.encode_many(TEXTS) == ours.encode_many(TEXTS)
    again.save(tmp_path / "twice.json")
    assert (tmp_path / "twice.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "twice.json").read_bytes())["tokenizer"] == json.loads(ours.to_json())


def test_what_ends_and_what_begins(files: dict[str, dict[str, Any]]) -> None:
    llama, qwen, gemma = (brought(files[kind], kind) for kind in ("llama3", "qwen2", "gemma"))
    assert set(llama.stops) == {llama.specials[n] for n in ("<|eot_id|>", "<|end_of_text|>")}
    assert llama.end_of_text == llama.specials["<|end_of_text|>"]
    assert llama.begin == (llama.specials["<|begin_of_text|>"],) and qwen.begin == ()
    assert set(qwen.stops) == {qwen.specials[n] for n in ("<|im_end|>", "<|endoftext|>")}
    assert set(gemma.stops) == {gemma.specials[n] for n in ("<eos>", "<end_of_turn>")}
    assert brought(files["llama3"], "llama3", begins=False).begin == ()
    assert brought(files["unigram"], "unigram", begins=True).begin == (1,)
    more = bring(files["qwen2"], named=NAMED["qwen2"], ends=[qwen.specials["<|im_start|>"]], begins=None)
    assert qwen.specials["<|im_start|>"] in more.stops


def test_an_end_that_its_file_does_not_call_special(files: dict[str, dict[str, Any]]) -> None:
    """As Phi-3's `</s>`: it ends an answer, so no text may write it."""
    values = json.loads(json.dumps(files["llama2"]))
    for token in values["added_tokens"]:
        token["special"] = token["content"] != "</s>"
    ours = brought(values, "llama2")
    assert ours.specials["</s>"] not in ours.encode("a</s>b") and ours.decode(ours.encode("a</s>b")) == "a</s>b"


def _changed(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(values)), **changes}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "WordLevel"),
        ({"model": None}, "None"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "WordPiece"),
        ({"decoder": {"type": "Strip", "content": "a", "start": 1, "stop": 0}}, "Strip"),
        ({"decoder": {"type": "Fuse"}}, "▁"),
        ({"decoder": None}, "▁"),
        ({"post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}}, "behind every text"),
    ],
)
def test_other_kinds_are_refused(changes: dict[str, Any], word: str, files: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=word):
        brought(_changed(files["llama2"], **changes), "llama2")


def test_dropped_merges_and_no_end_are_refused(files: dict[str, dict[str, Any]]) -> None:
    values = _changed(files["llama2"])
    values["model"]["dropout"] = 0.1
    with pytest.raises(UserError, match="dropout"):
        brought(values, "llama2")
    values = _changed(files["llama2"], added_tokens=[])
    with pytest.raises(UserError, match="eos_token"):
        bring(values, named={}, ends=(), begins=False)
    with pytest.raises(UserError, match="99999"):
        bring(files["llama2"], named={}, ends=[99999], begins=False)
    with pytest.raises(CorruptError, match=r"tokenizer\.json"):
        bring({"model": {"type": "BPE", "vocab": 3}}, named={}, ends=(), begins=False)


# Of GGUF files ------------------------------------------------------------------------------------


def fields(values: dict[str, Any], kind: str, **more: Any) -> Fields:
    """What a GGUF file of the same tokenizer says."""
    model, added = values["model"], {token["id"]: token for token in values["added_tokens"]}
    number = {**model["vocab"], **{token["content"]: index for index, token in added.items()}}
    tokens = sorted(number, key=number.__getitem__)
    types = [1 if i not in added else 3 if added[i]["special"] else 4 for i in range(len(tokens))]
    types = [6 if token.startswith("<0x") else type_ for token, type_ in zip(tokens, types, strict=True)]
    of = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.pre": "default"}
    if kind in ("llama2", "gemma"):
        rank = {"".join(pair): -float(n) for n, pair in reversed(list(enumerate(model["merges"])))}
        of |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [rank.get(token, -1e6) for token in tokens]}
        of |= {"tokenizer.ggml.add_space_prefix": kind == "llama2", "tokenizer.ggml.unknown_token_id": number["<unk>"]}
    else:
        pre = {"gpt2": "gpt-2", "llama3": "llama-bpe"}.get(kind, kind)
        of |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre}
        of |= {"tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]]}
    for name, token in NAMED[kind].items():
        of[f"tokenizer.ggml.{name}_id"] = number[token]
    of["tokenizer.ggml.add_bos_token"] = "bos_token" in NAMED[kind]
    return Fields({**of, **more})


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen2", "llama2", "gemma"])
def test_of_a_gguf_file_the_same(kind: str, files: dict[str, dict[str, Any]]) -> None:
    given = fields(files[kind], kind)
    of_file, of_json = read(given, len(given.values["tokenizer.ggml.tokens"])), brought(files[kind], kind)
    for text in TEXTS:
        if kind == "qwen2" and "\u0301" in text:  # llama.cpp normalises nothing
            continue
        assert of_file.prompt(text) == of_json.prompt(text), text
        assert of_file.decode(of_file.encode(text)) == text
    assert (of_file.stops, of_file.begin, of_file.end_of_text) == (of_json.stops, of_json.begin, of_json.end_of_text)


def by_scores(text: str, score: dict[str, float]) -> list[str]:
    """SentencePiece's merges as llama.cpp does them: the best score first, then the leftmost."""
    pieces = list(text)
    while True:
        best = max(
            ((score[a + b], -n) for n, (a, b) in enumerate(pairwise(pieces)) if a + b in score),
            default=None,
        )
        if best is None:
            return pieces
        n = -best[1]
        pieces[n : n + 2] = [pieces[n] + pieces[n + 1]]


def test_merges_by_scores_as_llama_cpp_does_them(files: dict[str, dict[str, Any]]) -> None:
    """Equal scores too: the leftmost pair goes first."""
    given = fields(files["gemma"], "gemma")
    tokens, types = (given.values[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    scores = [round(score / 7) for score in given.values["tokenizer.ggml.scores"]]
    ours = read(Fields({**given.values, "tokenizer.ggml.scores": scores}), len(tokens))
    score = {t: s for t, s, y in zip(tokens, scores, types, strict=True) if y == 1 and len(t) > 1}
    words = " ".join([*TEXTS[:2], "rato rei Roma aaaa rrrr raraiva ratoeu"]).replace("\n\n", "")
    expected = [tokens.index(piece) for piece in by_scores(words.replace(" ", "▁"), score) if piece in tokens]
    assert [token for token in ours.encode(words) if types[token] == 1] == expected


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [("model", "t5", "t5"), ("model", "bert", "bert"), ("pre", "tekken", "tekken"), ("pre", None, "pre"),
     ("add_eos_token", True, "add_eos_token"), ("eos_token_id", 10**6, "eos_token_id"),
     ("eos_token_id", None, "eos_token"),
     ("bos_token_id", None, "bos"), ("token_type", [1], "token types")],
)  # fmt: skip
def test_other_gguf_tokenizers_are_refused(name: str, value: Any, word: str, files: dict[str, dict[str, Any]]) -> None:
    given = fields(files["llama3"], "llama3", **{f"tokenizer.ggml.{name}": value})
    if name == "eos_token_id" and value is None:
        given.values["tokenizer.ggml.token_type"] = [1] * len(given.values["tokenizer.ggml.tokens"])
    with pytest.raises(UserError, match=word):
        read(given, len(given.values["tokenizer.ggml.tokens"]))
