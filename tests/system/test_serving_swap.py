"""Twenty swaps under constant load: no request fails, and every answer comes from one version."""

from __future__ import annotations

import dataclasses
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from serving_helpers import Home, Server, wait_for

from oliveira.artifact import Artifact
from oliveira.data.tokenizer import Tokenizer
from oliveira.models.gpt import GPT

PROMPT = "O menino perguntou"
SHORT, LONG = 6, 150
REQUESTS = 10_000


@torch.inference_mode()
def greedy(made: Artifact, tokenizer: Tokenizer, n: int) -> str:
    """What this artifact, and no other, answers to PROMPT: computed without the server."""
    model, tokens = made.load_model(), tokenizer.encode(PROMPT)
    length = len(tokens)
    while len(tokens) - length < n:
        token = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if token == tokenizer.end_of_text:
            break
        tokens.append(token)
    return tokenizer.decode(tokens[length:])


class Load(threading.Thread):
    """Asks without a pause, and checks every answer. `failed` must stay empty."""

    def __init__(self, server: Server, expected: dict[str, dict[int, str]], stream: bool, n: int) -> None:
        super().__init__(daemon=True)
        self.server, self.expected, self.is_stream, self.n = server, expected, stream, n
        self.stop, self.failed = threading.Event(), []
        self.versions: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.start()

    def run(self) -> None:
        body = {
            "model": "oliveira",
            "prompt": PROMPT,
            "max_tokens": self.n,
            "temperature": 0,
            "stream": self.is_stream,
        }
        with self.server.http() as http:
            while not self.stop.is_set():
                begun = time.monotonic()
                try:
                    answer = http.post("/v1/completions", json=body)
                    answer.raise_for_status()
                    text, marks = self.read(answer.text)
                    [version] = {answer.headers["x-oliveira-model"], *marks}
                    assert text == self.expected[version][self.n], "text of another version"
                    self.versions[version] += 1
                except Exception as error:
                    self.failed.append(repr(error))
                self.seconds.append(time.monotonic() - begun)

    def read(self, text: str) -> tuple[str, set[str]]:
        if not self.is_stream:
            whole = json.loads(text)
            return whole["choices"][0]["text"], {whole["system_fingerprint"]}
        *frames, done, end = text.split("\n\n")
        assert (done, end) == ("data: [DONE]", ""), f"the stream ended with {done!r}"
        chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
        return "".join(c["choices"][0]["text"] for c in chunks), {c["system_fingerprint"] for c in chunks}


def spoil_shape(model: GPT) -> None:
    model.config = dataclasses.replace(model.config, d_model=64)


@torch.no_grad()
def spoil_numbers(model: GPT) -> None:
    model.head.weight[5] = float("nan")


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def failures(home: Home) -> list[dict[str, Any]]:
    return [event["data"] for event in home.ledger.events(limit=10_000) if event["kind"] == "swap_failed"]


@pytest.mark.slow
def test_twenty_swaps_under_load(make_home: Callable[..., Home], record_property: Callable[[str, Any], None]) -> None:
    home = make_home(slots=8, queue=256, keep_traffic=False)
    tokenizer = Tokenizer.load(home.tokenizer)
    good = [home.make(seed=seed) for seed in range(1, 5)]
    bad = {
        "corrupt weights": home.make(seed=20),
        "corrupt tokenizer": home.make(seed=21),
        "corrupt manifest": home.make(seed=22),
        "wrong shape": home.make(seed=23, change=spoil_shape),
        "not a number": home.make(seed=24, change=spoil_numbers),
    }
    for name, file in (
        ("weights", "model.safetensors"),
        ("tokenizer", "tokenizer.json"),
        ("manifest", "manifest.json"),
    ):
        flip_bit(bad[f"corrupt {name}"].path / file)
    expected = {a.digest[:12]: {n: greedy(a, tokenizer, n) for n in (SHORT, LONG)} for a in good}
    assert len({texts[SHORT] for texts in expected.values()}) == len(good)  # a mixed answer would show

    home.promote(good[0])
    with Server(home) as server:
        server.ready(good[0].digest)
        begun = time.monotonic()
        loads = [
            Load(server, expected, stream, n)
            for stream, n in ((False, SHORT), (True, SHORT), (True, SHORT), (True, LONG))
        ]
        served, swaps = good[0], 0

        def check_served() -> None:
            """Over HTTP, by the answer itself."""
            with server.http() as http:
                answer = http.post(
                    "/v1/completions",
                    json={"model": "oliveira", "prompt": PROMPT, "max_tokens": SHORT, "temperature": 0},
                ).json()
            assert answer["system_fingerprint"] == served.digest[:12]
            assert answer["choices"][0]["text"] == expected[served.digest[:12]][SHORT]

        def swap_to(made: Artifact) -> None:
            nonlocal served, swaps
            home.promote(made)
            server.ready(made.digest)
            served, swaps = made, swaps + 1
            check_served()

        def swap_fails(made: Artifact) -> None:
            """The old one goes on serving; the loop then takes the promotion back."""
            nonlocal swaps
            before = len(failures(home))
            home.promote(made)
            wait_for(lambda: len(failures(home)) > before)
            assert failures(home)[-1]["digest"] == made.digest and server.state()["digest"] == served.digest
            swaps += 1
            check_served()
            home.ledger.rollback(actor="test", reason="it failed")

        def roll_back(to: Artifact) -> None:
            nonlocal served, swaps
            assert home.ledger.rollback(actor="test", reason="test") == to.digest
            server.ready(to.digest)
            served, swaps = to, swaps + 1
            check_served()

        names = list(bad)
        for turn in range(4):
            swap_to(good[(2 * turn + 1) % 4])
            swap_fails(bad[names[turn]])
            swap_to(good[(2 * turn + 2) % 4])
            roll_back(good[(2 * turn + 1) % 4])
            swap_fails(bad[names[turn + 1]])
        assert swaps == 20
        wait_for(lambda: sum(len(load.seconds) for load in loads) >= REQUESTS, 240)
        for load in loads:
            load.stop.set()
        for load in loads:
            load.join(30)
        wall = time.monotonic() - begun
        wait_for(lambda: len(server.engines()) == 1, 10)  # the old ones have gone

    requests = sum(len(load.seconds) for load in loads)
    failed = [failure for load in loads for failure in load.failed]
    versions = sum((load.versions for load in loads), Counter[str]())
    short = sorted(second for load in loads[:3] for second in load.seconds)
    seconds = [e["data"]["seconds"] for e in home.ledger.events(limit=10_000) if e["kind"] == "swap"]
    record_property("requests", requests)
    p50, p99, longest = (short[int(len(short) * share)] * 1e3 for share in (0.5, 0.99, 1 - 1e-9))
    print(
        f"{swaps} swaps in {wall:.0f} s under {requests} requests ({requests / wall:.0f}/s), {len(failed)} failed; "
        f"a swap takes {statistics.median(seconds):.1f} s (at most {max(seconds):.1f}); "
        f"short requests: p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {longest:.0f} ms"
    )
    assert failed == []
    assert requests >= REQUESTS and versions.total() == requests
    assert set(versions) == {made.digest[:12] for made in good}
