"""`oliveira chat` with a real server: a pipe of messages longer than the context, and no server at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from serving_helpers import MAX_LEN, TEXTS, Server


def chat(home: Path, text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oliveira", "chat", "--home", str(home), "--max-tokens", "20"]
    environment = {**os.environ, "OLIVEIRA_LANG": "en"}
    environment.pop("OLIVEIRA_KEY", None)
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, env=environment)


def test_a_pipe_of_messages_is_answered_within_the_context(server: Server) -> None:
    lines = [text for text in TEXTS[:4] for _ in range(3)]
    done = chat(server.home.path, "\n".join([*lines, "/quit", "never asked"]))
    assert done.returncode == 0, done.stderr
    assert f"of the oldest turns forgotten: the context is {MAX_LEN} tokens)" in done.stderr
    assert done.stdout.count("\n") >= len(lines)
    keys = [key for key in server.home.ledger.keys() if key.name == "oliveira chat"]  # noqa: SIM118
    assert keys and all(key.revoked for key in keys), "the key of a talk ends with it"


def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    done = chat(tmp_path, "bom dia\n")
    assert done.returncode == 2 and "has no running server" in done.stderr and not any(tmp_path.iterdir())
