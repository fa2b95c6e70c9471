"""`oliveira up` as a process of its own: start it, ask it, find its processes, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from oliveira.ledger import Ledger

START = 150.0  # seconds for a first life on a busy machine; a second start takes a few
WORLD = {
    "data.max_chars": 60_000,
    "data.validation": 0.15,
    "data.test": 0.15,
    "monitor.window": 200,
    "monitor.check_windows": 10,
    "update.min_new_chars": 4000,
    "train.steps": 6,
    "adapt.steps": 2,
    "export.onnx": "false",
    "update.on_drift": "false",  # a retraining of its own would change the champion under an attack
    "serve.queue": 32,
    "serve.silence": 3,  # seconds; an engine that is stopped is noticed within the attack
}


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "oliveira", *arguments]


def command(home: Path, *arguments: str, seconds: float = 90, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A short command of the program, ended when it takes too long."""
    options = {"capture_output": True, "stdin": subprocess.DEVNULL, "timeout": seconds, **options}
    return subprocess.run([*program(*arguments), "--home", str(home)], check=False, **options)


def up(home: Path, *arguments: str, text: Path | None = None) -> list[str]:
    """The command line of a life of seconds."""
    settings = [item for key, value in WORLD.items() for item in ("--set", f"{key}={value}")]
    own = ["--text", str(text)] if text else []
    return [*program("up"), "--home", str(home), "--port", "0", "--world", "tiny", *settings, *own, *arguments]


class House:
    """One home and what runs in it. Use as a context: nothing outlives it."""

    def __init__(self, home: Path) -> None:
        self.home, self.log = home, home.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def __enter__(self) -> House:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> House:
        """Does not wait. `options`: of Popen."""
        self._began = time.time()
        with self.log.open("ab") as log:
            options = {"stdout": log, "stderr": subprocess.STDOUT, **options}
            self.process = subprocess.Popen(
                up(self.home, *arguments), stdin=subprocess.DEVNULL, env=env, start_new_session=True, **options
            )
        return self

    def ready(self, seconds: float = START) -> House:
        """Waits until the stages are done and the champion answers."""
        wait_for(self._is_ready, seconds, f"a ready house, which said {self.said()!r}")
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said()!r}"
        if not (self.home / "front.json").exists() or not (self.home / "ledger.sqlite").exists():
            return False
        with Ledger(self.home) as ledger:
            life = ledger.setting("life")
        if not life or life["ready"] < self._began:
            return False
        with contextlib.suppress(httpx.TransportError, ValueError, OSError):
            # Asked without a key, and so without a trace: who may look is what attacks are about.
            return self.get("/health").status_code == 200 and bool(self.engines())
        return False

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-600:] if self.log.exists() else ""

    @property
    def address(self) -> tuple[str, int]:
        found = json.loads((self.home / "front.json").read_bytes())
        return found["host"], found["port"]

    def get(self, path: str, key: str = "") -> httpx.Response:
        host, port = self.address
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(f"http://{host}:{port}{path}", headers=headers, timeout=20, trust_env=False)

    def post(self, path: str, key: str, *, seconds: float = 40, **options: Any) -> httpx.Response:
        host, port = self.address
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        return httpx.post(f"http://{host}:{port}{path}", headers=headers, timeout=seconds, trust_env=False, **options)

    # Processes ------------------------------------------------------------------------------------------------

    def front(self) -> int:
        return int(json.loads((self.home / "front.json").read_bytes())["pid"])

    def loop(self) -> int:
        return int((self.home / "loop.lock").read_text())

    def engines(self) -> list[int]:
        """Children of the front, where the system says so (/proc)."""
        return [pid for pid in children(self.front()) if b"oliveira.serving.engine" in command_line(pid)]

    def engines_if_any(self) -> list[int]:
        """Before there is a front, too."""
        with contextlib.suppress(OSError, ValueError):
            return self.engines()
        return []

    def processes(self) -> dict[str, int]:
        assert self.process is not None
        [engine] = self.engines() or [0]
        return {"house": self.process.pid, "front": self.front(), "loop": self.loop(), "engine": engine}

    def stop(self, seconds: float = 40) -> int:
        """As Ctrl-C does; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """`kill -9` of `oliveira up`: its children notice and end; what does not end is killed too."""
        if self.process is None or self.process.poll() is not None:
            return
        below = family(self.process.pid)
        self.process.kill()
        self.process.wait()
        end = time.monotonic() + 8
        while any(alive(pid) for pid in below) and time.monotonic() < end:
            time.sleep(0.1)
        for pid in filter(alive, below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def family(pid: int) -> list[int]:
    """Everything below a process."""
    return [found for child in children(pid) for found in (child, *family(child))]


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def alive(pid: int) -> bool:
    """Of ours: the number may belong to a stranger by now."""
    return b"oliveira" in command_line(pid)
