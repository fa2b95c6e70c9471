"""How a file of the user's stands in the name of a task: `forecast/path:kwh.csv?target=kwh`."""

from __future__ import annotations

import re
from pathlib import Path

from oliveira.files import expand

PATH = "/path:"


def quoted(path: str) -> str:
    """A file's name as it stands in a task's: a ? would begin the options. `unquoted` takes it back, whatever it is."""
    return re.sub(r"%(?=25|3[Ff])", "%25", path).replace("?", "%3F")


def unquoted(name: str) -> str:
    return re.sub(r"%25|%3[Ff]", lambda found: "%" if found[0] == "%25" else "?", name)


def place_in(name: str) -> Path | None:
    """The file that the whole name of a task names; None where it names none."""
    _, own, rest = name.partition(PATH)
    if not own:
        return None
    whole = expand(unquoted(rest)).absolute()
    return whole if whole.exists() else expand(unquoted(rest.partition("?")[0])).absolute()
