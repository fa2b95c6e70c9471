"""What an answer may look like and which functions it may call, as OpenAI's clients and vLLM's say it.

`response_format`, `tools`, `tool_choice` and `parallel_tool_calls` are OpenAI's; `structured_outputs` (`json`, `regex`,
`choice`, `grammar`) is vLLM's. What they mean to the engine are a `Constraint` and `Tools` of the protocol.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from oliveira.serving.calls import Function
from oliveira.serving.protocol import Constraint, Tools

MAX_TOOLS = 128
Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JsonSchema(Part):
    name: Name
    description: str | None = Field(None, max_length=4096)
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None  # the schema is held in either case


class ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema belongs to type json_schema, which needs it. Give both or neither.")
        return self

    def constraint(self) -> Constraint | None:
        if self.type == "text":
            return None
        schema = self.json_schema.schema_ if self.json_schema else {"type": "object"}
        return of_schema(schema or {})


class StructuredOutputs(Part):
    """One of them."""

    json_: dict[str, Any] | str | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, min_length=1)
    choice: Annotated[list[str], Field(min_length=1, max_length=4096, fail_fast=True)] | None = None
    grammar: str | None = Field(None, min_length=1, description="in llguidance's variant of Lark, from `start`")

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if sum(value is not None for value in (self.json_, self.regex, self.choice, self.grammar)) != 1:
            raise ValueError("structured_outputs needs one of json, regex, choice and grammar. Give one.")
        return self

    def constraint(self) -> Constraint:
        if self.json_ is not None:
            return (
                Constraint(kind="json_schema", text=self.json_)
                if isinstance(self.json_, str)
                else of_schema(self.json_)
            )
        if self.regex is not None:
            return Constraint(kind="regex", text=self.regex)
        if self.choice is not None:
            words = " | ".join(json.dumps(word, ensure_ascii=False) for word in self.choice)
            return Constraint(kind="lark", text=f"start: {words}\n")
        return Constraint(kind="lark", text=self.grammar or "")


class FunctionBody(Part):
    name: Name
    description: str | None = Field(None, max_length=16_384)
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of an object; left out: no arguments")
    strict: bool | None = None  # the schema is held in either case

    @field_validator("parameters")
    @classmethod
    def _of_an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type", "object") != "object":
            raise ValueError("parameters are no object. Give a JSON schema of type object.")
        return value


class Tool(Part):
    type: Literal["function"]
    function: FunctionBody


class NamedFunction(Part):
    name: Name


class NamedTool(Part):
    type: Literal["function"]
    function: NamedFunction


class CalledFunction(Part):
    name: Name
    arguments: str


class ToolCall(Part):
    """Of an earlier answer, in a message of the assistant."""

    model_config = ConfigDict(extra="ignore")  # clients send back what they were given, and more

    id: str = Field(max_length=128)
    type: Literal["function"] = "function"
    function: CalledFunction


ToolList = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolCalls = Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool


def of_schema(schema: dict[str, Any]) -> Constraint:
    return Constraint(kind="json_schema", text=json.dumps(schema, ensure_ascii=False))


def tools_of(tools: list[Tool] | None, choice: ToolChoice | None, *, parallel: bool) -> Tools | None:
    """What the engine is told; None: nothing may be called. Raises `ValueError`."""
    if not tools:
        if choice not in (None, "none"):
            raise ValueError("tool_choice needs tools. Give some or leave it out.")
        return None
    names = [tool.function.name for tool in tools]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"tools has the function {min(twice)} twice. Give each a name of its own.")
    named = choice.function.name if isinstance(choice, NamedTool) else None
    if named is not None and named not in names:
        raise ValueError(f"tool_choice names {named}, which is not in tools. Name one of them.")
    if choice == "none":
        return None
    return Tools(
        functions=[_function(tool.function) for tool in tools if named in (None, tool.function.name)],
        must=named is not None or choice == "required",
        parallel=parallel and named is None,
    )


def _function(body: FunctionBody) -> dict[str, Any]:
    empty: dict[str, Any] = {"properties": {}, "additionalProperties": False}
    return {
        "name": body.name,
        "description": body.description or "",
        "parameters": empty if body.parameters is None else body.parameters,
    }


def functions_of(tools: Tools) -> list[Function]:
    return [Function(**found) for found in tools.functions]
