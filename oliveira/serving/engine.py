"""The engine: one process, one verified artifact, its tensors. Started by the front, ends with it.

`python -m oliveira.serving.engine --artifact DIR --digest D --threads N --slots N --socket FD [--home DIR …]`

It verifies every byte, loads, runs the smoke prompts and says `ready`; then it decodes. A reader thread takes
messages from the socket, the main thread alone touches the model. A crash is left to the front, which starts
another engine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from oliveira import terminal
from oliveira.artifact import WEIGHTS, Artifact, open_artifact
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError, OliveiraError
from oliveira.kernels.twin import TorchDecoder
from oliveira.memory.attention_cache import tenant_salt
from oliveira.models.gpt import GPT
from oliveira.processors import processors
from oliveira.serving.adapters import Adapters
from oliveira.serving.decoders import Settings, make_decoder, make_prefixes, make_speculator
from oliveira.serving.protocol import MAX_LINE, Message, pack, unpack
from oliveira.serving.sampling import Sampling
from oliveira.serving.scheduler import Request, Scheduler
from oliveira.serving.window import Window

SMOKE_PROMPTS = ("A", "No princípio", "1, 2, 3", "\n")
SMOKE_TOKENS = 8
STATS_SECONDS = 0.1


class Refused(OliveiraError):
    """A request that this model cannot serve."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Engine:
    """Answers messages about one model. `handle` and `step` are called by one thread."""

    def __init__(self, artifact: Artifact, settings: Settings) -> None:
        self.artifact, self.settings = artifact, settings
        model = self.model
        self.tokenizer = Tokenizer.load(artifact.path / "tokenizer.json")
        if self.tokenizer.vocab_size > model.config.vocab_size:
            raise CorruptError(
                f"artifact {artifact.digest[:12]}: the tokenizer knows {self.tokenizer.vocab_size} tokens, "
                f"the model {model.config.vocab_size}"
            )
        self.pieces = [self.tokenizer.token_bytes(token) for token in range(self.tokenizer.vocab_size)]
        self.longest = max(len(piece) for piece in self.pieces)
        decoder, self.decoder = make_decoder(artifact, model, settings)
        self.max_len = decoder.context
        self.scheduler = Scheduler(
            decoder,
            slots=settings.slots,
            token_bytes=self.pieces.__getitem__,
            end_of_text=self.tokenizer.end_of_text,
            n_tokens=self.tokenizer.vocab_size,
            window=settings.window,
        )
        self.scheduler.speculator = make_speculator(decoder, self.scheduler.pool, self.tokenizer, settings)
        self.scheduler.prefixes = make_prefixes(decoder, self.scheduler.pool, artifact, settings)
        self.adapters: Adapters | None = None
        if settings.home is not None and decoder.adapts:
            self.adapters = Adapters(settings.home, model.config, artifact.files[WEIGHTS])
        if not isinstance(decoder, TorchDecoder):
            del self.model  # the decoder has its own copy of the weights

    @cached_property
    def model(self) -> GPT:
        """The model in torch: for embeddings, and where no faster decoder covers it."""
        model = self.artifact.load_model()
        if not isinstance(model, GPT):
            raise CorruptError(
                f"artifact {self.artifact.digest[:12]} holds a {self.artifact.name}, which does not continue text"
            )
        return model

    def smoke(self) -> None:
        """A few tokens after each smoke prompt, decoded as requests are. Raises `CorruptError` on a NaN."""
        for number, prompt in enumerate(SMOKE_PROMPTS):
            tokens = self.tokenizer.encode(prompt)[: self.max_len - SMOKE_TOKENS]
            request = Request(
                id=f"smoke-{number}",
                prompt=tokens or [self.tokenizer.end_of_text],
                n=1,
                max_tokens=SMOKE_TOKENS,
                sampling=Sampling(temperature=0),
                stop=[],
                logprobs=None,
                observe=False,
                arrived=time.monotonic(),
            )
            self.scheduler.add(request, seed=0)
        while self.scheduler.busy:
            for message in self.scheduler.step():
                if message["type"] == "error":
                    raise CorruptError(
                        f"artifact {self.artifact.digest[:12]} fails the smoke prompts: {message['message']}"
                    )

    def ready(self) -> Message:
        return {
            "type": "ready",
            "digest": self.artifact.digest,
            "weights": self.artifact.weights,
            "vocab_size": self.tokenizer.vocab_size,
            "max_len": self.max_len,
            "decoder": self.decoder,
            "base": self.artifact.files[WEIGHTS],
        }

    def handle(self, message: Message) -> list[Message]:
        """Acts on one message of the front; returns what there is to say at once."""
        number = str(message["id"])
        try:
            match message["op"]:
                case "generate":
                    return [self._generate(message)]
                case "cancel":
                    self.scheduler.cancel(number)
                    return []
                case "embed":
                    tokens = self._tokens(message)
                    return [
                        {
                            "type": "result",
                            "id": number,
                            "embedding": self.embed(tokens),
                            "prompt_tokens": len(tokens),
                        }
                    ]
                case "tokenize":
                    tokens = self.tokenizer.encode(message["text"])
                    return [{"type": "result", "id": number, "tokens": tokens, "max_len": self.max_len}]
                case "detokenize":
                    return [
                        {
                            "type": "result",
                            "id": number,
                            "text": self.tokenizer.decode(self._known(message["tokens"])),
                        }
                    ]
        except Refused as error:
            return [{"type": "error", "id": number, "status": 400, "message": str(error), "code": error.code}]
        raise OliveiraError(f"message {message['op']!r} is unknown")

    def _generate(self, message: Message) -> Message:
        prompt = self._tokens(message)
        room = self.max_len - len(prompt)
        wanted = message["max_tokens"]
        if room < 1 or (wanted is not None and wanted > room):
            asked = f" and max_tokens asks for {wanted}" if wanted is not None else " and leaves no room for an answer"
            raise Refused(
                f"the context of this model is {self.max_len} tokens; the prompt has {len(prompt)}{asked}. "
                "Shorten the prompt or lower max_tokens.",
                "context_length_exceeded",
            )
        request = Request(
            id=message["id"],
            prompt=prompt,
            n=message["n"],
            max_tokens=room if wanted is None else wanted,
            sampling=Sampling(temperature=message["temperature"], top_k=message["top_k"], top_p=message["top_p"]),
            stop=message["stop"],
            logprobs=message["logprobs"],
            observe=message["observe"],
            arrived=time.monotonic(),
            **self._adapted(message),
        )
        seed = message["seed"]
        self.scheduler.add(request, secrets.randbits(62) if seed is None else seed)
        return {"type": "accepted", "id": request.id, "prompt_tokens": len(prompt)}

    def _adapted(self, message: Message) -> dict[str, Any]:
        """The adapter, and what keeps its prefixes and those of the tenant apart from others. Raises `Refused`."""
        home, name = self.settings.home, message["adapter"]
        salt = b"" if home is None or self.scheduler.prefixes is None else tenant_salt(home, message["tenant"])
        if name is None:
            return {"salt": salt}
        if self.adapters is None:
            reason = "it has no home to find it in" if home is None else f"{self.decoder} takes none"
            raise Refused(f"this engine serves no adapter {name}: {reason}.", "no_adapter")
        try:
            found = self.adapters.get(name)
        except OliveiraError as error:
            raise Refused(str(error), "adapter_unusable") from None
        return {"adapter": found.adapter, "salt": hashlib.sha256(salt + bytes.fromhex(found.digest)).digest()}

    def _tokens(self, message: Message) -> list[int]:
        """The prompt in tokens; an empty one is the end of an earlier text. Raises `Refused` if too long."""
        if message.get("tokens") is not None:
            tokens = self._known(message["tokens"])
        else:
            size = len(message["text"].encode())
            if size > self.longest * self.max_len:  # cannot fit: spare the tokenizer a megabyte
                raise Refused(
                    f"the context of this model is {self.max_len} tokens; {size} bytes of text are at least "
                    f"{size // self.longest} tokens. Shorten the text.",
                    "context_length_exceeded",
                )
            tokens = self.tokenizer.encode(message["text"])
        if len(tokens) > self.max_len:
            raise Refused(
                f"the text has {len(tokens)} tokens, the context of this model {self.max_len}. Shorten it.",
                "context_length_exceeded",
            )
        return tokens or [self.tokenizer.end_of_text]

    def _known(self, tokens: list[int]) -> list[int]:
        unknown = next((token for token in tokens if not 0 <= token < len(self.pieces)), None)
        if unknown is not None:
            raise Refused(f"token {unknown} is not in the vocabulary of {len(self.pieces)} tokens.", "invalid_token")
        return tokens

    @torch.inference_mode()
    def embed(self, tokens: list[int]) -> list[float]:
        """Mean of the last layer's states over the tokens, scaled to length 1."""
        hidden_1TD = self.model.hidden(torch.tensor([tokens]))
        return F.normalize(hidden_1TD[0].mean(dim=0), dim=0).tolist()


def run(engine: Engine, connection: socket.socket) -> None:
    """Serves until the front closes its end."""
    inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    stats, told = engine.scheduler.stats(), -STATS_SECONDS
    while True:
        messages = [] if engine.scheduler.busy else [inbox.get()]
        while not inbox.empty():
            messages.append(inbox.get())
        out: list[Message] = []
        for message in messages:
            if message is None:
                return
            out += engine.handle(message)
        out += engine.scheduler.step()
        due = time.monotonic() - told >= STATS_SECONDS or not engine.scheduler.busy
        if due and (now := engine.scheduler.stats()) != stats:
            stats, told = now, time.monotonic()
            out.append(now)
        if out:
            connection.sendall(pack(out))


def _read(connection: socket.socket, inbox: queue.SimpleQueue[Message | None]) -> None:
    try:
        with connection.makefile("rb") as stream:
            while line := stream.readline(MAX_LINE + 1):
                inbox.put(unpack(line))
    except (OSError, OliveiraError) as error:
        print(f"oliveira engine: {error}", file=sys.stderr)
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
    parser.add_argument("--socket", type=int, required=True, help="inherited file descriptor")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the front, which lets the streams end
    torch.set_num_threads(given.threads or processors())
    connection = socket.socket(fileno=given.socket)
    try:
        settings = Settings(
            slots=given.slots,
            home=given.home,
            cache_megabytes=given.cache_megabytes,
            guesses=not given.no_guesses,
            draft=given.draft,
            activations=given.activations,
            window=Window(given.window) if given.window else None,
        )
        engine = Engine(open_artifact(given.artifact, given.digest), settings)
        engine.smoke()
    except OliveiraError as error:
        connection.sendall(pack([{"type": "failed", "reason": str(error)}]))
        return error.exit_code
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the front is gone
        connection.sendall(pack([engine.ready()]))
        run(engine, connection)
    if engine.scheduler.prefixes is not None:
        engine.scheduler.prefixes.cache.close()
    return 0


if __name__ == "__main__":
    # Not sys.exit: nothing is left to save, and torch's threads take their time to end in order.
    code = main()
    sys.stderr.flush()
    os._exit(code)
