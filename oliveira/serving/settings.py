"""Settings of the server and its engines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    StringConstraints,
)

from oliveira.settings import MOST_THREADS, Section


class ServeSection(Section):
    host: str = "127.0.0.1"
    connections: int = Field(1024, ge=8, description="open connections; one more gets 503 if all of them are at work")
    cors_origins: list[Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^/\s]+)$")]] = Field(
        default=[],
        description='web pages that may call the API, such as "https://example.org"; "*" = any; empty = none',
    )
    slots: int = Field(8, ge=1, description="streams decoded together")
    queue: int = Field(256, ge=0, description="requests that may wait; then 429")
    max_body: int = Field(1 << 20, ge=1024, description="bytes of a request body")
    max_message: int = Field(1 << 16, ge=64, description="bytes of one message after NFC")
    max_messages: int = Field(256, ge=1)
    deadline: float = Field(120.0, gt=0, description="seconds a request may take")
    drain: float = Field(20.0, ge=0, description="seconds open streams get at shutdown")
    silence: float = Field(30.0, ge=2, description="seconds without a sign of life after which an engine is replaced")
    threads: int = Field(
        1, ge=0, le=MOST_THREADS, description="of the engine; one is best for small models beside a training; 0 = all"
    )
    cache_megabytes: int = Field(256, ge=0, description="of keys and values kept on disk for later turns; 0 = none")
    activations: Literal["fp32", "int8"] = Field(
        "fp32",
        description="int8 rounds what enters a product of 4 or 8 bits: faster, about 0.01 nats worse (docs/kernels.md)",
    )
    max_loss: float = Field(
        0.0,
        ge=0,
        description="nats a token that the form chosen by `oliveira compile` may lose for speed; 0 = it loses nothing",
    )
    window: int = Field(
        0, ge=0, description="tokens kept of texts longer than max_len: the first and the last; 0 = none"
    )
    guesses: bool = Field(True, description="speculative decoding, where it pays: the text is the same")
    draft: str = Field("", description="folder of a smaller model's artifact that guesses; else earlier text does")
    keep_traffic: bool = Field(True, description="keep prompts under the home: drift and update need them")
    traffic_megabytes: int = Field(64, ge=1)
    traffic_days: float = Field(0.0, ge=0, description="prompts older than so many days are deleted; 0 = none is")
    memory: int = Field(
        0, ge=0, description="MiB for the engines of all lives together; those not used make room; 0 = no bound"
    )
    idle: float = Field(0.0, ge=0, description="seconds without a request after which an engine ends; 0 = never")
