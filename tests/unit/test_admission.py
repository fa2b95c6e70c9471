"""One key cannot fill the queue: there is always room for another."""

from __future__ import annotations

import pytest

from oliveira.serving.engine.turns import Turns
from oliveira.serving.front.errors import ApiError
from oliveira.serving.front.limits import Admission


def test_a_key_has_the_slots_and_half_of_the_queue() -> None:
    admission = Admission(slots=4, queue=10)
    permits = [admission.take(1, "ana") for _ in range(9)]
    with pytest.raises(ApiError, match="9 answers of this key are in work; a key may have 9") as refused:
        admission.take(1, "ana")
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "queue_share", 1)
    others = [admission.take(4, "rui"), admission.take(1, "eva")]
    with pytest.raises(ApiError, match=r"14 answers are in work \(serve.queue = 10\)") as full:
        admission.take(1, "ivo")
    assert (full.value.status, full.value.code) == (429, "queue_full")
    permits.pop().release()
    admission.take(1, "ana").release()
    for permit in [*permits, *others, *permits]:  # twice is once
        permit.release()
    assert admission.taken == 0 and not admission._of
    admission.take(100, "ana")  # larger than all there is: alone it may
    assert Admission(slots=4, queue=1).own == 5, (
        "half of an odd queue is rounded up: one key alone may use a queue of one"
    )


def test_turns_go_round_the_keys() -> None:
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add(item[0], item)
    assert turns.first == "a1" and len(turns) == 6
    assert [turns.take() for _ in range(3)] == ["a1", "b1", "c1"]
    turns.add("c", "c2")
    assert turns.remove(lambda item: item == "a2") == ["a2"]
    assert list(turns) == ["a3", "b2", "c2"]
    assert [turns.take() for _ in range(3)] == ["a3", "b2", "c2"]
    assert turns.first is None and not turns
