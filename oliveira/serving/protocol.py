"""What front and engine say to each other over a socket pair, one JSON object a line (`wire.py`).

The front asks (`Question`, tag `op`), the engine says (`Said`, tag `type`): first `TextReady`, `TaskReady` or `Failed`;
of each question `Token`, `Done`, `End` or a `Result`, or `Error`; and of itself `Stats` and `Beat`. Tenants take turns.
End of file on either side ends the conversation: the engine exits, the front starts another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from oliveira.errors import OliveiraError
from oliveira.serving.wire import message, part

BEAT_SECONDS = 1.0


class Refused(OliveiraError):
    """A request that this model cannot serve."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


# Front → engine ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    id: str = ""  # a number of the front's client for this engine
    request: str = ""  # the front's name of the request, for the log


@part
class Constraint:
    """What an answer may look like."""

    kind: str  # json_schema, regex or lark
    text: str  # the schema as JSON, the expression, the grammar


@part
class Tools:
    """Functions that an answer may call, in the form of `serving/calls.py`."""

    functions: list[Any]  # of each: name, description, parameters
    must: bool  # the answer calls; else it may be text
    parallel: bool  # it may call more than one


@message("op", "generate")
class Generate(Question):
    """Continue a text, or tokens."""

    text: str | None = None
    tokens: list[int] | None = None
    messages: list[Any] | None = None  # a chat: read instead of its `text` where the model has a template for it
    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[str, float] = field(default_factory=dict)  # by the token's number
    stop: list[str]
    seed: int | None = None
    logprobs: int | None = None  # alternatives beside each token; None = no log-probabilities
    echo: bool = False  # say the prompt before each choice, with its log-probabilities if any are asked
    observe: bool = False  # measure the loss of the prompt
    adapter: str | None = None
    tenant: str = ""  # prefixes are found again for the same tenant only
    constraint: Constraint | None = None  # of the answer; with tools: of one that calls none
    tools: Tools | None = None


@message("op", "embed")
class Embed(Question):
    """Read in pieces between the steps of the streams."""

    text: str | None = None
    tokens: list[int] | None = None
    tenant: str = ""


@message("op", "tokenize")
class Tokenize(Question):
    text: str
    messages: list[Any] | None = None  # as of `Generate`


@message("op", "detokenize")
class Detokenize(Question):
    tokens: list[int]


@message("op", "predict")
class Predict(Question):
    """A request of the task that is served."""

    body: Any
    tenant: str = ""


@message("op", "predict_all")
class PredictAll(Question):
    """Several requests, answered together or refused together."""

    bodies: list[Any]
    tenant: str = ""


@message("op", "judge")
class Judge(Question):
    """How wrong an earlier answer was."""

    body: Any
    answer: Any
    truth: Any
    tenant: str = ""


@message("op", "cancel")
class Cancel(Question): ...


# Engine → front ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Said: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Said):
    """Once, after the smoke prompts."""

    digest: str
    weights: str
    base: str = ""  # SHA-256 of the weights


@message("type", "text_ready")
class TextReady(Ready):
    vocab_size: int
    max_len: int
    decoder: str
    calls: str = "json"  # the form of calls of functions (`serving/calls.py`)


@message("type", "task_ready")
class TaskReady(Ready):
    task: dict[str, Any]  # as GET /v1/task says it
    engine: str


@message("type", "failed")
class Failed(Said):
    """Once, instead of `Ready`; the process ends."""

    reason: str


@message("type", "stats")
class Stats(Said):
    """When one of them changed."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    attention_cache: bool | None = None  # it is on; None = there is none


@message("type", "beat")
class Beat(Said):
    """Every second: the thread that decodes is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Said):
    id: str


@message("type", "error")
class Error(Answer):
    """The request has ended."""

    status: int
    message: str
    code: str


@message("type", "accepted")
class Accepted(Answer):
    """The request fits and waits for a slot."""

    prompt_tokens: int


@part
class Alternative:
    token: list[int]  # its bytes
    logprob: float


@part
class Logprob:
    """The log-probability of one token of the text."""

    token: list[int]  # its bytes
    logprob: float | None  # None: the first token of a prompt
    top: list[Alternative]
    offset: int = 0  # characters of the text before it


@message("type", "echo")
class Echo(Answer):
    """The prompt, before the first token of each choice."""

    index: int  # of the choice
    text: str
    logprobs: list[Logprob]


@message("type", "token")
class Token(Answer):
    index: int  # of the choice
    text: str  # empty while a character or stop string is open
    logprobs: list[Logprob]


@message("type", "done")
class Done(Answer):
    """One choice has ended."""

    index: int
    reason: str  # "stop" or "length"
    text: str
    tokens: int
    logprobs: list[Logprob]


@message("type", "end")
class End(Answer):
    """Every choice has ended."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    loss: float | None  # of the prompt
    prompt: list[int] | None
    cached_tokens: int
    guessed_tokens: int
    accepted_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Answer):
    """The whole answer to a question."""


@message("type", "embedded")
class Embedded(Result):
    embedding: list[float]
    prompt_tokens: int


@message("type", "tokenized")
class Tokenized(Result):
    tokens: list[int]
    max_len: int


@message("type", "detokenized")
class Detokenized(Result):
    text: str


@part
class Prediction:
    answer: Any
    observed: dict[str, float]  # what drift looks at, by name


@message("type", "predicted")
class Predicted(Result):
    queue_seconds: float
    answers: list[Prediction]  # one to `Predict`, one of each body to `PredictAll`


@message("type", "judged")
class Judged(Result):
    queue_seconds: float
    error: float
