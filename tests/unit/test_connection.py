"""What a connection may cost before a key is shown, and how it is refused: always an answer, always an end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi.responses import StreamingResponse
from raw_http import connect, exchange, served, status, to_end
from small_app import MAX_BODY, predict_app

from oliveira.errors import UserError
from oliveira.serving.address import authority, is_loopback, listen
from oliveira.serving.front import connection as guarded

OPEN = b"GET /health HTTP/1.1\r\nHost: x\r\n"
GET = OPEN + b"Connection: close\r\n"
KEPT = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
POST = KEPT + b"Connection: close\r\n"
Address = tuple[str, int]


def predict(value: Any) -> dict[str, Any]:
    if value == {"break": 1}:
        raise RuntimeError("a secret of the house")
    if not isinstance(value, dict):
        raise UserError("give an object.")
    return {"got": value}


def application() -> Any:
    app = predict_app(predict, {"task": "t"})

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0)

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "half an answer"
            raise RuntimeError("a secret of the house")

        return StreamingResponse(pieces())

    return app


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with served(application()) as place:
        yield place


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Address]:
    """A server without patience."""
    monkeypatch.setattr(guarded, "HEAD_SECONDS", 0.2)
    with served(application()) as place:
        yield place


def error(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head.lower(), answer[:300]
    found = dict(json.loads(body)["error"])
    assert set(found) == {"message", "type", "param", "code"} and found["message"].endswith("."), found
    return found


def alive(address: Address) -> bool:
    return status(exchange(address, GET + b"\r\n")) == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nX: " + b"a" * (8 << 20) + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"a" * (guarded.MAX_HEAD + 1) + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * (guarded.MAX_HEADERS + 1) + b"\r\n",
        b"GET /" + b"a" * (guarded.MAX_HEAD + 1) + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"a" * (1 << 20),
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
    ids=["8 MiB", "a byte too long", "20,000", "a header too many", "address", "a name without end", "trailers"],
)
def test_a_large_head_is_431(address: Address, head: bytes) -> None:
    answer = exchange(address, head)
    assert status(answer) == 431, answer[:200]
    assert error(answer)["code"] == "head_too_large" and alive(address)


def test_as_much_as_is_allowed_passes(address: Address) -> None:
    many = b"".join(b"X%d: y\r\n" % number for number in range(guarded.MAX_HEADERS - 2))
    assert status(exchange(address, GET + many + b"\r\n")) == 200
    assert status(exchange(address, GET + b"X: " + b"a" * (guarded.MAX_HEAD - 100) + b"\r\n\r\n")) == 200
    body = b'{"a":"' + b"x" * 300_000 + b'"}'  # a body counts for nothing here, in one read with the head or in many
    assert status(exchange(address, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)) == 200


@pytest.mark.parametrize("start", [b"", b"\r\n", b"GET /a", b"GET /health HTTP/1.1\r\nX: a"])
def test_a_head_that_drips_is_given_up(quick: Address, start: bytes) -> None:
    """The client writes a byte now and then and never ends: no time is asserted, only that the server ends it."""
    with connect(quick) as connection:
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.02):
                try:
                    connection.sendall(start[-1:] if start != b"\r\n" else b"\r\n")
                except OSError:
                    return

        connection.sendall(start)
        writer = threading.Thread(target=drip)
        writer.start()
        answer = to_end(connection)
        ended.set()
        writer.join()
    if start in (b"", b"\r\n"):
        assert answer == b""
    else:
        assert status(answer) == 408 and error(answer)["code"] == "head_timeout"


def test_patience_is_for_each_head_not_for_the_connection(quick: Address) -> None:
    with connect(quick) as connection:
        for _ in range(8):
            connection.sendall(OPEN)
            threading.Event().wait(0.06)
            connection.sendall(b"\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(1 << 16)
            assert status(answer) == 200


def test_a_request_that_ends_no_body_is_not_waited_for(address: Address) -> None:
    """404 is out at once; the endless body behind it is not read."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(address) as connection:
        connection.sendall(head)
        answer = to_end(connection)
    assert status(answer) == 404


def test_after_too_large_a_body_the_connection_goes_on(address: Address) -> None:
    size = MAX_BODY + 1
    answers = exchange(address, KEPT + b"Content-Length: %d\r\n\r\n" % size, b" " * size, GET + b"\r\n")
    assert status(answers) == 413 and answers.count(b"HTTP/1.1") == 2 and answers.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("framed", [True, False], ids=["length", "chunks"])
def test_a_client_that_sends_all_before_it_reads_is_told_that_its_body_is_too_large(
    address: Address, framed: bool
) -> None:
    """urllib and curl -H Connection:close do; slower than any patience with what is refused."""
    piece, count = b" " * (1 << 20), 6
    size = b"Content-Length: %d" % (count << 20) if framed else b"Transfer-Encoding: chunked"
    body = [piece] if framed else [b"%x\r\n" % len(piece) + piece + b"\r\n"]
    with connect(address) as connection:
        for part in [POST + size + b"\r\n\r\n", *body * count, b"" if framed else b"0\r\n\r\n"]:
            connection.sendall(part)
        answer = to_end(connection)
    assert status(answer) == 413 and error(answer)["code"] == "body_too_large" and alive(address)


@pytest.mark.parametrize("head", [b"Expect: 100-continue\r\nContent-Length: 9000000", b"Content-Length: 900000000"])
def test_a_body_that_nobody_has_sent_or_that_is_huge_is_not_waited_for(address: Address, head: bytes) -> None:
    with connect(address) as connection:
        connection.sendall(POST + head + b"\r\n\r\n")
        answer = to_end(connection)
    assert status(answer) == 413 and b"100 Continue" not in answer


def test_waiting_connections_give_way_and_working_ones_do_not() -> None:
    release = threading.Event()

    def slow(value: Any) -> dict[str, Any]:
        assert release.wait(20)
        return {}

    body = KEPT + b"Content-Length: 2\r\n\r\n{}"
    with served(predict_app(slow, {}), connections=8) as address:
        idle = [connect(address) for _ in range(20)]
        assert alive(address), "those who ask for nothing keep nobody out"
        working = [connect(address) for _ in range(8)]
        for connection in working:
            connection.sendall(body)
        answer = b""
        for _ in range(200):  # until the eight are at work
            answer = exchange(address, GET + b"\r\n")
            if status(answer) == 503:
                break
        assert error(answer)["code"] == "too_many_connections" and b"retry-after: 1" in answer
        release.set()
        assert [status(connection.recv(1 << 16)) for connection in working] == [200] * 8
        for connection in (*idle, *working):
            connection.close()
        assert alive(address)


# The wire ----------------------------------------------------------------------------------------------------


def test_http_1_0_ends_with_the_connection(address: Address) -> None:
    answer = exchange(address, b"GET /stream HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == 200 and b"chunked" not in head.lower() and b"connection: close" in head
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert exchange(address, b"GET /half HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nhalf an answer")
    plain = exchange(address, b"GET /health HTTP/1.0\r\n\r\n")
    assert plain.endswith(b'{"status":"ok"}') and b"content-length: 15" in plain
    assert b"\r\n0\r\n\r\n" in exchange(address, b"GET /stream HTTP/1.1\r\nConnection: close\r\n\r\n")


def test_head_is_get_without_a_body(address: Address) -> None:
    for path in (b"/health", b"/v1/task", b"/stream"):
        answer = exchange(address, b"HEAD " + path + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert status(answer) == 200 and answer.endswith(b"\r\n\r\n")
    assert status(exchange(address, b"HEAD /v1/predict HTTP/1.1\r\nConnection: close\r\n\r\n")) == 405


def test_pipelined_requests_are_answered_in_order(address: Address) -> None:
    ask = KEPT + b"Content-Length: 7\r\n\r\n"
    answer = exchange(address, b"".join(ask + b'{"a":%d}' % number for number in range(5)) + GET + b"\r\n")
    places = [answer.index(b'{"a":%d}' % number) for number in range(5)]
    assert places == sorted(places) and answer.count(b"HTTP/1.1 200") == 6


def test_a_flood_of_pipelined_requests_ends(address: Address) -> None:
    answer = exchange(address, (OPEN + b"\r\n") * 5000)
    assert 1 <= answer.count(b"HTTP/1.1 200") <= guarded.MAX_PIPELINED and alive(address)


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}garbage\r\n0\r\n\r\n",
        b"G" * 60_000 + b" / HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET /health HTTP/1.1\r\nA b: c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nA: \0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda value: repr(value[-40:]),
)
def test_what_is_not_http_is_400(address: Address, request_: bytes) -> None:
    answer = exchange(address, request_)
    assert status(answer) in (400, 413), answer[:200]
    assert "secret" not in error(answer)["message"] and alive(address)


def test_absolute_addresses_are_read(address: Address) -> None:
    assert status(exchange(address, b"GET http://anything/health HTTP/1.1\r\nConnection: close\r\n\r\n")) == 200


def test_a_client_that_hangs_up_is_gone(address: Address) -> None:
    """Whether it still reads or not: the slots of an answer that nobody waits for are free at once."""
    for body in (b"{}", b"{"):
        assert status(exchange(address, POST + b"Content-Length: 2\r\n\r\n" + body, hang_up=True)) in (0, 200)
    assert alive(address)


# Bodies and what nobody foresaw ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1' + b"0" * 400 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1e400}',
        b'{"a":NaN}',
        b"[" * 100_000,
        b'{"a":"\\ud800"}',
        b"\xff",
        b"",
    ],
    ids=lambda value: repr(value[:12]),
)
def test_odd_json_is_400(address: Address, body: bytes) -> None:
    answer = exchange(address, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert status(answer) == 400 and error(answer)["code"] == "invalid_json"


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"", b"application/jsonx"])
def test_another_content_type_is_named(address: Address, kind: bytes) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n"
    answer = exchange(address, head + (b"Content-Type: " + kind + b"\r\n" if kind else b"") + b"\r\n{}")
    said = error(answer)["message"]
    assert status(answer) == 415 and (kind.decode() or "missing") in said and "application/json" in said


@pytest.mark.parametrize(("packed", "code"), [(b"gzip", 415), (b"br, gzip", 415), (b"Identity", 200)])
def test_a_packed_body_is_refused_by_name(address: Address, packed: bytes, code: int) -> None:
    head = POST + b"Content-Length: 2\r\nContent-Encoding: " + packed + b"\r\n\r\n{}"
    answer = exchange(address, head)
    assert status(answer) == code
    assert code == 200 or packed.decode() in error(answer)["message"]


def test_an_exception_nobody_foresaw_is_500_and_the_server_lives(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    answer = exchange(address, POST + b'Content-Length: 11\r\n\r\n{"break":1}')
    assert status(answer) == 500 and error(answer)["code"] == "internal"
    assert b"secret" not in answer and b"Traceback" not in answer
    assert [record for record in caplog.records if record.message == "unforeseen" and record.exc_info]
    identity = next(line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: "))
    assert any(identity.endswith(record.__dict__.get("id", "?").encode()) for record in caplog.records)
    half = exchange(address, b"GET /half HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert status(half) == 200 and not half.endswith(b"0\r\n\r\n"), "half an answer does not look whole"
    assert alive(address)


# Addresses ---------------------------------------------------------------------------------------------------


def test_ipv6_stands_in_brackets() -> None:
    assert authority("::1", 8420) == "[::1]:8420" and authority("127.0.0.1", 8420) == "127.0.0.1:8420"
    assert is_loopback("::1") and is_loopback("[::1]") and not is_loopback("::")
    with served(application(), host="::1") as address:
        assert address[0] == "::1" and alive(address)
    for host in ("no such host", "a" * 300, "::g", "256.1.1.1\0"):
        with pytest.raises(UserError, match=r"serve\.host"):
            listen(host, 0)
