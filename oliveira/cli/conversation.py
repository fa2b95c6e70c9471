"""A conversation with a server of this house over HTTP: streamed answers, and as many turns as fit into its context.

Each turn is the whole conversation again, by the chat template of the model or continued; what the server has read
before, it finds again.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import urlsplit

from oliveira.errors import UserError

SECONDS = 60.0  # of silence; a stream is pinged every 15
MODEL = "oliveira"

Turn = dict[str, str]  # role, content


class Refusal(UserError):
    """What the server said of a request."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Server:
    """`address`: http(s)://HOST[:PORT], with or without /v1."""

    def __init__(self, address: str, key: str) -> None:
        try:
            parts = urlsplit(address)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise UserError(f"--url {address} is not the address of a server. Write http://HOST:PORT.")
        if not (key.isascii() and key.isprintable()):
            raise UserError("the key holds a character that no key has. Copy it again.")
        self.address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self._parts, self._path, self._key = parts, urlsplit(self.address).path, key

    def get(self, path: str) -> dict[str, Any]:
        return self._whole("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._whole("POST", path, body)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The server-sent events of a request. Closing the iterator hangs up, which stops the answer."""
        response = self._ask("POST", path, body)
        try:
            while line := self._read(response.readline):
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise _refusal(response.status, event)
                yield event
        finally:
            response.close()

    def _whole(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        response = self._ask(method, path, body)
        try:
            found = json.loads(self._read(response.read))
        except ValueError:
            raise self._stranger() from None
        finally:
            response.close()
        return dict(found)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        make = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", "Connection": "close"}
        try:
            connection = make(self._parts.hostname or "", self._parts.port, timeout=SECONDS)
            connection.request(method, self._path + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._silent(error) from None
        if response.status >= 400:
            try:
                raise _refusal(response.status, json.loads(self._read(response.read)))
            except (ValueError, KeyError, TypeError):
                raise self._stranger() from None
        return response

    def _read(self, read: Any) -> bytes:
        try:
            return bytes(read())
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None

    def _silent(self, error: Exception) -> UserError:
        reason = str(error).strip() or type(error).__name__
        return UserError(f"no server answers at {self.address}: {reason}. Start `oliveira up`, or give its --url.")

    def _stranger(self) -> UserError:
        return UserError(f"what answers at {self.address} is not a server of this program. Give the --url of one.")


def _refusal(status: int, body: Any) -> Refusal:
    error = body["error"]
    return Refusal(str(error["message"]), status, str(error["code"]))


class Conversation:
    """The turns so far. `forgotten`: how many of the oldest the last question went without."""

    def __init__(self, server: Server, model: str = MODEL, most: int = 200, temperature: float = 0.7) -> None:
        self.server, self.model, self._most, self._temperature = server, model, most, temperature
        self.turns: list[Turn] = []
        self.context = 0  # tokens, known from the first question on
        self.forgotten = 0

    def ask(self, text: str) -> Generator[str, None, None]:
        """The answer as it comes. What came of one that is broken off stays in the conversation; a question that is
        refused does not."""
        self.turns.append({"role": "user", "content": text})
        answer = ""
        try:
            room = self._fit()
            body = {"model": self.model, "messages": self.turns, "max_tokens": room, "stream": True}
            body["temperature"] = self._temperature
            for event in self.server.stream("/v1/chat/completions", body):
                piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
                if piece:
                    answer += piece
                    yield piece
        except UserError:
            if not answer:
                self.turns.pop()
            raise
        finally:
            if answer:
                self.turns.append({"role": "assistant", "content": answer})

    def _fit(self) -> int:
        """Forgets the oldest turns until an answer has room beside the rest. Returns its room in tokens."""
        self.forgotten = 0
        while True:
            used = self._tokens()
            wanted = min(self._most, max(1, self.context // 2))
            if used is not None and used + wanted <= self.context:
                return wanted
            if len(self.turns) == 1:  # a question alone gets what room there is, or the server's own word
                return min(wanted, max(1, self.context - (used or 0)))
            gone = 2 if self.turns[1]["role"] == "assistant" else 1
            del self.turns[:gone]
            self.forgotten += gone

    def _tokens(self) -> int | None:
        """Of all turns as the chat route reads them; None: too many bytes to be counted."""
        try:
            found = self.server.post("/tokenize", {"messages": self.turns})
        except Refusal as refusal:
            if refusal.code not in ("message_too_long", "body_too_large") or len(self.turns) == 1:
                raise
            return None
        self.context = int(found["max_len"])
        return int(found["count"])
