"""openai-python: sync, async, streams, raw answers, embeddings, errors, a stream that is broken off."""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

import openai
from pydantic import BaseModel

URL, KEY = sys.argv[1:]
ASK = {"model": "oliveira", "messages": [{"role": "user", "content": "Oi"}], "max_tokens": 12, "seed": 1}


class Answer(BaseModel):
    colour: Literal["azul", "verde"]


async def side_by_side() -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY) as client:
        made = await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(4)))
        assert len({found.choices[0].message.content for found in made}) == 1
        texts = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**ASK, stream=True)
        ]
        assert "".join(texts) == made[0].choices[0].message.content
        parsed = await client.chat.completions.parse(**{**ASK, "max_tokens": 60}, response_format=Answer)
        assert parsed.choices[0].message.parsed.colour in ("azul", "verde")


client = openai.OpenAI(base_url=URL, api_key=KEY)
raw = client.chat.completions.with_raw_response.create(**ASK)
assert raw.headers["x-oliveira-model"] and raw.parse().choices[0].message.role == "assistant"
with client.chat.completions.stream(**{**ASK, "max_tokens": 60}, response_format=Answer) as stream:
    assert "content.done" in [event.type for event in stream]
    assert stream.get_final_completion().choices[0].message.parsed.colour in ("azul", "verde")
with client.chat.completions.with_streaming_response.create(**{**ASK, "max_tokens": 500}, stream=True) as broken:
    next(broken.iter_lines())  # and no more: the server frees the place
assert len(client.embeddings.create(model="oliveira", input=["a", "b"]).data) == 2
assert "oliveira" in [model.id for model in client.models.list()]
stranger = openai.OpenAI(base_url=URL, api_key="sk-wrong")
for asks, wrong, kind in (
    (client, {"temperature": 9}, openai.BadRequestError),
    (client, {"model": "gpt-4o"}, openai.NotFoundError),
    (stranger, {}, openai.AuthenticationError),
):
    try:
        asks.chat.completions.create(**{**ASK, **wrong})
    except kind:
        continue
    raise AssertionError(wrong)
asyncio.run(side_by_side())
