"""An engine that hangs is noticed by its silence and replaced; what it was asked gets an answer or an error."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from serving_helpers import Home, Server, wait_for

from oliveira.serving.protocol import BEAT_SECONDS


def test_a_hanging_engine_is_replaced(make_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEIRA_KERNEL", "off")  # the native step would be done before it is stopped
    home = make_home(slots=1, silence=2)
    home.promote(home.make())
    with Server(home) as server:
        server.ready()
        [engine] = server.engines()
        time.sleep(3 * BEAT_SECONDS)  # idle for longer than it may be silent: it has said that it is alive
        assert server.engines() == [engine]
        found: dict[str, Any] = {}

        def ask(name: str, **body: Any) -> None:
            with server.http() as http:
                body = {"model": "oliveira", "prompt": "a", "stop": "\0\0", **body}
                found[name] = http.post("/v1/completions", json=body, timeout=60)

        stream = threading.Thread(target=ask, args=("stream",), kwargs={"max_tokens": 250, "stream": True})
        stream.start()
        wait_for(lambda: server.state()["running"] == 1)
        os.kill(engine, signal.SIGSTOP)
        waiting = threading.Thread(target=ask, args=("waiting",), kwargs={"max_tokens": 2})
        waiting.start()
        for thread in (stream, waiting):
            thread.join(60)
            assert not thread.is_alive()
        assert "engine_stopped" in found["stream"].text and "[DONE]" not in found["stream"].text
        assert found["waiting"].status_code == 200  # nothing of it had been said: the next engine answers
        assert server.engines() not in ([], [engine])
        died = wait_for(lambda: [e["data"] for e in home.ledger.events() if e["kind"] == "engine_died"])
        assert [event["hung"] for event in died] == [True]
