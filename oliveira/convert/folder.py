"""A Hugging Face folder as a model, its tokenizer and its chat template.

    config.json            model_type says which reader of `oliveira.convert.gpt` takes it
    *.safetensors          one, or many with model.safetensors.index.json
    tokenizer.json         with tokenizer_config.json, special_tokens_map.json and generation_config.json beside it
    chat_template.jinja    or in tokenizer_config.json
    README.md              its licence, from the head

Whatever config.json sets is read or refused; what it leaves out is transformers' default of that model_type.
Checked against: transformers' models saved by save_pretrained, logits to 1e-4.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

from oliveira.convert.base import Reference, explained
from oliveira.convert.folder_files import MAX_TOKENIZER, Folder
from oliveira.convert.gpt import MODEL_TYPES, READERS
from oliveira.data.brought_tokenizer import BroughtTokenizer, bring
from oliveira.errors import UserError
from oliveira.models.gpt import GPT, GPTConfig

_SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "max_len")
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,)}
_LONGEST = 2**20  # positions: tables are made of them
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class FromFolder(NamedTuple):
    model: GPT  # in `eval` mode
    tokenizer: BroughtTokenizer
    form: str  # its model_type
    chat_template: str | None
    licence: str  # "" = its files say none
    files: dict[str, str]  # name → sha256 of each file that was read


def read_folder(path: Path) -> FromFolder:
    """Raises `UserError` for what is not covered, `CorruptError` for a file that is broken."""
    folder = Folder(path)
    config = folder.json("config.json")
    if config is None:
        raise UserError(f"{path.name} has no config.json. Give a Hugging Face folder as it was published.")
    form = config.get("model_type")
    if not isinstance(form, str) or form not in MODEL_TYPES:
        known = ", ".join(sorted(MODEL_TYPES))
        raise UserError(f"model_type = {str(form)[:80]!r} of config.json is not covered. There are readers of {known}.")
    model = _model(folder, config, MODEL_TYPES[form])
    settings = folder.json("tokenizer_config.json") or {}
    tokenizer = _tokenizer(folder, config, settings, model.config.vocab_size)
    template = _template(folder, settings)
    return FromFolder(model, tokenizer, form, template, _licence(folder), folder.digests())


def _model(folder: Folder, config: dict[str, Any], kind: str) -> GPT:
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(length := config.get(name), int) and length > _LONGEST:
            raise UserError(f"{name} = {length} of config.json is no length. At most {_LONGEST} can be.")
    weights = folder.weights()
    with explained("config.json and its weights", "GPT"):
        # Names and numbers are few: in float32 at once, so that nothing is computed from rounded ones.
        small = {name: t.float() if t.is_floating_point() and t.ndim < 2 else t for name, t in weights.items()}
        theirs = Reference.of_files(kind, small, config)
        converted = READERS[kind](theirs)
        theirs.close()
    _check(converted.config)
    converted.kind, converted.wanted, converted.trial = kind, "GPT", None  # a file computes nothing
    return converted.build(GPT, GPTConfig)


def _check(config: dict[str, Any]) -> None:
    """Numbers are numbers, and sizes are sizes: JSON may hold anything in their place."""
    for field in dataclasses.fields(GPTConfig):
        value: Any = config.get(field.name, field.default)
        kinds = _KINDS.get(str(field.type))
        if kinds is None or value is dataclasses.MISSING:
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and field.type != "bool"):
            raise UserError(
                f"{field.name} = {str(value)[:40]!r} of config.json is no {field.type}. Give the published file."
            )
    for name in _SIZES:
        if config.get(name, 1) < 1:
            raise UserError(f"{name} = {config[name]} of config.json is no size. Give the published file.")


def _tokenizer(folder: Folder, config: dict[str, Any], settings: dict[str, Any], vocab_size: int) -> BroughtTokenizer:
    values = folder.json("tokenizer.json", MAX_TOKENIZER)
    if values is None:
        raise UserError(
            f"{folder.path.name} has no tokenizer.json. Write one: AutoTokenizer.from_pretrained(…).save_pretrained(…)."
        )
    named = {}
    for source in (folder.json("special_tokens_map.json") or {}, settings):
        for name in _NAMES:
            token = source.get(name)
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str):
                named[name] = content
    generation = folder.json("generation_config.json") or {}
    ends = [end for source in (generation, config) for end in _numbers(source.get("eos_token_id"))]
    if wrong := [end for end in ends if not isinstance(end, int) or not 0 <= end < vocab_size]:
        raise UserError(f"eos_token_id = {str(wrong[0])[:40]} is none of the {vocab_size} tokens of the model.")
    begins = settings.get("add_bos_token")
    if settings.get("add_eos_token"):
        raise UserError("add_eos_token of tokenizer_config.json ends every text, as for an encoder. Set it to false.")
    tokenizer = bring(values, named=named, ends=ends, begins=begins if isinstance(begins, bool) else None)
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"tokenizer.json has {tokenizer.vocab_size} tokens, the model {vocab_size} embeddings. Give its own."
        )
    return tokenizer


def _numbers(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _template(folder: Folder, settings: dict[str, Any]) -> str | None:
    """The file, else the one of its settings; of several by name the one called default."""
    if (text := folder.text("chat_template.jinja")) is not None:
        return text
    given = settings.get("chat_template")
    if isinstance(given, list):
        named = {each.get("name"): each.get("template") for each in given if isinstance(each, dict)}
        given = named.get("default")
    if not isinstance(given, str | None):
        raise UserError("chat_template of tokenizer_config.json is no text. Give one, or chat_template.jinja.")
    return given


def _licence(folder: Folder) -> str:
    """As the head of README.md says: `license: apache-2.0`."""
    head = re.match(r"---\n(.*?)\n---", (folder.text("README.md") or "").replace("\r\n", "\n"), re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.-]+)", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""
