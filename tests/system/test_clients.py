"""Real clients: chats, streams, tools, JSON, embeddings, errors. LangChain, LlamaIndex and instructor want other
packages than the lock has: `make clients` gives them an environment of their own, and they are tried where it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_helpers import Home, Server

ROOT = Path(__file__).parents[2]
OTHER = ROOT / ".venv-clients" / "bin" / "python"
CLIENTS = {"openai": Path(sys.executable)} | (
    dict.fromkeys(("langchain", "llama_index", "instructor"), OTHER) if OTHER.exists() else {}
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Iterator[Server]:
    """With room for the schemas that clients write."""
    home = Home(tmp_path_factory.mktemp("clients") / "home", tokenizer_file)
    home.promote(home.make(seed=0, max_len=2048))
    with Server(home) as running:
        running.ready()
        yield running
    home.ledger.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reads_what_it_asked_for(client: str, server: Server) -> None:
    command = [
        str(CLIENTS[client]),
        str(ROOT / "tests" / "clients" / f"with_{client}.py"),
        f"{server.url}/v1",
        server.home.use,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_curl(server: Server) -> None:
    """Its own words for what any shell can do: a whole answer, and lines as they come."""
    body = '{"model": "oliveira", "messages": [{"role": "user", "content": "Oi"}], "max_tokens": 5, "stream": true}'
    command = ["curl", "-sN", f"{server.url}/v1/chat/completions", "-H", f"Authorization: Bearer {server.home.use}"]
    command += ["-H", "Content-Type: application/json", "-d"]
    lines = subprocess.run([*command, body], capture_output=True, text=True, timeout=60, check=True).stdout.split(
        "\n\n"
    )
    assert all(line.startswith("data: {") for line in lines[:-2]) and lines[-2] == "data: [DONE]"
    whole = subprocess.run(
        [*command, body.replace("true", "false")], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert '"finish_reason":"length"' in whole
