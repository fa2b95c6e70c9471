"""The next tokens of the streams of a step: chosen in one call, each failing alone, and described for who asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from oliveira.kernels.decoder import Run
from oliveira.serving.engine.grammar import Masks
from oliveira.serving.engine.request import Request, Stream
from oliveira.serving.engine.sampling import Choice, choose, given_tokens
from oliveira.serving.protocol import Alternative, Logprob

Pieces = Callable[[int], bytes]  # the bytes of a token


class Turn(NamedTuple):
    """A stream whose next tokens are chosen: one, and one more for every guess that is right."""

    stream: Stream
    logits_TV: Tensor
    masks: Masks | None  # (T, words), where a constraint holds it
    guesses: Sequence[int] = ()
    first: bool = False  # after the prompt


def first_turn(stream: Stream, logits_V: Tensor) -> Turn:
    mask_W = stream.mask()
    return Turn(stream, logits_V[None], None if mask_W is None else mask_W[None], first=True)


def choices(turns: Sequence[Turn], at: int) -> Sequence[Choice | Exception]:
    """Of each stream at row `at`. Where one fails each is tried alone, and only those that fail again have failed."""
    try:
        samplers, tops = [t.stream.sampler for t in turns], [t.stream.request.logprobs for t in turns]
        masks = [None if t.masks is None else t.masks[at] for t in turns]
        return choose(samplers, [t.logits_TV[at] for t in turns], tops, masks)
    except Exception as found:
        if len(turns) == 1:
            return [found]
    return [choices([turn], at)[0] for turn in turns]


def described(choice: Choice, pieces: Pieces) -> Logprob:
    top = [Alternative(token=list(pieces(other)), logprob=value) for other, value in choice.top]
    return Logprob(token=list(pieces(choice.token)), logprob=choice.logprob, top=top)


def report(request: Request, run: Run, logits_TV: Tensor, pieces: Pieces) -> None:
    """Adds the log-probabilities of the prompt's tokens that follow this piece's, each given those before it."""
    tokens = request.prompt[run.position + 1 : run.position + 1 + len(run.tokens)]
    if run.position == 0:
        request.entries.append(Logprob(token=list(pieces(request.prompt[0])), logprob=None, top=[]))
    top = min(request.logprobs or 0, logits_TV.shape[1])
    for given in given_tokens(logits_TV[: len(tokens)], tokens, top):  # after the last one comes the answer
        last = request.entries[-1]
        offset = last.offset + len(bytes(last.token).decode("utf-8", "ignore"))
        request.entries.append(replace(described(given, pieces), offset=offset))
