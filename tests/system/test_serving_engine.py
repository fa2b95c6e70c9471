"""The engine's inside: batching changes nothing, prompts come in chunks, text comes in whole characters."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_helpers import embedding, prompts, request, run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from serving_helpers import MAX_LEN, Home

from oliveira.errors import CorruptError, OliveiraError
from oliveira.models.gpt import GPT
from oliveira.serving.engine import decoders
from oliveira.serving.engine.decoders import Settings
from oliveira.serving.engine.sampling import Sampler, Sampling, choose, distribution
from oliveira.serving.engine.scheduler import CHUNK
from oliveira.serving.engine.text import TextStream
from oliveira.serving.engine.text_engine import TextEngine
from oliveira.serving.protocol import Done, Error, Generate, Predict, Token

SLOTS = 4


@pytest.fixture(scope="module", params=["native", "torch"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Any) -> TextEngine:
    home = Home(tmp_path_factory.mktemp("engine"), tokenizer_file)
    made = home.make(seed=3)
    home.ledger.close()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(decoders, "not_covered", lambda model: "asked for.")
        engine = TextEngine(made, Settings(slots=SLOTS))
    assert engine.decoder.startswith(request.param)
    return engine


@torch.inference_mode()
def plain_greedy(model: GPT, tokens: list[int], n: int, end: int) -> list[int]:
    """The twin: no cache, no batch, the whole sequence read again for every token."""
    out: list[int] = []
    while len(out) < n:
        token = int(model(torch.tensor([tokens + out]))[0, -1].argmax())
        if token == end:
            break
        out.append(token)
    return out


def test_batched_decode_equals_plain_greedy(engine: TextEngine) -> None:
    """Ten streams of different length that join and leave at different steps, in four slots."""
    waves = [[(request(f"r{i}", prompt, 10 + 7 * i), 0)] for i, prompt in enumerate(prompts(engine))]
    got = run(engine, waves)
    texts = set()
    for i, prompt in enumerate(prompts(engine)):
        expected = plain_greedy(engine.model, prompt, 10 + 7 * i, engine.tokenizer.end_of_text)
        assert got[f"r{i}", 0]["text"] == engine.tokenizer.decode(expected), i
        texts.add(got[f"r{i}", 0]["text"])
    assert len(texts) == 10  # prompts matter: otherwise this test could not fail


def test_same_seed_same_text_regardless_of_neighbours(engine: TextEngine) -> None:
    prompt = prompts(engine)[4]
    alone = run(engine, [[(request("a", prompt, 60, temperature=1.0, n=2), 7)]])
    noise = [[(request(f"n{i}", p, 5 + 9 * i, temperature=1.0), i)] for i, p in enumerate(prompts(engine))]
    crowded = run(engine, [*noise[:3], [(request("a", prompt, 60, temperature=1.0, n=2), 7)], *noise[3:]])
    other = run(engine, [[(request("a", prompt, 60, temperature=1.0), 8)]])
    assert alone["a", 0]["text"] == crowded["a", 0]["text"]
    assert alone["a", 1]["text"] == crowded["a", 1]["text"]
    assert len({alone["a", 0]["text"], alone["a", 1]["text"], other["a", 0]["text"]}) == 3


def test_prompt_loss_is_the_models_own(engine: TextEngine) -> None:
    for i, prompt in enumerate(prompts(engine)):
        end = run(engine, [[(request("r", prompt, 1), 0)]])["r", -1]
        if len(prompt) == 1:
            assert end["loss"] is None
            continue
        with torch.inference_mode():
            logits = engine.model(torch.tensor([prompt[:-1]]))[0]
        assert end["loss"] == pytest.approx(float(F.cross_entropy(logits, torch.tensor(prompt[1:]))), rel=1e-5), i


def test_cancel_frees_the_slot_at_once_and_leaves_the_others_alone(engine: TextEngine) -> None:
    scheduler, long = engine.scheduler, prompts(engine)[5]
    alone = run(engine, [[(request("keep", long, 50), 0)]])["keep", 0]["text"]
    for name in ("gone1", "keep", "gone2", "gone3", "waits"):
        scheduler.add(request(name, long, 50, n=1), 0)
    text = ""
    for step in range(200):
        if step in (2, 12, 20):  # while a prompt is read, and while all decode
            scheduler.cancel(("gone1", "gone2", "gone3")[(2, 12, 20).index(step)])
            streams = scheduler.decoding + ([scheduler.reading] if scheduler.reading else [])
            assert not any(s.request.id == f"gone{(2, 12, 20).index(step) + 1}" for s in streams)
        text += "".join(m.text for m in scheduler.step() if m.id == "keep" and isinstance(m, Token | Done))
    assert not scheduler.busy
    assert text == alone


def test_a_stream_that_ends_while_a_prompt_is_read_leaves_it_whole(engine: TextEngine) -> None:
    """The prompt being read moves up a row with all that has been read of it."""
    prompt = list(range(20, 220))
    expected = plain_greedy(engine.model, prompt, 20, engine.tokenizer.end_of_text)
    assert len(prompt) > 3 * CHUNK
    for ends_at in range(1, 6):
        got = run(engine, [[(request("short", [7], ends_at), 0)], [(request("long", prompt, 20), 0)]])
        assert got["long", 0]["text"] == engine.tokenizer.decode(expected), ends_at


def test_a_long_prompt_does_not_stop_the_others(engine: TextEngine) -> None:
    """While 200 tokens are read, the stream beside gets a token at every step."""
    scheduler = engine.scheduler
    scheduler.add(request("short", [5], 40), 0)
    scheduler.step()
    scheduler.add(request("long", list(range(1, 201)), 1), 0)
    for _ in range(math.ceil(200 / CHUNK) - 1):
        assert [m.id for m in scheduler.step()] == ["short"]
    assert {m.id for m in scheduler.step()} == {"short", "long"}
    scheduler.cancel("short")


def test_engine_refuses_what_does_not_fit(engine: TextEngine) -> None:
    for bad in (
        Generate(stop=[], tokens=[1] * MAX_LEN),
        Generate(stop=[], tokens=[1] * 10, max_tokens=MAX_LEN),
        Generate(stop=[], text="x" * 1_000_000),
        Generate(stop=[], tokens=[9999]),
    ):
        [answer] = engine.handle(bad)
        assert isinstance(answer, Error) and answer.status == 400
    assert not engine.scheduler.busy
    with pytest.raises(OliveiraError):
        engine.handle(Predict(body={}))


def test_smoke_refuses_nan(tmp_path: Any, tokenizer_file: Any) -> None:
    home = Home(tmp_path, tokenizer_file)

    def spoil(model: GPT) -> None:
        with torch.no_grad():
            model.blocks[1].feed_forward.down.weight[0, 0] = float("nan")  # type: ignore[index, union-attr]

    made = home.make(change=spoil)
    home.ledger.close()
    with pytest.raises(CorruptError, match="smoke"):
        TextEngine(made, Settings(slots=1)).smoke()


def test_stop_strings_span_tokens_and_are_withheld(engine: TextEngine) -> None:
    """Every cut of a greedy text as a stop string: the text ends right before it, whatever the tokens."""
    prompt = prompts(engine)[6]
    whole = run(engine, [[(request("r", prompt, 40), 0)]])["r", 0]["text"]
    for start, size in ((5, 1), (9, 4), (20, 11), (0, 2)):
        stop = whole[start : start + size]
        got = run(engine, [[(request("r", prompt, 40, stop=["never there", stop]), 0)]])["r", 0]
        assert got["text"] == whole[: whole.index(stop)]
        assert got["reason"] == "stop"


def test_logprobs_are_the_models_and_cover_the_text(engine: TextEngine) -> None:
    prompt = prompts(engine)[7]
    got = run(engine, [[(request("r", prompt, 12, logprobs=3), 0)]])["r", 0]
    chosen = plain_greedy(engine.model, prompt, 12, engine.tokenizer.end_of_text)
    with torch.inference_mode():
        logits = engine.model(torch.tensor([prompt + chosen[:-1]]))[0, len(prompt) - 1 :]
    expected = torch.log_softmax(logits.double(), -1)
    assert b"".join(bytes(e.token) for e in got["entries"]).decode("utf-8", "replace") == got["text"]
    for row, (token, entry) in enumerate(zip(chosen, got["entries"], strict=True)):
        assert entry.logprob == pytest.approx(float(expected[row, token]), abs=1e-4)
        assert entry.top[0].logprob == pytest.approx(float(expected[row].max()), abs=1e-4) and len(entry.top) == 3


def test_embedding_is_the_normalised_mean_of_the_last_states(engine: TextEngine) -> None:
    tokens = prompts(engine)[6]
    mean = engine.model.features(torch.tensor([tokens]))[0].mean(0)
    assert torch.allclose(torch.tensor(embedding(engine, tokens)), mean / mean.norm(), atol=1e-6)


# Sampling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(top_k=3),
        Sampling(top_p=0.6),
        Sampling(temperature=1.7, top_k=5, top_p=0.9),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -3.0])
    p = distribution(logits, sampling)
    plain = torch.softmax(logits.double() / sampling.temperature, 0)
    kept = p > 0
    assert torch.allclose(p[kept], plain[kept] / plain[kept].sum())
    if sampling.top_k:
        assert int(kept.sum()) <= sampling.top_k
    if sampling.top_p < 1:  # the smallest set that reaches top_p
        assert float(plain[kept].sum()) >= sampling.top_p or sampling.top_k
        assert float(plain[kept].sum() - plain[kept].min()) < sampling.top_p
    sampler, drawn = Sampler(sampling, seed=0), []
    for _ in range(4000):
        drawn.append(choose([sampler], [logits], [None], [None])[0].token)
        sampler.took(drawn[-1])
    counts = torch.bincount(torch.tensor(drawn), minlength=7)
    assert counts[~kept].sum() == 0
    if kept.sum() > 1:
        assert chisquare(counts[kept].numpy(), (p[kept] * 4000).numpy()).pvalue > 1e-3
    assert choose([Sampler(Sampling(temperature=0), seed=0)], [logits], [None], [None])[0].token == 0


# Text -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="abcáé€😀 ", max_size=30),
    st.lists(st.text(alphabet="abcá€", min_size=1, max_size=4), max_size=3),
    st.randoms(),
)
def test_text_stream_is_the_cut_text_and_never_takes_back(text: str, stops: list[str], cuts: random.Random) -> None:
    """However the bytes are cut into tokens: what came out is the text up to the first stop string."""
    data, stream, out, start = text.encode(), TextStream(stops), "", 0
    while start < len(data) and not stream.stopped:
        end = start + cuts.randint(1, 3)
        out += stream.push(data[start:end])
        start = end
    out += stream.finish()
    assert text.startswith(out)
    if stream.stopped:
        assert any(text[len(out) :].startswith(stop) for stop in stops) and not any(stop in out for stop in stops)
    else:
        assert out == text and not any(stop in text for stop in stops)


def test_broken_characters_become_replacement_characters() -> None:
    stream = TextStream()
    assert stream.push(b"\xe2\x82") == ""
    assert stream.push(b"a") == "�a"
    assert stream.push(b"\xf0\x9f") == "" and stream.finish() == "�"
