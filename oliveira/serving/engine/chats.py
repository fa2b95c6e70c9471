"""A chat as the tokens that a model with a template of its own was taught to read (`oliveira.data.chat_template`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oliveira.artifact import TEMPLATE, Artifact
from oliveira.data.brought_tokenizer import BroughtTokenizer
from oliveira.data.chat_template import ChatTemplate
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.serving.calls import Function, Syntax, shown
from oliveira.serving.protocol import Refused, Tools


def template_of(artifact: Artifact) -> str | None:
    return (artifact.path / TEMPLATE).read_text(encoding="utf-8") if TEMPLATE in artifact.files else None


class Chats:
    def __init__(self, source: str, tokenizer: BroughtTokenizer, syntax: Syntax) -> None:
        self._template, self._syntax = ChatTemplate(source, tokenizer), syntax
        self._shows_functions = "tools" in source

    def tokens(self, messages: Sequence[Any], tools: Tools | None) -> list[int]:
        """What the model goes on from. Raises `Refused` with the template's own reason."""
        functions = [Function(**function) for function in tools.functions] if tools else []
        told = [{"type": "function", "function": function.shown()} for function in functions]
        if functions and not self._shows_functions:
            messages, told = [{"role": "system", "content": shown(functions, self._syntax)}, *messages], []
        try:
            return self._template.render(messages, told or None)
        except UserError as error:
            raise Refused(str(error), "invalid_messages") from None


def chats_of(source: str | None, tokenizer: Tokenizer, syntax: Syntax) -> Chats | None:
    """None: the model continues the joined contents of messages."""
    if source is None or not isinstance(tokenizer, BroughtTokenizer):
        return None
    return Chats(source, tokenizer, syntax)
