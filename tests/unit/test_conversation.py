"""A talk in the terminal against a server that is a few lines: streamed, bounded, refused, broken off."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from oliveira.cli import chat as command
from oliveira.cli.conversation import Conversation, Refusal, Server
from oliveira.errors import UserError
from oliveira.files import write_json_atomic
from oliveira.ledger import Ledger

CONTEXT = 40  # tokens; one is a word


class Handler(BaseHTTPRequestHandler):
    """Answers "you said N words" in pieces; the words of each chat are kept in `asked`."""

    asked: list[dict[str, Any]]
    keys: list[str]
    task: dict[str, Any] | None

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.keys.append(self.headers["Authorization"])
        if self.task is None:
            self.say(404, {"error": {"message": "a language model is served here", "code": "no_task"}})
        else:
            self.say(200, self.task)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.say(200, {"count": sum(len(m["content"].split()) for m in body["messages"]), "max_len": CONTEXT})
            return
        self.asked.append(body)
        words = [len(m["content"].split()) for m in body["messages"]]
        if sum(words) + body["max_tokens"] > CONTEXT:
            self.say(400, {"error": {"message": "the context is 40 tokens", "code": "context_length_exceeded"}})
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b": ping\n\n")
        for piece in ("you said ", f"{words[-1]} ", "words"):
            self.event({"choices": [{"delta": {"content": piece}}]})
            if body["messages"][-1]["content"] == "break":
                self.event({"error": {"message": "the engine stopped", "code": "engine_stopped"}})
                return
        self.event({"choices": []})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def say(self, status: int, value: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())


@pytest.fixture
def served() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Fresh", (Handler,), {"asked": [], "keys": [], "task": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_comes_in_pieces_and_is_remembered(served: tuple[str, type[Handler]]) -> None:
    conversation = Conversation(Server(served[0] + "/v1/", "sk"), most=10)
    assert list(conversation.ask("bom dia")) == ["you said ", "2 ", "words"]
    assert "".join(conversation.ask("three more words")) == "you said 3 words"
    assert served[1].asked[-1]["temperature"] == 0.7
    roles = [turn["role"] for turn in served[1].asked[-1]["messages"]]
    assert roles == ["user", "assistant", "user"] and conversation.forgotten == 0


def test_the_oldest_turns_are_forgotten(served: tuple[str, type[Handler]]) -> None:
    """22 words, then 4 of the answer: with 10 more and the room of an answer that is more than 40."""
    conversation = Conversation(Server(served[0], "sk"), most=10)
    for text in ("a " * 22, "b " * 10):
        assert "".join(conversation.ask(text)).startswith("you said")
    assert conversation.forgotten == 2 and len(served[1].asked[-1]["messages"]) == 1
    "".join(conversation.ask("c"))
    assert conversation.forgotten == 0, "what was forgotten is told once"


def test_a_question_that_does_not_fit_is_told_and_gone(served: tuple[str, type[Handler]]) -> None:
    conversation = Conversation(Server(served[0], "sk"), most=10)
    "".join(conversation.ask("one"))
    with pytest.raises(Refusal, match="the context is 40 tokens"):
        "".join(conversation.ask("d " * 60))
    assert "".join(conversation.ask("e")) == "you said 1 words"


def test_an_answer_that_breaks_off_stays_as_far_as_it_came(served: tuple[str, type[Handler]]) -> None:
    conversation = Conversation(Server(served[0], "sk"))
    with pytest.raises(UserError, match="the engine stopped"):
        list(conversation.ask("break"))
    assert conversation.turns[-1] == {"role": "assistant", "content": "you said "}
    stopped = conversation.ask("f")
    next(stopped)
    stopped.close()
    assert conversation.turns[-1]["content"] == "you said " and len(conversation.turns) == 4


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1", "ftp://x", "http://[::1", "http://a:b"])
def test_what_is_no_server_is_a_sentence(address: str) -> None:
    with pytest.raises(UserError, match="--url"):
        Server(address, "sk").get("/v1/task")


def test_another_program_is_a_sentence() -> None:
    class Other(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(UserError, match="is not a server of this program"):
            Server(f"http://127.0.0.1:{server.server_address[1]}", "sk").get("/v1/task")
        thread.join()


@pytest.fixture
def home(served: tuple[str, type[Handler]], tmp_path: Path) -> Path:
    Ledger(tmp_path).close()
    place = {"host": "0.0.0.0", "port": int(served[0].rpartition(":")[2]), "pid": 1}
    write_json_atomic(tmp_path / "front.json", place)
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_lines_of_a_pipe_are_messages(
    served: tuple[str, type[Handler]], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "bom dia\n\na b c\n/quit\nnever\n")
    command.chat(url="", key="", home=home, max_tokens=5)
    assert capsys.readouterr().out == "you said 2 words\nyou said 3 words\n"
    assert len(served[1].asked) == 2
    with Ledger(home) as ledger:
        [key] = ledger.keys()
        assert key.scopes == ("use",) and key.revoked, "the key of a talk ends with it"
    assert served[1].keys[0].startswith(f"Bearer sk-oli-{key.id}-")


def test_a_terminal_is_asked_until_it_ends(
    served: tuple[str, type[Handler]], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C at the prompt, a message that does not fit, one that does, Ctrl-D."""
    lines = iter([KeyboardInterrupt, "d " * 60, "", "bom dia", EOFError])

    def read(_: str) -> str:
        line = next(lines)
        if not isinstance(line, str):
            raise line
        return line

    typed(monkeypatch, "")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", read)
    command.chat(url=served[0], key="sk", home=home, max_tokens=5)
    said = capsys.readouterr()
    assert "you said 2 words\n" in said.out and "the context is 40 tokens" in said.err


def test_ctrl_c_stops_an_answer_and_not_the_talk(
    served: tuple[str, type[Handler]], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["bom dia", "outra vez", "/quit"])
    stopping, seen = iter([True]), command.visible

    def visible(piece: str) -> str:
        if next(stopping, False):
            raise KeyboardInterrupt
        return seen(piece)

    typed(monkeypatch, "")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    monkeypatch.setattr(command, "visible", visible)
    command.chat(url=served[0], key="sk", home=home)
    assert capsys.readouterr().out.endswith("you said 2 words\n")
    assert [turn["content"] for turn in served[1].asked[-1]["messages"]] == ["bom dia", "you said ", "outra vez"]


def test_a_task_is_asked_and_not_talked_to(
    served: tuple[str, type[Handler]], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served[1].task = {"task": "forecast/power", "example": {"history": [1.0, 2.0]}}
    typed(monkeypatch, "bom dia\n")
    with pytest.raises(UserError, match="forecast/power is served here, which answers requests and does not talk"):
        command.chat(url="", key="", home=home)
    said = capsys.readouterr().out
    assert said.startswith("curl http://127.0.0.1:") and "'{\"history\": [1.0, 2.0]}'" in said


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no running server"):
        command.chat(url="", key="", home=tmp_path)
    with pytest.raises(UserError, match="needs a key"):
        command.chat(url="http://127.0.0.1:1", key="", home=tmp_path)


def test_a_model_cannot_steer_the_terminal() -> None:
    assert command.visible("a\x1b[2Jb\nç\t\u00a0") == "a\N{REPLACEMENT CHARACTER}[2Jb\nç\t\u00a0"
