"""One exception ends one request: the others' tokens have the same bits, nothing of the request is left."""

from __future__ import annotations

import math
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import prompts
from serving_helpers import MAX_LEN, Home

from oliveira.artifact import Artifact
from oliveira.kernels.build import unavailable
from oliveira.serving.engine import __main__ as engine_module
from oliveira.serving.engine import choosing, text_engine
from oliveira.serving.engine import scheduler as scheduler_module
from oliveira.serving.engine.decoders import Settings
from oliveira.serving.engine.text_engine import TextEngine
from oliveira.serving.engine.window import Window
from oliveira.serving.protocol import (
    Answer,
    Cancel,
    Done,
    Embed,
    Embedded,
    End,
    Error,
    Generate,
    Predict,
    Question,
    Result,
    Said,
    Token,
    Tokenize,
)
from oliveira.serving.wire import pack, tagged, unpack

pytestmark = pytest.mark.skipif(unavailable() is not None, reason="no compiler: torch decodes, without cache")

BAD = 0.25  # the temperature of the request that is hit
Told = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Artifact:
    home = Home(tmp_path_factory.mktemp("faults"), tokenizer_file)
    found = home.make(seed=3)
    home.ledger.close()
    return found


@pytest.fixture
def start(made: Artifact, tmp_path: Path) -> Iterator[Callable[..., TextEngine]]:
    engines: list[TextEngine] = []

    def make(**settings: Any) -> TextEngine:
        settings = {"slots": 4, "home": tmp_path, "cache_megabytes": 16, "guesses": False, **settings}
        engines.append(TextEngine(made, Settings(**settings)))
        return engines[-1]

    yield make
    for engine in engines:
        close(engine)


def close(engine: TextEngine) -> None:
    if engine.scheduler.prefixes is not None:
        engine.scheduler.prefixes.cache.close()


def generate(number: str, tokens: list[int], **more: Any) -> Generate:
    fields = {"n": 1, "max_tokens": 12, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "stop": ["zzz"], "seed": 7}
    fields |= {"logprobs": 2, "observe": True, "tenant": "ana", "adapter": None, "request": f"x-{number}"}
    return Generate(**{"id": number, "tokens": tokens, **fields, **more})


def talk(engine: TextEngine, waves: Sequence[Sequence[Question]]) -> Told:
    """A wave of messages before each of the first turns. What is said of each request, without times."""
    said: Told = defaultdict(list)
    for turn in range(2000):
        wave = waves[turn] if turn < len(waves) else []
        if not wave and not engine.scheduler.busy and turn >= len(waves):
            break
        for message in engine.turn(wave):
            said[message.id].append({key: value for key, value in tagged(message).items() if "seconds" not in key})
        assert engine.scheduler.pool.blocks.isfinite().all()
    assert not engine.scheduler.busy
    assert len(engine.scheduler.pool.free) == engine.scheduler.capacity  # no block is lost
    return dict(said)


def ordered(said: Told) -> Told:
    """Choice after choice: which of them is first in a step is nobody's affair."""
    last = len(said) + 100
    return {
        number: sorted(messages, key=lambda m: m.get("index", -1 if m["type"] == "accepted" else last))
        for number, messages in said.items()
    }


def conversation(engine: TextEngine, **bad: Any) -> list[list[Question]]:
    """Five requests of two keys; `bad` is the third."""
    texts = prompts(engine)
    waves: list[list[Question]] = [
        [generate(f"good{i}", texts[i + 3], tenant="rui" if i % 2 else "ana", n=1 + i % 2)] for i in range(4)
    ]
    waves.insert(2, [generate("bad", texts[8], **{"temperature": BAD, "n": 2, "max_tokens": 20, **bad})])
    return waves


def is_bad(stream: Any) -> bool:
    return bool(stream.request.sampling.temperature == BAD)


def at_step(kind: str) -> Callable[[TextEngine, pytest.MonkeyPatch], None]:
    """The decoder cannot compute the streams of the bad request, or computes nonsense."""

    def install(engine: TextEngine, patch: pytest.MonkeyPatch) -> None:
        step = engine.scheduler.decoder.step

        def wrong(runs: Any) -> torch.Tensor:
            scheduler = engine.scheduler
            streams = [*scheduler.decoding, *([scheduler.reading] if scheduler.reading else [])]
            tables = [stream.table for stream in streams if is_bad(stream) and stream.position > 70]
            hit = [any(run.table is table for table in tables) for run in runs]
            if any(hit) and kind == "raise":
                raise RuntimeError("injected")
            logits = step(runs)
            for part, bad in zip(logits.split([run.wanted for run in runs]), hit, strict=True):
                if bad:
                    part[:] = math.nan
            for table in tables if kind == "nan" else []:
                engine.scheduler.pool.blocks[table] = math.nan
            return logits

        patch.setattr(engine.scheduler.decoder, "step", wrong)

    return install


def raising(owner: Callable[[TextEngine], Any], name: str, when: Callable[..., bool] = lambda *_, **__: True) -> Any:
    """`owner(engine).name` raises for the arguments that `when` is true for."""

    def install(engine: TextEngine, patch: pytest.MonkeyPatch) -> None:
        real = getattr(owner(engine), name)

        def wrong(*given: Any, **more: Any) -> Any:
            if when(*given, **more):
                raise RuntimeError("injected")
            return real(*given, **more)

        patch.setattr(owner(engine), name, wrong)

    return install


def of_bad(stream: Any, *_: Any, **__: Any) -> bool:
    return is_bad(stream)


def has_bad(samplers: Any, *_: Any) -> bool:
    return any(sampler.sampling.temperature == BAD for sampler in samplers)


REQUEST_FAULTS = {
    "add": raising(lambda e: e.scheduler, "add", lambda request, seed: request.sampling.temperature == BAD),
    "step": at_step("raise"),
    "NaN": at_step("nan"),
    "sample": raising(lambda e: choosing, "choose", has_bad),
    "choices": raising(lambda e: e.scheduler, "_follow", of_bad),
    "blocks": raising(lambda e: e.scheduler, "_begin", of_bad),
    "slide": raising(lambda e: e.scheduler, "_slide", of_bad),
    "log-probabilities": raising(lambda e: scheduler_module, "described", lambda choice, _: len(choice.top) == 3),
    "numbers": raising(lambda e: text_engine, "check_numbers", lambda message: message.temperature == BAD),
}


@pytest.mark.parametrize("fault", REQUEST_FAULTS)
def test_an_exception_ends_its_own_request(
    start: Callable[..., TextEngine], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain_engine = start(cache_megabytes=0)
    plain = talk(plain_engine, conversation(plain_engine, logprobs=3))
    engine = start()
    with pytest.MonkeyPatch.context() as patch:
        REQUEST_FAULTS[fault](engine, patch)
        said = talk(engine, conversation(engine, logprobs=3))
    errors = [message for message in said["bad"] if message["type"] == "error"]
    assert [(error["status"], error["code"]) for error in errors] == [
        (500, "not_finite" if fault == "NaN" else "internal")
    ]
    assert said["bad"][-1] == errors[0]
    del plain["bad"], said["bad"]
    assert ordered(said) == ordered(plain)
    if fault != "NaN":
        [record] = [record for record in caplog.records if record.message == "a request failed"]
        assert (record.digest, record.id) == (engine.artifact.digest[:12], "x-bad")  # type: ignore[attr-defined]
        assert record.exc_info
    # Its entries are gone, its blocks clean, the cache is on: asked again it gets the right answer.
    again = talk(engine, [[conversation(engine, logprobs=3)[2][0]]])["bad"]
    right = talk(plain_engine, [[conversation(plain_engine, logprobs=3)[2][0]]])["bad"]
    assert [m for m in again if m["type"] != "end"] == [m for m in right if m["type"] != "end"]
    assert engine.scheduler.stats().attention_cache is True


def test_entries_of_a_request_that_failed_are_dropped(start: Callable[..., TextEngine]) -> None:
    """Also those that still wait for the disk."""
    engine = start()
    prompt = prompts(engine)[5]
    assert engine.scheduler.prefixes is not None
    cache = engine.scheduler.prefixes.cache
    with pytest.MonkeyPatch.context() as patch:
        raising(lambda e: choosing, "choose")(engine, patch)
        talk(engine, [[generate("bad", prompt)]])
    cache.flush()
    assert cache.stats()["chunks"] == 0 and cache.stats()["bytes"] == 0
    talk(engine, [[generate("good", prompt)]])
    cache.flush()
    assert cache.stats()["chunks"] > 0


CACHE_FAULTS = {
    "restore": raising(lambda e: e.scheduler.prefixes.cache, "longest"),
    "load": raising(lambda e: e.scheduler.prefixes.cache, "load"),
    "store": raising(lambda e: e.scheduler.prefixes.cache, "store"),
    "keys": raising(lambda e: e.scheduler.prefixes.cache, "keys"),
    "secret": lambda engine, patch: (engine.settings.home / "attention-cache.secret").write_bytes(b"short"),
    "disk": raising(lambda e: text_engine, "tenant_salt"),
}


@pytest.mark.parametrize("fault", CACHE_FAULTS)
def test_what_breaks_the_cache_turns_it_off(
    start: Callable[..., TextEngine], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain_engine = start(cache_megabytes=0)
    plain = talk(plain_engine, conversation(plain_engine))
    engine = start()
    talk(engine, conversation(engine))  # there is something to restore
    assert engine.scheduler.stats().attention_cache is True
    with pytest.MonkeyPatch.context() as patch:
        CACHE_FAULTS[fault](engine, patch)
        said = talk(engine, conversation(engine))
    for messages in said.values():
        assert messages[-1].pop("cached_tokens") >= 0
    for messages in plain.values():
        messages[-1].pop("cached_tokens")
    assert ordered(said) == ordered(plain)
    assert engine.scheduler.stats().attention_cache is False
    assert [r.message for r in caplog.records if "attention cache" in r.message] == [
        "the attention cache is off: serving goes on without it"
    ]


def test_guesses_that_fail_are_done_without(start: Callable[..., TextEngine]) -> None:
    plain_engine = start(cache_megabytes=0)
    plain = talk(plain_engine, conversation(plain_engine))
    engine = start(cache_megabytes=0, guesses=True)
    with pytest.MonkeyPatch.context() as patch:
        raising(lambda e: e.scheduler.speculator, "guess")(engine, patch)
        assert ordered(talk(engine, conversation(engine))) == ordered(plain)
    assert engine.scheduler.speculator is None


MESSAGE_FAULTS: dict[str, tuple[Any, Question]] = {
    "embed": (raising(lambda e: e.scheduler.decoder, "states"), Embed(tokens=[1, 2])),
    "tokenizer": (raising(lambda e: e.tokenizer, "encode"), Embed(text="um")),
    "adapter": (raising(lambda e: e.adapters, "get"), generate("", [1], adapter="ana")),
    "tokenize": (raising(lambda e: e.tokenizer, "encode"), Tokenize(text="um")),
    "another engine's": (lambda engine, patch: None, Predict(body={})),
    "odd": (lambda engine, patch: None, generate("", [1], stop=3)),
}


@pytest.mark.parametrize("fault", MESSAGE_FAULTS)
def test_a_message_that_cannot_be_answered_is_an_error(start: Callable[..., TextEngine], fault: str) -> None:
    install, message = MESSAGE_FAULTS[fault]
    plain_engine = start(cache_megabytes=0)
    plain = talk(plain_engine, conversation(plain_engine))
    engine = start(cache_megabytes=0)
    waves = conversation(engine)
    waves[1].append(replace(message, id="odd", request="x-odd"))
    with pytest.MonkeyPatch.context() as patch:
        install(engine, patch)
        said = talk(engine, waves)
    [error] = said.pop("odd")
    assert (error["type"], error["status"], error["code"]) == ("error", 500, "internal")
    assert ordered(said) == ordered(plain)


@pytest.mark.parametrize(
    "odd",
    [
        {"n": 0}, {"n": 10**400}, {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": 10**400}, {"top_k": -1},
        {"top_k": 10**400}, {"temperature": math.nan}, {"temperature": 10**400}, {"temperature": -1},
        {"top_p": 10**400}, {"seed": 10**400}, {"seed": "1"}, {"logprobs": -1}, {"n": 1.5},
        {"tokens": [10**400]}, {"tokens": [-1]},
    ],
)  # fmt: skip
def test_odd_numbers_are_refused(start: Callable[..., TextEngine], odd: dict[str, Any]) -> None:
    engine = start(cache_megabytes=0)
    [error] = talk(engine, [[replace(generate("odd", [1, 2]), **odd)]])["odd"]
    assert (error["type"], error["status"]) == ("error", 400), error
    assert talk(engine, [[generate("good", [])]])["good"][-1]["type"] == "end"  # no prompt at all is one


def test_an_exception_that_is_nobodys_ends_all_and_serving_goes_on(start: Callable[..., TextEngine]) -> None:
    engine = start(cache_megabytes=0, guesses=True)
    waves = conversation(engine)
    waves[3].append(Embed(id="text", tokens=list(range(200))))
    plain = talk(engine, [[generate("after", [5, 6, 7])]])
    forgotten: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        assert engine.scheduler.speculator is not None
        patch.setattr(engine.scheduler.speculator.guesser, "forget", forgotten.append)
        calls = iter(range(100))
        raising(lambda e: e.scheduler, "_admit", lambda messages: next(calls) == 4)(engine, patch)
        said = talk(engine, waves)
    assert set(said) == {"good0", "good1", "good2", "good3", "bad", "text"}
    assert {stream.request.id for stream in forgotten} >= {"good0", "good1"}  # a draft has blocks for each
    assert all(messages[-1]["type"] == "error" and messages[-1]["status"] == 500 for messages in said.values())
    assert talk(engine, [[generate("after", [5, 6, 7])]]) == plain
    talk(engine, [[Embed(id="text", tokens=[1])]])


def test_a_number_that_cannot_be_written_ends_its_request(
    start: Callable[..., TextEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the socket: the loop goes on, the thread says that it is alive."""
    engine = start(cache_megabytes=0)
    monkeypatch.setattr(engine_module, "BEAT_SECONDS", 0.05)
    describe = scheduler_module.described
    monkeypatch.setattr(scheduler_module, "described", lambda *given: replace(describe(*given), logprob=math.nan))
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    loop = threading.Thread(target=engine_module.run, args=(engine, theirs), daemon=True)
    loop.start()
    with ours, theirs, ours.makefile("rb") as stream:
        ours.sendall(pack([generate("nan", [1, 2]), generate("fine", [3, 4], logprobs=None)]))
        said: Told = defaultdict(list)
        while not (said["nan"] and said["fine"] and said["fine"][-1]["type"] == "end" and len(said["beat"]) > 2):
            message = unpack(stream.readline(), Said)
            name = message.id if isinstance(message, Answer) else type(message).__name__.lower()
            said[name].append(tagged(message))
        ours.shutdown(socket.SHUT_RDWR)
        loop.join(10)
        assert not loop.is_alive()
    assert [m["type"] for m in said["nan"]] == ["accepted", "error"]
    assert len([m for m in said["fine"] if m["type"] == "token"]) == 11


# Embeddings -----------------------------------------------------------------------------------------------------


def test_streams_go_on_while_texts_are_embedded(start: Callable[..., TextEngine]) -> None:
    """256 texts: no step without a token for each stream, no more than a piece read in a step; a prompt is read too."""
    engine = start(cache_megabytes=0)
    for number in ("one", "two"):
        engine.turn([generate(number, [5, 6], max_tokens=150, stop=[])])
    engine.turn([])
    read: list[int] = []
    states = engine.scheduler.decoder.states

    def counted(runs: Any) -> torch.Tensor:
        read.append(sum(len(run.tokens) for run in runs))
        return states(runs)

    texts = [Embed(id=f"e{i}", tokens=[7 + i % 200] * (1 + i % 40)) for i in range(256)]
    pieces: list[int] = []  # tokens read for embeddings in each turn
    skipped = longest = 0
    done: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.scheduler.decoder, "states", counted)
        out = engine.turn([*texts, generate("late", list(range(20, 150)), max_tokens=2)])
        while out or engine.scheduler.busy:
            told = {m.id for m in out if isinstance(m, Token | Done)}
            done |= {m.id: m for m in out if isinstance(m, Result | End | Error)}
            skipped = 0 if {"one", "two"} - done.keys() <= told else skipped + 1
            longest = max(longest, skipped)
            pieces.append(sum(read))
            read.clear()
            out = engine.turn([])
    assert longest == 0
    assert sum(pieces) == sum(1 + i % 40 for i in range(256)) and max(pieces[:100]) <= 64
    assert all(done[f"e{i}"].prompt_tokens == 1 + i % 40 for i in range(256)) and "late" in done
    again = talk(engine, [[texts[17]]])["e17"][0]["embedding"]
    assert again == pytest.approx(done["e17"].embedding, abs=1e-6)


def test_texts_that_nobody_waits_for_are_not_read(start: Callable[..., TextEngine]) -> None:
    engine = start(cache_megabytes=0)
    texts = [Embed(id=f"e{i}", tokens=[9] * 250) for i in range(50)]
    engine.turn(texts)
    engine.turn([Cancel(id=f"e{i}") for i in range(50)])
    assert not engine.scheduler.busy
    assert set(talk(engine, [[generate("good", [1])]])) == {"good"}


def test_a_text_is_as_long_as_the_model_has_learnt_at_most(start: Callable[..., TextEngine]) -> None:
    """With a window conversations may become longer; a text to be embedded may not, and says so."""
    engine = start(cache_megabytes=0, window=Window(128))
    assert engine.max_len > MAX_LEN
    said = talk(
        engine,
        [
            [generate("stream", [5, 6], max_tokens=30)],
            [Embed(id="long", tokens=[5] * (MAX_LEN + 1))],
            [Embed(id="whole", tokens=[5] * MAX_LEN)],
        ],
    )
    [refused] = said["long"]
    assert (refused["status"], refused["code"]) == (400, "context_length_exceeded")
    assert str(MAX_LEN) in refused["message"]
    assert said["whole"][0]["type"] == "embedded" and said["stream"][-1]["type"] == "end"


def test_keys_take_turns(start: Callable[..., TextEngine]) -> None:
    """One key has filled the queue: another's request is the next but one, whatever waits."""
    engine = start(cache_megabytes=0, slots=1)
    engine.turn([generate(f"many{i}", [5, i], max_tokens=3, n=2, tenant="ana", stop=[]) for i in range(20)])
    ends = [m.id for m in engine.turn([generate("one", [9], max_tokens=3, tenant="rui")]) if isinstance(m, End)]
    texts = [Embed(id=f"e{i}", tokens=[9] * 200, tenant="ana") for i in range(20)]
    out = engine.turn([*texts, Embed(id="text", tokens=[9], tenant="rui")])
    results: list[str] = []
    while out or engine.scheduler.busy:
        ends += [m.id for m in out if isinstance(m, End)]
        results += [m.id for m in out if isinstance(m, Embedded)]
        out = engine.turn([])
    assert ends.index("one") <= 2 and len(ends) == 21
    assert results.index("text") <= 2 and len(results) == 21
    assert len(engine.scheduler.pool.free) == engine.scheduler.capacity


def test_the_cache_is_taken_over_from_the_engine_that_is_replaced(
    start: Callable[..., TextEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped away and back: the old engine still ends its streams, and holds the cache."""
    monkeypatch.setattr(text_engine, "CACHE_AGAIN_SECONDS", 0.01)
    old = start()
    prompt = prompts(old)[5]
    talk(old, [[generate("a", prompt)]])
    new = start()
    assert new.scheduler.stats().attention_cache is None
    early = talk(new, [[generate("a", prompt)]])["a"]
    assert early[-1]["cached_tokens"] == 0
    close(old)
    for _ in range(1000):
        new.turn([])
        if new.scheduler.prefixes is not None:
            break
        threading.Event().wait(0.01)
    late = talk(new, [[generate("a", prompt)]])["a"]
    assert late[-1]["cached_tokens"] == len(prompt) - 1
    assert [m for m in late if m["type"] != "end"] == [m for m in early if m["type"] != "end"]
