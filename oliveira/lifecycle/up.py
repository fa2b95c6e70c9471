"""`oliveira up`: starts the front and a loop for each life, keeps them alive, stops them cleanly. No tensors here."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oliveira.errors import OliveiraError, UserError
from oliveira.files import expand, write_json_atomic
from oliveira.language import translate
from oliveira.ledger import ADDRESS, Ledger
from oliveira.ledger.lives import MAIN, OWN, lives, main_life, make_place, place
from oliveira.lifecycle.returning import PUT_BACK, put_back_line
from oliveira.process.holder import holder
from oliveira.process.memory_watch import MemoryWatch
from oliveira.process.stop import Stop, end
from oliveira.serving.address import authority
from oliveira.serving.front.room import TOO_LARGE
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
            raise Refused(code)
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


class Refused(OliveiraError):
    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.exit_code = code


class House:
    """The running processes of one home. Use as a context.

    `life`: the one that is looked at here, which lives by `world`; the others go on by `others`, or by what they had.
    """

    def __init__(
        self,
        home: Path,
        world: World,
        *,
        port: int,
        quiet: bool,
        life: str = OWN,
        others: Mapping[str, World] | None = None,
    ) -> None:
        self.home, self.world, self.port, self.quiet, self.life = home, world, port, quiet, life
        self.place = place(home, life)
        self.worlds = {**(others or {}), life: world}
        self._stack = contextlib.ExitStack()
        self._seen: dict[str, int] = {}  # version of each ledger at the last look
        self._told: dict[str, int] = {}  # the event of it that was told

    def __enter__(self) -> House:
        with self._stack as stack:
            stack.enter_context(holder(self.home, "up", patience=1.0))  # `status` looks at it for a moment
            for name in dict.fromkeys([*self.worlds, *lives(self.home)]):
                folder = make_place(self.home, name)
                if folder != self.home:
                    stack.enter_context(holder(folder, "up", patience=1.0))
                if name in self.worlds:
                    write_json_atomic(folder / "world.json", self.worlds[name].model_dump())
            keys = stack.enter_context(Ledger(self.home))
            self.ledgers = self._ledgers(stack)
            self.ledger = self.ledgers[self.life]
            self.started = self.ledger.clock()
            if keys.setting(MAIN) is None:
                keys.set_setting(MAIN, self.life)
            self.key = keys.fresh_key(TERMINAL, ("use", "admin"), TERMINAL_KEYS)  # for the person at this terminal
            for folder in {self.home, *(place(self.home, name) for name in self.ledgers)}:
                (folder / "logs").mkdir(exist_ok=True)
            (self.home / "front.json").unlink(missing_ok=True)
            serve = self.worlds.get(main_life(self.home), self.world).serve
            self.front = Child(
                "oliveira.serving.front",
                "--home",
                str(self.home),
                "--host",
                serve.host,
                "--port",
                str(self.port),
                log=self.home / "logs" / "front.log",
            )
            stack.callback(lambda: self.front.stop(serve.drain + 10))
            self.address = self._wait_for_front()
            for ledger in self.ledgers.values():
                ledger.set_setting(ADDRESS, self.address)
            self.front.again_with("--port", self.address.rpartition(":")[2])
            self.memory = stack.enter_context(MemoryWatch())
            self.loops = {name: self._loop(name) for name in self.ledgers}
            stack.callback(self._stop_loops)
            self._stack = stack.pop_all()
        return self

    def _ledgers(self, stack: contextlib.ExitStack) -> dict[str, Ledger]:
        """Of every life. Another one whose ledger is damaged was told as its world was looked for; it ends nobody."""
        found = {}
        for name in lives(self.home):
            try:
                found[name] = stack.enter_context(Ledger(place(self.home, name)))
            except OliveiraError:
                if name in (self.life, OWN):
                    raise
        return found

    def _loop(self, name: str) -> Child:
        """Only the one that is looked at here speaks in the terminal."""
        folder, mine = place(self.home, name), name == self.life
        quiet = ["--quiet"] if self.quiet or not mine else []
        return Child(
            "oliveira.lifecycle.loop", "--home", str(folder), *quiet, log=None if mine else folder / "logs" / "loop.log"
        )

    def _stop_loops(self) -> None:
        for loop in self.loops.values():
            loop.stop(LOOP_GRACE)

    def __exit__(self, *error: Any) -> None:
        for child in (*self.loops.values(), self.front):  # all at once; the stack waits for them in order
            child.process.terminate()
        self._stack.close()

    def _wait_for_front(self) -> str:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.front.process.poll() is not None:
                reason = _last_word(self.home / "logs" / "front.log") or "the server did not start."
                raise Refused(self.front.process.returncode or 1, reason)
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
        """example.json of the life: a request that the champion of a task answers."""
        digest = self.ledger.alias("champion")
        row = self.ledger.artifact(digest) if digest else None
        described = json.loads((row.path / "task.json").read_bytes()) if row else {}
        path = self.place / "example.json"
        named = {} if self.life == OWN else {"model": self.life}
        write_json_atomic(path, named | described.get("request", {}))
        return path

    def chats(self) -> bool:
        """Whether the champion has a chat template."""
        digest = self.ledger.alias("champion")
        row = self.ledger.artifact(digest) if digest else None
        return row is not None and (row.path / "chat_template.jinja").is_file()

    def check(self) -> None:
        self.front.check()
        for name, loop in list(self.loops.items()):
            try:
                loop.check()
            except (OliveiraError, OSError):  # the folder of a life may be taken away under it
                if name == self.life and (len(self.loops) == 1 or not self.ready(name)):
                    raise
                self._leave(name)
        for name, ledger in self.ledgers.items():
            self._tell(name, ledger)

    def _leave(self, name: str) -> None:
        """A life that cannot go on does not end the others: its champion is served, nobody watches it."""
        del self.loops[name]
        reason = _last_word(place(self.home, name) / "logs" / "loop.log") or "its loop ended."
        say_error(translate(f"life {name} is not watched until the next start: {translate(reason)}"))

    def _tell(self, name: str, ledger: Ledger) -> None:
        """That the loop took a champion away, or that a model is too large, is told where a person looks, once."""
        if (version := ledger.version()) == self._seen.get(name, -1):
            return
        self._seen[name] = version
        for event in ledger.events_since(self.started, *TOLD):
            if event["id"] > self._told.get(name, -1):
                self._told[name] = event["id"]
                line = translate(TOLD[event["kind"]](event["data"]))
                say_error(translate(f"life {name}: {line}") if len(self.ledgers) > 1 else line)

    def ready(self, name: str) -> bool:
        """The stages are done and the champion is being served, or will be when it is asked."""
        ledger = self.ledgers[name]
        life, serving, champion = ledger.setting("life"), ledger.setting("serving"), ledger.alias("champion")
        serves = bool(serving) and (serving["digest"] == champion or serving.get("asleep", False))
        return bool(life and life["ready"] >= self.started and champion and serves)

    def wait_until_ready(self, stop: Stop) -> bool:
        """Of every life that is lived. False when asked to stop before that."""
        told: dict[str, str] = {}
        while not stop.wait(0.1):
            self.check()
            if all(self.ready(name) for name in self.loops):
                return True
            for name in self.loops:
                if (failure := self._refusal(name)) and failure != told.get(name):
                    told[name] = failure
                    say_error(translate(failure))
        return False

    def _refusal(self, name: str) -> str:
        """Why the champion is not served: without this word one would wait for it in silence. "" = no reason."""
        ledger = self.ledgers[name]
        last = ledger.last_event("swap_failed")
        if last is None or last["time"] < self.started or last["data"]["digest"] != ledger.alias("champion"):
            return ""
        if not (life := ledger.setting("life")) or life["ready"] < self.started:
            return ""  # the stages may still make it again
        return (
            f"the champion {last['data']['digest'][:12]} is not served: {last['data']['reason']}. It is tried again; "
            "`oliveira history` lists others, `oliveira swap` and `oliveira rollback` serve one."
        )


def _too_large_line(event: dict[str, Any]) -> str:
    return (
        f"model {event['digest'][:12]} needs about {event['mib']} MiB, more than serve.memory = {event['memory']}: "
        "it is served alone. Raise serve.memory, or compress the model."
    )


TOLD = {PUT_BACK: put_back_line, TOO_LARGE: _too_large_line}


def _last_word(log: Path) -> str:
    """Why a process refused, as it said in its log."""
    try:
        said = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("oliveira: ") for line in reversed(said) if line.startswith("oliveira: ")), "")


def snippet(address: str, key: str, model: str = OWN) -> str:
    """What to type next: a curl and a Python client, ready to copy."""
    return f"""
curl {address}/v1/completions -H 'Authorization: Bearer {key}' \\
     -H 'Content-Type: application/json' -d '{{"model": "{model}", "prompt": "No princípio", "max_tokens": 40}}'

from openai import OpenAI
client = OpenAI(base_url="{address}/v1", api_key="{key}")
print(client.completions.create(model="{model}", prompt="No princípio", max_tokens=40).choices[0].text)
"""


def chat_snippet(address: str, key: str, model: str = OWN) -> str:
    """The same for a model that has a chat template."""
    question = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Quem foi Noé?"}}], "max_tokens": 60}}'
    return f"""
curl {address}/v1/chat/completions -H 'Authorization: Bearer {key}' \\
     -H 'Content-Type: application/json' -d '{question}'

from openai import OpenAI
client = OpenAI(base_url="{address}/v1", api_key="{key}")
messages = [{{"role": "user", "content": "Quem foi Noé?"}}]
print(client.chat.completions.create(model="{model}", messages=messages, max_tokens=60).choices[0].message.content)
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
