"""Other people's models in, from the files that they are given away in: weights, tokenizer, chat template, licence.

    brought = bring_in(Path("SmolLM2-135M-Instruct.Q4_1.gguf"))

Covered: a GGUF file (`oliveira.convert.gguf`) and a Hugging Face folder (`oliveira.convert.folder`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from oliveira.convert.base import explained
from oliveira.convert.folder import read_folder
from oliveira.convert.gguf import read_gguf
from oliveira.data import chat_template
from oliveira.data.brought_tokenizer import BroughtTokenizer
from oliveira.errors import UserError
from oliveira.files import sha256_file


class BroughtIn(NamedTuple):
    model: nn.Module  # in `eval` mode
    name: str  # in the registry
    tokenizer: BroughtTokenizer
    chat_template: str | None  # Jinja, tried: `oliveira.data.chat_template.check`
    licence: str  # as its files say; "" = they do not
    source: dict[str, Any]  # plain JSON, for the lineage: kind, form, sha256 of each file


def bring_in(path: Path) -> BroughtIn:
    """Raises `UserError` for what is not covered, `CorruptError` for a file that is broken."""
    with explained(path.name, "model of this house"):
        if path.suffix.lower() == ".gguf":
            return _gguf(path)
        if path.is_dir():
            return _folder(path)
    raise UserError(f"{path.name} holds no weights that can be brought in. Give a Hugging Face folder or a .gguf file.")


def _gguf(path: Path) -> BroughtIn:
    model, tokenizer, about = read_gguf(path)
    source = {"kind": "gguf", "form": about.form, "files": {path.name: sha256_file(path)}}
    return BroughtIn(model, "gpt", tokenizer, _tried(about.chat_template, tokenizer), about.licence, source)


def _folder(path: Path) -> BroughtIn:
    found = read_folder(path)
    source = {"kind": "hf", "form": found.form, "files": found.files}
    template = _tried(found.chat_template, found.tokenizer)
    return BroughtIn(found.model, "gpt", found.tokenizer, template, found.licence, source)


def _tried(template: str | None, tokenizer: BroughtTokenizer) -> str | None:
    if template:
        chat_template.check(template, tokenizer.rules.names)
    return template or None
