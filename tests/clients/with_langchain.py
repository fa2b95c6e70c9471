"""LangChain (langchain-openai): chats, streams, tools, classes, embeddings."""

from __future__ import annotations

import sys
from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict

URL, KEY = sys.argv[1:]


class Answer(BaseModel):
    """A colour."""

    model_config = ConfigDict(extra="forbid")

    colour: Literal["azul", "verde"]


@tool
def weather(city: Literal["Olinda", "Porto"]) -> str:
    """The weather of a city."""
    return f"sun in {city}"


llm = ChatOpenAI(base_url=URL, api_key=KEY, model="oliveira", max_tokens=80, seed=1)
asked = [SystemMessage("Sê breve."), HumanMessage("Oi")]
whole = llm.invoke(asked)
assert isinstance(whole, AIMessage) and whole.usage_metadata["output_tokens"] > 0
assert "".join(str(chunk.content) for chunk in llm.stream(asked)) == whole.content
assert len(llm.batch([asked, asked])) == 2
called = llm.bind_tools([weather], tool_choice="any", parallel_tool_calls=False).invoke(asked)
[call] = called.tool_calls
assert call["name"] == "weather" and call["args"]["city"] in ("Olinda", "Porto")
streamed = None
for chunk in llm.bind_tools([weather], tool_choice="weather").stream(asked):
    streamed = chunk if streamed is None else streamed + chunk
assert streamed.tool_calls[0]["args"]["city"] in ("Olinda", "Porto")
answered = llm.invoke([*asked, called, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])])
assert isinstance(answered.content, str)
for method in ("json_schema", "function_calling"):
    assert llm.with_structured_output(Answer, method=method).invoke(asked).colour in ("azul", "verde"), method
embeddings = OpenAIEmbeddings(base_url=URL, api_key=KEY, model="oliveira", check_embedding_ctx_length=False)
assert len(embeddings.embed_documents(["a", "b"])) == 2
