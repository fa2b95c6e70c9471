"""Continuous batching: streams join and leave between any two steps (Orca, Yu et al., OSDI 2022).

A step is one token for every stream that decodes (more, where a guess proves right) and at most one piece of one
prompt (64 tokens while others decode), in one call of the decoder. A long prompt therefore delays the others by a
piece, never by all of it. Texts to be embedded are read in pieces too; where a prompt waits as well they take turns.
Requests wait in the order of their coming, the keys of the API in turn.

An exception ends the request that it belongs to, and nothing of that request is found again.

Keys and values stand in blocks of 16 positions (PagedAttention, Kwon et al., SOSP 2023). A stream joins when all blocks
that it can ever need are free, so no stream is put out again; they are free at once when it ends or is cancelled. The
choices of one request share the blocks of their prompt.

Shapes: logits (sum of the tokens asked for, V).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from oliveira.kernels.decoder import MAX_TOKENS, POSITIONS, BlockPool, Decoder, Run
from oliveira.memory.attention_cache import CHUNK
from oliveira.serving.engine.choosing import Turn, choices, described, first_turn, report
from oliveira.serving.engine.embedding import Embedder, blocks_for
from oliveira.serving.engine.failures import Failures, each, not_finite
from oliveira.serving.engine.grammar import GrammarError, Masks, masks_of
from oliveira.serving.engine.prefixes import Prefixes
from oliveira.serving.engine.request import Request, Stream
from oliveira.serving.engine.sampling import Choice
from oliveira.serving.engine.speculation import Speculator
from oliveira.serving.engine.turns import Turns
from oliveira.serving.engine.window import BLOCKS, Window
from oliveira.serving.protocol import Answer, Done, Echo, End, Stats, Token

log = logging.getLogger(__name__)


class Scheduler:
    """Owns the blocks and decides what the next step computes. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        slots: int,
        token_bytes: Callable[[int], bytes],
        stops: Collection[int],  # tokens that end an answer
        n_tokens: int,
        prefixes: Prefixes | None = None,
        speculator: Speculator | None = None,
        window: Window | None = None,
        failures: Failures | None = None,
    ) -> None:
        self.decoder, self.slots = decoder, slots
        self.failures = failures or Failures()
        self.token_bytes, self.stops = token_bytes, frozenset(stops)
        self.n_tokens = n_tokens  # what the tokenizer knows: the model's vocabulary may be larger
        self.reach = window.size if window else decoder.context  # tokens that a stream keeps at most
        # One more for a prompt whose last block is kept until the request's other choices have copied it.
        self.capacity = slots * -(-self.reach // CHUNK) * BLOCKS + 1  # blocks for streams; the rest is the embedder's
        set_aside = blocks_for(decoder.config.max_len) if decoder.has_states else 0
        self.pool = BlockPool(decoder, self.capacity + set_aside)
        self.embedder = Embedder(decoder, self.pool, self.failures) if decoder.has_states else None
        self.window = window
        self.prefixes = prefixes
        self.speculator = speculator
        self.waiting: Turns[list[Stream]] = Turns()  # the choices of each request
        self.following: deque[Stream] = deque()  # the further choices of the request that was admitted last
        self.reading: Stream | None = None
        self.decoding: list[Stream] = []
        self._embeds = False  # in the next step, where a prompt is read as well

    # Requests come and go -----------------------------------------------------------------------------------

    def add(self, request: Request, seed: int) -> None:
        self.waiting.add(request.tenant, [Stream(request, index, seed) for index in range(request.n)])

    def cancel(self, request_id: str) -> None:
        """Forgets the request; its blocks are free at once. Unknown ids are requests that have just ended."""
        if self.embedder is not None:
            self.embedder.cancel(request_id)
        self.waiting.remove(lambda choices: choices[0].request.id == request_id)
        for stream in [stream for stream in self.following if stream.request.id == request_id]:
            self.following.remove(stream)
            self._forget_prompt(stream.request)
        if self.reading is not None and self.reading.request.id == request_id:
            self.pool.give_back(self.reading.table)
            self.reading = None
        for stream in [stream for stream in self.decoding if stream.request.id == request_id]:
            self._leave(stream)
            self._forget_prompt(stream.request)

    def drop_all(self, found: Exception) -> list[Answer]:
        """Ends every request: after an exception that is nobody's, nobody knows what state they are in."""
        requests = [choices[0].request for choices in self.waiting]
        requests += [stream.request for stream in self._at_work()]
        for stream in self._at_work():
            self._forget_guesses(stream)
        self.waiting, self.following, self.reading, self.decoding = Turns(), deque(), None, []
        self.pool.clear()
        texts = self.embedder.drop_all() if self.embedder is not None else []
        names = {request.id: request.name for request in requests} | {text.id: text.name for text in texts}
        return [self.failures.message(number, name, found) for number, name in names.items()]

    def _at_work(self) -> list[Stream]:
        return [*self.following, *([self.reading] if self.reading else []), *self.decoding]

    @property
    def busy(self) -> bool:
        embeds = self.embedder is not None and self.embedder.busy
        return bool(self.waiting or self.following or self.reading or self.decoding or embeds)

    def stats(self) -> Stats:
        return Stats(
            running=len(self.decoding) + (self.reading is not None),
            waiting=sum(len(choices) for choices in self.waiting) + len(self.following),
            kv_usage=round(1 - len(self.pool.free) / self.capacity, 3),
            attention_cache=None if self.prefixes is None else not self.prefixes.broken,
        )

    def _fail(self, request: Request, found: Exception, messages: list[Answer]) -> None:
        messages.append(self.failures.message(request.id, request.name, found))
        self._spoil(request)

    def _spoil(self, request: Request) -> None:
        """Ends a request whose numbers may be wrong: no later one finds them, in the blocks or in the cache."""
        for stream in [stream for stream in self._at_work() if stream.request.id == request.id]:
            if self.prefixes is not None:
                self.prefixes.drop(stream)
            self.pool.blocks[stream.table] = 0.0
        if request.read is not None:
            self.pool.blocks[request.read[0]] = 0.0
        self.cancel(request.id)

    # One step -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Advances everyone. Returns what the front has to know."""
        messages: list[Answer] = []
        self._admit(messages)
        embeds = self.embedder is not None and self.embedder.busy and (self._embeds or self.reading is None)
        self._embeds = not embeds
        for stream in [*self.decoding, *([self.reading] if self.reading and not embeds else [])]:
            try:
                self._slide(stream)
            except Exception as error:
                self._fail(stream.request, error, messages)
        streams, reading = list(self.decoding), None if embeds else self.reading
        work: list[tuple[Stream, Run]] = []
        guesses = self._guess(streams)
        masks = self._masks(streams, guesses, messages)
        for stream, guess in zip(streams, guesses, strict=True):
            if stream not in self.decoding:
                continue  # its mask could not be made
            work.append((stream, stream.run([stream.tokens[-1], *guess], 1 + len(guess))))
        if reading is not None:
            work.append((reading, self._piece(reading)))
        turns: list[Turn] = []
        for (stream, run), found in zip(work, self._compute([run for _, run in work]), strict=True):
            if stream is not self.reading and stream not in self.decoding:
                continue  # a sibling that failed took its whole request along
            try:
                if isinstance(found, Exception):
                    raise found
                if stream is not reading:
                    stream.request.guessed += len(run.tokens) - 1
                    turns.append(Turn(stream, found, masks.get(stream), run.tokens[1:]))
                elif self._have_read(stream, run, found):
                    turns.append(first_turn(stream, found[-1]))
            except Exception as error:
                self._fail(stream.request, error, messages)
        self._choose(turns, messages)
        if embeds and self.embedder is not None:
            messages += self.embedder.piece(CHUNK if self.decoding else MAX_TOKENS)
        return messages

    def _admit(self, messages: list[Answer]) -> None:
        """The next prompt, if there are a slot and blocks for all that it may become."""
        while self.reading is None and len(self.decoding) < self.slots:
            first = [self.following[0]] if self.following else self.waiting.first
            if first is None:
                return
            stream, request = first[0], first[0].request
            need = self._blocks(request)
            if need - (len(request.prompt) // POSITIONS if request.read else 0) > len(self.pool.free):
                return
            if self.following:
                self.following.popleft()
            else:
                self.following.extend(self.waiting.take()[1:])
            try:
                if request.read is None:
                    self._begin(stream, need)
                else:
                    self._follow(stream, *request.read, messages)
            except Exception as error:
                self._fail(request, error, messages)

    def _begin(self, stream: Stream, need: int) -> None:
        """Its prompt is read from now on, after what is known of it."""
        request = stream.request
        self.reading = stream
        if stream.index == 0:
            request.started = time.monotonic()
        stream.table = self.pool.take(need)
        if self.prefixes is not None:
            stream.position = self.prefixes.restore(stream)
            request.cached = max(request.cached, stream.position)

    def _blocks(self, request: Request) -> int:
        """Blocks that a stream of this request can ever need, in whole chunks."""
        return -(-min(len(request.prompt) + request.max_tokens, self.reach) // CHUNK) * BLOCKS

    def _slide(self, stream: Stream) -> None:
        """Before a token of a new chunk: what it does not attend to makes room."""
        if self.window is None:
            return
        falls = self.window.dropped(stream.position // CHUNK) - stream.dropped
        if falls > 0:
            if self.prefixes is not None:
                self.prefixes.keep(stream)
            stream.table = self.window.rotate(stream.table, falls)
            stream.dropped += falls

    def _follow(self, stream: Stream, blocks: list[int], logits_V: Tensor, messages: list[Answer]) -> None:
        """A further choice of a request whose prompt has been read: whole blocks are shared, the last one is copied."""
        request = stream.request
        whole = len(request.prompt) // POSITIONS
        self.decoding.append(stream)
        stream.table = self.pool.take(self._blocks(request) - whole)
        stream.table = self.pool.share(blocks[:whole]) + stream.table
        self.pool.blocks[stream.table[whole : len(blocks)]] = self.pool.blocks[blocks[whole:]]
        stream.position = len(request.prompt)
        stream.stored = stream.position // CHUNK
        if stream.index == request.n - 1:
            self._forget_prompt(request)
        self._choose([first_turn(stream, logits_V)], messages)

    def _forget_prompt(self, request: Request) -> None:
        if request.read is not None:
            self.pool.give_back(request.read[0])
            request.read = None

    def _guess(self, streams: list[Stream]) -> list[list[int]]:
        """What may follow the token that each stream has sampled last. Guesses that fail are done without."""
        if self.speculator is None:
            return [[] for _ in streams]
        try:
            return self._guesses(self.speculator, streams)
        except Exception as found:
            self._stop_guessing(found)
            return [[] for _ in streams]

    def _guesses(self, speculator: Speculator, streams: list[Stream]) -> list[list[int]]:
        room = [stream.request.max_tokens - stream.generated - 1 for stream in streams]
        if self.window is not None:
            ends = [self.window.end(stream.position) - stream.position - 1 for stream in streams]
            room = [min(pair) for pair in zip(room, ends, strict=True)]
        guesses = speculator.guess(streams, room)
        return [
            guess if stream.matcher is None else guess[: stream.matcher.fitting(guess)]
            for stream, guess in zip(streams, guesses, strict=True)
        ]

    def _masks(self, streams: list[Stream], guesses: list[list[int]], messages: list[Answer]) -> dict[Stream, Masks]:
        """What may follow each stream that a constraint holds, and each of its guesses; in one call for all. Where that
        fails each is asked alone, and only those that fail again have failed."""
        held = {s: (s.matcher, guess) for s, guess in zip(streams, guesses, strict=True) if s.matcher is not None}
        if not held:
            return {}
        with contextlib.suppress(Exception):
            return dict(zip(held, masks_of(list(held.values())), strict=True))
        found = {}
        for stream, asked in held.items():
            try:
                [found[stream]] = masks_of([asked])
            except Exception as error:
                self._fail(stream.request, error, messages)
        return found

    def _stop_guessing(self, found: Exception) -> None:
        self.speculator = None
        log.error("no guesses any more", exc_info=found, extra={"digest": self.failures.digest[:12]})

    def _piece(self, stream: Stream) -> Run:
        start, n = stream.position, len(stream.request.prompt)
        end = min(start + (CHUNK if self.decoding else MAX_TOKENS), n)
        if self.window is not None:
            end = min(end, self.window.end(start))
        wanted = end - start if stream.observed or stream.reported else int(end == n)
        return stream.run(stream.request.prompt[start:end], wanted)

    def _compute(self, runs: list[Run]) -> list[Tensor | Exception]:
        """Logits (wanted, V) of each run, in as few calls as the decoder takes, or why there are none."""
        found: list[Tensor | Exception] = []
        group: list[Run] = []
        for run in [*runs, None]:
            if group and (run is None or sum(len(r.tokens) for r in group) + len(run.tokens) > MAX_TOKENS):
                found += each(self._logits, group, [r.wanted for r in group])
                group = []
            if run is not None:
                group.append(run)
        return found

    def _logits(self, runs: Sequence[Run]) -> Tensor:
        return self.decoder.step(runs)[:, : self.n_tokens]

    def _have_read(self, stream: Stream, run: Run, logits_TV: Tensor) -> bool:
        """After the last piece of a prompt comes the first token: then True."""
        request, prompt = stream.request, stream.request.prompt
        stream.position += len(run.tokens)
        if stream.observed:  # no token of the prompt follows the last one
            stream.lose(run.position + 1, logits_TV, prompt[run.position + 1 : stream.position + 1])
            stream.loss_kept = stream.loss
        if stream.reported:
            report(request, run, logits_TV, self.token_bytes)
        if stream.position < len(prompt):
            return False
        if stream.observed and math.isfinite(stream.loss):
            request.loss = stream.loss / (len(prompt) - 1)
        self.reading = None
        self.decoding.append(stream)
        if self.prefixes is not None:
            self.prefixes.keep(stream)
        if request.n > 1 and len(prompt) + request.max_tokens <= self.reach:  # else the window slides over the prompt
            request.read = self.pool.share(stream.table[: -(-len(prompt) // POSITIONS)]), logits_TV[-1]
        return True

    def _choose(self, turns: list[Turn], messages: list[Answer]) -> None:
        """A token for each stream in one call, then one more for those whose guess it was: the text is the same as
        without guesses. An exception ends its own request."""
        at = 0
        while turns:
            going = []
            for turn, choice in zip(turns, choices(turns, at), strict=True):
                if turn.stream not in self.decoding:
                    continue  # as above
                request = turn.stream.request
                try:
                    if isinstance(choice, Exception):
                        raise choice
                    turn.stream.position += not turn.first
                    token = self._say(turn.stream, choice, turn.logits_TV[at], messages)
                except Exception as error:
                    self._fail(request, error, messages)
                    continue
                right = token is not None and at < len(turn.guesses) and token == turn.guesses[at]
                request.accepted += right
                if right:
                    going.append(turn)
                elif self.speculator is not None and not turn.first:
                    self.speculator.learn(len(turn.guesses), at)
            turns, at = going, at + 1

    def _say(self, stream: Stream, choice: Choice, logits_V: Tensor, messages: list[Answer]) -> int | None:
        """The next token of one stream. None: the stream has ended and is gone."""
        request, token = stream.request, choice.token
        if not choice.finite:
            messages.append(not_finite(request.id))
            self._spoil(request)
            return None
        if stream.generated == 0 and request.echo is not None:
            messages.append(Echo(id=request.id, index=stream.index, text=request.echo, logprobs=request.entries))
        if request.max_tokens == 0:
            request.first_token = time.monotonic()
            self._end(stream, "length", "", messages)
            return None
        if token < 0:
            raise GrammarError("the constraint became too costly, or no token of the vocabulary fits it")
        stream.sampler.took(token)
        if stream.observed and self.prefixes is not None:  # for the next turn of a conversation
            stream.loss_kept = stream.loss
            stream.lose(len(stream.tokens), logits_V[None], [token])
        stream.tokens.append(token)
        stream.generated += 1
        now = time.monotonic()
        if stream.generated == 1 and math.isnan(request.first_token):
            request.first_token = now
        ended = token in self.stops
        text = ""
        complete = False
        if not ended:
            if stream.matcher is not None:
                stream.matcher.advance(token)
                complete = stream.matcher.done
            start = stream.text.length
            text = stream.text.push(self.token_bytes(token))
            if choice.logprob is not None:
                stream.remember(start, described(choice, self.token_bytes))
        stopped = ended or complete or stream.text.stopped
        reason = "stop" if stopped else "length" if stream.generated == request.max_tokens else None
        if reason is None:
            entries = stream.entries(final=False)
            messages.append(Token(id=request.id, index=stream.index, text=text, logprobs=entries))
            return token
        text += stream.text.finish()
        if stream.text.stopped:  # also when the last bytes completed a stop string
            reason = "stop"
        self._end(stream, reason, text, messages)
        return None

    def _end(self, stream: Stream, reason: str, text: str, messages: list[Answer]) -> None:
        """One choice is done, and with the last one its request."""
        request = stream.request
        messages.append(
            Done(
                id=request.id,
                index=stream.index,
                reason=reason,
                text=text,
                tokens=stream.generated,
                logprobs=stream.entries(final=True),
            )
        )
        if self.prefixes is not None:
            self.prefixes.keep(stream)
        self._leave(stream)
        request.open -= 1
        if request.open == 0:
            messages.append(
                End(
                    id=request.id,
                    queue_seconds=request.started - request.arrived,
                    prefill_seconds=request.first_token - request.started,
                    decode_seconds=time.monotonic() - request.first_token,
                    loss=request.loss,
                    prompt=request.prompt if request.observe else None,
                    cached_tokens=request.cached,
                    guessed_tokens=request.guessed,
                    accepted_tokens=request.accepted,
                )
            )

    def _leave(self, stream: Stream) -> None:
        self.decoding.remove(stream)
        self.pool.give_back(stream.table)
        self._forget_guesses(stream)

    def _forget_guesses(self, stream: Stream) -> None:
        if self.speculator is not None:
            try:
                self.speculator.guesser.forget(stream)
            except Exception as found:
                self._stop_guessing(found)
