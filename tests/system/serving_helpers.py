"""A real server on a tiny random model: real processes, real sockets, loopback only, always stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import torch

from oliveira import artifact
from oliveira.artifact import Artifact
from oliveira.compression.model import quantise_model
from oliveira.data.tokenizer import Tokenizer
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.serving.address import authority
from oliveira.serving.settings import ServeSection
from oliveira.world import World

MAX_LEN = 256
START_SECONDS = 300.0  # bound for a server to start: 2 s here, far more beside a training in another session
TEXTS = [
    "No princípio era o verbo, e o verbo estava com a língua portuguesa.",
    "A noite caiu sobre a cidade; os bondes paravam devagar, um a um, sem pressa nenhuma.",
    "O menino perguntou ao avô por que as estrelas não caem. O avô riu, e não respondeu.",
    "ação, coração, pão, não, irmã, avó, três, você — e também: 1, 2, 3!",
] * 8

torch.set_num_threads(1)


def wait_for(condition: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} seconds")


class Home:
    """A home with a ledger, keys and any number of tiny artifacts."""

    def __init__(self, path: Path, tokenizer: Path, **serve: Any) -> None:
        self.path, self.tokenizer = path, tokenizer
        path.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(path)
        section = ServeSection(**{"threads": 1, "slots": 4, "queue": 64, "drain": 5.0, **serve})
        write_json_atomic(path / "world.json", World(serve=section).model_dump())
        self.use, self.admin = self.ledger.add_key("user", ("use",)), self.ledger.add_key("root", ("admin",))
        self.revoked = self.ledger.add_key("gone", ("use", "admin"))
        self.ledger.revoke_key(self.revoked.split("-")[2])

    def make(
        self,
        seed: int = 0,
        *,
        change: Callable[[GPT], None] | None = None,
        weights: str = "fp32",
        max_len: int = MAX_LEN,
    ) -> Artifact:
        """A random model, written and entered into the ledger. `change` may spoil it before it is written."""
        torch.manual_seed(seed)
        size = Tokenizer.load(self.tokenizer).vocab_size
        config = GPTConfig(
            vocab_size=size,
            d_model=32,
            n_layers=2,
            n_heads=2,
            n_kv_heads=1,
            d_ff=64,
            max_len=max_len,
            tied=False,
        )
        model = GPT(config)
        with torch.no_grad():
            # A fresh model repeats or mumbles. With larger weights the next token depends on all that was said
            # before, and is neither certain nor arbitrary: a wrong cache row or position shows in the text.
            for name, weight in model.blocks.named_parameters():
                if "norm" not in name:
                    weight.mul_(12)
            model.head.weight.mul_(40)
            model.head.weight[0].zero_()  # end of text: rare
        if change is not None:
            change(model)
        if weights != "fp32":
            quantise_model(model, weights)
        folder = self.path / "artifacts" / f"model-{seed}-{len(self.ledger.artifacts())}"
        made = artifact.write(
            folder,
            model=model,
            name="gpt",
            weights=weights,
            tokenizer=self.tokenizer,
            lineage={"seed": seed},
            metrics={},
        )
        self.ledger.add_artifact(made.digest, "package", folder, made.lineage, made.metrics)
        return made

    def promote(self, made: Artifact) -> None:
        self.ledger.promote(made.digest, actor="test", numbers={})


class Server:
    """A running front. Use as a context."""

    def __init__(self, home: Home, *arguments: str) -> None:
        self.home = home
        self.log = home.path / "front.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "oliveira.serving.front", "--home", str(home.path), *arguments],
                stdin=subprocess.PIPE,
                stderr=log,
            )
        place = home.path / "front.json"
        found = wait_for(lambda: place.exists() and json.loads(place.read_text()))
        assert found["pid"] == self.process.pid
        self.url = f"http://{authority(found['host'], found['port'])}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def http(self, key: str | None = "", **options: Any) -> httpx.Client:
        """A plain client with the use key, another key, or none."""
        secret = self.home.use if key == "" else key
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def openai(self, key: str = "", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.home.use, max_retries=0, timeout=30, **options
        )

    def ready(self, digest: str | None = None, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Waits until the server is ready (with this digest) and returns what it says of itself."""

        def look() -> dict[str, Any] | None:
            with contextlib.suppress(httpx.TransportError):
                state = client.get("/ready").json()
                return state if state["ready"] and digest in (None, state["digest"]) else None
            return None

        with self.http() as client:
            return wait_for(look, seconds)

    def state(self) -> dict[str, Any]:
        with self.http() as client:
            return client.get("/ready").json()

    def engines(self) -> list[int]:
        """Process ids of the engines, from /proc."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"oliveira.serving.engine" in _command(pid)]


def _command(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
