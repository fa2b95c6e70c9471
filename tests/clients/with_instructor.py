"""instructor: classes by tools and by JSON schema."""

from __future__ import annotations

import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, ConfigDict

URL, KEY = sys.argv[1:]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: Literal["azul", "verde"]
    number: Literal[1, 2]


for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY), mode=mode)
    more = {} if mode == instructor.Mode.JSON_SCHEMA else {"parallel_tool_calls": False}
    made = client.chat.completions.create(
        model="oliveira",
        response_model=Answer,
        max_retries=0,
        max_tokens=200,
        seed=1,
        messages=[{"role": "user", "content": "Oi"}],
        **more,
    )
    assert made.colour in ("azul", "verde") and made.number in (1, 2)
