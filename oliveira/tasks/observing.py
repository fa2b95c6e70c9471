"""What drift looks at in requests and answers, and what a truth must be: what tasks of one kind say alike.

letters per token   how well the vocabulary fits the text           few of another language or subject
rare                share of tokens that training saw at most RARE times
surprise            mean −ln((n_t + 1) / (N + V)) of the tokens, n_t how often training saw t: unigram nats
confidence, entropy of the probabilities; entropy in units of the highest one, ln of the classes
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from oliveira.data.text import clean
from oliveira.errors import UserError
from oliveira.strict_json import in_words
from oliveira.tasks.base import Array

LIMIT = 1e6  # a number that is farther off is as odd as this one, and JSON has no infinity
RARE = 2
_LOOKED_AT = 2000  # characters of a text
_NAMED = 20  # labels in a sentence
_WHOLE = re.compile(r"[0-9]{1,9}")
_GOLDEN = (math.sqrt(5) - 1) / 2


def bounded(values: Any) -> Array:
    """Finite float64: what is none is as far off as can be."""
    found: Array = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=LIMIT, posinf=LIMIT, neginf=-LIMIT)
    return found.clip(-LIMIT, LIMIT)


def evenly(count: int, wanted: int) -> list[int]:
    """Places in range(count), about `wanted`: one in each part of equal length, somewhere else in every part.

    Places at equal distances could all be Mondays.
    """
    if wanted >= count:
        return list(range(count))
    turns = np.arange(wanted)
    return sorted({int(place) for place in (turns + turns * _GOLDEN % 1) * count / max(1, wanted)})


def head(text: str) -> str:
    """As much of a text as is looked at, clean."""
    return clean(text[:_LOOKED_AT])


def frequencies(rows: Iterable[Sequence[int]], size: int) -> list[int]:
    """How often each token occurs in the training rows."""
    return np.bincount([token for row in rows for token in row], minlength=size).tolist()


def of_tokens(text: str, tokens: Sequence[int], counts: Sequence[int] | None) -> dict[str, float]:
    """`tokens` of `head(text)`; `counts` by `frequencies`, None in the state of an older run."""
    found = {"length": float(len(text)), "letters per token": len(head(text)) / max(1, len(tokens))}
    if counts is None:
        return found
    seen = [counts[token] for token in tokens]
    total = math.log(sum(counts) + len(counts))
    rare = sum(count <= RARE for count in seen)
    surprise = sum(total - math.log(count + 1) for count in seen)
    return found | {"rare": rare / max(1, len(seen)), "surprise": surprise / max(1, len(seen))}


def of_classes(probabilities: Iterable[float]) -> dict[str, float]:
    """`probabilities` in the order of the labels; "class" is the place of the likeliest."""
    p = bounded(list(probabilities))
    known = p[p > 0]
    entropy = -float((known * np.log(known)).sum()) / max(math.log(len(p)), 1e-9)
    return {"confidence": float(p.max()), "entropy": entropy, "class": float(p.argmax())}


def class_of(labels: Sequence[Sequence[str]], truth: Any) -> int:
    """The place of the label with that name among its names, or at that place: 3 is "three" of the digits. Where labels
    are numbers themselves, a number is a name. `UserError` names the known ones.
    """
    named = isinstance(truth, str) or (isinstance(truth, int) and not isinstance(truth, bool))
    name = str(truth) if named else ""
    for place, names in enumerate(labels):
        if named and name in names:
            return place
    numbered = not any(_WHOLE.fullmatch(name) for names in labels for name in names)
    if numbered and _WHOLE.fullmatch(name) and int(name) < len(labels):
        return int(name)
    known = ", ".join(names[0] for names in labels[:_NAMED])
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    what = f'= "{name[:60]}" is no label' if named else f"is {in_words(truth)}, not a label"
    places = f", or its number from 0 to {len(labels) - 1}" if numbered else ""
    raise UserError(f"truth {what} of this task. Give one of: {known}{more}{places}.")


def class_error(labels: Sequence[Sequence[str]], answer: dict[str, Any], truth: Any) -> float:
    """0 where the label of the answer is the true one, else 1."""
    return float(labels[class_of(labels, truth)][0] != answer["label"])


def arrived(pairs: Sequence[Any]) -> Sequence[Any]:
    """The pairs that are to be learnt from, as they are. `UserError` where there are none."""
    if not pairs:
        raise UserError("there is no truth to learn from yet. Send some to /v1/feedback.")
    return pairs
