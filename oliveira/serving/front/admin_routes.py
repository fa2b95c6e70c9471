"""What an operator may ask for. The front writes the wish down, the loop acts on it."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from oliveira.ledger import Ledger
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.schemas import (
    Alert,
    Alerts,
    AlertWebhook,
    ChallengerBody,
    DigestBody,
    PauseBody,
    RetrainBody,
)
from oliveira.serving.front.served import Served
from oliveira.serving.front.service import Service

ACTION = "action"  # the label of an alert that asks for something
# The life that is meant; left out: `oliveira`, or the only one.
Model = Annotated[str | None, Query(max_length=128)]
WishId = Annotated[int, Path(ge=1, lt=2**63)]


def make_admin_router(service: Served) -> APIRouter:
    router = APIRouter(prefix="/admin")

    async def wish(request: Request, model: str | None, kind: str, args: dict[str, Any]) -> dict[str, int]:
        life = service.told(model)
        actor = request.state.key.name
        return {"wish": await life.write(lambda ledger: ledger.wish(kind, args, actor))}

    def whole(model: str | None, digest: str) -> str:
        """The digest of the one artifact that begins so. Raises `ApiError` 404."""
        found = [row.digest for row in service.told(model).ledger.artifacts() if row.digest.startswith(digest)]
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
    async def swap(request: Request, body: DigestBody, model: Model = None) -> dict[str, int]:
        """Make this artifact the champion."""
        return await wish(request, model, "swap", {"digest": whole(model, body.digest)})

    @router.post("/rollback", status_code=202)
    async def rollback(request: Request, model: Model = None) -> dict[str, int]:
        """Make the previous model the champion again."""
        return await wish(request, model, "rollback", {})

    @router.post("/retrain", status_code=202)
    async def retrain(request: Request, body: RetrainBody | None = None, model: Model = None) -> dict[str, int]:
        """Train a challenger now."""
        return await wish(request, model, "retrain", {"trigger": body.trigger if body else "operator"})

    @router.post("/approve", status_code=202)
    async def approve(request: Request, body: ChallengerBody | None = None, model: Model = None) -> dict[str, int]:
        """Promote the challenger; one that the gate rejected needs `override`, a reason."""
        args = {"digest": whole(model, body.digest)} if body and body.digest else {}
        args |= {"override": body.override} if body and body.override else {}
        return await wish(request, model, "approve", args)

    @router.post("/reject", status_code=202)
    async def reject(request: Request, body: ChallengerBody | None = None, model: Model = None) -> dict[str, int]:
        """Drop the challenger."""
        args = {"digest": whole(model, body.digest)} if body and body.digest else {}
        return await wish(request, model, "reject", args)

    @router.post("/pause", status_code=202)
    async def pause(request: Request, body: PauseBody | None = None, model: Model = None) -> dict[str, int]:
        """Stop retraining by itself, or go on."""
        return await wish(request, model, "pause" if body is None or body.paused else "resume", {})

    @router.get("/wishes/{number}")
    async def get_wish(number: WishId, model: Model = None) -> dict[str, Any]:
        """What came of a wish: pending, done or failed."""
        found = service.told(model).ledger.get_wish(number)
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
        """Of every life that an alert names by its label `model`. The number of the first wish."""
        firing = [alert for alert in alerts if alert.labels.get(ACTION) == "retrain" and is_firing(alert)]
        names = {alert.labels.get("model"): alert.labels.get("alertname", "") for alert in firing[::-1]}
        wishes = [await _wish_once(service.told(life), name, request.state.key.name) for life, name in names.items()]
        return wishes[0] if wishes else None

    return router


async def _wish_once(life: Service, alert: str, actor: str) -> int:
    """Prometheus repeats itself every minute: one pending wish is enough."""

    def once(ledger: Ledger) -> int:
        pending = ledger.pending_wishes("retrain")
        return pending[0].id if pending else ledger.wish("retrain", {"trigger": "alert", "alert": alert}, actor)

    return await life.write(once)


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
