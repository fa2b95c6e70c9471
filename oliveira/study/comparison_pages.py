"""docs/comparisons/: the reports and the answers of seed document 003, all written from each folder's compare.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oliveira.files import write_atomic
from oliveira.study.comparison import report_text, separable
from oliveira.tasks.catalogue import task

SERIES, LONG, PICTURES, TEXT = (
    "power-mlp-rnn-lstm-gru",
    "power-rnn-transformer-mamba",
    "fashion-cnn-vit",
    "told-br-mlp-transformer",
)
FILES = {"en": ("README.md", "report.md"), "pt": ("README.pt-BR.md", "report.pt-BR.md")}

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "title": "# Comparisons",
        "head": """Made by `oliveira compare`: equal budget in steps, {seeds} seeds, the test split, a verdict that
            says only what the figures carry. Each folder holds the table, the picture, the report in both languages,
            and every number in `compare.json`; `oliveira pages` writes the text from it.""",
        "table": "| question of seed document 003 | report |",
        SERIES: "exercise: MLP, RNN, LSTM, GRU on a time series",
        LONG: "RNN vs Transformer (and Mamba)",
        PICTURES: "CNN vs ViT",
        TEXT: "MLP vs Transformer",
        "answers": "## The seed document's questions, answered from these figures",
        "better": "better than",
        "worse": "worse than",
        "tie": "not to be told apart from",
        "lstm": """**Why was the LSTM more efficient than the MLP?** Here its {metric} is {verdict} the MLP's: {x}
            against {y} {unit}, with {p} parameters against {q}: it uses one set of weights at each of the hours,
            where the MLP has weights of its own for each. In seconds it takes {r} times the MLP's for the same steps
            ({device}).""",
        "attention": """**What is the great drawback of Transformers?** Attention compares every step with every
            other: cost grows with the square of the length, and without a bias towards order it needs data. On this
            series the encoder ({x}) is {verdict} the RNN ({y}) and {level} {baseline} ({z}), at {r} times the RNN's
            time. On text its {metric} ({a}) is {other} the MLP's ({b}), and {below} {best} ({c}).""",
        "gru": """**Replace the LSTM by a GRU: what happens?** The GRU ({x}) is {verdict} the LSTM ({y}), with {r} of
            its parameters and {t} times its seconds.""",
        "end": "Budgets are small: who wins after hours of training is another question.",
    },
    "pt": {
        "title": "# Comparações",
        "head": """Feitas por `oliveira compare`: orçamento igual em passos, {seeds} sementes, partição de teste, um
            veredito que diz apenas o que os números sustentam. Cada pasta guarda a tabela, a figura, o relatório nas
            duas línguas e todos os números em `compare.json`; `oliveira pages` escreve o texto a partir dele.""",
        "table": "| pergunta do documento-semente 003 | relatório |",
        SERIES: "exercício: MLP, RNN, LSTM, GRU numa série temporal",
        LONG: "RNN vs Transformer (e Mamba)",
        PICTURES: "CNN vs ViT",
        TEXT: "MLP vs Transformer",
        "answers": "## As perguntas da seed, respondidas com estes números",
        "better": "melhor que",
        "worse": "pior que",
        "tie": "em empate com",
        "lstm": """**Por que a LSTM foi mais eficiente que a MLP?** Aqui seu {metric} fica {verdict} o da MLP: {x}
            contra {y} {unit}, com {p} parâmetros contra {q}: ela usa os mesmos pesos em cada uma das horas, enquanto
            a MLP tem pesos próprios para cada uma. Em segundos, leva {r} vezes o tempo da MLP para os mesmos passos
            ({device}).""",
        "attention": """**Qual a grande desvantagem de Transformers?** A atenção compara cada passo com todos os
            outros: o custo cresce com o quadrado do comprimento e, sem viés de ordem, ela precisa de dados. Nesta
            série o codificador ({x}) fica {verdict} a RNN ({y}) e {level} {baseline} ({z}), com {r} vezes o tempo da
            RNN. Em texto seu {metric} ({a}) fica {other} o da MLP ({b}), e {below} {best} ({c}).""",
        "gru": """**Troque a LSTM por uma GRU: qual foi o resultado?** A GRU ({x}) fica {verdict} a LSTM ({y}), com
            {r} de seus parâmetros e {t} vezes seu tempo.""",
        "end": "Os orçamentos são pequenos: quem vence após horas de treino é outra pergunta.",
    },
}


def write_comparisons(folder: Path) -> list[Path]:
    """Writes every page of the folder again. Returns their paths."""
    texts = pages(folder)
    for path, text in texts.items():
        write_atomic(path, text.encode())
    return list(texts)


def pages(folder: Path) -> dict[Path, str]:
    """Path → text of each report, and of the index when all that it speaks of is there."""
    found = {path.parent.name: json.loads(path.read_bytes()) for path in sorted(folder.glob("*/compare.json"))}
    texts: dict[Path, str] = {}
    for language, (index_name, report_name) in FILES.items():
        for name, result in found.items():
            texts[folder / name / report_name] = report_text(result, task(result["task"]).title, language)
        if {SERIES, LONG, PICTURES, TEXT} <= found.keys():
            texts[folder / index_name] = index(found, language)
    return texts


def index(found: dict[str, dict[str, Any]], language: str) -> str:
    words, report_name = WORDS[language], FILES[language][1]
    seeds = sorted({len(result["seeds"]) for result in found.values()})
    lines = [words["title"], "", words["head"].format(seeds=", ".join(map(str, seeds))), ""]
    lines += [words["table"], "| --- | --- |"]
    for name in (SERIES, LONG, PICTURES, TEXT):
        lines.append(f"| {words[name]} | [{found[name]['task']}]({name}/{report_name}) |")
    lines += ["", words["answers"], ""]
    for answer in (_lstm, _attention, _gru):
        lines += [answer(found, words, _number(language)), ""]
    return "\n".join([" ".join(line.split()) for line in [*lines, words["end"]]] + [""])


Show = Callable[[float, str], str]


def _number(language: str) -> Show:
    """A number as a reader of the language writes it."""

    def show(value: float, form: str) -> str:
        text = f"{value:{form}}"
        return text.translate(str.maketrans(".,", ",.")) if language == "pt" else text

    return show


def _verdict(left: dict[str, Any], right: dict[str, Any], result: dict[str, Any], words: dict[str, str]) -> str:
    if not separable(left, right):
        return words["tie"]
    return words[_better(left["mean"], right["mean"], result)]


def _better(left: float, right: float, result: dict[str, Any]) -> str:
    return "better" if (left > right) == (result["metric"]["better"] == "higher") else "worse"


def _best(result: dict[str, Any]) -> str:
    """The best level that needs no network."""
    pick = max if result["metric"]["better"] == "higher" else min
    return str(pick(result["baselines"], key=result["baselines"].get))


def _spread(row: dict[str, Any], show: Show) -> str:
    return f"{show(row['mean'], '.4f')} ± {show(row['std'], '.4f')}"


def _lstm(found: dict[str, dict[str, Any]], words: dict[str, str], show: Show) -> str:
    result = found[SERIES]
    lstm, mlp = result["models"]["lstm"], result["models"]["mlp"]
    return words["lstm"].format(
        metric=result["metric"]["name"],
        unit=result["metric"]["unit"],
        verdict=_verdict(lstm, mlp, result, words),
        x=_spread(lstm, show),
        y=_spread(mlp, show),
        p=show(lstm["parameters"], ","),
        q=show(mlp["parameters"], ","),
        r=show(lstm["seconds"] / mlp["seconds"], ".0f"),
        device=result["device"],
    )


def _attention(found: dict[str, dict[str, Any]], words: dict[str, str], show: Show) -> str:
    series, text = found[LONG], found[TEXT]
    encoder, rnn = series["models"]["transformer"], series["models"]["rnn"]
    reader, mlp = text["models"]["transformer"], text["models"]["mlp"]
    level, best = _best(series), _best(text)
    return words["attention"].format(
        x=_spread(encoder, show),
        y=_spread(rnn, show),
        verdict=_verdict(encoder, rnn, series, words),
        level=words[_better(encoder["mean"], series["baselines"][level], series)],
        baseline=level,
        z=show(series["baselines"][level], ".4f"),
        r=show(encoder["seconds"] / rnn["seconds"], ".1f"),
        metric=text["metric"]["name"],
        a=_spread(reader, show),
        b=_spread(mlp, show),
        other=_verdict(reader, mlp, text, words),
        below=words[_better(reader["mean"], text["baselines"][best], text)],
        best=best,
        c=show(text["baselines"][best], ".4f"),
    )


def _gru(found: dict[str, dict[str, Any]], words: dict[str, str], show: Show) -> str:
    result = found[SERIES]
    gru, lstm = result["models"]["gru"], result["models"]["lstm"]
    return words["gru"].format(
        x=_spread(gru, show),
        y=_spread(lstm, show),
        verdict=_verdict(gru, lstm, result, words),
        r=show(gru["parameters"] / lstm["parameters"], ".0%"),
        t=show(gru["seconds"] / lstm["seconds"], ".1f"),
    )
