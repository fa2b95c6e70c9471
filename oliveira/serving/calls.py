"""How a model writes that it calls a function: the grammar that holds it to that, and the way back from its text.

    hermes   <tool_call>⏎{"name": "f", "arguments": {…}}⏎</tool_call>     Hermes, Qwen
    llama3   {"name": "f", "parameters": {…}}
    json     {"name": "f", "arguments": {…}}                              of models that learnt no form

The chat template says which (`syntax_of`). Everything but the arguments is literal, so that the text can be read while
it comes. Text may stand before the first call, nothing but further calls behind it; in the forms without a mark of
their own an answer is a call if it begins with `{`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oliveira.errors import UserError

MAX_CALLS = 16  # in one answer


@dataclass(frozen=True)
class Syntax:
    name: str
    begin: str  # before a call
    end: str  # behind it
    arguments: str  # their key

    def head(self, function: str) -> str:
        return f'{{"name": {json.dumps(function)}, "{self.arguments}": '

    def write(self, function: str, arguments: str) -> str:
        """A call as the model would have written it; `arguments`: JSON."""
        return f"{self.begin}{self.head(function)}{arguments}}}{self.end}"


SYNTAXES = {
    syntax.name: syntax
    for syntax in (
        Syntax("hermes", "<tool_call>\n", "\n</tool_call>", "arguments"),
        Syntax("llama3", "", "", "parameters"),
        Syntax("json", "", "", "arguments"),
    )
}
PLAIN = SYNTAXES["json"]
BETWEEN = "\n"  # two calls


def syntax_of(template: str | None) -> Syntax:
    """What a chat template teaches its model."""
    if template and "<tool_call>" in template:
        return SYNTAXES["hermes"]
    if template and "python_tag" in template:
        return SYNTAXES["llama3"]
    return PLAIN


@dataclass(frozen=True)
class Function:
    name: str
    description: str
    parameters: dict[str, Any]  # a JSON schema of an object

    def __post_init__(self) -> None:
        if self.parameters.get("type", "object") != "object":
            raise UserError(f"the parameters of {self.name} are no object. Give a JSON schema of type object.")

    @property
    def schema(self) -> dict[str, Any]:
        return {**self.parameters, "type": "object"}

    def shown(self) -> dict[str, Any]:
        about = {"description": self.description} if self.description else {}
        return {"name": self.name, **about, "parameters": self.schema}


def shown(functions: Sequence[Function], syntax: Syntax) -> str:
    """For models whose template shows no functions: what the text begins with."""
    lines = [json.dumps(function.shown(), ensure_ascii=False) for function in functions]
    form = syntax.write("NAME", "{…}")
    return "\n".join(["Functions:", *lines, f"To call one, answer with {form} alone.", ""])


def grammar(
    functions: Sequence[Function],
    syntax: Syntax,
    *,
    must: bool,
    parallel: bool,
    json_options: dict[str, Any],
    content: dict[str, Any] | None = None,
) -> str:
    """In llguidance's Lark. `must`: there is a call; else text, free or JSON of the schema `content`, may be all.

    Raises `UserError` where a call could not be told from the text.
    """
    if content is not None and not must and not syntax.begin:
        raise UserError("an answer in JSON cannot be told from a call in this model's form. Give tools or a format.")
    more = f"({_quoted(BETWEEN + syntax.begin)} body){{0,{MAX_CALLS - 1}}}" if parallel else ""
    lines = [
        f"body: ({' | '.join(f'f{i}' for i in range(len(functions)))}) {_quoted('}' + syntax.end)}",
        *(
            f"f{i}: {_quoted(syntax.head(function.name))} %json {_inline(function.schema, json_options)}"
            for i, function in enumerate(functions)
        ),
    ]
    if must:
        start = [f"start: {_quoted(syntax.begin)} body {more}" if syntax.begin else f"start: body {more}"]
    elif not syntax.begin:
        start = [f"start: TEXT | body {more} |", "TEXT: /[^{](.|\\n)*/"]
    elif content is not None:
        start = [
            f"start: content | {_quoted(syntax.begin)} body {more}",
            f"content: %json {_inline(content, json_options)}",
        ]
    else:  # what may be text until the mark stands there
        mark = syntax.begin.rstrip()
        start = [
            f"start: TEXT | before {_quoted(syntax.begin[len(mark) :])} body {more} |",
            f"before[lazy]: TEXT {_quoted(mark)}",
            "TEXT: /(.|\\n)*/",
        ]
    return "\n".join([*start, *lines]) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _inline(schema: dict[str, Any], options: dict[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


@dataclass(frozen=True)
class Content:
    text: str


@dataclass(frozen=True)
class Call:
    """A call begins."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of the arguments of the last call."""

    text: str


Event = Content | Call | Arguments


class Reader:
    """The parts of an answer that the grammar has held, while its text comes."""

    def __init__(self, syntax: Syntax) -> None:
        self._syntax, self._mark = syntax, syntax.begin.rstrip() or "{"
        self._waiting = ""  # text that may turn out to be something else
        self._read = self._text
        self._depth, self._quoted, self._escaped = 0, False, False
        self._begun = False
        self.calls = 0

    def push(self, text: str) -> list[Event]:
        self._waiting += text
        events: list[Event] = []
        while self._read(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """No more text comes: what was held back is text, where it is not part of a call."""
        rest, self._waiting = self._waiting, ""
        return [Content(rest)] if rest and not self.calls and self._read == self._text else []

    def _text(self, events: list[Event]) -> bool:
        """Until the mark of a call."""
        waiting, mark = self._waiting, self._mark
        if not self._syntax.begin and self._begun:
            at, held = -1, 0  # a call stands at the beginning or nowhere
        else:
            at = waiting.find(mark) if self._syntax.begin else (0 if waiting.startswith(mark) else -1)
            held = next((n for n in range(len(mark) - 1, 0, -1) if waiting.endswith(mark[:n])), 0)
        if at < 0:
            self._emit(events, waiting[: len(waiting) - held])
            self._waiting = waiting[len(waiting) - held :]
            return False
        self._emit(events, waiting[:at])
        self._waiting, self._read = waiting[at + len(self._syntax.begin.rstrip()) :], self._head
        return True

    def _emit(self, events: list[Event], text: str) -> None:
        if text:
            self._begun = True
            events.append(Content(text))

    def _head(self, events: list[Event]) -> bool:
        """Between the calls and up to the arguments: everything is literal but the name."""
        end = f'", "{self._syntax.arguments}": '
        if (at := self._waiting.find(end)) < 0:
            return False
        name = self._waiting[:at].rpartition('{"name": "')[2]
        self._waiting = self._waiting[at + len(end) :]
        self.calls += 1
        self._depth, self._quoted, self._escaped = 0, False, False
        self._read = self._arguments
        events.append(Call(name))
        return True

    def _arguments(self, events: list[Event]) -> bool:
        """Up to the brace that closes the first."""
        for place, character in enumerate(self._waiting):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = character == "\\", character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    events.append(Arguments(self._waiting[: place + 1]))
                    self._waiting, self._read = self._waiting[place + 1 :], self._head
                    return True
        if self._waiting:
            events.append(Arguments(self._waiting))
            self._waiting = ""
        return False
