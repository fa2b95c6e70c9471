"""The routes of the OpenAI API: chat, completions, embeddings, models; and the tokenizer.

A model with a chat template reads messages by it, written by the engine, which knows its special tokens: their names in
a message are text. A model without one continues text: the contents of the messages, joined by newlines.
"""

from __future__ import annotations

import array
import base64
import math
import sys
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from oliveira.data.text import nfc
from oliveira.serving import protocol
from oliveira.serving.adapter_names import adapter_names
from oliveira.serving.calls import PLAIN, shown
from oliveira.serving.front.call_shape import CallShape
from oliveira.serving.front.client import EngineProcess
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.generation import Generation
from oliveira.serving.front.questions import ask_all, check_model, check_text, model_header, while_connected
from oliveira.serving.front.schemas import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Generate,
    TokenizeRequest,
)
from oliveira.serving.front.served import SHORT, Served
from oliveira.serving.front.service import Service
from oliveira.serving.front.shapes import ChatShape, CompletionShape, Shape
from oliveira.serving.front.stream import EventStream
from oliveira.serving.front.structured import functions_of

R = TypeVar("R", bound=protocol.Result)


def make_openai_router(service: Served) -> APIRouter:
    router, routes = APIRouter(), OpenAIRoutes(service)
    for method, path, route in (
        ("POST", "/v1/chat/completions", routes.chat),
        ("POST", "/v1/completions", routes.completions),
        ("POST", "/v1/embeddings", routes.embeddings),
        ("POST", "/tokenize", routes.tokenize),
        ("POST", "/detokenize", routes.detokenize),
        ("GET", "/v1/models", routes.models),
        ("GET", "/v1/models/{model}", routes.model),
    ):
        router.add_api_route(path, route, methods=[method])
    return router


class OpenAIRoutes:
    """What each address answers."""

    def __init__(self, service: Served) -> None:
        self.service, self.limits = service, service.settings

    def text_within_limits(self, text: str, param: str) -> str:
        text = nfc(text)
        if (size := len(text.encode())) > self.limits.max_message:
            raise ApiError(
                400,
                f"{param} has {size} bytes, more than serve.max_message = {self.limits.max_message}. Shorten it.",
                code="message_too_long",
                param=param,
            )
        return text

    def text_or_tokens(self, prompts: list[Any], param: str) -> list[dict[str, Any]]:
        return [
            {"text": self.text_within_limits(prompt, param)} if isinstance(prompt, str) else {"tokens": prompt}
            for prompt in prompts
        ]

    async def answer(
        self, request: Request, body: Generate, messages: list[protocol.Generate], shape: type[Shape]
    ) -> Response:
        """Runs the generation and answers in one piece or as a stream."""
        observe = request.headers.get("x-oliveira-no-traffic") != "1" and all(m.tools is None for m in messages)
        life = self.service.of(body.model)
        adapter = body.model if body.model in adapter_names(life.home) else None
        generation = Generation(
            life,
            messages,
            request_id=request.state.id,
            observe=observe and adapter is None,  # drift is measured against the model's own reference
            tenant=request.state.key.id,
            adapter=adapter,
        )

        def check(engine: EngineProcess) -> None:
            check_text(engine)
            if adapter is None:
                check_model(body.model, life, engine, fitting(life, engine))

        handed_over = False
        try:
            if not body.stream:
                choices = await while_connected(request, self.limits.deadline, generation.collect(check))
                whole = shape(body.model, generation, with_usage=True).whole(choices, generation.usage())
                return JSONResponse(whole, headers=model_header(generation.digest))
            first = await while_connected(request, self.limits.deadline, generation.begin(check))
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            left = self.limits.deadline - (time.monotonic() - generation.arrived)
            stream = EventStream(
                generation,
                first,
                shape(body.model, generation, with_usage=with_usage),
                seconds=left,
                headers=model_header(generation.digest),
            )
            handed_over = True
            return stream
        finally:
            if not handed_over:
                generation.close()

    async def ask(
        self, request: Request, model: str | None, messages: Sequence[protocol.Question], kind: type[R]
    ) -> tuple[EngineProcess, list[R]]:
        life = self.service.told(model)

        def check(engine: EngineProcess) -> None:
            check_text(engine)
            if model is not None:
                check_model(model, life, engine)

        return await while_connected(request, self.limits.deadline, ask_all(life, messages, kind, check))

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """Answers the messages as the model's chat template writes them, or continues their joined contents."""
        self.service.check_open()
        if len(body.messages) > self.limits.max_messages:
            raise ApiError(
                400,
                f"{len(body.messages)} messages exceed serve.max_messages = {self.limits.max_messages}.",
                code="too_many_messages",
                param="messages",
            )
        tools = body.asked_tools()
        texts = [self.text_within_limits(message.plain(), "messages") for message in body.messages]
        if tools is not None:
            texts.insert(0, self.text_within_limits(shown(functions_of(tools), PLAIN), "tools"))
        text = "\n".join(texts)
        common = {
            **body.sampling(),
            "max_tokens": body.max_completion_tokens or body.max_tokens,
            "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        }
        message = protocol.Generate(**common, text=text, tools=tools, messages=chat_of(body.messages))
        return await self.answer(request, body, [message], ChatShape if tools is None else CallShape)

    async def completions(self, request: Request, body: CompletionRequest) -> Response:
        """Continues each prompt."""
        self.service.check_open()
        common = {**body.sampling(), "max_tokens": body.max_tokens, "logprobs": body.logprobs, "echo": bool(body.echo)}
        messages = [protocol.Generate(**common, **one) for one in self.text_or_tokens(body.prompts(), "prompt")]
        return await self.answer(request, body, messages, CompletionShape)

    async def embeddings(self, request: Request, body: EmbeddingRequest) -> Response:
        """The mean of the last layer's states of each text, of length 1."""
        self.service.check_open()
        key = request.state.key.id
        messages = [
            protocol.Embed(request=request.state.id, tenant=key, **one)
            for one in self.text_or_tokens(body.inputs(), "input")
        ]
        # As much text as one message may have counts as one answer.
        size = sum(len(m.text.encode()) if m.text else 4 * len(m.tokens or []) for m in messages)
        permit = self.service.admission.take(-(-size // self.limits.max_message), key)
        try:
            engine, answers = await self.ask(request, body.model, messages, protocol.Embedded)
        finally:
            permit.release()
        used = sum(found.prompt_tokens for found in answers)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": encode(shortened(found.embedding, body.dimensions), body.encoding_format),
            }
            for index, found in enumerate(answers)
        ]
        usage = {"prompt_tokens": used, "total_tokens": used}
        body_out = {"object": "list", "model": body.model, "data": data, "usage": usage}
        return JSONResponse(body_out, headers=model_header(engine.digest))

    async def tokenize(self, request: Request, body: TokenizeRequest) -> Response:
        """The tokens of a text or a chat, and how many of them fit into the context."""
        if body.messages is None:
            message = protocol.Tokenize(text=self.text_within_limits(body.text or "", "text"))
        else:
            texts = [self.text_within_limits(message.plain(), "messages") for message in body.messages]
            message = protocol.Tokenize(text="\n".join(texts), messages=chat_of(body.messages))
        engine, [found] = await self.ask(request, body.model, [message], protocol.Tokenized)
        body_out = {"tokens": found.tokens, "count": len(found.tokens), "max_len": found.max_len}
        return JSONResponse(body_out, headers=model_header(engine.digest))

    async def detokenize(self, request: Request, body: DetokenizeRequest) -> Response:
        """The text of a list of tokens."""
        message = protocol.Detokenize(tokens=body.tokens)
        engine, [found] = await self.ask(request, body.model, [message], protocol.Detokenized)
        return JSONResponse({"text": found.text}, headers=model_header(engine.digest))

    async def models(
        self,
    ) -> Response:
        """Each served model under its name, `oliveira` where there is one alone, and the beginning of its digest, and
        its adapters. One that sleeps or starts is not waited for."""
        if len(self.service.lives) == 1:
            await self.service.main.fleet.engine()
        found = [entry for life in self.service.lives.values() for entry in _entries(life)]
        return JSONResponse({"object": "list", "data": found})

    async def model(self, model: str) -> Response:
        life = self.service.of(model)
        engine = await life.fleet.engine()
        known = fitting(life, engine)
        if model not in known:
            check_model(model, life, engine, known)
        return JSONResponse(describe(model, engine))


def chat_of(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """As chat templates read messages."""
    return [message.for_template() for message in messages]


def fitting(life: Service, engine: EngineProcess) -> list[str]:
    """Adapters that were trained on what this engine serves."""
    return adapter_names(life.home, engine.ready.base if engine.ready else "")


def _entries(life: Service) -> list[dict[str, Any]]:
    if engine := life.fleet.alive:
        known = (life.name, engine.digest[:SHORT], *fitting(life, engine))
        return [describe(name, engine) for name in known]
    row = life.ledger.artifact(life.ledger.alias("champion") or "")
    if row is None:
        return []
    told = {"object": "model", "created": int(row.created), "owned_by": "oliveira", "root": row.digest}
    return [{"id": name, **told} for name in (life.name, row.digest[:SHORT])]


def describe(name: str, engine: EngineProcess) -> dict[str, Any]:
    described = {
        "id": name,
        "object": "model",
        "created": engine.started,
        "owned_by": "oliveira",
        "root": engine.digest,
    }
    if engine.task is not None:
        return {**described, "task": engine.task["task"]}
    return {**described, "max_model_len": engine.max_len}


def shortened(vector: list[float], dimensions: int | None) -> list[float]:
    """The first so many numbers, of length 1 again. Raises `ApiError` where there are not so many."""
    if dimensions is None or dimensions == len(vector):
        return vector
    if dimensions > len(vector):
        said = f"dimensions = {dimensions}, and this model's embeddings have {len(vector)}. Ask for at most so many."
        raise ApiError(400, said, code="invalid_value", param="dimensions")
    length = math.hypot(*vector[:dimensions]) or 1.0
    return [number / length for number in vector[:dimensions]]


def encode(vector: list[float], form: str) -> list[float] | str:
    """base64 of little-endian float32 is what OpenAI's client asks for by default."""
    if form == "float":
        return vector
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
