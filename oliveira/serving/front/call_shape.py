"""The JSON of a chat whose answer may call functions: text before the calls is content, the calls are `tool_calls`."""

from __future__ import annotations

import secrets
from typing import Any

from oliveira.serving.calls import Arguments, Call, Content, Event, Reader
from oliveira.serving.front.generation import Choice, Generation
from oliveira.serving.front.shapes import ChatShape
from oliveira.serving.protocol import Done, Echo, End, Token


class CallShape(ChatShape):
    def __init__(self, model: str, generation: Generation, *, with_usage: bool) -> None:
        super().__init__(model, generation, with_usage=with_usage)
        self._syntax = generation.calls
        self._readers = [Reader(self._syntax) for _ in range(self.choices)]

    def chunks(self, number: int, message: Echo | Token | Done | End) -> list[dict[str, Any]]:
        if isinstance(message, End):
            return []
        reader = self._readers[number]
        events, before = [], reader.calls
        for event in reader.push(message.text) + (reader.finish() if isinstance(message, Done) else []):
            before += isinstance(event, Call)
            events.append(_delta(event, before - 1))
        if message.logprobs and not events:
            events.append({})
        out = [self._chunk([self._part(number, delta)]) for delta in events]
        if message.logprobs:
            out[0]["choices"][0]["logprobs"] = self._logprobs(message.logprobs)
        if isinstance(message, Done):
            out.append(self._chunk([self._end(number, _reason(message.reason, reader.calls))]))
        return out

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        reader = Reader(self._syntax)
        content = ""
        calls: list[dict[str, Any]] = []
        for event in reader.push(choice.text) + reader.finish():
            match event:
                case Content(text):
                    content += text
                case Call(name):
                    calls.append(_call(name))
                case Arguments(text):
                    calls[-1]["function"]["arguments"] += text
        shaped = super()._choice(number, choice)
        if calls:
            shaped["message"] |= {"content": content or None, "tool_calls": calls}
        return {**shaped, "finish_reason": _reason(choice.reason, len(calls))}


def _call(name: str) -> dict[str, Any]:
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": ""}}


def _delta(event: Event, number: int) -> dict[str, Any]:
    match event:
        case Content(text):
            return {"content": text}
        case Call(name):
            return {"tool_calls": [{"index": number, **_call(name)}]}
        case Arguments(text):
            return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}


def _reason(reason: str, calls: int) -> str:
    return "tool_calls" if reason == "stop" and calls else reason
