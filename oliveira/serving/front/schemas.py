"""What clients may send: OpenAI's fields as far as this server acts on them.

A field that is not known here is refused unless its value asks for nothing (null, false, 0, empty): a client
that sends `"functions": []` works, one that sends functions is told that nobody would use them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from oliveira.data.text import nfc
from oliveira.serving.calls import PLAIN
from oliveira.serving.front.limits import MAX_CHOICES
from oliveira.serving.front.structured import (
    ResponseFormat,
    StructuredOutputs,
    ToolCalls,
    ToolChoice,
    ToolList,
    tools_of,
)
from oliveira.serving.protocol import Constraint, Tools

StopString = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Token = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
# Every list is bounded and stops at its first mistake: a megabyte of mistakes would take seconds to describe.
Tokens = Annotated[list[Token], Field(min_length=1, max_length=65_536, fail_fast=True)]
Texts = Annotated[list[str], Field(max_length=256, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(max_length=256, fail_fast=True)]
Stops = Annotated[list[StopString], Field(max_length=4, fail_fast=True)]
MAX_BIAS = 1024  # tokens with a bias
TokenName = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]

# Known to OpenAI's clients, without effect on the text: accepted and left alone.
_LABELS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
}
_NEUTRAL: dict[str, Any] = {
    "tool_choice": "none",
    "modalities": ["text"],
    "best_of": 1,
}


class Body(BaseModel):
    model_config = ConfigDict(extra="allow")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """`"n": true` is no number, though Python takes it for 1."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (wanted, *get_args(wanted)):
            raise PydanticCustomError("no_truth", "true and false are no value of this field")
        return value

    @model_validator(mode="after")
    def _refuse_unknown(self) -> Body:
        for name, value in (self.model_extra or {}).items():
            if value and name not in _LABELS and _NEUTRAL.get(name) != value:
                raise ValueError(f"the field {name!r} is not supported here. Leave it out.")
        return self


class StreamOptions(Body):
    include_usage: bool = False


class Generate(Body):
    """Fields of both completion routes."""

    model: str = Field(max_length=128)
    n: int | None = Field(None, ge=1, le=4)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1, description="0 = all tokens")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[TokenName, Bias], Field(max_length=MAX_BIAS)] | None = None
    stop: StopString | Stops | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = Field(None, description="as vLLM knows it")

    def constraint(self) -> Constraint | None:
        """What holds the answer."""
        given = self.structured_outputs or self.response_format
        return None if given is None else given.constraint()

    @model_validator(mode="after")
    def _one_form(self) -> Generate:
        asked = self.response_format is not None and self.response_format.type != "text"
        if asked and self.structured_outputs is not None:
            raise ValueError("response_format and structured_outputs are both given. Give one.")
        return self

    def sampling(self) -> dict[str, Any]:
        """The part of an engine's message that says how to sample."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            "n": self.n or 1,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_k": self.top_k or 0,
            "min_p": self.min_p or 0.0,
            "repetition_penalty": 1.0 if self.repetition_penalty is None else self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "logit_bias": self.logit_bias or {},
            "stop": [nfc(stop) for stop in stops],
            "seed": self.seed,
            "constraint": self.constraint(),
        }


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


def _read(arguments: str) -> Any:
    """Arguments of a call as their object, which templates write; what is none stays what it is."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(max_length=256, fail_fast=True)] | None = None
    name: str | None = Field(None, max_length=64)
    tool_calls: ToolCalls | None = None
    tool_call_id: str | None = Field(None, max_length=128)

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    def plain(self) -> str:
        """The text, and after it the calls as a model without a form of its own writes them."""
        calls = [PLAIN.write(call.function.name, call.function.arguments or "{}") for call in self.tool_calls or []]
        return "\n".join([*([self.text()] if self.text() or not calls else []), *calls])

    def for_template(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": nfc(self.text()),
        }
        if self.name is not None:
            told["name"] = self.name
        if self.tool_call_id is not None:
            told["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            functions = [(call.id, call.function.name, call.function.arguments) for call in self.tool_calls]
            told["tool_calls"] = [
                {"id": number, "type": "function", "function": {"name": name, "arguments": _read(arguments)}}
                for number, name, arguments in functions
            ]
        return told

    @model_validator(mode="after")
    def _calls_where_they_belong(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to messages of the assistant. Leave them out here.")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role tool needs tool_call_id: which call it answers.")
        return self


class ChatRequest(Generate):
    """The messages' contents, joined by newlines, are the text that the model continues."""

    tools: ToolList | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096, fail_fast=True)]
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def asked_tools(self) -> Tools | None:
        """What may be called; None: nothing."""
        return tools_of(self.tools, self.tool_choice, parallel=self.parallel_tool_calls is not False)

    @model_validator(mode="after")
    def _tools_fit(self) -> ChatRequest:
        self.asked_tools()
        return self

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true. Set it or leave top_logprobs out.")
        return self


class CompletionRequest(Generate):
    prompt: str | Texts | Tokens | TokenLists = ""
    max_tokens: int | None = Field(16, ge=0, le=2**31 - 1)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = Field(False, description="the prompt before each answer, with its log-probabilities")

    def prompts(self) -> list[str] | list[list[int]]:
        return several(self.prompt)

    @model_validator(mode="after")
    def _few_prompts(self) -> CompletionRequest:
        choices = len(self.prompts()) * (self.n or 1)
        if not 1 <= choices <= MAX_CHOICES:
            raise ValueError(f"prompt asks for {choices} answers. Ask for 1 to {MAX_CHOICES} in one request.")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens = 0 needs echo = true. Set it, or ask for a token.")
        return self


class EmbeddingRequest(Body):
    model: str = Field(max_length=128)
    input: str | Texts | Tokens | TokenLists
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=65_536, description="the first so many, made of length 1 again")

    def inputs(self) -> list[str] | list[list[int]]:
        return several(self.input)

    @model_validator(mode="after")
    def _not_empty(self) -> EmbeddingRequest:
        inputs = self.inputs()
        if not 1 <= len(inputs) <= 256 or not all(inputs):
            raise ValueError(f"input has {len(inputs)} texts or an empty one. Send 1 to 256 texts that are not empty.")
        return self


class TokenizeRequest(BaseModel):
    """One of the two."""

    text: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096, fail_fast=True)] | None = None
    model: str | None = Field(None, max_length=128)

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.text is None) == (self.messages is None):
            raise ValueError("tokenize needs text or messages. Give one of them.")
        return self


class DetokenizeRequest(BaseModel):
    model: str | None = Field(None, max_length=128)
    tokens: Annotated[list[Token], Field(max_length=65_536, fail_fast=True)]


class FeedbackRequest(BaseModel):
    id: str = Field(max_length=64, description="of an answer of /v1/predict")
    truth: Any = Field(description="what was true, in the form that the task says")


class DigestBody(BaseModel):
    digest: Digest


class ChallengerBody(BaseModel):
    digest: Digest | None = Field(None, description="the challenger if left out")
    override: str | None = Field(
        None, max_length=500, description="approve: why one that the gate rejected is taken all the same; kept"
    )


class RetrainBody(BaseModel):
    trigger: str = Field("operator", max_length=64)


class PauseBody(BaseModel):
    paused: bool = True


class Alert(BaseModel):
    """Of Alertmanager's webhook (`status`) and of its v2 API, which Prometheus posts to (`endsAt`)."""

    labels: dict[str, str] = Field(default={}, max_length=64)
    status: Literal["firing", "resolved"] | None = None
    endsAt: str | None = Field(None, max_length=64)


Alerts = Annotated[list[Alert], Field(max_length=1000, fail_fast=True)]


class AlertWebhook(BaseModel):
    alerts: Alerts


def several(value: Any) -> Any:
    """One text or one list of tokens as a list of one."""
    single = isinstance(value, str) or (bool(value) and isinstance(value[0], int))
    return [value] if single else value
