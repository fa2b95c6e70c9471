"""Environments, disks and machines that are not as one wishes: each a second start on a copy of the home."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.attack.attacks import Skipped, attack
from tests.attack.house import House, command, program, wait_for
from tests.attack.life import Life, environment, spinning

STRANGER = 12_345  # a user without an entry in passwd


def _serves(life: Life, *arguments: str, **options: Any) -> None:
    with life.copy() as house:
        house.start(*arguments, **options).ready(60)
        life.answers(house, 20)
        life.keeps(house)
        assert house.stop() == 0, house.said()


@attack
def cluster_variables(life: Life) -> None:
    """What Kubernetes puts into a pod beside a service named oliveira."""
    injected = {
        "OLIVEIRA_PORT": "tcp://10.96.12.7:8420",
        "OLIVEIRA_SERVICE_HOST": "10.96.12.7",
        "OLIVEIRA_SERVICE_PORT": "8420",
        "OLIVEIRA_SERVICE_PORT_HTTP": "8420",
        "OLIVEIRA_PORT_8420_TCP": "tcp://10.96.12.7:8420",
        "OLIVEIRA_PORT_8420_TCP_ADDR": "10.96.12.7",
        "OLIVEIRA_PORT_8420_TCP_PORT": "8420",
        "OLIVEIRA_PORT_8420_TCP_PROTO": "tcp",
    }
    _serves(life, env=environment(**injected))


@attack
def no_home_no_name(life: Life) -> str:
    """No HOME, and where root asks and may lend its files: a user whom passwd does not know."""
    with life.copy() as house:
        nobody: dict[str, Any] = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
        env = environment(HOME=None, USER=None, LOGNAME=None)
        try:
            subprocess.run(program("--version"), check=True, capture_output=True, env=env, **nobody)
            for path in (life.folder, house.home, *house.home.rglob("*")):
                os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
        except (PermissionError, subprocess.CalledProcessError):
            nobody = {}
        house.start(env=env, **nobody).ready(60)
        life.answers(house, 20)
        assert house.stop() == 0, house.said()
    return f"as user {STRANGER}" if nobody else "as this user: another one may not read the program here"


@attack
def ascii_terminal(life: Life) -> None:
    """LC_ALL=C with an encoding that cannot print an arrow, for `up` and for the commands."""
    env = environment(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", OLIVEIRA_LANG="pt-BR")
    _serves(life, env=env)
    for verb in (["status"], ["history"], ["list"], ["sources"], ["formulas", "list"]):
        asks_home = verb[0] in ("status", "history")
        done = command(life.house.home, *verb, env=env) if asks_home else _bare(*verb, env=env)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, (verb, done.stderr)


def _bare(*verb: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(program(*verb), capture_output=True, timeout=90, check=False, **options)


@attack
def full_standard_output(life: Life) -> None:
    """stdout is /dev/full: `up` and the commands say so in one sentence, exit code 4, and leave nothing running."""
    if not Path("/dev/full").exists():
        raise Skipped("no /dev/full here")
    with Path("/dev/full").open("wb") as full, life.copy() as house:
        for verb in (["up", "--port", "0"], ["status"], ["history"]):
            done = command(house.home, *verb, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert done.returncode == 4 and done.stderr.count(b"oliveira: ") == 1, (verb, done.returncode, done.stderr)
            assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done.stderr
        life.kept(house.home)


@attack
def closed_standard_streams(life: Life) -> None:
    """No standard output or error at all, as under some supervisors, and a reader of a pipe that has gone."""
    shell = 'exec "$@" >&- 2>&-'
    for verb in (["status"], ["history"]):
        line = [*program(*verb), "--home", str(life.house.home)]
        done = subprocess.run(["sh", "-c", shell, "sh", *line], timeout=90, check=False)
        assert done.returncode in (0, 1, 4), (verb, done.returncode)
        piped = subprocess.run(["sh", "-c", '"$@" | true', "sh", *line], capture_output=True, timeout=90, check=False)
        assert b"Traceback" not in piped.stderr, piped.stderr


@contextlib.contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise Skipped("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


@attack
def read_only_home(life: Life) -> None:
    """A home on a read-only file system: each command says so before any work, in one sentence."""
    place = life.folder / "read-only"
    with _mounted(place, "size=64m"):
        home = shutil.copytree(life.spare, place / "home")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        for verb in (
            ["up", "--port", "0"],
            ["keys", "create", "ana"],
            ["pause"],
            ["swap", "ffff"],
            ["status"],
            ["history"],
        ):
            done = command(home, *verb)
            assert done.returncode in (0, 2, 4) and b"Traceback" not in done.stderr, (verb, done.stderr)
            assert done.returncode or verb[0] in ("status", "history"), (verb, done.stdout)


@attack
def full_disk(life: Life) -> str:
    """The disk of a serving home fills up: it answers on, says what it could not keep, and is whole afterwards."""
    place = life.folder / "small"
    with _mounted(place, "size=48m"):
        home = shutil.copytree(life.spare, place / "home")
        with House(home) as house:
            house.start().ready(60)
            house.log = life.folder / "small.log"
            filler = place / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(b"x" * (1 << 16)):
                    pass
            for _ in range(20):
                life.answers(house, 5)
            made = command(home, "keys", "create", "ana")
            assert b"Traceback" not in made.stderr, made.stderr
            refused = life.house.post("/v1/completions", life.use, json={"model": "oliveira"}).status_code
            filler.unlink()
            life.answers(house, 10)
            life.keeps(house)
            assert house.stop() == 0, house.said()
        return f"answered on; a new key meanwhile: exit code {made.returncode}; {refused}"


@attack
def busy_machine(life: Life) -> str:
    """Processes that only work, one on each of two processors: a second start comes up beside them."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            process = stack.enter_context(subprocess.Popen(spinning()))
            stack.callback(process.kill)
        _serves(life)
        life.answers(seconds=20)
    return "served beside them"


@attack
def stopped_house(life: Life) -> None:
    """SIGSTOP of `oliveira up` itself, and SIGCONT: those who ask notice nothing."""
    assert life.house.process is not None
    life.house.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            life.answers()
    finally:
        life.house.process.send_signal(signal.SIGCONT)
    wait_for(lambda: life.house.processes() == life.pids, 10, "all processes")
