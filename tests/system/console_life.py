"""A life as the loop writes it into the ledger, and a small server that shows it; for the tests of the console."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from oliveira.console.routes import Shown, make_router
from oliveira.ledger import Ledger
from oliveira.world import World

COOKIE = "oliveira_session"
SECRET = "a-secret-of-the-test"
ANSWER = "No princípio era o verbo, e o verbo estava na escola."
SAMPLE = "No princípio da noite o mancebo entrou na sala, e a viúva, que o não esperava, deixou cair o livro."


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


STAGES: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("collect", 2.1, {
        "base_source": "almeida", "base_licence": "public domain", "base_documents": 66, "base_characters": 3_812_440,
        "new_source": "bncc", "new_licence": "CC BY 4.0", "new_documents": 1395, "new_characters": 301_233,
    }),
    ("preprocess", 11.6, {"base_tokens": 981_204, "base_duplicates": 3, "new_tokens": 71_880, "new_duplicates": 41}),
    ("train", 231.4, {
        "validation_bits_per_byte": 2.1843, "parameters": 4_230_144, "steps": 1200,
        "unigram_bits_per_byte": 3.2117, "5-gram_bits_per_byte": 2.1409, "xz_bits_per_byte": 2.6052,
    }),
    ("adapt", 38.9, {"base_before": 2.1843, "base_after": 2.2102, "new_before": 3.3120, "new_after": 2.4981}),
    ("compress", 9.2, {
        "fp32_bytes": 16_920_576, "fp32_loss": 3.4411, "fp32_decode_ms": 3.12,
        "int4_bytes": 4_310_016, "int4_loss": 3.4702, "int4_decode_ms": 4.05,
        "nf4_bytes": 4_102_144, "nf4_loss": 3.4630, "nf4_decode_ms": 4.31,
    }),
    ("package", 4.4, {"base": digest("base"), "adapted": digest("adapted")}),
    ("export", 13.7, {"onnx_bytes": 17_204_118, "prompts": 20, "max_logit_error": 3.1e-5}),
    ("serve", 0.1, {"champion": digest("base")}),
    ("monitor", 6.8, {"windows": 4120, "alarms": 0, "rate": 0.0, "upper95": 0.00073}),
)  # fmt: skip


def gate_numbers(after: float, base_after: float = 2.2017, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    before, base = 3.3120, 2.1843
    return {
        "validation_bits_per_byte": {
            "base": {"before": base, "after": base_after},
            "new": {"before": before, "after": after},
        },
        "gain": before - after,
        "forgetting": base_after / base - 1,
        "latency_ratio": 1.02,
        "smoke": True,
        "reasons": list(reasons) or ["every number is within its threshold"],
        "thresholds": {"min_gain": 0.02, "max_forgetting": 0.02, "max_latency": 1.25},
    }


class Life:
    """The ledger of a home whose clock runs `past` seconds late."""

    def __init__(self, home: Path) -> None:
        self.home, self.past = home, 3600.0
        home.mkdir(parents=True, exist_ok=True)
        world = World()
        (home / "world.json").write_text(world.model_dump_json(), encoding="utf-8")
        self.ledger = Ledger(home, clock=lambda: time.time() - self.past)

    def run_stages(self) -> None:
        for name, seconds, outputs in STAGES:
            self.ledger.begin_stage(digest(f"key {name}"), name, {}, {}, "pid 1")
            self.past -= seconds
            if name == "train":
                self.ledger.begin_run("train-5f0c1e", "train", {}, "runs/train-5f0c1e", digest("key train"))
                self.write_curve("train-5f0c1e", 1200)
                self.ledger.finish_run("train-5f0c1e", "done", outputs)
            if name == "package":
                self.add_model("base", {"validation_bits_per_byte": {"base": 2.1843, "new": 3.3120}})
                self.add_model("adapted", {"validation_bits_per_byte": {"base": 2.2102, "new": 2.4981}})
            if name == "serve":
                numbers = {"reasons": ["first model of this world"]}
                self.ledger.promote(digest("base"), actor="pipeline", numbers=numbers, kind="deploy")
            self.ledger.finish_stage(digest(f"key {name}"), digest(f"made {name}"), outputs, seconds)

    def add_model(self, name: str, metrics: dict[str, Any]) -> None:
        folder = self.home / "artifacts" / name
        lineage = {"stage": "update" if name.startswith("challenger") else "package", "model": name}
        self.ledger.add_artifact(digest(name), name.split("-")[0], folder, lineage, metrics)

    def write_curve(self, run: str, steps: int) -> None:
        folder = self.home / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "curve.jsonl").open("a", encoding="utf-8") as file:
            for row in curve_rows(steps):
                file.write(json.dumps(row) + "\n")

    def refuse_a_challenger(self) -> None:
        """The first retraining forgot too much."""
        numbers = gate_numbers(2.71, 2.3305, ("forgetting 6.69% of the base domain is above 2%",))
        self.add_model("challenger-1", numbers)
        self.ledger.set_challenger(digest("challenger-1"))
        self.ledger.decide("gate", "rejected", digest=digest("challenger-1"), actor="gate", numbers=numbers)

    def promote_a_challenger(self) -> None:
        numbers = gate_numbers(2.5342)
        self.add_model("challenger-2", numbers)
        self.ledger.promote(digest("challenger-2"), actor="gate", numbers=numbers)
        self.ledger.event(
            "swap", {"seconds": 1.31, "from": digest("base"), "to": digest("challenger-2"), "result": "ok"}
        )

    def raise_alarm(self, p_value: float = 3e-6) -> None:
        self.ledger.set_gauges(
            {
                ("drift_alarm", ()): 1.0,
                ("drift_pvalue", (("feature", "tokens"), ("test", "js"))): p_value,
                ("drift_score", (("feature", "tokens"), ("test", "js"))): 0.51,
            }
        )
        self.ledger.event("drift", {"digest": digest("base"), "scores": {"tokens": {"js": [0.51, p_value]}}})

    def present_a_challenger(self, name: str = "challenger-3") -> None:
        """One that passed and waits for a person."""
        numbers = gate_numbers(2.4710)
        self.add_model(name, numbers)
        self.ledger.set_challenger(digest(name))
        self.ledger.decide("gate", "awaiting approval", digest=digest(name), actor="gate", numbers=numbers)


def curve_rows(steps: int) -> Iterator[dict[str, Any]]:
    for step in range(1, steps + 1):
        loss = 3.35 + 4.9 * math.exp(-step / 70) + 1.1 * math.exp(-step / 420) + 0.05 * math.sin(step * 1.7)
        row = {"step": step, "seconds": step * 0.19, "loss": loss, "lr": 2e-3, "grad_norm": 0.8}
        yield row | {"tokens": step * 4096}
        if step % 100 == 0:
            yield {"step": step, "seconds": step * 0.19, "validation_bits_per_byte": loss / 1.72 + 0.2}
        if step % 400 == 0:
            yield {"step": step, "seconds": step * 0.19, "sample": SAMPLE}


class Front:
    """What the console needs of a server: its router, the verbs as wishes, a chat, a cookie."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.asked = 0  # how often the streams looked at it
        self.serving: dict[str, Any] = {
            "draining": False, "digest": digest("base"), "running": 2, "waiting": 0, "requests_total": 0,
            "ttft_p50": 0.021, "ttft_p95": 0.048,
        }  # fmt: skip
        self.app = FastAPI()
        self.app.middleware("http")(self._guard)
        self.app.add_api_route("/admin/wishes/{number}", self._wish)
        self.app.add_api_route("/admin/{verb}", self._ask, methods=["POST"], status_code=202)
        self.app.add_api_route("/v1/models", lambda: {"data": [{"id": "oliveira"}]})
        self.app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])
        self.app.include_router(make_router(self.shown))
        self.shows: str | None = None  # the life that was asked for last

    def shown(self, model: str | None) -> Shown:
        self.shows = model
        return Shown(self.life.ledger, self.life.home, lambda: self.serving_state(model))

    def serving_state(self, model: str | None = None) -> dict[str, Any]:
        self.asked += 1
        return self.serving | {"model": model or "oliveira"}

    async def _guard(self, request: Request, call_next: Any) -> Response:
        known = request.cookies.get(COOKIE) == SECRET
        if request.url.path == "/console/session":  # as oliveira/serving/front/auth.py does
            known = request.headers.get("authorization") == f"Bearer {SECRET}"
            answer = Response(status_code=204 if known else 401)
            if known:
                answer.set_cookie(COOKIE, SECRET, httponly=True, samesite="strict")
            return answer
        if not known and not request.url.path.startswith("/console/"):
            return Response(status_code=401)
        if request.method == "POST" and request.headers.get("x-oliveira") != "console":
            return Response(status_code=403)
        response: Response = await call_next(request)
        return response

    async def _ask(self, verb: str, request: Request) -> dict[str, int]:
        args = await request.json()
        kind = verb if verb != "pause" else "pause" if args["paused"] else "resume"
        return {"wish": self.life.ledger.wish(kind, args, "console")}

    def _wish(self, number: int) -> dict[str, Any]:
        wish = self.life.ledger.get_wish(number)
        if wish is None:
            raise HTTPException(404, "no such wish")
        return {"id": wish.id, "kind": wish.kind, "state": wish.state, "result": wish.result}

    async def _chat(self, request: Request) -> StreamingResponse:
        asked = await request.json()
        assert asked["stream"] and asked["messages"][-1]["role"] == "user"

        async def frames() -> AsyncIterator[str]:
            for word in ANSWER.split(" "):
                yield _frame({"choices": [{"index": 0, "delta": {"content": f"{word} "}}]})
                await asyncio.sleep(0.02)
            yield _frame({"choices": [], "usage": {"completion_tokens": 11}})
            yield "data: [DONE]\n\n"

        return StreamingResponse(frames(), media_type="text/event-stream")


def _frame(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


@contextmanager
def running(front: Front, port: int = 0) -> Iterator[str]:
    """Serves on the loopback, on a free port if none is given; stops as the front does: drains first."""
    front.serving["draining"] = False
    config = uvicorn.Config(front.app, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        front.serving["draining"] = True
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"
