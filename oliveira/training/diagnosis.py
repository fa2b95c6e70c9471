"""Whether a run over-fits or under-fits, in words, from its losses and its curve; and what would help.

    over-fits     validation loss far above that of training examples (dropout off for both), or the validation metric
                  was better before the end
    under-fits    worse than a baseline, or the metric still gained with the last steps

The first that holds is said.
"""

from __future__ import annotations

from typing import Any, Literal

from oliveira.language import CODES, local, translate

FAR = 1.5  # validation loss over training loss …
LEARNT = 1e-3  # … unless both are as good as nothing
WORSE = 0.02  # at the end than at the best look, relative
GAINING = 0.01  # from the last look but one to the last, relative

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "over-fits": "It over-fits",
        "under-fits": "It under-fits",
        "fits": "It neither over-fits nor under-fits",
        "losses": "loss {train:.3g} on training examples, {validation:.3g} on validation",
        "train": "training loss {train:.3g}",
        "best": "validation {metric} was best at step {step} ({best:.4g}) and ended at {last:.4g}",
        "gaining": "validation {metric} still improved with the last steps",
        "baseline": "{name} ({value:.4g}) needs no network and is better",
        "help over-fits": "What helps: more data, {steps}more dropout, a smaller d_model.",
        "help under-fits": "What helps: more steps (--budget steps={more}), a larger d_model, another lr or model.",
        "help fits": "More data, or another model, may still help.",
        "earlier": "fewer steps (--budget steps={step}), ",
    },
    "pt": {
        "over-fits": "Há sobreajuste",
        "under-fits": "Há subajuste",
        "fits": "Não há sobreajuste nem subajuste",
        "losses": "perda {train:.3g} nos exemplos de treino, {validation:.3g} na validação",
        "train": "perda de treino {train:.3g}",
        "best": "{metric} de validação foi melhor no passo {step} ({best:.4g}) e terminou em {last:.4g}",
        "gaining": "{metric} de validação ainda melhorava nos últimos passos",
        "baseline": "{name} ({value:.4g}) não precisa de rede e é melhor",
        "help over-fits": "O que ajuda: mais dados, {steps}mais dropout, um d_model menor.",
        "help under-fits": "O que ajuda: mais passos (--budget steps={more}), um d_model maior, outro lr ou modelo.",
        "help fits": "Mais dados, ou outro modelo, ainda podem ajudar.",
        "earlier": "menos passos (--budget steps={step}), ",
    },
}


def diagnose(
    rows: list[dict[str, Any]],
    losses: tuple[float, float] | None,
    *,
    metric: str,
    better: Literal["higher", "lower"],
    test: float,
    baselines: dict[str, float],
) -> dict[str, Any]:
    """`rows`: the curve; `losses`: of training examples and of validation; `test`: the metric. → JSON with words."""
    key, sign = f"validation_{metric}", 1 if better == "higher" else -1
    looks = [(row["step"], row[key]) for row in rows if key in row]
    train = losses[0] if losses else next(row["loss"] for row in reversed(rows) if "loss" in row)
    step, best = max(looks, key=lambda look: sign * look[1])
    last = looks[-1][1]
    turned = sign * (best - last) > WORSE * abs(best)
    apart = losses is not None and losses[1] > max(FAR * losses[0], LEARNT)
    gaining = len(looks) > 1 and step == looks[-1][0] and sign * (last - looks[-2][1]) > GAINING * abs(last)
    ahead = {name: value for name, value in baselines.items() if sign * (value - test) > 0}
    strongest = max(ahead, key=lambda name: sign * ahead[name], default="")
    verdict = "over-fits" if turned or apart else "under-fits" if gaining or ahead else "fits"
    words = {}
    for language, said in WORDS.items():
        facts = [said["losses"].format(train=losses[0], validation=losses[1])] if losses else []
        facts = facts or [said["train"].format(train=train)]
        facts += [said["best"].format(metric=metric, step=step, best=best, last=last)] if turned else []
        facts += [said["gaining"].format(metric=metric)] if gaining and verdict == "under-fits" else []
        facts += (
            [said["baseline"].format(name=translate(strongest, CODES[language]), value=ahead[strongest])]
            if strongest
            else []
        )
        earlier = said["earlier"].format(step=step) if turned else ""
        helps = said[f"help {verdict}"].format(steps=earlier, more=2 * looks[-1][0])
        words[language] = f"{said[verdict]}: {local('; '.join(facts), CODES[language])}. {helps}"
    return {
        "verdict": verdict,
        "train_loss": train,
        "validation_loss": losses[1] if losses else None,
        "best_step": step,
        "words": words,
    }
