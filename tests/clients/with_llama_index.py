"""LlamaIndex (llama-index-llms-openai-like): completions, chats, streams, tools."""

import sys
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

URL, KEY = sys.argv[1:]


def weather(city: Literal["Olinda", "Porto"]) -> str:
    """The weather of a city."""
    return f"sun in {city}"


llm = OpenAILike(
    model="oliveira",
    api_base=URL,
    api_key=KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=2048,
    max_tokens=80,
    temperature=1.0,
    additional_kwargs={"seed": 1},
)
asked = [ChatMessage(role="system", content="Sê breve."), ChatMessage(role="user", content="Oi")]
whole = llm.chat(asked)
assert isinstance(whole.message.content, str)
assert "".join(part.delta or "" for part in llm.stream_chat(asked)) == whole.message.content
assert llm.complete("Oi").text
made = llm.chat_with_tools(
    [FunctionTool.from_defaults(weather)], chat_history=asked, tool_required=True, allow_parallel_tool_calls=False
)
[call] = llm.get_tool_calls_from_response(made)
assert call.tool_name == "weather" and call.tool_kwargs["city"] in ("Olinda", "Porto")
