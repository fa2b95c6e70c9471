"""What a reader of README.md and README.pt-BR.md would type: the commands and the Python, as printed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
READMES = ("README.md", "README.pt-BR.md")
# The same place-holder in both languages; a language that is asked for by name goes with the page.
WORDS = {
    "NOME": "NAME",
    "PASTA": "FOLDER",
    "~/meus-textos": "~/my-texts",
    " --lang pt-BR": "",
    " --lang pt": "",
    " --lang en": "",
}
_COMMAND = re.compile(r"(?:\.venv/bin/)?(?:oliveira|make)(?= |$)")


def commands(name: str) -> list[str]:
    """Every command of a README once, in its order: `a | b` are two, and so are `a [--b]` and `a`.

    Indented lines count up to their explanation (two blanks or #), inline code where it is more than a beginning.
    """
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [re.split(r"\s{2,}|\s#\s", line.strip())[0] for line in re.findall(r"^ {4}\S.*$", text, re.MULTILINE)]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = list(dict.fromkeys(command for line in lines for command in _meant(line)))
    mentioned = dict.fromkeys(command for line in inline for command in _meant(line))
    return found + [one for one in mentioned if not any(f"{line} ".startswith(f"{one} ") for line in found)]


def _meant(printed: str) -> list[str]:
    if not _COMMAND.match(printed):
        return []
    for said, meant in WORDS.items():
        printed = printed.replace(said, meant)
    return _variants(printed.removeprefix(".venv/bin/"))


def _variants(command: str) -> list[str]:
    if option := re.search(r" \[(.+?)\]", command):
        return [command.replace(option[0], ""), command.replace(option[0], f" {option[1]}")]
    if " | " in command:
        first, *others = command.split(" | ")
        return [first, *(f"{first.rpartition(' ')[0]} {other}" for other in others)]
    return [command]


def snippets(name: str) -> list[str]:
    """Its blocks of Python."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
