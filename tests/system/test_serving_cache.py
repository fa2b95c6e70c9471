"""What must not change an answer: the attention cache, guesses, shared prompts. All answers are compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import prompts, request, run
from serving_helpers import Home

from oliveira.artifact import Artifact
from oliveira.errors import OliveiraError, UserError
from oliveira.kernels.build import unavailable
from oliveira.nn.positional import Rotary
from oliveira.serving.engine import decoders
from oliveira.serving.engine.decoders import Settings
from oliveira.serving.engine.scheduler import CHUNK
from oliveira.serving.engine.speculation import DraftModel, LookUp
from oliveira.serving.engine.text_engine import TextEngine
from oliveira.serving.engine.window import Window

pytestmark = pytest.mark.skipif(
    unavailable() is not None, reason="no compiler: torch decodes, without cache and guesses"
)

Make = Callable[..., TextEngine]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> list[Artifact]:
    """A model and a smaller one with the same tokenizer."""
    home = Home(tmp_path_factory.mktemp("cache"), tokenizer_file)
    both = [home.make(seed=3), home.make(seed=4)]
    home.ledger.close()
    return both


@pytest.fixture
def make(made: list[Artifact], tmp_path: Path) -> Iterator[Make]:
    """Engines on the same home, one after the other: the cache belongs to one process at a time."""
    engines: list[TextEngine] = []

    def start(**settings: Any) -> TextEngine:
        for engine in engines:
            stop(engine)
        engines.append(TextEngine(made[0], Settings(**{"slots": 4, "home": tmp_path, "guesses": False, **settings})))
        return engines[-1]

    yield start
    for engine in engines:
        stop(engine)


def stop(engine: TextEngine) -> None:
    if engine.scheduler.prefixes is not None:
        engine.scheduler.prefixes.cache.close()
        engine.scheduler.prefixes = None


def answers(engine: TextEngine, **more: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """Texts, log-probabilities and losses of ten prompts, greedy and sampled, some with two choices."""
    waves = []
    for i, prompt in enumerate(prompts(engine)):
        options = {"temperature": float(i % 2), "n": 1 + i % 3 // 2, "logprobs": 3, **more}
        waves.append([(request(f"r{i}", prompt, 12 + 6 * i, **options), i)])
    return run(engine, waves)


def said(found: dict[tuple[str, int], dict[str, Any]]) -> dict[Any, Any]:
    """Without times and counters."""
    keys = ("text", "entries", "reason", "tokens", "loss")
    return {name: {key: choice[key] for key in keys if key in choice} for name, choice in found.items()}


def counted(found: dict[tuple[str, int], dict[str, Any]], counter: str) -> int:
    return sum(choice[counter] for (_, index), choice in found.items() if index < 0)


def test_answers_have_the_same_bits_with_the_cache_and_after_a_restart(make: Make) -> None:
    plain = answers(make(cache_megabytes=0))
    first = answers(make(cache_megabytes=16))
    again = make(cache_megabytes=16)  # another engine on the same files
    second = answers(again)
    assert said(first) == said(second) == said(plain)
    assert counted(plain, "cached_tokens") == 0
    long = {name for name, choice in second.items() if name[1] < 0 and len(choice["prompt"]) >= CHUNK}
    assert len(long) >= 4 and all(second[name]["cached_tokens"] >= len(second[name]["prompt"]) - 1 for name in long)
    assert again.scheduler.prefixes is not None and again.scheduler.prefixes.cache.stats()["bad"] == 0


def test_a_conversations_next_turn_reads_only_what_is_new(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what the model itself has written is found again, with its loss."""
    prompt = prompts(make())[5]
    engine = make(cache_megabytes=16)
    prefixes, texts = engine.scheduler.prefixes, []
    assert prefixes is not None
    keep = prefixes.keep
    monkeypatch.setattr(prefixes, "keep", lambda text: (keep(text), texts.append(list(text.tokens))))
    run(engine, [[(request("a", prompt, 60), 0)]])
    assert texts[-1][: len(prompt)] == prompt and len(texts[-1]) == len(prompt) + 60
    longer = texts[-1] + prompts(engine)[0]
    found = run(make(cache_megabytes=16), [[(request("b", longer, 5, logprobs=2), 0)]])
    plain = run(make(cache_megabytes=0), [[(request("b", longer, 5, logprobs=2), 0)]])
    assert said(found) == said(plain)
    assert counted(found, "cached_tokens") == len(texts[-1]) - 2  # the last one was never read, the one before again


def test_rounded_activations_keep_the_promise(tokenizer_file: Path, tmp_path: Path) -> None:
    """4-bit weights with int8 inputs: the same bits with the cache and guesses; others than with fp32 inputs."""
    home = Home(tmp_path / "made", tokenizer_file)
    made = home.make(seed=5, weights="int4")
    home.ledger.close()
    found = {}
    for name, settings in {
        "fp32": Settings(slots=4),
        "int8": Settings(slots=4, activations="int8"),
        "first": Settings(slots=4, activations="int8", home=tmp_path, cache_megabytes=16),
        "again": Settings(slots=4, activations="int8", home=tmp_path, cache_megabytes=16),
    }.items():
        engine = TextEngine(made, settings)
        found[name] = answers(engine)
        stop(engine)
    assert said(found["int8"]) == said(found["first"]) == said(found["again"]) != said(found["fp32"])
    assert counted(found["again"], "cached_tokens") > counted(found["first"], "cached_tokens")


def test_tenants_share_nothing(make: Make) -> None:
    engine, prompt = make(cache_megabytes=16), prompts(make())[5]
    engine = make(cache_megabytes=16)

    def cached(salt: bytes) -> int:
        return counted(run(engine, [[(request("r", prompt, 1, salt=salt), 0)]]), "cached_tokens")

    assert cached(b"ana") == 0
    assert engine.scheduler.prefixes is not None
    engine.scheduler.prefixes.cache.flush()
    assert cached(b"ana") > 0 and cached(b"rui") == 0


def test_a_tail_holds_nothing_of_those_who_had_the_blocks_before(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is the same, byte for byte, whether the blocks were new or full of another tenant's keys."""
    stored: list[list[bytes]] = []
    for left in (0.0, 7.0):
        engine = make(cache_megabytes=16)
        prefixes, tails = engine.scheduler.prefixes, []
        assert prefixes is not None
        store = prefixes.cache.store

        def noted(
            key: bytes, index: int, tokens: list[int], buffers: list[memoryview], parents: list[bytes], *,
            again: bool, store: Any = store, tails: list[bytes] = tails,
        ) -> None:  # fmt: skip
            if len(tokens) < CHUNK:
                tails.append(b"".join(bytes(buffer) for buffer in buffers))
            store(key, index, tokens, buffers, parents, again=again)

        monkeypatch.setattr(prefixes.cache, "store", noted)
        engine.scheduler.pool.blocks.fill_(left)
        run(engine, [[(request("r", prompts(engine)[i], 9, salt=bytes([i, int(left)])), 0)] for i in (3, 5, 6, 9)])
        stored.append(tails)
    assert len(stored[0]) >= 6 and stored[0] == stored[1]


def test_a_text_that_was_not_observed_serves_those_that_are(make: Make) -> None:
    """The first that is observed computes the loss, which nobody has; from the second on all is found."""
    prompt = prompts(make())[5]
    plain = run(make(cache_megabytes=0), [[(request("r", prompt, 5), 0)]])
    cached, losses = [], []
    for observe in (False, False, True, True):
        engine = make(cache_megabytes=16)
        found = run(engine, [[(request("r", prompt, 5, observe=observe), 0)]])
        cached.append(counted(found, "cached_tokens"))
        losses.append(found["r", -1]["loss"])
        assert found["r", 0] == plain["r", 0]
    last = len(prompt) - 1
    assert cached == [0, last, 0, last]
    assert losses == [None, None, plain["r", -1]["loss"], plain["r", -1]["loss"]]


def test_one_flipped_bit_is_computed_again(make: Make) -> None:
    plain = answers(make(cache_megabytes=0))
    answers(make(cache_megabytes=16))
    engine = make(cache_megabytes=0)
    files = [
        path for path in (engine.settings.home / "attention").rglob("*") if path.is_file() and len(path.name) == 64
    ]  # type: ignore[operator]
    assert files
    for number, path in enumerate(files):
        content = bytearray(path.read_bytes())
        content[(number * 997) % len(content)] ^= 1 << number % 8
        path.write_bytes(content)
    damaged = make(cache_megabytes=16)
    found = answers(damaged)
    assert said(found) == said(plain)
    assert damaged.scheduler.prefixes is not None and damaged.scheduler.prefixes.cache.stats()["bad"] > 0


class Wrong:
    """Guesses that are never right, and as many as are allowed."""

    def guess(self, texts: Any, at_most: Any) -> list[list[int]]:
        return [[(text.tokens[-1] * 7 + i) % 300 for i in range(n)] for text, n in zip(texts, at_most, strict=True)]

    def unread(self, text: Any) -> int:
        return 0

    def forget(self, text: Any) -> None:
        pass


@pytest.mark.parametrize("guesser", ["look-up", "draft", "same model", "wrong"])
def test_guesses_change_no_bit(make: Make, made: list[Artifact], guesser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answers(make())
    seconds = iter([0.0, 1.0])  # a draft that takes no time always pays
    monkeypatch.setattr(decoders, "step_seconds", lambda *_: [next(seconds)])
    monkeypatch.setattr(decoders, "cost_of_a_guess", lambda *_: 0.0)
    draft = {"draft": made[1].path, "same model": made[0].path}.get(guesser)
    engine = make(guesses=True, draft=draft)
    speculator = engine.scheduler.speculator
    assert speculator is not None
    if guesser == "wrong":
        speculator.guesser = Wrong()
    found = answers(engine)
    assert said(found) == said(plain)
    guessed, accepted = counted(found, "guessed_tokens"), counted(found, "accepted_tokens")
    assert guessed > 0
    match guesser:
        case "look-up":
            assert 0 < accepted < guessed
        case "same model":  # every greedy token is foreseen
            assert accepted > 0.3 * guessed
        case "wrong":
            assert accepted < 0.2 * guessed


@pytest.mark.parametrize(("share", "used"), [(1.0, False), (0.0, True)])
def test_a_draft_that_cannot_pay_is_not_used(
    make: Make, made: list[Artifact], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    share: float, used: bool,
) -> None:  # fmt: skip
    """The model as its own draft, all greedy guesses right: as slow as the model, or as if it took no time."""
    seconds = iter([share, 1.0])  # a step of the draft, then one of the model
    monkeypatch.setattr(decoders, "step_seconds", lambda *_: [next(seconds)])
    monkeypatch.setattr(decoders, "cost_of_a_guess", lambda *_: 0.1)
    engine = make(guesses=True, draft=made[0].path)
    assert engine.scheduler.speculator is not None
    assert isinstance(engine.scheduler.speculator.guesser, DraftModel if used else LookUp)
    assert (counted(answers(engine), "guessed_tokens") > 0) or not used
    assert ("serve.draft is not used" in caplog.text) is not used


def test_choices_of_a_request_share_the_blocks_of_its_prompt(make: Make) -> None:
    engine = make()
    scheduler, prompt = engine.scheduler, list(range(10, 170))  # ten whole blocks
    scheduler.add(request("r", prompt, 16, n=4), 0)
    used = 0
    while scheduler.busy:
        scheduler.step()
        used = max(used, scheduler.capacity - len(scheduler.pool.free))
    assert used <= 10 + 4 * 2  # a stream takes whole chunks of four: two blocks are each one's own
    assert len(scheduler.pool.free) == scheduler.capacity


def test_a_draft_with_another_tokenizer_is_refused(make: Make, made: list[Artifact], tmp_path: Path) -> None:
    from oliveira.data.tokenizer import Tokenizer

    other = tmp_path / "other.json"
    Tokenizer.train(["completely different text " * 50], vocab_size=280).save(other)
    home = Home(tmp_path / "draft", other)
    draft = home.make(seed=1)
    home.ledger.close()
    with pytest.raises(OliveiraError, match=r"serve\.draft.*tokenizer"):
        make(guesses=True, draft=draft.path)


# Texts longer than the model ------------------------------------------------------------------------------------

WINDOW = 192


@torch.inference_mode()
def in_a_window(engine: TextEngine, prompt: list[int], n: int) -> list[int]:
    """The twin: the whole text read anew for every token, with the window as a mask."""
    model, total = engine.model, len(prompt) + n
    model.rotary = Rotary(total, model.config.d_model // model.config.n_heads, model.config.rope_base)
    row, column = torch.arange(total)[:, None], torch.arange(total)
    low = torch.clamp((row // CHUNK + 1 - (WINDOW - CHUNK) // CHUNK) * CHUNK, min=CHUNK)
    mask = (column <= row) & ((column < CHUNK) | (column >= low))
    assert int(mask.sum(dim=1).max()) == WINDOW
    tokens = list(prompt)
    for _ in range(n):
        size = len(tokens)
        logits = model(torch.tensor([tokens]), positions=torch.arange(size), mask=mask[:size, :size])
        tokens.append(int(logits[0, -1, : engine.tokenizer.vocab_size].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("native", [True, False])
def test_a_text_without_end_is_read_through_a_window(make: Make, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    if not native:
        monkeypatch.setattr(decoders, "not_covered", lambda model: "asked for.")
    engine = make(window=Window(WINDOW))
    prompt = (prompts(engine)[5] * 3)[:300]  # longer than max_len = 256
    wanted = engine.tokenizer.decode(in_a_window(engine, prompt, 150))
    got = run(engine, [[(request("r", prompt, 150), 0)], [(request("beside", prompt[7:90], 100), 0)]])
    assert got["r", 0]["text"] == wanted
    assert engine.scheduler.capacity == 4 * WINDOW // 16 + 1  # no more than the window for each stream


def long_answers(engine: TextEngine) -> dict[tuple[str, int], dict[str, Any]]:
    base = prompts(engine)[5] * 4
    waves = [
        [(request(f"r{n}", base[:n], 120, temperature=float(n % 2), n=1 + n % 3 // 2, logprobs=2, observe=n < 150), n)]
        for n in (40, 128, 191, 192, 257, 320, 384, 401)
    ]
    return run(engine, waves)


def test_a_long_conversation_is_found_again_from_its_sinks_and_its_end(make: Make) -> None:
    plain = said(long_answers(make(window=Window(WINDOW))))
    engine = make(window=Window(WINDOW), cache_megabytes=16, guesses=True)
    assert said(long_answers(engine)) == plain
    again = make(window=Window(WINDOW), cache_megabytes=16)
    found = long_answers(again)
    assert said(found) == plain
    assert found["r401", -1]["cached_tokens"] >= 320
    assert again.scheduler.prefixes is not None
    for chunk in range(7):
        assert len(again.scheduler.prefixes.cache.needed(chunk)) < WINDOW // CHUNK


def test_a_window_that_cannot_be_is_refused(make: Make) -> None:
    for size, word in ((100, "multiple"), (64, "multiple")):
        with pytest.raises(UserError, match=word):
            Window(size)
    with pytest.raises(UserError, match="max_len"):
        make(window=Window(512))


def test_the_choice_of_compile_serves(make: Make, made: list[Artifact], tmp_path: Path) -> None:
    """ONNX Runtime's graph, where `oliveira compile` found it faster: the same text, adapters refused in a sentence."""
    import json
    import shutil

    from oliveira.artifact import open_artifact
    from oliveira.export.choice import record_path
    from oliveira.export.compile import compile_artifact

    folder = Path(shutil.copytree(made[0].path, tmp_path / "artifact"))
    compile_artifact(folder, rounds=1, streams=[1])
    record = json.loads(record_path(folder).read_text())
    for choice, word in (("onnx", "onnxruntime"), ("torch", "torch"), ("native", "native")):
        record_path(folder).write_text(json.dumps({**record, "choice": choice}))
        engine = TextEngine(open_artifact(folder), Settings(slots=4, home=tmp_path))
        assert engine.decoder.startswith(word)
        got = run(engine, [[(request("r", prompts(engine)[5], 40), 0)], [(request("s", [5, 6], 30), 0)]])
        plain = run(make(), [[(request("r", prompts(engine)[5], 40), 0)], [(request("s", [5, 6], 30), 0)]])
        assert [got[name, 0]["text"] for name in "rs"] == [plain[name, 0]["text"] for name in "rs"]
        assert (engine.adapters is None) == (choice == "onnx")
        stop(engine)
