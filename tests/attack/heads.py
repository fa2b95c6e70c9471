"""Before any key: heads, connections, and the grammar of HTTP."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

from tests.attack.attacks import attack
from tests.attack.life import Life
from tests.attack.wire import Address, completion, connect, exchange, head, post, status, to_end

MIB = 1 << 20


@attack
def oversized_headers(life: Life) -> str:
    """One header of 32 MiB, and 100,000 bytes of path."""
    answer = exchange(life.house.address, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Large: ", *[b"a" * MIB] * 32)
    long = exchange(life.house.address, head(path="/" + "a" * 100_000))
    assert {status(answer), status(long)} <= {431, 0} and 431 in (status(answer), status(long)), (answer, long)
    return f"{status(answer)}, {status(long)}"


@attack
def many_headers(life: Life) -> str:
    """20,000 headers in one request."""
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(20_000))
    answer = exchange(life.house.address, b"GET /health HTTP/1.1\r\nHost: x\r\n", lines, b"\r\n")
    assert status(answer) == 431, answer[:200]
    return "431"


@attack
def dripping_headers(life: Life) -> str:
    """64 connections that send a byte of a header twice a second."""
    begun, drips = time.monotonic(), [connect(life.house.address) for _ in range(64)]
    try:
        for drip in drips:
            drip.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        while time.monotonic() - begun < 12:  # their time is ten seconds
            for drip in drips:
                with contextlib.suppress(OSError):
                    drip.sendall(b"a")
            time.sleep(0.5)
        life.answers()
        answers = {status(to_end(drip)) for drip in drips}
    finally:
        for drip in drips:
            drip.close()
    assert answers <= {408, 0} and 408 in answers, answers
    return f"408 after {time.monotonic() - begun:.0f} s"


@attack
def idle_connections(life: Life) -> str:
    """1,500 connections that say nothing, more than there are places."""
    held: list[socket.socket] = []
    try:
        for _ in range(1500):
            with contextlib.suppress(OSError):  # our own limit of open files may be lower
                held.append(connect(life.house.address))
        life.answers()
    finally:
        for connection in held:
            connection.close()
    return f"{len(held)} open"


@attack
def slow_bodies(life: Life) -> str:
    """32 bodies that never end, beside which others are answered."""
    body = completion()
    slow = [connect(life.house.address) for _ in range(32)]
    try:
        for connection in slow:
            connection.sendall(post(life.use, body, Content_Length=str(len(body) + 1000)))
        begun = time.monotonic()
        for _ in range(5):
            life.answers()
        return f"five answers in {time.monotonic() - begun:.1f} s"
    finally:
        for connection in slow:
            connection.close()


@attack
def half_closed_sockets(life: Life) -> None:
    """Clients that stop writing: inside a head, inside a body, after a whole request."""
    body = completion()
    for sent in (head()[:20], post(life.use, body)[:-5], post(life.use, body), b""):
        with connect(life.house.address) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = to_end(connection)
        assert status(answer) in (0, 200, 400), answer


@attack
def pipelining(life: Life) -> str:
    """1,000 requests in one piece on one connection, and eight completions in order."""
    flood = exchange(life.house.address, head() * 1000 + head(Connection="close"))
    few = exchange(
        life.house.address, post(life.use, completion(), Connection="keep-alive") * 7 + post(life.use, completion())
    )
    assert few.count(b"HTTP/1.1 200") == 8, few[:300]
    return f"{flood.count(b'HTTP/1.1 200')} of the flood answered"


@attack
def conflicting_lengths(life: Life) -> None:
    """Two lengths, a length beside chunks, wrong chunks: a smuggled second request is never answered."""
    inner = head(path="/v1/models", key=life.use)
    chunked = b"%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n"
    kinds = [
        head(
            "POST",
            "/v1/completions",
            life.use,
            Content_Type="application/json",
            Content_Length="4\r\nContent-Length: 90",
        ),
        head("POST", "/v1/completions", life.use, Content_Length="4", Transfer_Encoding="chunked"),
        head("POST", "/v1/completions", life.use, Transfer_Encoding="chunked, identity"),
        head("POST", "/v1/completions", life.use, Transfer_Encoding="xchunked"),
        head("POST", "/v1/completions", life.use, Content_Length="+4"),
        head("POST", "/v1/completions", life.use, Content_Length="-1"),
        head("POST", "/v1/completions", life.use, Content_Length="9" * 40),
        head("GET", "/health", Content_Length="0", Transfer_Encoding="chunked"),
    ]
    for kind in kinds:
        answer = _quick(life.house.address, kind + chunked)
        assert b'"object":"list"' not in answer, (kind, answer)
        assert status(answer) in (0, 400, 411, 413, 415, 501) or b"/health" in kind, (kind, answer[:300])
    for bad in (b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"4;" + b"x" * MIB):
        answer = _quick(
            life.house.address, head("POST", "/v1/completions", life.use, Transfer_Encoding="chunked") + bad
        )
        assert status(answer) in (0, 400, 431), (bad[:20], answer[:300])


def _quick(address: Address, sent: bytes) -> bytes:
    """What comes within two seconds: a server that waits for more has smuggled nothing."""
    with connect(address) as connection:
        connection.settimeout(2)
        received = b""
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            while piece := connection.recv(1 << 16):
                received += piece
        return received


@attack
def http_1_0_stream(life: Life) -> None:
    """A stream asked for with HTTP/1.0 has no chunk sizes between its lines."""
    answer = exchange(life.house.address, post(life.use, completion(stream=True), version="1.0"))
    _, _, body = answer.partition(b"\r\n\r\n")
    lines = [line for line in body.splitlines() if line]
    assert lines[-1] == b"data: [DONE]" and all(line.startswith(b"data: ") for line in lines), body[:300]


@attack
def head_requests(life: Life) -> None:
    """HEAD is GET without a body, on every open and known path."""
    for path in ("/health", "/ready", "/v1/models", "/metrics", "/version", "/console/"):
        answers = [exchange(life.house.address, head(m, path, life.admin, Connection="close")) for m in ("GET", "HEAD")]
        assert status(answers[0]) == status(answers[1]), (path, [a[:80] for a in answers])
        assert answers[1].endswith(b"\r\n\r\n") and answers[1].count(b"\r\n\r\n") == 1, (path, answers[1])


@attack
def odd_methods_and_paths(life: Life) -> None:
    """TRACE, CONNECT, an unknown method, climbing paths, NUL and bytes that are no text, another protocol."""
    for method in ("TRACE", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW", "CONNECT"):
        answer = _quick(life.house.address, head(method, "/v1/models", life.use, Connection="close"))
        assert status(answer) in (0, 400, 401, 404, 405, 415), (method, answer[:200])
    for path in (
        "/console/../../../etc/passwd",
        "/console/%2e%2e/%2e%2e/etc/passwd",
        "/console//etc/passwd",
        "/%00",
        "/%ff",
    ):
        answer = _quick(life.house.address, head("GET", path, life.admin, Connection="close"))
        assert status(answer) in (200, 303, 400, 404), (path, answer[:200])
        assert b"root:" not in answer, path
    for number in ("9" * 400, "1e9", "-1", "%00"):
        answer = _quick(life.house.address, head("GET", f"/admin/wishes/{number}", life.admin, Connection="close"))
        assert status(answer) in (400, 404), (number[:20], answer[:200])
    for start in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        Path("/bin/sh").read_bytes()[:4096],
    ):
        assert status(_quick(life.house.address, start)) in (0, 400), start[:20]
