"""Clients that take more than their share, or leave in the middle."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.attack.attacks import attack
from tests.attack.house import wait_for
from tests.attack.life import ASK, Life
from tests.attack.wire import completion, connect, post

LONG = {**ASK, "prompt": "a", "max_tokens": 100, "stop": "\0\0"}


@attack
def embeddings_beside_streams(life: Life) -> str:
    """256 long texts to embed while four streams are read: no stream stands still."""
    texts = ["uma frase que se repete, mais ou menos longa"] * 256
    gaps: list[float] = []

    def stream(_: int) -> int:
        host, port = life.house.address
        url, headers = f"http://{host}:{port}/v1/completions", {"Authorization": f"Bearer {life.use}"}
        lines, last = 0, time.monotonic()
        with httpx.stream(
            "POST", url, json={**LONG, "stream": True}, headers=headers, timeout=60, trust_env=False
        ) as got:
            assert got.status_code == 200, got.read()
            for line in got.iter_lines():
                if line.startswith("data: "):
                    gaps.append(time.monotonic() - last)
                    lines, last = lines + 1, time.monotonic()
        return lines

    with ThreadPoolExecutor(6) as pool:
        embedded = [
            pool.submit(life.house.post, "/v1/embeddings", life.other, json={"model": "oliveira", "input": texts})
            for _ in range(2)
        ]
        streams = [found for _ in range(3) for found in pool.map(stream, range(4))]
        codes = [future.result().status_code for future in embedded]
    assert set(codes) <= {200, 429} and min(streams) > 1, (codes, streams)
    assert max(gaps) < 5, f"a stream stood still for {max(gaps):.1f} s"
    return f"embeddings {codes}, largest gap {max(gaps):.2f} s"


@attack
def clients_that_vanish(life: Life) -> str:
    """60 clients that hang up in the middle of a stream, some with a reset; their places come back."""
    for number in range(60):
        with connect(life.house.address) as connection:
            connection.sendall(post(life.use, completion(stream=True, max_tokens=100, stop="\0\0")))
            if number % 3:
                connection.recv(64)
            if number % 2:  # a reset in place of a farewell
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: _at_rest(life), 20, "an engine at rest")
    return "nothing runs on"


def _at_rest(life: Life) -> bool:
    state = life.house.get("/ready", life.use).json()
    return state["running"] == state["waiting"] == 0


@attack
def one_key_floods(life: Life) -> str:
    """One key asks with 60 threads; another key's requests are answered."""
    stop, codes = threading.Event(), []

    def flood(_: int) -> None:
        while not stop.is_set():
            answer = life.house.post("/v1/completions", life.use, json={**LONG, "n": 4})
            codes.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                time.sleep(0.2)

    with ThreadPoolExecutor(60) as pool:
        floods = [pool.submit(flood, number) for number in range(60)]
        try:
            time.sleep(1)
            times = []
            for _ in range(5):
                begun = time.monotonic()
                answer = life.asked(key=life.other)
                assert answer.status_code == 200, answer.text
                times.append(time.monotonic() - begun)
        finally:
            stop.set()
        for done in floods:
            done.result()
    assert set(codes) <= {200, 429} and 429 in codes, sorted(set(codes))
    return f"the other key waits {max(times):.1f} s at most; {codes.count(429)} of {len(codes)} refused"


@attack
def slow_readers(life: Life) -> str:
    """24 clients that ask for streams and never read them; others are answered meanwhile."""
    held = [connect(life.house.address) for _ in range(24)]
    try:
        for connection in held:
            connection.sendall(post(life.use, completion(stream=True, max_tokens=100, logprobs=5, n=4)))
        time.sleep(1)
        answer = life.asked(key=life.other)
        assert answer.status_code == 200, answer.text
    finally:
        for connection in held:
            connection.close()
    wait_for(lambda: _at_rest(life), 20, "an engine at rest")
    return "answered"


@attack
def a_guess_at_every_field_at_once(life: Life) -> str:
    """200 requests with the largest values that are allowed, all kinds in turn."""
    largest: list[dict[str, Any]] = [
        {"n": 4, "prompt": ["a", "b", "c", "d"], "max_tokens": 2**31 - 1},
        {"logprobs": 5, "temperature": 0, "top_k": 2**31 - 1, "seed": 2**63 - 1},
        {"temperature": 2, "top_p": 1e-300, "seed": -(2**63)},
        {"temperature": 1e-300, "stop": ["a", "e", "o", " "]},
        {"prompt": "\0" * 50, "stop": "\0"},
        {"prompt": "🫒" * 40, "stream": True},
        {"prompt": [0] * 100},
        {"prompt": ""},
    ]
    codes = [life.house.post("/v1/completions", life.use, json=ASK | largest[i % 8]).status_code for i in range(200)]
    assert set(codes) <= {200, 400}, codes
    return json.dumps({str(code): codes.count(code) for code in sorted(set(codes))})
