"""The JSON of both completion routes, whole and in chunks."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from oliveira.serving.front.generation import Choice, Generation
from oliveira.serving.protocol import Done, Echo, End, Logprob, Token


class Shape(ABC):
    """One answer's envelope: the same id, time, model and fingerprint in every part of it."""

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, model: str, generation: Generation, *, with_usage: bool) -> None:
        self.with_usage = with_usage
        self.choices = generation.choices
        self._head = {
            "id": f"{self.prefix}-{generation.request_id}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": generation.digest[:12],
        }

    def whole(self, choices: list[Choice], usage: dict[str, int]) -> dict[str, Any]:
        shaped = [self._choice(number, choice) for number, choice in enumerate(choices)]
        return {**self._head, "object": self.whole_object, "choices": shaped, "usage": usage}

    def opening(self) -> list[dict[str, Any]]:
        """Chunks before the first token."""
        return []

    def chunks(self, number: int, message: Echo | Token | Done | End) -> list[dict[str, Any]]:
        """What one message of the engine means to the client: nothing, some text, the end of a choice."""
        if isinstance(message, End):
            return []
        out = []
        if message.text or message.logprobs:
            out.append(self._chunk([self._delta(number, message.text, message.logprobs)]))
        if isinstance(message, Done):
            out.append(self._chunk([self._end(number, message.reason)]))
        return out

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._chunk([]), "usage": usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head, "object": self.chunk_object, "choices": choices}
        return {**chunk, "usage": None} if self.with_usage else chunk

    @abstractmethod
    def _choice(self, number: int, choice: Choice) -> dict[str, Any]: ...

    @abstractmethod
    def _delta(self, number: int, text: str, entries: list[Logprob]) -> dict[str, Any]: ...

    @abstractmethod
    def _end(self, number: int, reason: str) -> dict[str, Any]: ...


class ChatShape(Shape):
    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        role = {"role": "assistant", "content": ""}
        return [self._chunk([self._part(number, role)]) for number in range(self.choices)]

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": number,
            "message": message,
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.reason,
        }

    def _delta(self, number: int, text: str, entries: list[Logprob]) -> dict[str, Any]:
        return {**self._part(number, {"content": text}), "logprobs": self._logprobs(entries)}

    def _end(self, number: int, reason: str) -> dict[str, Any]:
        return {**self._part(number, {}), "finish_reason": reason}

    @staticmethod
    def _part(number: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}

    @staticmethod
    def _logprobs(entries: list[Logprob]) -> dict[str, Any] | None:
        return {"content": [_entry(entry) for entry in entries], "refusal": None} if entries else None


class CompletionShape(Shape):
    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        return {
            "index": number,
            "text": choice.text,
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.reason,
        }

    def _delta(self, number: int, text: str, entries: list[Logprob]) -> dict[str, Any]:
        return {"index": number, "text": text, "logprobs": self._logprobs(entries), "finish_reason": None}

    def _end(self, number: int, reason: str) -> dict[str, Any]:
        return {"index": number, "text": "", "logprobs": None, "finish_reason": reason}

    @staticmethod
    def _logprobs(entries: list[Logprob]) -> dict[str, Any] | None:
        if not entries:
            return None
        return {
            "tokens": [_text(entry.token) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [  # of the first token of a prompt there are none
                None if entry.logprob is None else {_text(other.token): other.logprob for other in entry.top}
                for entry in entries
            ],
            "text_offset": [entry.offset for entry in entries],
        }


def _entry(entry: Logprob) -> dict[str, Any]:
    """A token's log-probability as the chat route writes it."""
    return {
        **_token(entry.token, entry.logprob),
        "top_logprobs": [_token(other.token, other.logprob) for other in entry.top],
    }


def _token(piece: list[int], logprob: float | None) -> dict[str, Any]:
    return {"token": _text(piece), "logprob": logprob, "bytes": piece}


def _text(piece: list[int]) -> str:
    return bytes(piece).decode("utf-8", "replace")
