"""The operator's page and what feeds it: the built files, the state, a stream of changes, learning curves.

Who may come in is the middleware of the server that includes this router.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from oliveira.console.curve import CurveTail, curve_path, thin
from oliveira.console.state import ServingState, state_snapshot
from oliveira.errors import UserError
from oliveira.ledger import Ledger

STATIC = Path(__file__).parent / "static"
POLL_SECONDS = 0.25  # how soon a change in the ledger is seen
EVERY_SECONDS = 1.0  # gauges, new points of running curves; also the page's proof that the server lives
NOT_BUILT = (
    "<!doctype html><title>Oliveira</title><p>The console is not built: run <code>make console</code> "
    "(it needs Node 20 or later), then reload this page.</p>"
)
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_VOLATILE = ("time", "gauges", "serving")  # sent on their own every second


class Shown(NamedTuple):
    """A life as the page shows it. `home`: its folder."""

    ledger: Ledger
    home: Path
    serving_state: ServingState


Model = Annotated[str | None, Query(max_length=128, description="the life; left out: `oliveira`, or the only one")]


def make_router(shown: Callable[[str | None], Shown], static: Path = STATIC) -> APIRouter:
    """Routes GET /console/…, /admin/state, /admin/events (server-sent events) and /admin/curve.

    `shown`: the life under a name. Its `serving_state()` is cheap and returns what the front knows of itself;
    `"draining": true` in it ends the streams, so that a server which shuts down need not wait for open pages.
    """
    router = APIRouter()

    @router.get("/console/{path:path}", include_in_schema=False)
    async def page(path: str) -> Response:
        if not (static / "index.html").is_file():
            return HTMLResponse(NOT_BUILT, status_code=503, headers=HEADERS)
        try:
            file = (static / (path or "index.html")).resolve()
            found = file.is_relative_to(static.resolve()) and file.is_file()
        except (ValueError, OSError):  # a NUL character, a name that is too long
            found = False
        if not found:
            raise HTTPException(404, f"console/{path[:80]} is not a file of the console.")
        # Names under assets/ carry a hash of their content.
        cache = "public, max-age=31536000, immutable" if path.startswith("assets/") else "no-cache"
        return FileResponse(file, headers=HEADERS | {"Cache-Control": cache})

    @router.get("/admin/state")
    def state(model: Model = None) -> dict[str, Any]:
        """The whole state of a life: stages, models, decisions, gauges, events, runs."""
        return state_snapshot(*shown(model))

    @router.get("/admin/curve")
    def curve(
        run: str = Query(description="id of a run of the ledger"),
        after: int = Query(-1, description="only rows of later steps"),
        model: Model = None,
    ) -> dict[str, Any]:
        """The learning curve of a run, thinned to what a screen can show."""
        try:
            life = shown(model)
            path = curve_path(life.ledger, life.home, run)
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        _, rows = CurveTail(path).read_new()
        return {"run": run, "rows": thin([row for row in rows if row["step"] > after])}

    @router.get("/admin/events", response_class=StreamingResponse)
    async def events(request: Request, model: Model = None) -> StreamingResponse:
        """Server-sent events: `state` at once and on a change, `gauges` every second, `curve` while a run learns."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = _messages(request, *shown(model))
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return router


async def _messages(request: Request, ledger: Ledger, home: Path, serving_state: ServingState) -> AsyncIterator[str]:
    version, due = -1, 0.0
    sent: dict[str, Any] = {}
    tails: dict[str, CurveTail] = {}
    while not serving_state().get("draining") and not await request.is_disconnected():
        found, now = await asyncio.to_thread(ledger.version), time.monotonic()
        # A commit of this process does not change its own version: look once a second all the same.
        if found != version or now >= due:
            snapshot = await asyncio.to_thread(state_snapshot, ledger, home, serving_state)
            lasting = {name: value for name, value in snapshot.items() if name not in _VOLATILE}
            if lasting != sent:
                yield _message("state", snapshot)
            version, sent = found, lasting
            if now >= due:
                yield _message("gauges", {name: snapshot[name] for name in _VOLATILE})
                for message in await asyncio.to_thread(_new_points, ledger, home, snapshot["runs"], tails):
                    yield message
                due = now + EVERY_SECONDS
        await asyncio.sleep(POLL_SECONDS)


def _new_points(ledger: Ledger, home: Path, runs: list[dict[str, Any]], tails: dict[str, CurveTail]) -> list[str]:
    """New rows of every running curve, and the last ones of a run that has just ended."""
    messages = []
    for run in runs:
        name, running = run["id"], run["state"] == "running"
        if running and name not in tails:
            tails[name] = CurveTail(curve_path(ledger, home, name))
        if name in tails:
            fresh, rows = tails[name].read_new()
            if rows:
                messages.append(_message("curve", {"run": name, "fresh": fresh, "rows": thin(rows)}))
            if not running:
                del tails[name]
    return messages


def _message(kind: str, value: dict[str, Any]) -> str:
    return f"data: {json.dumps({'type': kind, **value}, ensure_ascii=False, allow_nan=False)}\n\n"
