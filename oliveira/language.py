"""In which language the program speaks to a person: English, or Brazilian Portuguese.

`--lang` on any command, else OLIVEIRA_LANG (so that our own processes follow), else LC_ALL, LC_MESSAGES, LANG. The code
is written in English; `portuguese*.py` hold the translations, {} standing for what a sentence is about ({raw[0]}: as it
is, a field's name for example). What is not there stays English. JSON, names and files are the same in every language.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache

from oliveira.errors import UserError
from oliveira.portuguese import HELP, WORDS
from oliveira.portuguese_lines import FOREIGN, LINES, TERMS
from oliveira.portuguese_sentences import SENTENCES

VARIABLE = "OLIVEIRA_LANG"
ENGLISH, PORTUGUESE = "en", "pt-BR"
_NAMES = {"en": ENGLISH, "pt": PORTUGUESE, "pt-br": PORTUGUESE, "pt_br": PORTUGUESE}
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


def translate(text: str) -> str:
    """The text in the language that is spoken: looked up whole, then as a sentence about something."""
    if current() == ENGLISH:
        return text
    for table in (WORDS, TERMS, HELP):
        if text in table:
            return table[text]
    for pattern, portuguese in _patterns():
        if found := pattern.fullmatch(text):
            return portuguese.format(*map(translate, found.groups()), raw=found.groups())
    return text


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """The longest first: the more a sentence says itself, the surer it is the one."""
    ordered = sorted((FOREIGN | LINES | SENTENCES).items(), key=lambda pair: -len(pair[0]))
    return [(re.compile(re.escape(english).replace(r"\{\}", "(.*?)"), re.DOTALL), said) for english, said in ordered]
