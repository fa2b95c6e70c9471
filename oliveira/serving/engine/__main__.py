"""The engine: one process, one verified artifact, its tensors. Started by the front, ends with it.

`python -m oliveira.serving.engine --artifact DIR --digest D --threads N --slots N --socket FD [--home DIR …]`

It verifies every byte, loads, tries the artifact and says `ready`; then it answers: requests of a task where the
artifact says what one means (`forward_engine.py`), else text (`text_engine.py`). A reader thread takes messages from
the socket, the main thread alone touches the model and says every second that it is alive. An exception ends the
request that it belongs to. A crash, or silence, is left to the front, which starts another engine.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from oliveira import terminal
from oliveira.artifact import TASK, TOKENIZER, Artifact, open_artifact
from oliveira.errors import CorruptError, OliveiraError
from oliveira.processors import processors
from oliveira.serving import logs
from oliveira.serving.protocol import BEAT_SECONDS, Answer, Beat, Failed, Question, Ready, Said, Stats
from oliveira.serving.wire import MAX_LINE, pack, unpack

STATS_SECONDS = 0.1
AT_ONCE = 16  # messages between two steps

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What the process needs of an engine. All of it is called by one thread."""

    @property
    def busy(self) -> bool:
        """There is work that `turn` goes on with, also without new messages."""

    def smoke(self) -> None:
        """Answers a few requests of its own. Raises `CorruptError` when the model is not fit to serve."""

    def ready(self) -> Ready: ...

    def turn(self, messages: Iterable[Question]) -> Sequence[Said]:
        """Acts on messages and goes on by a step. Raises nothing: what goes wrong ends requests."""

    def stats(self) -> Stats: ...

    def give_up(self, number: str, found: Exception) -> Said:
        """Ends a request whose answer cannot be written."""

    def close(self) -> None: ...


def run(engine: Engine, connection: socket.socket) -> None:
    """Serves until the front closes its end."""
    inbox: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    stats, told, beaten = engine.stats(), -STATS_SECONDS, -BEAT_SECONDS
    while True:
        messages = _take(inbox, wait=not engine.busy)
        out = list(engine.turn([message for message in messages if message is not None]))
        if None in messages:
            return
        now = time.monotonic()
        due = now - told >= STATS_SECONDS or not engine.busy
        if due and (found := engine.stats()) != stats:
            stats, told = found, now
            out.append(found)
        if now - beaten >= BEAT_SECONDS:
            beaten = now
            out.append(Beat())
        if out:
            connection.sendall(_packed(engine, out))


def _take(inbox: queue.SimpleQueue[Question | None], *, wait: bool) -> list[Question | None]:
    """A few of the messages that are there: the streams wait while they are looked at."""
    messages: list[Question | None] = []
    with contextlib.suppress(queue.Empty):
        if wait:
            messages.append(inbox.get(timeout=BEAT_SECONDS))
        while len(messages) < AT_ONCE:
            messages.append(inbox.get_nowait())
    return messages


def _packed(engine: Engine, messages: list[Said]) -> bytes:
    """A message that cannot be written ends its request."""
    try:
        return pack(messages)
    except Exception:
        lines = []
        for message in messages:
            try:
                lines.append(pack([message]))
            except Exception as found:
                lines.append(pack([engine.give_up(message.id if isinstance(message, Answer) else "", found)]))
        return b"".join(lines)


def _read(connection: socket.socket, inbox: queue.SimpleQueue[Question | None]) -> None:
    try:
        with connection.makefile("rb") as stream:
            while line := stream.readline(MAX_LINE + 1):
                inbox.put(unpack(line, Question))
    except (OSError, OliveiraError) as found:
        log.error("the front cannot be understood", extra={"reason": str(found)})
    finally:
        inbox.put(None)


def main() -> int:
    terminal.set_up()
    parser = argparse.ArgumentParser(prog="oliveira.serving.engine", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--digest", required=True)
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--home", type=Path, help="where the attention cache stands; without it there is none")
    parser.add_argument("--cache-megabytes", type=int, default=0, help="of the attention cache; 0 = none")
    parser.add_argument("--no-guesses", action="store_true", help="no speculative decoding")
    parser.add_argument("--draft", type=Path, help="artifact of a smaller model that guesses; else earlier text does")
    parser.add_argument(
        "--window", type=int, default=0, help="tokens kept of a text without end; 0 = it ends at max_len"
    )
    parser.add_argument(
        "--activations", choices=("fp32", "int8"), default="fp32", help="what enters a product of 4 or 8 bits"
    )
    parser.add_argument("--max-loss", type=float, default=0.0, help="nats that the form chosen by compile may lose")
    parser.add_argument("--socket", type=int, required=True, help="inherited file descriptor")
    given = parser.parse_args()
    logs.set_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the front, which lets the streams end
    torch.set_num_threads(given.threads or processors())
    connection = socket.socket(fileno=given.socket)
    try:
        engine = _make(open_artifact(given.artifact, given.digest), given)
        engine.smoke()
    except OliveiraError as error:
        connection.sendall(pack([Failed(reason=str(error))]))
        return error.exit_code
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the front is gone
        connection.sendall(pack([engine.ready()]))
        run(engine, connection)
    engine.close()
    return 0


def _make(artifact: Artifact, given: argparse.Namespace) -> Engine:
    """The engine for what the artifact holds; of the other kind nothing is imported."""
    if TASK in artifact.files:
        from oliveira.serving.engine.forward_engine import ForwardEngine

        return ForwardEngine(artifact, threads=given.threads)
    if TOKENIZER not in artifact.files:
        raise CorruptError(f"artifact {artifact.digest[:12]} has neither {TASK} nor {TOKENIZER}: it answers nothing")
    from oliveira.serving.engine.decoders import Settings
    from oliveira.serving.engine.text_engine import TextEngine
    from oliveira.serving.engine.window import Window

    settings = Settings(
        slots=given.slots,
        home=given.home,
        cache_megabytes=given.cache_megabytes,
        guesses=not given.no_guesses,
        draft=given.draft,
        activations=given.activations,
        max_loss=given.max_loss,
        window=Window(given.window) if given.window else None,
    )
    return TextEngine(artifact, settings)


if __name__ == "__main__":
    # Not sys.exit: nothing is left to save, and torch's threads take their time to end in order.
    code = main()
    sys.stderr.flush()
    os._exit(code)
