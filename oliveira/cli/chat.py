"""`oliveira chat`: talks to the server of a home in the terminal."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from oliveira.cli.conversation import MODEL, Conversation, Refusal, Server
from oliveira.cli.options import DEFAULT_HOME, Home, Life, front_of, open_ledger
from oliveira.errors import UserError
from oliveira.language import translate
from oliveira.ledger.lives import chosen
from oliveira.serving.address import authority, reachable
from oliveira.terminal import say_error

QUIT = "/quit"
KEY_NAME, KEYS = "oliveira chat", 100  # and how many live at once


def chat(
    url: Annotated[str, typer.Option(help="Address of a server elsewhere, with --key; empty: the home's own.")] = "",
    key: Annotated[
        str,
        typer.Option(help="Key of the server; empty: a fresh one of the home's own.", envvar="OLIVEIRA_KEY"),
    ] = "",
    model: Annotated[str, typer.Option(help="Name of a life or an adapter; else the served model itself.")] = MODEL,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 200,
    temperature: Annotated[
        float, typer.Option(help="0 = always the likeliest word; small models wander at 1.", min=0.0, max=2.0)
    ] = 0.7,
    home: Home = DEFAULT_HOME,
    life: Life = "",
) -> None:
    """Talks to what is served: each line is answered as it comes. /quit or Ctrl-D leaves, Ctrl-C stops an answer.

    A full context forgets the oldest turns. Without a terminal each line of the input is a message.

    oliveira chat

    oliveira chat --url http://192.168.0.7:8420 --max-tokens 100
    """
    if reconfigure := getattr(sys.stdin, "reconfigure", None):
        reconfigure(errors="replace")
    if model == MODEL and not url:
        model = chosen(home, life)
    with _server(url, key, home) as server:
        _check_talks(server, model)
        conversation = Conversation(server, model, max_tokens, temperature)
        if sys.stdin.isatty():
            _talk(conversation)
        else:
            for line in sys.stdin:
                if line.strip() == QUIT:
                    return
                if line.strip():
                    _answer(conversation, line.strip())


@contextlib.contextmanager
def _server(url: str, key: str, home: Path) -> Iterator[Server]:
    if url:
        if not key:
            raise UserError(f"--url {url} needs a key. Give --key, or set OLIVEIRA_KEY.")
        yield Server(url, key)
        return
    host, port = front_of(home)
    address = f"http://{authority(reachable(host), port)}"
    if key:
        yield Server(address, key)
        return
    with open_ledger(home) as ledger:
        fresh = ledger.fresh_key(KEY_NAME, ("use",), KEYS)
        try:
            yield Server(address, fresh)
        finally:
            with contextlib.suppress(UserError):  # somebody else has done it
                ledger.revoke_key(fresh.split("-")[2])


def _check_talks(server: Server, model: str) -> None:
    """Raises `UserError` where a task is served: that is asked, not talked to."""
    try:
        task = server.get(f"/v1/task?model={quote(model)}")
    except Refusal as refusal:
        if refusal.status == 404:  # no task: a language model
            return
        raise
    named = {} if model == MODEL else {"model": model}
    example = shlex.quote(json.dumps(named | task["example"], ensure_ascii=False))
    print(
        f'curl {server.address}/v1/predict -H "Authorization: Bearer $OLIVEIRA_KEY" '
        f"-H 'Content-Type: application/json' -d {example}"
    )
    raise UserError(
        f"{task['task']} is served here, which answers requests and does not talk. Send them to /v1/predict as above, "
        "with a key of `oliveira keys create NAME` in OLIVEIRA_KEY."
    )


def _talk(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # input() then edits lines and remembers them

    help_ = translate("/quit or Ctrl-D leaves, Ctrl-C stops an answer.")
    print(help_)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print(f"\n{help_}")
            continue
        if line == QUIT:
            return
        try:
            if line:
                _answer(conversation, line)
        except KeyboardInterrupt:
            continue  # what has come of the answer stays in the conversation
        except UserError as error:
            say_error(translate(str(error)))


def _answer(conversation: Conversation, text: str) -> None:
    """Prints the answer as it comes."""
    forgotten = 0
    with contextlib.closing(conversation.ask(text)) as pieces:
        try:
            for piece in pieces:
                if conversation.forgotten > forgotten:
                    forgotten = conversation.forgotten
                    said = f"({forgotten} of the oldest turns forgotten: the context is {conversation.context} tokens)"
                    print(translate(said), file=sys.stderr, flush=True)
                print(visible(piece), end="", flush=True)
        finally:
            print(flush=True)


def visible(text: str) -> str:
    """Without what a terminal would obey: a model may write anything."""
    return "".join(c if unicodedata.category(c) != "Cc" or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
