"""In which language the program speaks to a person: English, or Brazilian Portuguese.

`--lang` on any command, else OLIVEIRA_LANG (so that our own processes follow), else LC_ALL, LC_MESSAGES, LANG. The code
is written in English; `portuguese*.py` hold the translations, {} standing for what a sentence is about ({raw[0]}: as it
is, a field's name for example). What is not there stays English. JSON, names and files are the same in every language.

Numbers for people: 0.711 and 12,345 are 0,711 and 12.345 in Portuguese. What is put into a sentence is changed where
all of it is a number, unless it follows an option or an equals sign: what a person would type stays as it is typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache

from oliveira.errors import UserError
from oliveira.language.portuguese import HELP, WORDS
from oliveira.language.portuguese_lines import FOREIGN, LINES, TERMS
from oliveira.language.portuguese_sentences import SENTENCES

VARIABLE = "OLIVEIRA_LANG"
ENGLISH, PORTUGUESE = "en", "pt-BR"
CODES = {"en": ENGLISH, "pt": PORTUGUESE}  # of what is written in both at once
_NAMES = {"en": ENGLISH, "pt": PORTUGUESE, "pt-br": PORTUGUESE, "pt_br": PORTUGUESE}
_NUMBER = r"[-+−]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?"
_WHOLE = re.compile(rf"{_NUMBER}(?: ?%)?")
_IN_TEXT = re.compile(rf"(?<![\w.,:/=\\-]){_NUMBER}(?![\w/\\]|[-.,:]\w)")
_SWAPPED = str.maketrans(",.", ".,")
_TYPED = re.compile(r"(?:--[\w-]+ |= ?)$")  # before a value
_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides


def of_environment(environment: Mapping[str, str]) -> str:
    chosen = _NAMES.get(environment.get(VARIABLE, "").lower())
    locale = next((environment[name] for name in _LOCALE if environment.get(name)), "")
    return chosen or (PORTUGUESE if locale.lower().startswith("pt") else ENGLISH)


def current() -> str:
    return of_environment(os.environ)


def choose(arguments: list[str]) -> list[str]:
    """The arguments without `--lang NAME`, which may stand anywhere before a `--`; from now on NAME is spoken."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest, words = [], iter(arguments[:end])
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--lang":
            rest.append(word)
            continue
        wanted = value if equals else next(words, "")
        if wanted.lower() not in _NAMES:
            raise UserError(f"--lang {wanted} is not a language of this program. Use en or pt-BR.")
        os.environ[VARIABLE] = _NAMES[wanted.lower()]
    return rest + arguments[end:]


class Told(str):
    """A text that is in the language with its numbers as people write them: nobody turns their commas once more."""

    __slots__ = ()


def translate(text: str, language: str = "") -> str:
    """The text in `language` ("" = the one that is spoken): looked up whole, then as a sentence about something."""
    return text if (language or current()) == ENGLISH else Told(_translated(text))


def local(text: str, language: str = "") -> str:
    """A text that is in the language already, with its numbers as people write them there; once, not twice."""
    if (language or current()) == ENGLISH or isinstance(text, Told):
        return text
    return Told(_IN_TEXT.sub(lambda n: n[0] if _TYPED.search(text, 0, n.start()) else n[0].translate(_SWAPPED), text))


def figure(value: float, form: str) -> str:
    """A number for people: `figure(0.7114, ".3f")`."""
    return local(format(value, form))


def _translated(text: str) -> str:
    if _WHOLE.fullmatch(text):
        return text.translate(_SWAPPED)
    for table in (WORDS, TERMS, HELP):
        if text in table:
            return table[text]
    for pattern, befores, portuguese in _patterns():
        if match := pattern.fullmatch(text):
            parts = zip(match.groups(), befores, strict=True)
            put = [part if _as_typed(part, before) else _translated(part) for part, before in parts]
            return portuguese.format(*put, raw=match.groups())
    return text


def _as_typed(part: str, before: str) -> bool:
    """A number behind an option, and whatever stands in quotes: a name of the user's own is no word of ours."""
    return before.endswith(("'", '"', "`")) or bool(_TYPED.search(before) and _WHOLE.fullmatch(part))


@cache
def _patterns() -> list[tuple[re.Pattern[str], list[str], str]]:
    """The longest first: the more a sentence says itself, the surer it is the one. What stands before its parts."""
    ordered = sorted((FOREIGN | LINES | SENTENCES).items(), key=lambda pair: -len(pair[0]))
    return [
        (
            re.compile(re.escape(english).replace(r"\{\}", "(.*?)"), re.DOTALL),
            english.split("{}")[:-1],
            said,
        )
        for english, said in ordered
    ]
