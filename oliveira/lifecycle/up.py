"""`oliveira up`: starts front and loop, keeps them alive, stops them cleanly. No tensors here."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from oliveira.errors import OliveiraError, UserError
from oliveira.files import expand, write_json_atomic
from oliveira.language import translate
from oliveira.lifecycle.ledger import ADDRESS, Ledger
from oliveira.lifecycle.memory_watch import MemoryWatch
from oliveira.lifecycle.process import Stop, end, holder
from oliveira.lifecycle.returning import PUT_BACK, put_back_line
from oliveira.serving.address import authority
from oliveira.terminal import say_error
from oliveira.world import World

MAX_RESTARTS = 5  # in a row, each within RESTART_WINDOW seconds of the last
RESTART_WINDOW = 60.0
TERMINAL, TERMINAL_KEYS = "terminal", 100  # name of the keys that starts print, and how many live at once
LOOP_GRACE = 2.0  # seconds; the loop and what it started may be killed anywhere and go on from there


class Child:
    """A process of ours that is started again when it dies without being asked to."""

    def __init__(self, module: str, *arguments: str, log: Path | None = None) -> None:
        self.log = log
        self.command = [sys.executable, "-m", module, *arguments, "--die-with-parent"]
        self.name = module.rsplit(".", 1)[-1]
        self.deaths: list[float] = []
        self.start()

    def again_with(self, option: str, value: str) -> None:
        """When it is started again: what it found out the first time (port 0 took a free one)."""
        self.command[self.command.index(option) + 1] = value

    def start(self) -> None:
        # A session of its own: Ctrl-C reaches only us, and we stop the children in order.
        log = self.log.open("ab") if self.log else contextlib.nullcontext()
        with log as file:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stderr=file, start_new_session=True)

    def check(self) -> None:
        """Starts it again if it died. Raises when it refuses (exit code 2 to 5) or dies again and again."""
        code = self.process.poll()
        if code is None:
            return
        if 2 <= code <= 5:
            raise _Refused(code)
        now = time.monotonic()
        self.deaths = [t for t in self.deaths if now - t < RESTART_WINDOW] + [now]
        if len(self.deaths) > MAX_RESTARTS:
            raise OliveiraError(
                f"the {self.name} process died {len(self.deaths)} times within a minute (exit code {code})."
            )
        time.sleep(min(5.0, 0.2 * 2 ** len(self.deaths)))
        self.start()

    def stop(self, seconds: float) -> None:
        end(self.process, seconds)


class _Refused(OliveiraError):
    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.exit_code = code


class House:
    """The running processes of one home. Use as a context."""

    def __init__(self, home: Path, world: World, *, port: int, quiet: bool) -> None:
        self.home, self.world, self.port, self.quiet = home, world, port, quiet
        self._stack = contextlib.ExitStack()
        self._version = self._told = -1  # of the ledger at the last look; the event that was told

    def __enter__(self) -> House:
        with self._stack as stack:
            stack.enter_context(holder(self.home, "up", patience=1.0))  # `status` looks at it for a moment
            (self.home / "logs").mkdir(exist_ok=True)
            write_json_atomic(self.home / "world.json", self.world.model_dump())
            self.ledger = stack.enter_context(Ledger(self.home))
            self.started = self.ledger.clock()
            self.key = self.ledger.fresh_key(
                TERMINAL, ("use", "admin"), TERMINAL_KEYS
            )  # for the person at this terminal
            (self.home / "front.json").unlink(missing_ok=True)
            host = self.world.serve.host
            self.front = Child(
                "oliveira.serving.front",
                "--home",
                str(self.home),
                "--host",
                host,
                "--port",
                str(self.port),
                log=self.home / "logs" / "front.log",
            )
            stack.callback(lambda: self.front.stop(self.world.serve.drain + 10))
            self.address = self._wait_for_front()
            self.ledger.set_setting(ADDRESS, self.address)
            self.front.again_with("--port", self.address.rpartition(":")[2])
            self.memory = stack.enter_context(MemoryWatch())
            self.loop = Child("oliveira.lifecycle.loop", "--home", str(self.home), *(["--quiet"] if self.quiet else []))
            stack.callback(lambda: self.loop.stop(LOOP_GRACE))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        for child in (self.loop, self.front):  # both at once; the stack waits for them in order
            child.process.terminate()
        self._stack.close()

    def _wait_for_front(self) -> str:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.front.process.poll() is not None:
                said = (self.home / "logs" / "front.log").read_text(errors="replace").splitlines()
                reasons = [line.removeprefix("oliveira: ") for line in said if line.startswith("oliveira: ")]
                raise _Refused(
                    self.front.process.returncode or 1,
                    reasons[-1] if reasons else "the server did not start.",
                )
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = json.loads((self.home / "front.json").read_bytes())
                if found["pid"] == self.front.process.pid:
                    return f"http://{authority(found['host'], found['port'])}"
            time.sleep(0.05)
        raise OliveiraError("the front did not open its port within 30 seconds.")

    @property
    def console(self) -> str:
        return f"{self.address}/console/?key={self.key}"

    def example(self) -> Path:
        """HOME/example.json: a request that the champion of a task answers."""
        digest = self.ledger.alias("champion")
        row = self.ledger.artifact(digest) if digest else None
        described = json.loads((row.path / "task.json").read_bytes()) if row else {}
        path = self.home / "example.json"
        write_json_atomic(path, described.get("request", {}))
        return path

    def check(self) -> None:
        self.front.check()
        self.loop.check()
        self._tell_put_back()

    def _tell_put_back(self) -> None:
        """That the loop took a champion away is told where a person looks, once."""
        if (version := self.ledger.version()) == self._version:
            return
        self._version = version
        for event in self.ledger.events_since(self.started, PUT_BACK):
            if event["id"] > self._told:
                self._told = event["id"]
                say_error(translate(put_back_line(event["data"])))

    def ready(self) -> bool:
        """The stages are done and the champion is being served."""
        life = self.ledger.setting("life")
        serving = self.ledger.setting("serving")
        champion = self.ledger.alias("champion")
        return bool(life and life["ready"] >= self.started and serving and serving["digest"] == champion)

    def wait_until_ready(self, stop: Stop) -> bool:
        """False when asked to stop before that."""
        told = ""
        while not stop.wait(0.1):
            self.check()
            if self.ready():
                return True
            if (failure := self._refusal()) and failure != told:
                told = failure
                say_error(translate(failure))
        return False

    def _refusal(self) -> str:
        """Why the champion is not served: without this word one would wait for it in silence. "" = no reason."""
        last = self.ledger.last_event("swap_failed")
        if last is None or last["time"] < self.started or last["data"]["digest"] != self.ledger.alias("champion"):
            return ""
        if not (life := self.ledger.setting("life")) or life["ready"] < self.started:
            return ""  # the stages may still make it again
        return (
            f"the champion {last['data']['digest'][:12]} is not served: {last['data']['reason']}. It is tried again; "
            "`oliveira history` lists others, `oliveira swap` and `oliveira rollback` serve one."
        )


def snippet(address: str, key: str) -> str:
    """What to type next: a curl and a Python client, ready to copy."""
    return f"""
curl {address}/v1/completions -H 'Authorization: Bearer {key}' \\
     -H 'Content-Type: application/json' -d '{{"model": "oliveira", "prompt": "No princípio", "max_tokens": 40}}'

from openai import OpenAI
client = OpenAI(base_url="{address}/v1", api_key="{key}")
print(client.completions.create(model="oliveira", prompt="No princípio", max_tokens=40).choices[0].text)
"""


def task_snippet(address: str, key: str, example: Path) -> str:
    """The same for a task: ask with the example in a file, and tell the truth when it is known."""
    say = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    return f"""
curl {address}/v1/predict {say} \\
     -d @{shlex.quote(str(example))}

curl {address}/v1/feedback {say} \\
     -d '{{"id": "pred-…", "truth": …}}'
"""


def check_home(home: Path) -> Path:
    home = expand(home).absolute()
    if home.exists() and not home.is_dir():
        raise UserError(f"--home {home} is a file. Give a folder.")
    return home
