"""Who comes in, and what a bad request gets: a status, a sentence, and never a 5xx."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from serving_helpers import Home, Server, wait_for

from oliveira.strict_json import MAX_DEPTH

OPEN = {"/health"}
ADMIN = ("/admin", "/console")
ANY_KEY = {"/metrics", "/ready", "/version"}


def routes(server: Server) -> Iterator[tuple[str, str]]:
    """Every (method, path) of the OpenAPI document, with something put in for its parameters."""
    with server.http() as http:
        document = http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            yield (
                method.upper(),
                path.replace("{model}", "oliveira").replace("{number}", "1").replace("{path}", ""),
            )


def status(http: httpx.Client, method: str, path: str, **options: Any) -> int:
    """The status alone: some answers never end."""
    with http.stream(method, path, **options) as response:
        return response.status_code


def test_every_route_asks_for_a_key(server: Server) -> None:
    """Generated from the OpenAPI: a route that somebody adds without a key fails here."""
    found = list(routes(server))
    assert len(found) >= 20 and ("POST", "/v1/chat/completions") in found and ("POST", "/admin/swap") in found
    extra = [
        ("GET", "/console/"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("POST", "/"),
        ("GET", "/docs"),
    ]
    keys = {
        "none": None,
        "bad": "sk-oli-00000000-nothing",
        "odd": "é",
        "revoked": server.home.revoked,
        "use": server.home.use,
        "admin": server.home.admin,
    }
    for name, key in keys.items():
        headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
        with httpx.Client(base_url=server.url, headers=headers, timeout=10) as http:
            for method, path in found + extra:
                got = status(http, method, path)
                case = f"{method} {path} with key {name}: {got}"
                if path in OPEN:
                    assert got == 200, case
                elif path == "/console/" and name == "none":
                    assert got in (200, 503), case  # the page itself, to sign in on
                elif name in ("none", "bad", "odd", "revoked"):
                    assert got == 401, case
                elif name == "use" and path.startswith(ADMIN):
                    assert got == 403, case
                else:
                    assert got not in (401, 403), case
                    assert got < 500 or (got == 503 and path == "/console/"), case  # a console that is not built


def test_openapi_tells_the_truth_about_keys_and_errors(server: Server) -> None:
    with server.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert bool(operation.get("security")) == (path not in OPEN)


def test_no_prompt_and_no_key_in_the_log(server: Server) -> None:
    canary = "canario-amarelo"
    with server.http() as http:
        http.post("/v1/completions", json={"model": "oliveira", "prompt": canary, "max_tokens": 1})
        http.post("/v1/completions", json={"model": canary, "prompt": canary, "stop": 5})
        http.get(f"/console/?key={server.home.admin}")
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert any(line.get("path") == "/v1/completions" and line["id"] and line["status"] == 200 for line in lines)
    assert canary not in text
    for key in (server.home.use, server.home.admin, server.home.revoked):
        assert key.split("-", 3)[3] not in text


def test_revocation_works_without_restart(server: Server) -> None:
    key = server.home.ledger.add_key("short", ("use",))
    with server.http(key) as http:
        assert http.get("/v1/models").status_code == 200
        server.home.ledger.revoke_key(key.split("-")[2])
        assert http.get("/v1/models").status_code == 401


def test_signing_in_on_the_page(server: Server) -> None:
    """The key as a program sends it, once, for a cookie; no other key gets one, and none comes of nothing."""
    with server.http(None) as http:
        for key, status_code in ((server.home.use, 403), (server.home.revoked, 401), ("nonsense", 401), ("", 401)):
            answer = http.post("/console/session", headers={"Authorization": f"Bearer {key}"} if key else {})
            assert answer.status_code == status_code and "set-cookie" not in answer.headers
        answer = http.post("/console/session", headers={"Authorization": f"Bearer {server.home.admin}"})
        cookie = answer.headers["set-cookie"].lower()
        assert answer.status_code == 204 and "httponly" in cookie and "samesite=strict" in cookie
        assert "max-age" not in cookie and "expires" not in cookie  # it ends with the browser
        assert http.get("/admin/state").status_code == 200


def test_console_cookie(server: Server) -> None:
    """The key leaves the address at once; a POST by cookie needs the header that other sites cannot send."""
    with server.http(None) as http:
        for key in (server.home.use, server.home.revoked, "nonsense"):
            answer = http.get(f"/console/?key={key}")
            assert answer.status_code == 303 and answer.headers["location"] == "/console/?refused"
            assert "set-cookie" not in answer.headers and http.get("/admin/state").status_code == 401
        answer = http.get(f"/console/?key={server.home.admin}")
        assert answer.status_code == 303 and answer.headers["location"] == "/console/"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and server.home.admin not in answer.text
        assert http.get("/console/").status_code in (200, 503)
        assert http.post("/admin/pause", json={"paused": True}).status_code == 403
        body = {"model": "oliveira", "prompt": "a", "max_tokens": 1}
        assert http.post("/v1/completions", json=body).status_code == 403
        assert http.post("/v1/completions", json=body, headers={"X-Oliveira": "console"}).status_code == 200


GOOD = {"model": "oliveira", "prompt": "a", "max_tokens": 1}
CHAT = {"model": "oliveira", "messages": [{"role": "user", "content": "a"}]}


def raw(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/completions", b"{", 400),
        ("/v1/completions", b"", 400),
        ("/v1/completions", b"null", 400),
        ("/v1/completions", b"[]", 400),
        ("/v1/completions", b"\xff\xfe{}", 400),
        ("/v1/completions", b"[" * 100_000, 400),
        ("/v1/completions", b'{"a":' * 100_000, 400),
        ("/v1/completions", b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), 400),
        ("/v1/completions", b'{"model":"oliveira","prompt":"a","temperature":NaN}', 400),
        ("/v1/completions", b'{"model":"oliveira","prompt":"a","temperature":-Infinity}', 400),
        ("/v1/completions", b'{"model":"oliveira","prompt":"a","temperature":1e999}', 400),
        ("/v1/completions", b'{"model":"oliveira","prompt":"a","seed":' + b"9" * 5000 + b"}", 400),
        ("/v1/completions", b'{"model":"oliveira","prompt":"\\ud800"}', 400),
        ("/v1/completions", b'{"model":"oliveira","prompt":"a","\\udfff":1}', 400),
        ("/v1/completions", b'{"a":' + b"1," * 400_000 + b"1}", 400),
        ("/v1/completions", raw(prompt="\0\0"), 200),
        ("/v1/completions", b"\xef\xbb\xbf" + raw(), 200),
        ("/v1/completions", raw(prompt=""), 200),
        ("/v1/completions", raw(prompt="x" * 70_000), 400),
        ("/v1/completions", raw(prompt=["a"] * 17), 400),
        ("/v1/completions", raw(prompt=[-1]), 400),
        ("/v1/completions", raw(prompt=[99_999]), 400),
        ("/v1/completions", raw(prompt={}), 400),
        ("/v1/completions", raw(max_tokens=0), 400),
        ("/v1/completions", raw(max_tokens=1e400), 400),
        ("/v1/completions", raw(n=5), 400),
        ("/v1/completions", raw(stop=["a"] * 5), 400),
        ("/v1/completions", raw(stop=""), 400),
        ("/v1/completions", raw(temperature="hot"), 400),
        ("/v1/completions", raw(temperature=1e-320), 200),
        ("/v1/completions", raw(seed=2**63), 400),
        ("/v1/completions", raw(seed=2**63 - 1, n=4), 200),
        ("/v1/completions", raw(echo=True), 200),
        ("/v1/completions", raw(best_of=3), 400),
        ("/v1/completions", raw(model="x" * 500), 400),
        ("/v1/completions", raw(model="../../etc/passwd"), 404),
        ("/v1/chat/completions", json.dumps({**CHAT, "messages": []}).encode(), 400),
        ("/v1/chat/completions", json.dumps({**CHAT, "messages": CHAT["messages"] * 300}).encode(), 400),
        ("/v1/chat/completions", json.dumps({**CHAT, "messages": [{"role": "tool"}]}).encode(), 400),
        ("/v1/chat/completions", json.dumps({**CHAT, "top_logprobs": 2}).encode(), 400),
        ("/v1/embeddings", b'{"model":"oliveira","input":""}', 400),
        ("/v1/embeddings", b'{"model":"oliveira","input":[]}', 400),
        ("/v1/embeddings", b'{"model":"oliveira","input":"' + b"a b " * 500 + b'"}', 400),
        ("/admin/swap", b'{"digest":"../../x"}', 400),
        ("/admin/swap", b'{"digest":"00000000"}', 404),
        ("/admin/alertmanager/api/v2/alerts", b'[{"labels":{"action":"retrain"},"endsAt":"tomorrow"}]', 400),
        ("/admin/alerts", b'{"alerts":[{"labels":{"action":5}}]}', 400),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else str(value),
)
def test_bad_bodies(server: Server, path: str, body: bytes, expected: int) -> None:
    with server.http(server.home.admin) as http:
        answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == expected, answer.text
    if expected >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith(".")
        assert "Traceback" not in answer.text and len(answer.text) < 2000


def test_wrong_paths_methods_and_types(server: Server) -> None:
    with server.http(server.home.admin) as http:
        for method, path, expected in (
            ("GET", "/nowhere", 404),
            ("GET", "/v1/completions", 405),
            ("DELETE", "/v1/models", 405),
            ("GET", "/health/", 404),
            ("GET", "/admin/wishes/0", 400),
            ("GET", f"/admin/wishes/{2**63}", 400),
            ("GET", "/admin/wishes/999999", 404),
            ("GET", "/admin/wishes/x", 400),
            ("GET", "/v1/models/%2e%2e%2f%00", 404),
            ("GET", "/v1/models/%ff", 404),
        ):
            answer = http.request(method, path)
            assert answer.status_code == expected and answer.json()["error"]["message"], (
                f"{method} {path}: {answer.text}"
            )
        plain = http.post("/v1/completions", content=raw(), headers={"Content-Type": "text/plain"})
        assert plain.status_code == 415 and "text/plain" in plain.json()["error"]["message"]
        for path in ("/health", "/ready", "/version", "/metrics", "/v1/models", "/v1/models/oliveira", "/admin/state"):
            answer = http.head(path)
            assert answer.status_code == 200 and not answer.content, path
        assert http.head("/admin/events").status_code == 405
    with server.http(None) as http:
        assert http.head("/health").status_code == 200 and http.head("/ready").status_code == 401


def test_a_large_head_needs_no_key_to_be_refused(server: Server) -> None:
    with server.http(None) as http:
        for headers in ({"X": "a" * (1 << 20)}, {f"X{number}": "y" for number in range(2000)}):
            answer = http.get("/health", headers=headers)
            assert answer.status_code == 431 and answer.json()["error"]["code"] == "head_too_large"


def test_other_pages_may_ask_where_the_world_says_so(server: Server, make_home: Callable[..., Home]) -> None:
    page = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    allowed = "access-control-allow-origin"
    with server.http(None) as http:
        assert allowed not in http.options("/v1/completions", headers=page).headers
        assert allowed not in http.get("/health", headers=page).headers
    with Server(make_home(cors_origins=["https://example.org"])) as open_, open_.http(None) as http:
        asked = http.options("/v1/completions", headers={**page, "Access-Control-Request-Headers": "authorization"})
        assert asked.status_code == 200 and asked.headers[allowed] == page["Origin"]
        assert "authorization" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        refused = http.get("/v1/models", headers=page)
        assert refused.status_code == 401 and refused.headers[allowed] == page["Origin"], "also an error can be read"
        assert allowed not in http.get("/health", headers={"Origin": "https://other.org"}).headers


def test_a_server_on_ipv6(make_home: Callable[..., Home]) -> None:
    with Server(make_home(), "--host", "::1") as running, running.http(None) as http:
        assert running.url.startswith("http://[::1]:") and http.get("/health").json() == {"status": "ok"}


def test_oversize_bodies_are_cut_off_while_they_arrive(server: Server) -> None:
    """413 by a declared length beyond what is dropped at once, and by the counted bytes of a body that never ends."""
    with server.http() as http:
        assert http.post("/v1/completions", content=b" " * (2 << 20)).status_code == 413
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.home.use}\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n".encode())
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk, sent = b"10000\r\n" + b" " * 0x10000 + b"\r\n", 0
        with pytest.raises(OSError):  # noqa: PT012 - the server answers and closes while we still send
            while sent < 64 << 20:
                connection.sendall(chunk)
                sent += len(chunk)
                connection.setblocking(False)
                try:
                    answer = connection.recv(4096)
                except BlockingIOError:
                    answer = b""
                connection.settimeout(10)
                if answer:
                    assert b" 413 " in answer.split(b"\r\n")[0]
                    raise OSError("answered")
        assert sent < 32 << 20


def test_a_key_is_asked_for_before_the_body_is_read(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert b" 401 " in connection.recv(4096)


def test_full_queue_is_429_with_retry_after(make_home: Callable[..., Home]) -> None:
    home = make_home(slots=1, queue=1, keep_traffic=False)
    home.promote(home.make())
    with Server(home) as server, server.http() as http:
        server.ready()
        statuses: list[int] = []

        def ask() -> None:
            body = {"model": "oliveira", "prompt": "a", "max_tokens": 250, "stop": "\0\0"}
            with server.http() as mine:
                answer = mine.post("/v1/completions", json=body)
                statuses.append(answer.status_code)
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                    assert answer.json()["error"]["code"] == "queue_full"

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses.count(200) >= 2 and statuses.count(429) >= 1 and set(statuses) == {200, 429}
        assert http.post("/v1/completions", json=GOOD).status_code == 200  # the places are free again
        assert 'rejected_total{reason="queue_full"} 0.0' not in http.get("/metrics").text
        assert not (home.path / "traffic").exists()  # keep_traffic = false


@pytest.mark.parametrize("keep", [True, False])
def test_prompts_that_are_too_old_go_without_a_request(make_home: Callable[..., Home], keep: bool) -> None:
    """Also where nothing is recorded any more: what was recorded before grows old all the same."""
    home = make_home(keep_traffic=keep, traffic_days=1)
    now = time.time_ns()
    old, new = (home.path / "traffic" / f"traffic-{now - age:020d}.jsonl" for age in (25 * 3600 * 10**9, 0))
    old.parent.mkdir()
    for path in (old, new):
        path.write_bytes(b"{}\n")
    with Server(home):
        wait_for(lambda: not old.exists())
    assert new.exists()


def test_deadline_is_504_and_an_error_frame(make_home: Callable[..., Home]) -> None:
    home = make_home(slots=1, deadline=0.1)
    home.promote(home.make())
    body = {"model": "oliveira", "prompt": ["a"] * 4, "max_tokens": 250, "n": 4}
    with Server(home) as server, server.http() as http:
        server.ready()
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline"
        text = http.post("/v1/completions", json={**body, "stream": True}).text
        last = text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline"
        wait_for(lambda: server.state()["running"] == 0, 5)


def test_the_front_never_imports_torch() -> None:
    code = "import sys, oliveira.serving.front; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_taken_port_is_one_sentence(make_home: Callable[..., Home]) -> None:
    home = make_home()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "oliveira.serving.front",
            "--home",
            str(home.path),
            "--port",
            str(port),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("oliveira: ") and ended.stderr.count("\n") == 1
    assert str(port) in ended.stderr and "--port" in ended.stderr


def test_alerts_make_one_wish(server: Server) -> None:
    """Prometheus' own list and Alertmanager's webhook; repeated alerts do not pile up; other alerts do nothing."""
    ledger = server.home.ledger
    later, before = "2999-01-01T00:00:00Z", "2001-01-01T00:00:00.000Z"
    labels = {"alertname": "Drift", "action": "retrain"}
    for wish in ledger.pending_wishes("retrain"):
        ledger.finish_wish(wish.id, "failed", {})
    v2, webhook = "/admin/alertmanager/api/v2/alerts", "/admin/alerts"
    with server.http(server.home.admin) as http:

        def send(path: str, body: Any) -> int | None:
            answer = http.post(path, json=body)
            assert answer.status_code == 202
            return answer.json()["wish"]

        assert send(v2, [{"labels": {"alertname": "Other"}, "endsAt": later}]) is None
        assert send(v2, [{"labels": labels, "endsAt": before}]) is None
        assert send(webhook, {"alerts": [{"status": "resolved", "labels": labels}], "status": "resolved"}) is None
        first = send(
            v2,
            [
                {
                    "labels": labels,
                    "annotations": {"summary": "x"},
                    "endsAt": later,
                    "generatorURL": "http://x",
                }
            ],
        )
        assert first is not None
        assert (
            first
            == send(v2, [{"labels": labels}])
            == send(webhook, {"alerts": [{"status": "firing", "labels": labels}]})
        )
        wish = http.get(f"/admin/wishes/{first}").json()
        assert (wish["kind"], wish["state"]) == ("retrain", "pending")
        assert wish["args"] == {"trigger": "alert", "alert": "Drift"}
        ledger.finish_wish(first, "done", {"verdict": "promoted"})
        assert http.get(f"/admin/wishes/{first}").json()["result"] == {"verdict": "promoted"}
        assert send(v2, [{"labels": labels}]) != first


def test_admin_verbs_write_wishes(server: Server) -> None:
    digest = server.state()["digest"]
    with server.http(server.home.admin) as http:
        for path, body, kind, args in (
            ("swap", {"digest": digest[:12]}, "swap", {"digest": digest}),
            ("rollback", None, "rollback", {}),
            ("retrain", None, "retrain", {"trigger": "operator"}),
            ("approve", {"digest": digest}, "approve", {"digest": digest}),
            ("reject", None, "reject", {}),
            ("pause", {"paused": True}, "pause", {}),
            ("pause", {"paused": False}, "resume", {}),
        ):
            answer = http.post(f"/admin/{path}", json=body) if body else http.post(f"/admin/{path}")
            assert answer.status_code == 202, answer.text
            wish = server.home.ledger.get_wish(answer.json()["wish"])
            assert wish is not None and (wish.kind, wish.args, wish.actor) == (kind, args, "root")


def test_hostile_prompts_are_refused_or_read_quickly(server: Server) -> None:
    with server.http() as http:
        for text in (
            "a" * 60_000,
            "_" * 50_000,
            "^" * 60_000,
            "\n" * 60_000,
            "\u202e" * 20_000,
            "e\u0301" * 20_000,
            "\u0301" * 30_000,
        ):
            begun = time.monotonic()
            assert http.post("/v1/completions", json={**GOOD, "prompt": text}).status_code == 400
            assert time.monotonic() - begun < 1.0, text[:3]


def test_a_megabyte_of_mistakes_is_refused_quickly(server: Server) -> None:
    """Each would take seconds to describe in full, and everybody else would wait."""
    message = {"role": "user", "content": [{}] * 200_000}
    for path, body in (
        ("/v1/completions", {**GOOD, "prompt": [None] * 200_000}),
        ("/v1/completions", {**GOOD, "prompt": [1] * 300_000}),
        ("/v1/chat/completions", {**CHAT, "messages": [message]}),
        ("/admin/alertmanager/api/v2/alerts", [{"labels": 5}] * 60_000),
    ):
        with server.http(server.home.admin) as http:
            data = json.dumps(body, separators=(",", ":")).encode()
            assert len(data) < 1 << 20
            begun = time.monotonic()
            assert http.post(path, content=data, headers={"Content-Type": "application/json"}).status_code == 400
            assert time.monotonic() - begun < 1.0
