"""Who asks during `oliveira up --once`: requests of what the model knows, and of something that it does not."""

from __future__ import annotations

import json
from typing import Any, Protocol

from oliveira.ledger.lives import OWN
from oliveira.lifecycle.pieces import pieces
from oliveira.lifecycle.pipeline import current_folder
from oliveira.lifecycle.traffic_load import Answer, Client
from oliveira.lifecycle.up import House

ROOM_FOR_ANSWER = 16  # tokens
REQUESTS = 400  # of a task, known and new


class Visitors(Protocol):
    base: list[Any]
    new: list[Any]
    needed: int  # of what is new, before a challenger may learn from it

    @property
    def counted(self) -> str:
        """What that is."""

    def ask(self, client: Client, request: Any) -> Answer:
        """One of `base`."""

    def live(self, client: Client, visit: Any) -> Answer:
        """One of `new`."""

    def weight(self, visit: Any) -> int: ...

    def no_drift(self, detected: bool, sent: int, amount: int) -> str:
        """Why it stops here, and what to do."""


def visitors_of(house: House) -> Visitors:
    return TaskVisitors(house) if house.world.task.name else TextVisitors(house)


def complete(client: Client, prompt: str, max_tokens: int = 8, model: str = OWN) -> Answer:
    return client.post("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": max_tokens})


class TextVisitors:
    counted = "characters"

    def __init__(self, house: House) -> None:
        self.house = house
        self.base: list[Any] = self._prompts("base", "validation")
        self.new: list[Any] = self._prompts("new", "train")
        self.needed = house.world.update.min_new_chars

    def _prompts(self, domain: str, split: str) -> list[str]:
        """Pieces of the domain's documents that leave the model room for an answer."""
        from oliveira.data.tokenizer import Tokenizer

        house = self.house
        folder = current_folder(house.ledger, house.place, "preprocess")
        tokenizer = Tokenizer.load(folder / "base" / "tokenizer.json")
        room = house.world.model.max_len - ROOM_FOR_ANSWER
        lines = (folder / domain / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        texts = (piece for line in lines for piece in pieces(json.loads(line)["text"]) if len(piece) > 40)
        return [tokenizer.decode(tokenizer.encode(text)[:room]).rstrip("\ufffd") for text in texts]

    def ask(self, client: Client, request: str) -> Answer:
        return complete(client, request, model=self.house.life)

    def live(self, client: Client, visit: str) -> Answer:
        return complete(client, visit, 4, self.house.life)

    def weight(self, visit: str) -> int:
        return len(visit)

    def no_drift(self, detected: bool, sent: int, amount: int) -> str:
        if detected:
            return (
                f"the alarm was raised, but {sent} requests brought {amount} characters and update.min_new_chars = "
                f"{self.needed} waits for more. Make it smaller."
            )
        return (
            f"no drift was seen after {sent} requests of {self.house.world.data.new}: the model knows the base domain "
            "hardly better. Give train.steps more, or data.new another text."
        )


class TaskVisitors:
    """What is new are requests of the training data, changed (`changed`), each with its truth told afterwards."""

    counted = "truths"

    def __init__(self, house: House) -> None:
        from oliveira.errors import OliveiraError
        from oliveira.tasks.catalogue import task

        wanted = task(house.world.task.name)
        self.model = house.life
        data = wanted.open(house.place, lambda text: None)
        known = data.requests("validation", REQUESTS)
        if not known:
            raise OliveiraError(f"{wanted.label} shows no requests of its own. Use `oliveira up` without --once.")
        self.base: list[Any] = [request for request, _ in known]
        self.new: list[Any] = [changed(wanted.eats, request, truth) for request, truth in known]
        self.needed = house.world.update.min_truths

    def ask(self, client: Client, request: dict[str, Any]) -> Answer:
        return client.post("/v1/predict", {**request, "model": self.model})

    def live(self, client: Client, visit: tuple[dict[str, Any], Any]) -> Answer:
        request, truth = visit
        answer = self.ask(client, request)
        if answer.status != 200:
            return answer
        return client.post("/v1/feedback", {"id": json.loads(answer.body)["id"], "truth": truth})

    def weight(self, visit: Any) -> int:
        return 1

    def no_drift(self, detected: bool, sent: int, amount: int) -> str:
        return (
            f"no drift was seen after {sent} requests unlike those that were learnt. Make monitor.requests smaller, or "
            "give more data: too few held-out requests make no reference."
        )


def changed(eats: str, request: dict[str, Any], truth: Any) -> tuple[dict[str, Any], Any]:
    """The request from another world: a series of twice the size, a picture's negative, a text backwards."""
    if eats == "series":
        double = {key: _twice(value) for key, value in request.items()}
        return double, _twice(truth)
    if eats == "image":
        return {key: _negative(value) for key, value in request.items()}, truth
    return {key: value[::-1] if isinstance(value, str) else value for key, value in request.items()}, truth


def _twice(value: Any) -> Any:
    if isinstance(value, list):
        return [_twice(each) for each in value]
    return value * 2 if isinstance(value, int | float) else value


def _negative(value: Any) -> Any:
    highest = _highest(value)

    def turned(value: Any) -> Any:
        return [turned(each) for each in value] if isinstance(value, list) else highest - value

    return turned(value) if isinstance(value, list) else value


def _highest(value: Any) -> float:
    return max(map(_highest, value), default=0) if isinstance(value, list) else value
