"""What an operator may ask for. The front writes the wish down, the loop acts on it."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from oliveira.lifecycle.ledger import Ledger
from oliveira.serving.errors import ApiError
from oliveira.serving.schemas import Alert, Alerts, AlertWebhook, ChallengerBody, DigestBody, PauseBody, RetrainBody
from oliveira.serving.service import Service

ACTION = "action"  # the label of an alert that asks for something
WishId = Annotated[int, Path(ge=1, lt=2**63)]


def make_admin_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/admin")

    async def wish(request: Request, kind: str, args: dict[str, Any]) -> dict[str, int]:
        actor = request.state.key.name
        return {"wish": await service.write(lambda ledger: ledger.wish(kind, args, actor))}

    def whole(digest: str) -> str:
        """The digest of the one artifact that begins so. Raises `ApiError` 404."""
        found = [row.digest for row in service.ledger.artifacts() if row.digest.startswith(digest)]
        if len(found) != 1:
            how = "is not in the ledger" if not found else f"fits {len(found)} artifacts"
            raise ApiError(
                404,
                f"artifact {digest} {how}. GET /admin/state lists them.",
                code="artifact_not_found",
                param="digest",
            )
        return found[0]

    @router.post("/swap", status_code=202)
    async def swap(request: Request, body: DigestBody) -> dict[str, int]:
        """Make this artifact the champion."""
        return await wish(request, "swap", {"digest": whole(body.digest)})

    @router.post("/rollback", status_code=202)
    async def rollback(request: Request) -> dict[str, int]:
        """Make the previous model the champion again."""
        return await wish(request, "rollback", {})

    @router.post("/retrain", status_code=202)
    async def retrain(request: Request, body: RetrainBody | None = None) -> dict[str, int]:
        """Train a challenger now."""
        return await wish(request, "retrain", {"trigger": body.trigger if body else "operator"})

    @router.post("/approve", status_code=202)
    async def approve(request: Request, body: ChallengerBody | None = None) -> dict[str, int]:
        """Promote the challenger; one that the gate rejected needs `override`, a reason."""
        args = {"digest": whole(body.digest)} if body and body.digest else {}
        return await wish(request, "approve", args | ({"override": body.override} if body and body.override else {}))

    @router.post("/reject", status_code=202)
    async def reject(request: Request, body: ChallengerBody | None = None) -> dict[str, int]:
        """Drop the challenger."""
        return await wish(request, "reject", {"digest": whole(body.digest)} if body and body.digest else {})

    @router.post("/pause", status_code=202)
    async def pause(request: Request, body: PauseBody | None = None) -> dict[str, int]:
        """Stop retraining by itself, or go on."""
        return await wish(request, "pause" if body is None or body.paused else "resume", {})

    @router.get("/wishes/{number}")
    async def get_wish(number: WishId) -> dict[str, Any]:
        """What came of a wish: pending, done or failed."""
        found = service.ledger.get_wish(number)
        if found is None:
            raise ApiError(404, f"wish {number} is unknown.", code="wish_not_found")
        return {
            "id": found.id,
            "time": found.time,
            "kind": found.kind,
            "args": found.args,
            "state": found.state,
            "result": found.result,
        }

    @router.post("/alerts", status_code=202)
    async def webhook(request: Request, body: AlertWebhook) -> dict[str, int | None]:
        """Alertmanager's webhook. A firing alert with the label action="retrain" starts a retraining."""
        return {"wish": await act(request, body.alerts)}

    @router.post("/alertmanager/api/v2/alerts", status_code=202)
    async def alertmanager(request: Request, body: Alerts) -> dict[str, int | None]:
        """The same from Prometheus itself, which posts to an Alertmanager's address."""
        return {"wish": await act(request, body)}

    async def act(request: Request, alerts: list[Alert]) -> int | None:
        names = [
            alert.labels.get("alertname", "")
            for alert in alerts
            if alert.labels.get(ACTION) == "retrain" and is_firing(alert)
        ]
        if not names:
            return None
        actor = request.state.key.name

        def wish_once(ledger: Ledger) -> int:
            """Prometheus repeats itself every minute: one pending wish is enough."""
            pending = ledger.pending_wishes("retrain")
            return pending[0].id if pending else ledger.wish("retrain", {"trigger": "alert", "alert": names[0]}, actor)

        return await service.write(wish_once)

    return router


def is_firing(alert: Alert) -> bool:
    """By `status` if it is there, else while `endsAt` is absent, zero or in the future."""
    if alert.status is not None:
        return alert.status == "firing"
    if not alert.endsAt or alert.endsAt.startswith("0001-"):
        return True
    try:
        end = datetime.datetime.fromisoformat(alert.endsAt)
    except ValueError:
        raise ApiError(400, "endsAt is not a time as in RFC 3339.", code="invalid_time", param="endsAt") from None
    if end.tzinfo is None:
        end = end.replace(tzinfo=datetime.UTC)
    return end > datetime.datetime.now(datetime.UTC)
