"""An exception ends the request that it belongs to: its client is told, the log keeps what is known, others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

from oliveira.kernels.decoder import Run
from oliveira.serving.protocol import Error, Refused

log = logging.getLogger(__name__)


def error(request_id: str, status: int, message: str, code: str) -> Error:
    """What ends a request."""
    return Error(id=request_id, status=status, message=message, code=code)


def not_finite(request_id: str) -> Error:
    return error(request_id, 500, "the model produced a number that is not finite.", "not_finite")


class Failures:
    """`last` is kept for whoever wants to say why. `digest`: of the artifact, for the log."""

    def __init__(self, digest: str = "") -> None:
        self.digest = digest
        self.last: Exception | None = None

    def message(self, request_id: str, name: str, found: Exception) -> Error:
        """`name`: of the request in the front's log."""
        self.last = found
        if isinstance(found, Refused):
            return error(request_id, 400, str(found), found.code)
        log.error(
            "a request failed",
            exc_info=found,
            extra={"digest": self.digest[:12], "id": name, "number": request_id, "reason": repr(found)},
        )
        said = "the engine made a mistake with this request; the log says more under its X-Request-Id."
        return error(request_id, 500, said, "internal")


def each(
    call: Callable[[Sequence[Run]], Tensor], runs: Sequence[Run], rows: Sequence[int]
) -> Sequence[Tensor | Exception]:
    """What one call gives each run, its number of `rows`. Where it fails each is tried alone, and only those that fail
    again have failed: with an exact decoder the others' numbers are the same bits."""
    try:
        return call(runs).split(list(rows))
    except Exception as found:
        if len(runs) == 1:
            return [found]
    return [each(call, [run], [n])[0] for run, n in zip(runs, rows, strict=True)]
