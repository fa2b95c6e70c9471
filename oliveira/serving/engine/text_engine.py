"""The engine of a language model: continues, embeds and cuts texts into tokens. `__main__.py` is its process."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

import torch

from oliveira.artifact import WEIGHTS, Artifact
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError, OliveiraError
from oliveira.kernels.decoder import BlockPool
from oliveira.kernels.twin import TorchDecoder
from oliveira.memory.attention_cache import CacheBusyError, tenant_salt
from oliveira.models.gpt import GPT
from oliveira.registry import decoding
from oliveira.serving.calls import syntax_of
from oliveira.serving.engine.adapters import Adapters
from oliveira.serving.engine.chats import chats_of, template_of
from oliveira.serving.engine.constraints import Constraints
from oliveira.serving.engine.decoders import Settings, make_decoder, make_prefixes, make_speculator
from oliveira.serving.engine.embedding import Embedder, Text, blocks_for
from oliveira.serving.engine.failures import Failures, error
from oliveira.serving.engine.prefixes import Prefixes
from oliveira.serving.engine.request import Request
from oliveira.serving.engine.sampling import Sampling
from oliveira.serving.engine.scheduler import Scheduler
from oliveira.serving.protocol import (
    Accepted,
    Answer,
    Cancel,
    Detokenize,
    Detokenized,
    Embed,
    Error,
    Generate,
    Question,
    Refused,
    Stats,
    TextReady,
    Tokenize,
    Tokenized,
    Tools,
)

SMOKE_PROMPTS = ("A", "No princípio", "1, 2, 3", "\n")
SMOKE_TOKENS = 8
FRACTIONS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
MAX_CHOICES = 64  # of a request; the front allows fewer
CACHE_AGAIN_SECONDS = 0.5  # from one attempt to have the attention cache to the next

log = logging.getLogger(__name__)


class TextEngine:
    """Answers messages about one model. `handle` and `step` are called by one thread."""

    def __init__(self, artifact: Artifact, settings: Settings) -> None:
        self.artifact, self.settings = artifact, settings
        self.failures = Failures(artifact.digest)
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
        self.max_len, self.trained_len = decoder.context, decoder.config.max_len
        self.scheduler = Scheduler(
            decoder,
            slots=settings.slots,
            token_bytes=self.pieces.__getitem__,
            stops=self.tokenizer.stops,
            n_tokens=self.tokenizer.vocab_size,
            window=settings.window,
            failures=self.failures,
        )
        self.scheduler.speculator = make_speculator(decoder, self.scheduler.pool, self.tokenizer, settings)
        self._cache_found: Prefixes | None = None  # by the thread that waited for it
        make = partial(make_prefixes, decoder, self.scheduler.pool, artifact, settings)
        try:
            self.scheduler.prefixes = make()
        except CacheBusyError as busy:
            log.warning("the attention cache is awaited: serving begins without it", extra={"reason": str(busy)})
            threading.Thread(target=self._await_cache, args=(make,), daemon=True).start()
        template = template_of(artifact)
        self.constraints = Constraints(self.tokenizer, syntax_of(template), threads=torch.get_num_threads())
        self.chats = chats_of(template, self.tokenizer, self.constraints.syntax)
        self.adapters: Adapters | None = None
        if settings.home is not None and decoder.adapts:
            self.adapters = Adapters(settings.home, model.config, artifact.files[WEIGHTS])
        if self.scheduler.embedder is None:  # a graph gives no states
            twin = TorchDecoder(model)
            BlockPool(twin, blocks_for(model.config.max_len))
            self.scheduler.embedder = Embedder(twin, twin.pool, self.failures)
        elif not isinstance(decoder, TorchDecoder):
            del self.model  # the decoder has its own copy of the weights

    @property
    def busy(self) -> bool:
        return self.scheduler.busy or self.constraints.busy

    def stats(self) -> Stats:
        return self.scheduler.stats()

    def give_up(self, number: str, found: Exception) -> Answer:
        """Ends a request whose answer cannot be written."""
        self.scheduler.cancel(number)
        return self.failures.message(number, "", found)

    def close(self) -> None:
        if self.scheduler.prefixes is not None:
            self.scheduler.prefixes.cache.close()

    def _await_cache(self, make: Callable[[], Prefixes | None]) -> None:
        """The engine that this one replaces holds the cache until its streams have ended."""
        while True:
            time.sleep(CACHE_AGAIN_SECONDS)
            with contextlib.suppress(CacheBusyError):
                self._cache_found = make()
                return

    @cached_property
    def model(self) -> GPT:
        """The model in torch: kept where no faster decoder covers it."""
        model: GPT = decoding(self.artifact.load_model(), f"artifact {self.artifact.digest[:12]}: ")
        return model

    def smoke(self) -> None:
        """A few tokens after each smoke prompt, decoded as requests are. Raises `CorruptError` on a NaN."""
        for number, prompt in enumerate(SMOKE_PROMPTS):
            tokens = self.tokenizer.prompt(prompt)[: self.max_len - SMOKE_TOKENS]
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
                if isinstance(message, Error):
                    raise CorruptError(
                        f"artifact {self.artifact.digest[:12]} fails the smoke prompts: "
                        f"{self.failures.last or message.message}"
                    )

    def ready(self) -> TextReady:
        return TextReady(
            digest=self.artifact.digest,
            weights=self.artifact.weights,
            vocab_size=self.tokenizer.vocab_size,
            max_len=self.max_len,
            decoder=self.decoder,
            base=self.artifact.files[WEIGHTS],
            calls=self.constraints.syntax.name,
        )

    def turn(self, messages: Iterable[Question]) -> list[Answer]:
        """Acts on messages and advances everyone by a step. Raises nothing: what goes wrong ends requests."""
        if self._cache_found is not None:
            self.scheduler.prefixes, self._cache_found = self._cache_found, None
            log.info("the attention cache is there")
        out: list[Answer] = []
        for message in messages:
            out += self.answer(message)
        for request, seed, refused in self.constraints.ready(idle=not self.scheduler.busy):
            if refused is None:
                self.scheduler.add(request, seed)
            else:
                out.append(self.failures.message(request.id, request.name, refused))
        try:
            return out + self.scheduler.step()
        except Exception as found:
            return out + self.scheduler.drop_all(found)

    def answer(self, message: Question) -> list[Answer]:
        """As `handle`; an exception ends the request of this message."""
        try:
            return self.handle(message)
        except Exception as found:
            self.scheduler.cancel(message.id)
            return [self.failures.message(message.id, message.request, found)]

    def handle(self, message: Question) -> list[Answer]:
        """Acts on one message of the front; returns what there is to say at once."""
        try:
            match message:
                case Generate():
                    return [self._generate(message)]
                case Cancel():
                    self.constraints.cancel(message.id)
                    self.scheduler.cancel(message.id)
                    return []
                case Embed():
                    assert self.scheduler.embedder is not None
                    read = partial(self._tokens, message, self.trained_len)
                    text = Text(id=message.id, name=message.request, tenant=message.tenant, read=read)
                    self.scheduler.embedder.add(text)
                    return []
                case Tokenize():
                    tokens = self._chat(message, None) or self.tokenizer.encode(message.text)
                    return [Tokenized(id=message.id, tokens=tokens, max_len=self.max_len)]
                case Detokenize():
                    return [Detokenized(id=message.id, text=self.tokenizer.decode(self._known(message.tokens)))]
        except Refused as refused:
            return [error(message.id, 400, str(refused), refused.code)]
        raise OliveiraError(f"{type(message).__name__} is no question for a language model")

    def _generate(self, message: Generate) -> Accepted:
        check_numbers(message)
        chat = self._chat(message, message.tools)
        prompt = self._tokens(message, self.max_len) if chat is None else self._fitting(chat, self.max_len)
        room = self.max_len - len(prompt)
        wanted = message.max_tokens
        if room < (wanted != 0) or (wanted is not None and wanted > room):
            asked = f" and max_tokens asks for {wanted}" if wanted is not None else " and leaves no room for an answer"
            raise Refused(
                f"the context of this model is {self.max_len} tokens; the prompt has {len(prompt)}{asked}. "
                "Shorten the prompt or lower max_tokens.",
                "context_length_exceeded",
            )
        request = Request(
            id=message.id,
            name=message.request,
            tenant=message.tenant,
            prompt=prompt,
            n=message.n,
            max_tokens=room if wanted is None else wanted,
            sampling=self._sampling(message),
            echo=self._echo(message),
            stop=message.stop,
            logprobs=message.logprobs,
            observe=message.observe,
            measure=chat is None,  # no held-out text has the marks of a chat
            arrived=time.monotonic(),
            **self._adapted(message),
        )
        seed = secrets.randbits(62) if message.seed is None else message.seed
        if (constraint := self.constraints.of(message)) is None:
            self.scheduler.add(request, seed)
        else:
            self.constraints.begin(request, seed, constraint)
        return Accepted(id=request.id, prompt_tokens=len(prompt))

    def _sampling(self, message: Generate) -> Sampling:
        bias = {int(token): value for token, value in message.logit_bias.items()}
        self._known(list(bias))
        return Sampling(
            temperature=message.temperature,
            top_k=message.top_k,
            top_p=message.top_p,
            min_p=message.min_p,
            repetition_penalty=message.repetition_penalty,
            frequency_penalty=message.frequency_penalty,
            presence_penalty=message.presence_penalty,
            logit_bias=tuple(bias.items()),
        )

    def _echo(self, message: Generate) -> str | None:
        """The text of the prompt, where it is to be said."""
        if not message.echo:
            return None
        return message.text if message.tokens is None else self.tokenizer.decode(message.tokens)

    def _adapted(self, message: Generate) -> dict[str, Any]:
        """The adapter, and what keeps its prefixes and those of the tenant apart from others. Raises `Refused`."""
        home, name = self.settings.home, message.adapter
        # What is restored has no logits.
        salt = None if message.echo and message.logprobs is not None else self._salt(message.tenant)
        if name is None:
            return {"salt": salt}
        if self.adapters is None:
            reason = "it has no home to find it in" if home is None else f"{self.decoder} takes none"
            raise Refused(f"this engine serves no adapter {name}: {reason}.", "no_adapter")
        try:
            found = self.adapters.get(name)
        except OliveiraError as error:
            raise Refused(str(error), "adapter_unusable") from None
        if salt is not None:
            salt = hashlib.sha256(salt + bytes.fromhex(found.digest)).digest()
        return {"adapter": found.adapter, "salt": salt}

    def _salt(self, tenant: str) -> bytes | None:
        """None: without the cache. A secret that cannot be had turns it off."""
        prefixes, home = self.scheduler.prefixes, self.settings.home
        if prefixes is None or prefixes.broken or home is None:
            return None
        try:
            return tenant_salt(home, tenant)
        except Exception as found:
            prefixes.give_up(found)
            return None

    def _chat(self, message: Generate | Tokenize, tools: Tools | None) -> list[int] | None:
        """By the model's template; None where it has none, or nobody chats. Raises `Refused`."""
        if self.chats is None or message.messages is None:
            return None
        self._check_size(message.text or "", self.max_len)
        return self.chats.tokens(message.messages, tools)

    def _tokens(self, message: Generate | Embed, longest: int) -> list[int]:
        """The prompt in tokens; an empty one is the end of an earlier text. Raises `Refused` if too long."""
        if message.tokens is not None:
            tokens = self._known(message.tokens)
        else:
            text = message.text or ""
            self._check_size(text, longest)
            tokens = self.tokenizer.prompt(text)
        return self._fitting(tokens, longest)

    def _check_size(self, text: str, longest: int) -> None:
        size = len(text.encode())
        if size > self.longest * longest:  # cannot fit: spare the tokenizer a megabyte
            raise Refused(
                f"the context of this model is {longest} tokens; {size} bytes of text are at least "
                f"{size // self.longest} tokens. Shorten the text.",
                "context_length_exceeded",
            )

    def _fitting(self, tokens: list[int], longest: int) -> list[int]:
        if len(tokens) > longest:
            raise Refused(
                f"the text has {len(tokens)} tokens, the context of this model {longest}. Shorten it.",
                "context_length_exceeded",
            )
        return tokens or [self.tokenizer.end_of_text]

    def _known(self, tokens: list[int]) -> list[int]:
        unknown = next((token for token in tokens if not 0 <= token < len(self.pieces)), None)
        if unknown is not None:
            raise Refused(f"token {unknown} is not in the vocabulary of {len(self.pieces)} tokens.", "invalid_token")
        return tokens


def check_numbers(message: Generate) -> None:
    """The front has looked at them; a number that it let through must not harm the others. Raises `Refused`."""
    for name, low, high in (
        ("n", 1, MAX_CHOICES), ("max_tokens", int(not message.echo), 2**31 - 1), ("top_k", 0, 2**31 - 1),
        ("logprobs", 0, 64), ("seed", -(2**63), 2**63 - 1), ("temperature", 0, 1e6), ("top_p", 0, 1), ("min_p", 0, 1),
        ("repetition_penalty", 1e-3, 1e3), ("frequency_penalty", -1e3, 1e3), ("presence_penalty", -1e3, 1e3),
    ):  # fmt: skip
        value = getattr(message, name)
        if value is None and name in ("max_tokens", "logprobs", "seed"):
            continue
        kinds = (int, float) if name in FRACTIONS else int
        if not isinstance(value, kinds) or not low <= value <= high:  # NaN is not either
            raise Refused(f"{name} is not a number from {low:g} to {high:g}. Correct it.", "invalid_value")
