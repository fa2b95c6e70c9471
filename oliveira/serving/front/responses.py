"""OpenAI's /v1/responses in its plain form: a text or messages in, one text out, whole or as events.

Nothing is stored, no tools, no earlier response: what is not here is refused by name. It is answered as a chat is.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from oliveira.serving.front.generation import Choice, Generation
from oliveira.serving.front.schemas import Body, ChatRequest
from oliveira.serving.front.shapes import Shape
from oliveira.serving.protocol import Done, Echo, End, Logprob, Token


class Part(BaseModel):
    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=256, fail_fast=True)]
    id: str | None = Field(None, max_length=128)
    status: str | None = Field(None, max_length=64)

    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponsesRequest(Body):
    model: str = Field(max_length=128)
    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=4096, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = False

    def as_chat(self) -> ChatRequest:
        told = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            told.append({"role": "user", "content": self.input})
        else:
            told += [{"role": message.role, "content": message.text()} for message in self.input]
        return ChatRequest.model_validate(
            {
                "model": self.model,
                "messages": told,
                "max_completion_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "stream": self.stream,
            }
        )


class ResponseShape(Shape):
    """One answer's events, numbered from 0, each with its name."""

    prefix, whole_object, chunk_object = "resp", "response", "response"
    named, last_line = True, ""

    def __init__(self, model: str, generation: Generation, *, with_usage: bool) -> None:
        super().__init__(model, generation, with_usage=with_usage)
        self._id, self._item = f"resp_{generation.request_id}", f"msg_{generation.request_id}"
        self._model, self._created = model, int(time.time())
        self._events, self._text, self._reason = 0, "", ""

    def whole(self, choices: list[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        self._text, self._reason = choices[0].text, choices[0].reason
        return self._response(usage)

    def opening(self) -> list[dict[str, Any]]:
        item = {**self._message("in_progress"), "content": []}
        return [
            self._event("response.created", response=self._response(None)),
            self._event("response.in_progress", response=self._response(None)),
            self._event("response.output_item.added", output_index=0, item=item),
            self._event("response.content_part.added", **self._place(), part=_part("")),
        ]

    def chunks(self, number: int, message: Echo | Token | Done | End) -> list[dict[str, Any]]:
        if isinstance(message, End):
            return []
        out = []
        if message.text:
            self._text += message.text
            out.append(self._event("response.output_text.delta", **self._place(), delta=message.text, logprobs=[]))
        if isinstance(message, Done):
            self._reason = message.reason
            item = self._message("incomplete" if self._cut else "completed")
            out += [
                self._event("response.output_text.done", **self._place(), text=self._text, logprobs=[]),
                self._event("response.content_part.done", **self._place(), part=_part(self._text)),
                self._event("response.output_item.done", output_index=0, item=item),
            ]
        return out

    def closing(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        kind = "response.incomplete" if self._cut else "response.completed"
        return [self._event(kind, response=self._response(usage))]

    @property
    def _cut(self) -> bool:
        return self._reason == "length"

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._events += 1
        return {"type": kind, "sequence_number": self._events - 1, **fields}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _message(self, status: str) -> dict[str, Any]:
        return {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(self._text)],
        }

    def _response(self, usage: dict[str, Any] | None) -> dict[str, Any]:
        status = "in_progress" if usage is None else "incomplete" if self._cut else "completed"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._model,
            "output": [] if usage is None else [self._message(status)],
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "store": False,
            "usage": None if usage is None else _usage(usage),
        }

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError  # an answer is no list of choices

    def _delta(self, number: int, text: str, entries: list[Logprob]) -> dict[str, Any]:
        raise NotImplementedError

    def _end(self, number: int, reason: str) -> dict[str, Any]:
        raise NotImplementedError


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
