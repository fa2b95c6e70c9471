"""Portuguese: nothing of the command line is left out, nothing in the table is stale, and no word of it is needed."""

from __future__ import annotations

import ast
import os
import shlex
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from oliveira import cli
from oliveira.cli.table import Table
from oliveira.data.series import HOURLY
from oliveira.errors import UserError
from oliveira.formulas.registry import Verdict
from oliveira.language import ENGLISH, PORTUGUESE, VARIABLE, choose, figure, local, of_environment, translate
from oliveira.language.portuguese import HELP, WORDS
from oliveira.language.portuguese_lines import FOREIGN, LINES, TERMS
from oliveira.language.portuguese_sentences import SENTENCES
from oliveira.study import recipes
from oliveira.tasks.catalogue import tasks
from oliveira.world import load_world, parse_override

ROOM = Path(cli.__file__).parent
PROGRAM = ROOM.parent
WHOLE = ("ledger", "lifecycle", "training", "runs", "process")  # rooms all of whose refusals a person may read
OWN = (
    "files.py",
    "registry.py",
    "serving/address.py",
    "data/images.py",
    "data/preprocess.py",
    "data/sources.py",
    "data/weights.py",
    "runs/predict.py",
    "runs/records.py",
    "cli/conversation.py",
    "world.py",
    "data/held_out.py",
    "data/tables.py",
    "data/roles.py",
    "data/series.py",
    "data/collection.py",
    "data/gallery.py",
    "data/text_folder.py",
    "data/text_files.py",
    "data/html_text.py",
    "data/pdf_text.py",
    "data/packed_text.py",
    "data/zips.py",
    "data/folder.py",
    "data/pair_table.py",
    "tasks/own.py",
    "tasks/own_pictures.py",
    "tasks/catalogue.py",
    "serving/adapter_names.py",
    "lifecycle/own_adapter.py",
    "lifecycle/bases.py",
    "lifecycle/base_stages.py",
    "lifecycle/backup.py",
    "lifecycle/forgetting.py",
    "lifecycle/restore.py",
    "lifecycle/verbs.py",
    "lifecycle/asking.py",
    "ledger/ledger.py",
    "lifecycle/deploy.py",
    "ledger/wishes.py",
)
ERRORS = ("UserError", "Unnamed", "OliveiraError", "Interrupted")
EXAMPLE = ("oliveira ", "curl ", "prometheus ")
FROM_CLICK = 9  # sentences at the head of SENTENCES that are not ours


def commands(command: Any, path: str = "oliveira") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


TREE = dict(commands(typer.main.get_command(cli.app)))


def told(command: Any) -> list[str]:
    parts = [part.strip() for part in (command.help or "").split("\n\n")]
    options = [parameter.help for parameter in command.params if getattr(parameter, "help", None)]
    return [part for part in parts if not part.startswith(EXAMPLE)] + options


@pytest.mark.parametrize("path", TREE)
def test_every_command_and_option_is_told_in_portuguese(path: str) -> None:
    assert [text for text in told(TREE[path]) if text not in HELP and text not in WORDS] == [], "add to portuguese.HELP"
    unexplained = [p.name for p in TREE[path].params if not getattr(p, "help", None)]
    assert unexplained == [], "an option without a sentence"


@pytest.mark.parametrize("path", [path for path, command in TREE.items() if not hasattr(command, "commands")])
def test_every_command_has_two_examples_that_parse(path: str) -> None:
    examples = [line.strip() for line in (TREE[path].help or "").splitlines() if line.strip().startswith(EXAMPLE)]
    assert len(examples) >= 2 and any(example.startswith(path) for example in examples)
    for words in map(shlex.split, examples):
        command, names = TREE["oliveira"], words[1:]
        if words[0] != "oliveira":
            continue
        while hasattr(command, "commands"):
            command, names = command.commands[names[0]], names[1:]
        command.make_context(path, list(names)).close()


def template(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def templates(file: Path) -> Iterator[tuple[str, bool]]:
    """Every string of a file, {} for what is put in, and whether it is the sentence of an error."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if (text := template(node)) is not None:
            yield text, False
        name = getattr(getattr(node, "func", None), "id", "")
        if (
            name in ("UserError", "Unnamed", "OliveiraError", "Interrupted")
            and node.args
            and (text := template(node.args[0]))
        ):  # type: ignore[attr-defined]
            yield text, True


def test_every_refusal_of_the_command_line_is_told_in_portuguese() -> None:
    files = [*ROOM.glob("*.py"), *(PROGRAM / name for name in OWN)]
    files += [file for room in WHOLE for file in (PROGRAM / room).rglob("*.py") if file not in files]
    said = {text for file in files for text, error in templates(file) if error}
    assert [text for text in said if text.strip("{}: ") and text not in SENTENCES] == [], "add to portuguese.SENTENCES"


def shown(file: Path) -> Iterator[str]:
    """What a file says while it works: `say`, the text of `progress`, summaries of stages, headings of tables."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            places = {"say": node.args[:1], "progress": node.args[1:2], "Table": node.args}.get(name, [])
            places = places + [
                word.value.body
                for word in node.keywords
                if word.arg == "summary" and isinstance(word.value, ast.Lambda)
            ]
            if name == "append" and getattr(getattr(node.func, "value", None), "id", "") == "reasons":
                places = node.args
            yield from filter(None, map(template, places))
        if file.name == "summaries.py" and isinstance(node, ast.Return | ast.Lambda):
            yield from filter(None, [template(node.body if isinstance(node, ast.Lambda) else node.value or node)])


SAME = {
    "digest",
    "",
    "{}",
    "id",
    "rank",
    "MB",
    "{} MB",
    "{}: {} MB",
    "{}{}",
    "test, {} is better",
    "{}, {} {}",  # of a stage: put together in the language that is spoken
}  # in both languages, or put together from what is told elsewhere


def test_what_is_told_while_it_works_is_told_in_portuguese() -> None:
    names = (
        "stages",
        "task_stages",
        "base_stages",
        "task_reference",
        "task_compress",
        "once",
        "visitors",
        "pipeline",
        "gate",
        "backup",
        "restore",
    )
    names += ("summaries",)
    files = [*ROOM.glob("*.py"), PROGRAM / "export" / "compile.py"]
    files += [PROGRAM / "lifecycle" / f"{name}.py" for name in names]
    known = LINES.keys() | WORDS.keys() | TERMS.keys() | SENTENCES.keys()
    assert sorted({text for file in files for text in shown(file)} - known - SAME) == [], "add to portuguese_lines"


@pytest.mark.parametrize(
    "wish",
    [
        *(
            f"train.steps={value}"
            for value in ("0", "x", "1.5", "true", "[]", "1" + "0" * 30, "1" + "0" * 5000, "[" * 5000)
        ),
        *(f"train.lr={value}" for value in ("0", "x", "[]", "inf", "true")),
        *(f"data.validation={value}" for value in ("0", "0.5", "'x'")),
        *(f"export.onnx={value}" for value in ("2", "maybe", "[]")),
        *(f"model.norm={value}" for value in ("2", "batchnorm", "[]")),
        *(f"data.base={value}" for value in ("2", "[]")),
        *(f"compress.methods={value}" for value in ("2", "['fp64']", "x")),
        *("model=2", "data.x=1", "train.steps.x=2", "seed=-1", "train=5", "tráin.steps=4", "serve.threads=1000000000"),
        *(
            "model.n_heads=3",
            "model.n_kv_heads=4",
            "model.name=mlp",
            "compress.serve=int8",
            "train.steps=40\ntrain.lr=1",
        ),
        *("train.warmup_steps=100000", "serve.cors_origins=['x']"),
    ],
    ids=lambda wish: wish[:40],
)
def test_a_world_that_cannot_be_is_refused_in_portuguese(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, PORTUGUESE)
    with pytest.raises(UserError) as refused:
        load_world(overrides=dict([parse_override(wish)]), environment={})
    said = translate(str(refused.value))
    assert not set(said.split()) & {"should", "Input", "is", "the", "of", "Correct", "valid", "Give"}, said
    assert "treino" not in said, "a field is called as it is called"


def test_nothing_in_the_table_is_stale() -> None:
    told_anywhere = {text for command in TREE.values() for text in told(command)}
    files = [file for file in PROGRAM.rglob("*.py") if not file.name.startswith("portuguese")]
    said = {text for file in files for text, _ in templates(file)}
    click = {"Show this message and exit."}
    assert [text for text in HELP if text not in told_anywhere | said | click] == []
    assert [text for text in [*list(SENTENCES)[FROM_CLICK:], *LINES, *TERMS] if text not in said] == []


def test_a_translation_takes_what_its_sentence_gives() -> None:
    for english, portuguese in (SENTENCES | LINES | FOREIGN).items():
        fields = [field for _, field, _, _ in string.Formatter().parse(portuguese) if field is not None]
        assert len(fields) == english.count("{}"), english


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, ENGLISH),
        ({"LANG": "pt_BR.UTF-8"}, PORTUGUESE),
        ({"LANG": "pt_BR.UTF-8", "LC_ALL": "C"}, ENGLISH),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "pt_PT"}, PORTUGUESE),
        ({"LANG": "pt_BR.UTF-8", VARIABLE: "en"}, ENGLISH),
    ],
)
def test_the_system_says_which_language(environment: dict[str, str], language: str) -> None:
    assert of_environment(environment) == language


@pytest.mark.parametrize("words", [["--lang", "pt-BR"], ["--lang=pt"], ["--lang", "PT_BR"]])
def test_the_flag_stands_anywhere_and_wins(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "en")
    assert choose(["status", *words, "--json"]) == ["status", "--json"]
    assert os.environ[VARIABLE] == PORTUGUESE and translate("Options") == "Opções"
    assert translate("task 'x' is not known. Did you mean lm/bncc?") == "a tarefa 'x' não é conhecida. Seria lm/bncc?"
    assert translate("something that nobody translated") == "something that nobody translated"
    assert choose(["x", "--", "--lang", "de"]) == ["x", "--", "--lang", "de"]
    with pytest.raises(UserError, match="--lang de"):
        choose(["status", "--lang", "de"])


def test_a_person_reads_portuguese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(VARIABLE, "en")
    for words, code, said in (
        (["train", "--help", "--lang", "pt-BR"], 0, ("Treina um modelo", "Opções", "Argumentos", "Mesma semente")),
        (["--lang", "pt-BR", "train", "probe/adding"], 2, ("falta o argumento", "oliveira train --help")),
        (["train", "nada", "lstm", "--lang", "pt-BR"], 2, ("a tarefa 'nada' não é conhecida",)),
        (["nada", "--lang", "pt-BR"], 2, ("não há o comando 'nada'",)),
        (["train", "probe/adding", "--lang", "en"], 2, ("Missing argument", "oliveira train --help")),
        (["status", "--lang", "de"], 2, ("--lang de",)),
        (["--version"], 0, ("0.",)),
    ):
        monkeypatch.setattr("sys.argv", ["oliveira", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out = " ".join("".join(capsys.readouterr()).split())
        assert (ended.value.code or 0) == code and all(part in out for part in said), out


# Numbers for people

TO_PEOPLE = {"add_row", "translate", "local", "figure", "say", "_line", "progress", "append", *ERRORS}


def loose_numbers(file: Path) -> Iterator[str]:
    """Formatted decimals and thousands that go nowhere where the language's own marks are put into them."""

    def walk(node: ast.AST, told: bool) -> Iterator[str]:
        if isinstance(node, ast.Call):
            told = told or getattr(node.func, "attr", getattr(node.func, "id", "")) in TO_PEOPLE
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None and not told:
            form = "".join(str(getattr(part, "value", "")) for part in ast.walk(node.format_spec))
            if form.endswith(tuple("fge%,")) and ".0" not in form:
                yield f"{file.name}:{node.lineno} {ast.unparse(node)}"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, told)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), False)


def test_every_number_of_a_table_and_a_sentence_is_written_as_the_language_does() -> None:
    files = [*ROOM.glob("*.py"), PROGRAM / "process" / "progress.py"]
    loose = [line for file in files for line in loose_numbers(file)]
    for_json_too = [line for line in loose if line.startswith("catalogue.py") and "metric[" in line]
    assert sorted(set(loose) - set(for_json_too)) == [] and len(for_json_too) == 2
    tables = {file.name for file in PROGRAM.rglob("*.py") if "from rich.table" in file.read_text(encoding="utf-8")}
    assert tables <= {"reproduction.py", "publication.py"}, "oliveira.cli.table knows how numbers are written"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.711", "0,711"),
        ("12,345.5", "12.345,5"),
        ("0.7 ± 0.02 (1.5 × 2)", "0,7 ± 0,02 (1,5 × 2)"),
        ("-3.2e-05 → 12.5%", "-3,2e-05 → 12,5%"),
        *((same, same) for same in ("127.0.0.1:8420", "2.13.0+cpu", "x/1.5.csv", "1.5.csv", "lr=0.1", "2024-01-31")),
        *((same, same) for same in ("--lr 0.1", "data.test = 0.1", "1,8", "v1.5", "8420")),
    ],
)
def test_a_number_for_people(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local(text, PORTUGUESE) == said and local(text, ENGLISH) == text
    monkeypatch.setenv(VARIABLE, PORTUGUESE)
    assert translate(f"{text} parameters, 3 steps in 2.5 s").endswith("2,5 s")


def test_what_a_person_types_stays_as_it_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, PORTUGUESE)
    assert "--lr 0.5 " in translate("--lr 0.5 and --alpha 1.5 must be above 0.")
    assert "1.234 " in translate(
        "the text has 1,234 characters, at least 18,000 are needed: 7,150 of them must be held out to judge on. "
        "Give more text."
    )


def test_the_cells_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, PORTUGUESE)
    table = Table("name", "bits per byte")
    table.add_row("run 1.5", "0.711 ± 0.02")
    table.add_row("[b]", "2024-01-31")
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [["run 1.5", "[b]"], ["0,711 ± 0,02", "2024-01-31"]]


def test_figures_are_turned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in a cell: as the program counts it, or told already."""
    monkeypatch.setenv("OLIVEIRA_LANG", PORTUGUESE)
    table = Table("distinct", "size", "said")
    table.add_row("1,200", figure(1200, ","), translate("942 rows"))
    assert [str(cell) for column in table.columns for cell in column.cells] == ["1.200", "1.200", "942 linhas"]


@pytest.mark.parametrize("line", ["text: 'text'", "source: 'text'"])
def test_a_name_of_the_users_own_is_no_word_of_ours(line: str) -> None:
    assert translate(line, PORTUGUESE).split("'")[1] == line.split("'")[1] != translate(line.split("'")[1], PORTUGUESE)


def test_names_beside_figures_are_told_in_portuguese() -> None:
    stored = (recipes.stored(name) for name in recipes.names())
    names = {name for result in stored if result for name in result["baselines"]}
    names |= {task.title for task in tasks().values()} | set(get_args(Verdict)) | {HOURLY.ago("day"), "last value"}
    assert sorted(name for name in names - {"xz"} if translate(name, PORTUGUESE) == name and "_" not in name) == []
