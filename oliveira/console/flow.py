"""The loop as the seed document draws it, with the state of each stage."""

import itertools
import json
from pathlib import Path

FLOW = ("collect", "preprocess", "train", "adapt", "compress", "package", "export", "serve", "monitor")
BASE_FLOW = ("collect", "bring_in", "preprocess", *FLOW[3:])
# The seed document's boxes (in Portuguese) and the stages that each stands for.
BOXES = (
    ("A", "Coleta de Dados", ("collect",)),
    ("B", "Pré-processamento", ("preprocess",)),
    ("C", "Treinamento Base", ("train",)),
    ("D", "Otimização: LoRA/Quant", ("adapt", "compress")),
    ("E", "Deploy", ("package", "export", "serve")),
    ("F", "Monitoramento: Prometheus", ("monitor",)),
    ("G", "Atualização Contínua", ("update",)),
)
COLOURS = {"done": "#2f855a", "running": "#b7791f", "failed": "#c53030", "waiting": "#718096"}


TASK_FLOW = ("collect", "train", "export", "package", "serve", "monitor")
COMPRESSED_FLOW = (*TASK_FLOW[:3], "compress", *TASK_FLOW[3:])  # where `compress.serve` asks for int8


def flow_of(home: Path) -> tuple[str, ...]:
    """Stages in the order in which this home's life goes through them; a task's graph is made before it is packaged."""
    try:
        world = json.loads((home / "world.json").read_bytes())
        if not world["task"]["name"]:
            return BASE_FLOW if world.get("base", {}).get("name") else FLOW
        return TASK_FLOW if world["compress"]["serve"] == "fp32" else COMPRESSED_FLOW
    except (OSError, ValueError, KeyError, TypeError):  # before the first start, or of an older version
        return FLOW


def task_of(home: Path) -> str:
    """The task of a life, without its folder; "" = it continues text."""
    try:
        name = str(json.loads((home / "world.json").read_bytes())["task"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    kind, _, rest = name.partition("/")
    return f"{kind}/{rest.partition('?')[0].rpartition('/')[2]}" if name else ""


def mermaid(states: dict[str, str]) -> str:
    """`graph TD` of the seed document; each box takes the least finished state of its stages."""
    if "bring_in" in states:  # weights that were brought in stand where others are trained
        states = {**states, "train": states["bring_in"]}
    lines = ["graph TD"]
    for letter, title, stages in BOXES:
        state = box_state([states.get(stage, "waiting") for stage in stages])
        lines.append(f'    {letter}["{title}<br/>{state}"]:::{state}')
    lines += [f"    {a[0]} --> {b[0]}" for a, b in itertools.pairwise(BOXES)]
    lines.append("    G --> A")
    lines += [f"    classDef {state} fill:{colour},color:#fff" for state, colour in COLOURS.items()]
    return "\n".join(lines)


def box_state(states: list[str]) -> str:
    for state in ("failed", "running"):
        if state in states:
            return state
    return "done" if all(state == "done" for state in states) else "waiting"
