"""How front and engine talk: one JSON object a line over a socket pair. Nothing executable or unbounded.

Front → engine, `op`:
    generate   id, request, text | tokens, n, max_tokens | null, temperature, top_k, top_p, stop, seed | null,
               logprobs | null, observe, adapter | null,
               tenant                                      prefixes are found again for the same tenant only
    embed      id, request, tenant, text | tokens              read in pieces between the steps of the streams
    tokenize   id, text
    detokenize id, tokens
    predict    id, request, tenant, body                       a request of the task that is served
               or bodies                                   several requests, answered together or refused together
    judge      id, request, tenant, body, answer, truth        how wrong an earlier answer was
    cancel     id
Engine → front, `type`:
    ready      digest, weights, base (SHA-256 of the weights),
               of text: vocab_size, max_len, decoder
               of a task: task (as GET /v1/task says it), engine
                                                               once, after the smoke prompts
    failed     reason                                          once, instead of `ready`; the process ends
    accepted   id, prompt_tokens                               the request fits and waits for a slot
    token      id, index, text, logprobs            text is empty while a character or stop string is open
    done       id, index, reason, text, tokens, logprobs    one choice has ended: "stop" or "length"
    end        id, queue_seconds, prefill_seconds, decode_seconds, loss, prompt, cached_tokens, guessed_tokens,
               accepted_tokens                             every choice has ended
    result     id, …                                           answer of embed, tokenize, detokenize
               id, queue_seconds, answer, observed             of predict; observed: what drift looks at, by name
               id, queue_seconds, error                        of judge
               id, queue_seconds, answers                      of predict with bodies: answer and observed of each
    error      id, status, message, code                       the request has ended
    stats      running, waiting, kv_usage, attention_cache     when one of them changed; the last: on, or null = none
    beat                                                       every second: the thread that decodes is alive
`request` is the front's name of a request, for the log. Tenants take turns.
End of file on either side ends the conversation: the engine exits, the front starts another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from oliveira.errors import OliveiraError

MAX_LINE = 16 << 20  # bytes; the front admits bodies far below this
BEAT_SECONDS = 1.0

Message = dict[str, Any]


class Refused(OliveiraError):
    """A request that this model cannot serve."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def pack(messages: Iterable[Message]) -> bytes:
    """One line a message. Raises `ValueError` on NaN and on text that is not Unicode."""
    return b"".join(
        json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        for message in messages
    )


def unpack(line: bytes) -> Message:
    """The message of one line. Raises `OliveiraError` on anything else: the other side is broken."""
    if not line.endswith(b"\n") or len(line) > MAX_LINE:
        raise OliveiraError(f"a message of {len(line)} bytes is cut or longer than {MAX_LINE} bytes")
    try:
        message = json.loads(line)
    except ValueError as error:
        raise OliveiraError(f"a message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise OliveiraError("a message is not a JSON object")
    return message
