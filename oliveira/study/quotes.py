"""Results quoted in a README: what stands between these two lines is written by `oliveira pages`, from results/.

<!-- result machado-gpt -->
<!-- end of result -->
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from oliveira.errors import UserError
from oliveira.files import write_atomic
from oliveira.language.portuguese import WORDS as PORTUGUESE
from oliveira.study import recipes
from oliveira.study.figures import NOT_VERIFIED, loses_to

BLOCK = re.compile(r"(?P<head><!-- result (?P<name>[\w-]+) -->\n).*?(?P<tail><!-- end of result -->)", re.DOTALL)

WORDS = {
    "en": {
        "curve": "curve",
        "test": "**{mean} {metric} on the test split**",
        "validation": "{value} on the validation split, where settings were chosen",
        "beside": "beside it on the same test text: {levels}",
        "loses": "it loses to {names}",
        "cost": "{minutes} minutes of training, {seeds} seed(s)",
        "again": "again with `{command}`",
        "unverified": NOT_VERIFIED,
    },
    "pt": {
        "curve": "curva",
        "test": "**{mean} {metric} na partição de teste**",
        "validation": "{value} na de validação, onde os ajustes foram escolhidos",
        "beside": "ao lado, no mesmo texto de teste: {levels}",
        "loses": "perde para {names}",
        "cost": "{minutes} minutos de treino, {seeds} semente(s)",
        "again": "de novo com `{command}`",
        "unverified": "medido antes de os resultados levarem digests",
    },
}


def write_quotes(path: Path) -> int:
    """Writes every quoted result of a text anew. Returns how many there are."""
    text = path.read_text(encoding="utf-8")
    write_atomic(path, quoted(text, language_of(path)).encode())
    return len(BLOCK.findall(text))


def language_of(path: Path) -> str:
    return "pt" if ".pt-BR." in path.name else "en"


def quoted(text: str, language: str) -> str:
    """The text with its quotes as the stored results have them."""
    return BLOCK.sub(lambda found: f"{found['head']}{line(found['name'], language)}\n{found['tail']}", text)


def line(name: str, language: str) -> str:
    """One result as an item of a list. `UserError` when there is none of that name."""
    if (result := recipes.stored(name)) is None:
        raise UserError(f"a README quotes the result {name!r}, which is not stored. Correct the name, or reproduce it.")
    return sentence(result, language)


def sentence(result: dict[str, Any], language: str) -> str:
    names = PORTUGUESE if language == "pt" else {}
    words, metric, name = WORDS[language], result["metric"], result["recipe"]

    def show(value: float) -> str:
        text = f"{value:#.4g}"
        return text.replace(".", ",") if language == "pt" else text

    parts = [words["test"].format(mean=show(metric["mean"]), metric=names.get(metric["name"], metric["name"]))]
    if (value := result.get("validation", {}).get(metric["name"])) is not None:
        parts.append(words["validation"].format(value=show(value)))
    levels = ", ".join(f"{level} {show(value)}" for level, value in result["baselines"].items())
    parts += [words["beside"].format(levels=levels)] if levels else []
    parts += [words["loses"].format(names=", ".join(lost))] if (lost := loses_to(result)) else []
    parts.append(words["cost"].format(minutes=show(result["minutes"]), seeds=len(result["seeds"])))
    parts += [] if recipes.is_verified(result) else [words["unverified"]]
    parts.append(words["again"].format(command=result["command"]))
    return f"- `results/{name}.json` ([{words['curve']}](results/{name}.png)): {'; '.join(parts)}."
