"""Chats as the tokens that a model was taught to read them in: its own Jinja template, in a sandbox.

    chat = ChatTemplate(source, tokenizer)
    chat.render([{"role": "user", "content": "Oi <|im_end|>"}])          the special token there stays text
    chat.lesson(messages)                                                and which tokens the assistant wrote

A special token's name is a command only where the template itself wrote it. To know who wrote what, the messages are
given to the template with each character replaced by its twin in a private plane of Unicode (white space and what JSON
escapes stay as they are); what comes back is split at the names that no twin is part of, and turned back.
A template that looks into its messages ("…" in content) would see twins. Where its text then differs, the messages are
given as they are but for the first character of each special name, unless it writes other commands so.
Characters of the planes 15 and 16, which mean nothing, become U+FFFD.

Templates run as transformers runs them (jinja2's immutable sandbox: no files, no attributes of Python's own), are tried
in a child with bounded time and memory when a model is brought in (`check`), and may write 16 MiB.
Checked against: transformers' `apply_chat_template(tokenize=True)`, token by token.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from oliveira import terminal
from oliveira.errors import UserError

if TYPE_CHECKING:
    from oliveira.data.brought_tokenizer import BroughtTokenizer

MAX_SOURCE, MAX_TEXT = 1 << 18, 1 << 24  # characters
_ANYONE, _ASSISTANT = 0xF0000, 0x100000  # planes of twins
_KEPT = {"role", "type"}  # what templates compare
_STAYS = '"\\'
_OPEN, _SHUT = "\U0010fffe", "\U0010ffff"  # around {% generation %}: of no twin

Message = Mapping[str, Any]


class Lesson(NamedTuple):
    tokens: list[int]
    taught: list[bool]  # which of them the assistant writes, with what ends its turn


class ChatTemplate:
    def __init__(self, source: str, tokenizer: BroughtTokenizer) -> None:
        """Raises `UserError` when it is no template."""
        self.source, self.tokenizer = source, tokenizer
        self._template = _compiled(source)
        names = sorted(tokenizer.specials, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)))
        self._begins = re.compile(f"(?=(?:{self._special.pattern}))(.)", re.DOTALL)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None = None,
        *,
        add_generation_prompt: bool = True,
        **more: Any,
    ) -> list[int]:
        """The tokens to go on from. Raises `UserError` with the template's own reason for refusing the messages."""
        written = self._written(messages, tools, add_generation_prompt=add_generation_prompt, **more)
        return self.tokenizer.encode_parts(self._parts(_marks(written)[0])).ids

    def text(self, messages: Sequence[Message], tools: Sequence[Message] | None = None, **more: Any) -> str:
        """What the template writes, for a person: a special token that a message names looks like one."""
        return _plain(_marks(self._written(messages, tools, **more))[0])

    def lesson(self, messages: Sequence[Message], tools: Sequence[Message] | None = None) -> Lesson:
        """A whole chat, and what of it the assistant wrote."""
        written, turns = _marks(self._written(messages, tools))
        tokens, places = self.tokenizer.encode_parts(self._parts(written))
        turns = turns or list(self._turns(messages, tools, _plain(written)))
        return Lesson(tokens, [any(first <= start < last for first, last in turns) for start, _ in places])

    def _turns(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, text: str
    ) -> Iterator[tuple[int, int]]:
        """Where in `text` the assistant's turns stand: from behind what asks for one to the token that ends it."""
        for number, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            written = self._try(self._twins(messages, number), self._twins(tools), add_generation_prompt=False)
            if written is None or _plain(written) != text:
                raise UserError(
                    "this chat template writes a turn by what stands in it, so that nobody can tell which words are "
                    "the assistant's. Give a template with {% generation %}, or texts instead of messages."
                )
            own = [place for place, character in enumerate(written) if ord(character) >= _ASSISTANT]
            if not own:
                continue
            asked = self._try(self._guarded(messages[:number]), self._guarded(tools), add_generation_prompt=True)
            behind = asked is not None and text.startswith(_plain(asked)) and len(asked) <= own[0]
            last = own[-1] + 1
            end = self._special.search(written, last)
            if end and self._number(end) in self.tokenizer.stops and not _PLANES.search(written[last : end.start()]):
                last = end.end()  # with what closes a call before it
            yield len(asked) if behind and asked is not None else own[0], last

    def _written(self, messages: Sequence[Message], tools: Sequence[Message] | None, **more: Any) -> str:
        """The text, with twins for what may be no command."""
        more = {"add_generation_prompt": False, **more}
        twins = self._try(self._twins(messages), self._twins(tools), **more)
        guarded = _rendered(self._template, self._names(self._guarded(messages), self._guarded(tools), **more))
        if twins is None or (_plain(twins) != _plain(guarded) and self._commands(twins) == self._commands(guarded)):
            return guarded
        return twins

    def _try(self, messages: Any, tools: Any, **more: Any) -> str | None:
        try:
            return _rendered(self._template, self._names(messages, tools, **more))
        except UserError:
            return None

    def _names(self, messages: Any, tools: Any, **more: Any) -> dict[str, Any]:
        return {**self.tokenizer.rules.names, "messages": messages, "tools": tools, "documents": None, **more}

    def _commands(self, written: str) -> list[str]:
        return self._special.findall(written)

    def _number(self, found: re.Match[str]) -> int:
        return self.tokenizer.specials[found[0]]

    def _parts(self, written: str) -> list[str | int]:
        parts: list[str | int] = []
        done = 0
        for found in self._special.finditer(written):
            parts += [_plain(written[done : found.start()]), self._number(found)]
            done = found.end()
        return [part for part in [*parts, _plain(written[done:])] if part != ""]

    def _guarded(self, value: Any) -> Any:
        """With twins for the first characters of special names only."""
        return _each(value, self._guard, self._guard)

    def _twins(self, value: Any, assistant: int | None = None) -> Any:
        """With twins throughout; of the message with the number `assistant` in a plane of their own."""
        if assistant is None:
            return _each(value, _ANYONE_TWIN.of, self._guard)
        return [_each(each, (_ASSISTANT_TWIN if n == assistant else _ANYONE_TWIN).of, self._guard)
                for n, each in enumerate(value)]  # fmt: skip

    def _guard(self, text: str) -> str:
        return self._begins.sub(lambda found: _ANYONE_TWIN.any(found[1]), _no_planes(text))


def _each(value: Any, change: Any, key: Any) -> Any:
    """A copy of a JSON value with its strings changed; `key` does it for names, and for what templates compare."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key(k): _each(v, key if k in _KEPT else change, key) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_each(item, change, key) for item in value]
    return value


class _Twin(dict[int, str]):
    """From a character to its twin, as `str.translate` asks for it."""

    def __init__(self, plane: int) -> None:
        super().__init__()
        self.plane = plane

    def __missing__(self, code: int) -> str:
        character = chr(code)
        stays = character in _STAYS or character.isspace() or code < 32 or code > 0xFFFD
        self[code] = character if stays else chr(self.plane + code)
        return self[code]

    def any(self, character: str) -> str:
        return chr(self.plane + ord(character)) if ord(character) <= 0xFFFD else "\ufffd"

    def of(self, text: str) -> str:
        return _no_planes(text).translate(self)


_ANYONE_TWIN, _ASSISTANT_TWIN = _Twin(_ANYONE), _Twin(_ASSISTANT)
_PLANES = re.compile("[\U000f0000-\U0010ffff]")


def _no_planes(text: str) -> str:
    return text if text.isascii() else _PLANES.sub("\ufffd", text)


def _plain(written: str) -> str:
    return _PLANES.sub(lambda found: chr(ord(found[0]) & 0xFFFF), written)


def _marks(written: str) -> tuple[str, list[tuple[int, int]]]:
    """Without the marks of {% generation %}, and where they stood."""
    if _OPEN not in written:
        return written, []
    kept, place, turns, start = [], 0, [], 0
    for piece in re.split(f"([{_OPEN}{_SHUT}])", written):
        if piece == _OPEN:
            start = place
        elif piece == _SHUT:
            turns.append((start, place))
        else:
            kept.append(piece)
            place += len(piece)
    return "".join(kept), turns


# Jinja --------------------------------------------------------------------------------------------


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        around = [nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (_OPEN, _SHUT)]
        return [around[0], *body, around[1]]


def _compiled(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise UserError(f"the chat template has {len(source)} characters. At most {MAX_SOURCE} can be.")
    if _PLANES.search(source):
        raise UserError("the chat template has characters of Unicode's planes 15 or 16. Take them out.")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template is no Jinja template: {_said(error)}.") from None
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise UserError(f"the chat template cannot be read: {type(error).__name__}.") from None


def _rendered(template: jinja2.Template, names: Mapping[str, Any]) -> str:
    pieces, size = [], 0
    try:
        for piece in template.generate(**names):
            size += len(piece)
            if size > MAX_TEXT:
                raise UserError(f"the chat template writes more than {MAX_TEXT} characters.")
            pieces.append(piece)
    except UserError:
        raise
    except Exception as error:  # a template may fail in any way that Python has
        raise UserError(f"the chat template of this model refuses these messages: {_said(error)}.") from None
    return "".join(pieces)


def _said(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")[:200]


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers' (jinja2's own escapes for HTML)."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> Any:
    raise jinja2.TemplateError(message)


# A template of unknown make -----------------------------------------------------------------------

SECONDS, BYTES = 2, 1 << 30  # of processor time and of memory
_ASKED = "Quanto é 7 vezes 8?"
_TURN = [{"role": "user", "content": _ASKED}]
_MORE = [[{"role": "system", "content": "Sê breve."}, *_TURN], [*_TURN, {"role": "assistant", "content": "56"}, *_TURN]]


def check(source: str, names: Mapping[str, str]) -> None:
    """Tries a template in a child that may open no file. Raises `UserError` with what is wrong."""
    given = json.dumps({"source": source, "names": dict(names)})
    command = [sys.executable, "-m", "oliveira.data.chat_template"]
    try:
        done = subprocess.run(command, input=given.encode(), capture_output=True, timeout=30 * SECONDS, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode < 0:
        raise UserError(f"the chat template needs more than {SECONDS} seconds or {BYTES >> 20} MiB for a greeting.")
    if done.returncode:
        raise UserError(done.stdout.decode("utf-8", "replace").strip() or "the chat template cannot be tried.")


def _try_out(source: str, names: Mapping[str, str]) -> str:
    """What is wrong with a template; "" = nothing."""
    try:
        template = _compiled(source)
        text = _rendered(template, {**names, "messages": _TURN, "add_generation_prompt": True})
    except UserError as error:
        return str(error)
    except MemoryError:
        return "the chat template needs too much memory for a greeting."
    if _ASKED not in text:
        return "the chat template does not write what the user says."
    for messages in _MORE:  # no model needs to take a system prompt
        try:
            _rendered(template, {**names, "messages": messages, "add_generation_prompt": False})
        except UserError:
            continue
    return ""


def _main() -> int:
    import resource

    terminal.set_up()
    given = json.load(sys.stdin)
    for source in ("{{ messages[0].content }}{{ messages | tojson }}", "{% include 'x' %}", "{% no"):
        _try_out(source, {})  # what Python imports late, it imports now
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    why = _try_out(given["source"], given["names"])
    sys.stdout.write(why)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(_main())
