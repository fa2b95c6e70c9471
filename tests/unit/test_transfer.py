"""A run that starts from another: its body under a fresh head, frozen or tuned; texts read as they were read before."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

from oliveira import artifact, library
from oliveira.data import weights
from oliveira.data.wordpiece import SPECIAL, WordPiece
from oliveira.errors import Interrupted, UserError
from oliveira.lifecycle.task_plan import check_task
from oliveira.models.bert import BERT, BERTConfig
from oliveira.registry import create, entry
from oliveira.runs.predict import Predictor
from oliveira.runs.pretrained import pretrained
from oliveira.runs.records import Run
from oliveira.runs.run import fit, split_values
from oliveira.tasks import classification
from oliveira.tasks.catalogue import tasks
from oliveira.tasks.classification import TextClassData, TextClassification
from oliveira.world import TaskSection, World

SMALL: dict[str, Any] = dict(d_model=4, n_stages=2, batch_size=8, evaluate_every=3, checkpoint_every=3)
PIECES = [*SPECIAL, *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit("classify/digits", model="cnn", budget="steps=6", home=tmp_path_factory.mktemp("home"), **SMALL)


@pytest.fixture
def home(first: Run) -> Path:
    return first.folder.parents[3]


def run(home: Path, features: str, **values: Any) -> Run:
    values = {"batch_size": 8, "evaluate_every": 3, "checkpoint_every": 3, "seed": 1, **values}
    start = values.pop("start", "classify/digits/cnn")
    return fit("classify/digits", model="cnn", budget="steps=6", home=home, start=start, features=features, **values)


def split(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Body and head."""
    state = model.state_dict()
    head = {name: value for name, value in state.items() if name.startswith("output.")}
    return {name: value for name, value in state.items() if name not in head}, head


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_keeps_the_body_and_tuned_does_not(first: Run, home: Path) -> None:
    """The body is of the start to the bit, batch statistics included; its sizes are taken over without a word."""
    before = split(first.load())
    frozen, tuned = (run(home, word) for word in ("frozen", "tuned"))
    assert frozen.result["config"]["d_model"] == 4 and frozen.result["features"] == "frozen"
    assert same(split(frozen.load())[0], before[0]) and not same(split(frozen.load())[1], before[1])
    assert not same(split(tuned.load())[0], before[0])
    assert run(home, "").folder == tuned.folder, "who says nothing tunes"
    assert len({frozen.folder, tuned.folder, first.folder}) == 3
    assert run(home, "frozen").folder == frozen.folder, "the newest of that name is not what it started from"


def test_lora_moves_the_matrices_of_the_body_and_the_head_and_resumes(tmp_path: Path) -> None:
    given: dict[str, Any] = dict(model="mlp", budget="steps=6", home=tmp_path, batch_size=8, checkpoint_every=3)
    first = fit("classify/digits", d_model=24, threads=1, **given)
    given |= dict(start=first.folder, features="lora", threads=1, d_model=24)
    steps = iter(range(9))
    with pytest.raises(Interrupted):
        fit("classify/digits", should_stop=lambda: next(steps) == 3, **given)
    parted, whole = fit("classify/digits", **given), fit("classify/digits", fresh=True, **given)
    assert parted.folder == whole.folder and parted.result["test"] == whole.result["test"]
    before, after = first.load().state_dict(), whole.load().state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"hidden.0.weight", "hidden.1.weight", "output.weight", "output.bias"}
    assert whole.result["parameters"] == first.result["parameters"] and whole.folder != first.folder


def test_a_body_without_a_linear_layer_learns_by_no_lora(first: Run, home: Path) -> None:
    with pytest.raises(UserError, match="CNN has no linear layer that LoRA may change"):
        run(home, "lora")


def test_a_frozen_run_resumes_with_the_same_bits(home: Path) -> None:
    steps = iter(range(9))
    with pytest.raises(Interrupted):
        run(home, "frozen", lr=7e-3, should_stop=lambda: next(steps) == 3)
    parted, whole = run(home, "frozen", lr=7e-3), run(home, "frozen", lr=7e-3, fresh=True)
    assert parted.folder == whole.folder and parted.result["test"] == whole.result["test"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"features": "melted"},
            r"features = 'melted' is no word for it. Give start=TASK/MODEL and features=frozen or",
        ),
        ({"features": "frozen", "start": ""}, r"features = 'frozen' is for a run with a start"),
        ({"features": "", "start": "classify/digits/vit"}, r"run 'classify/digits/vit' is not in"),
        (
            {"features": "tuned", "d_model": 6},
            r"stem\S* is \(4, 1, 3, 3\), here it is \(6, 1, 3, 3\). Start from a cnn",
        ),
    ],
)
def test_what_does_not_fit_is_refused(home: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(home, **values)


def test_another_model_and_a_head_that_is_the_body_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a cnn, not a vit"):
        fit("classify/digits", model="vit", budget="steps=1", home=home, start="classify/digits/cnn")
    folder = library.save(create("hypernetwork", channels=1, height=8, width=8, d_out=10), tmp_path / "h")
    with pytest.raises(UserError, match="a hypernetwork has no features under its head"):
        fit("classify/digits", model="hypernetwork", budget="steps=1", home=home, start=folder)


def labelled(count: int) -> list[tuple[str, str, str]]:
    words = ["ab", "cd", "ef", "gh"]
    return [(str(n), f"{words[n % 4]} {words[n % 3]}", "ab" if n % 4 == 0 else "other") for n in range(count)]


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextClassification:
    """classify/told-br with eight letters for its texts."""
    found = tasks()["classify/told-br"]
    assert isinstance(found, TextClassification)
    classification.Tokenizer.train(["ab cd ef gh"] * 9, 258).save(tmp_path / "tokenizer.json")
    tokenizer = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    parts = {"train": labelled(24), "validation": labelled(12), "test": labelled(12)}

    def opened(self: TextClassification, home: Path, say: Any) -> TextClassData:
        return TextClassData(parts, tokenizer, 9)

    monkeypatch.setattr(TextClassification, "open", opened)
    return found


def test_texts_are_read_by_the_pieces_of_the_start(
    texts: TextClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MiniLM's two files, small ones: a BERT with word pieces, which a task with byte pairs of its own starts from."""
    theirs = dict(vocab_size=len(PIECES), hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    theirs |= dict(intermediate_size=8, max_position_embeddings=16)
    module = BertModel(BertConfig(**theirs))  # type: ignore[arg-type]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "config.json").write_text(json.dumps({**module.config.to_dict(), "model_type": "bert"}))
    save_file({name: tensor.clone() for name, tensor in module.state_dict().items()},
              tmp_path / "files" / "model.safetensors")  # fmt: skip
    (tmp_path / "files" / "vocab.txt").write_text("\n".join(PIECES) + "\n")

    @contextlib.contextmanager
    def opened(*arguments: Any) -> Iterator[Path]:
        yield tmp_path / "files"

    monkeypatch.setattr(weights, "opened", opened)
    values: dict[str, Any] = dict(model="bert", budget="steps=2", home=tmp_path, start="minilm", features="frozen")
    done = fit(texts.name, batch_size=4, dropout=0.0, **values)
    state = json.loads((done.folder / "artifact" / "task.json").read_bytes())["state"]
    assert state["pieces"] == PIECES and "tokenizer" not in state
    source = artifact.open_artifact(pretrained("minilm", tmp_path, print)).load_model()
    assert done.result["config"]["max_len"] == 16 and done.result["config"]["d_model"] == 8
    after = done.load().state_dict()
    kept = [name for name in after if name.split(".")[0] not in ("pooler", "mlm", "head")]
    assert all(torch.equal(after[name], source.state_dict()[name]) for name in kept) and len(kept) > 10
    wordpiece = WordPiece(PIECES, lowercase=True)
    tokens = torch.tensor([wordpiece.sentence("ab GH", max_len=9)])
    assert tokens.tolist() == [[2, 5, 14, 11, 20, 3]]
    with torch.no_grad():
        p = done.load()(tokens, torch.ones(1, 6, dtype=torch.bool)).softmax(-1)[0]
    answer = Predictor(done.folder)({"text": "ab GH"})
    assert answer["probabilities"]["ab"] == pytest.approx(float(p[0]), abs=1e-5)


def test_a_model_of_no_text_is_no_start_for_texts(texts: TextClassification, tmp_path: Path) -> None:
    bert = BERT(BERTConfig(vocab_size=300, d_out=2, d_model=8, n_layers=1, n_heads=2, d_ff=8), gives="one")
    folder = library.save(bert, tmp_path / "saved")
    with pytest.raises(UserError, match="that model reads no text, and this task is of texts"):
        fit(texts.name, model="bert", budget="steps=1", home=tmp_path, start=folder)


def test_tokens_of_another_meaning_are_refused(tmp_path: Path) -> None:
    small: dict[str, Any] = dict(budget="steps=1", home=tmp_path, d_model=4, batch_size=2)
    fit("probe/induction", model="gru", **small)
    with pytest.raises(UserError, match="the tokens of probe/induction are not those of this task"):
        fit("probe/duplication", model="gru", start="probe/induction/gru", **small)
    again = fit("probe/induction", model="gru", start="probe/induction/gru", seed=1, **small)
    assert again.result["features"] == "tuned"


def test_a_world_may_say_what_its_life_starts_from() -> None:
    """Fields of the model and of its training are told apart from the two words that `fit` takes itself."""
    values = {"start": "classify/digits/cnn", "features": "frozen", "lr": 1e-3, "d_model": 8}
    assert split_values(entry("cnn"), values) == ({"d_model": 8}, {"lr": 1e-3})
    check_task(World(task=TaskSection(name="classify/digits", model="cnn", values=values)))
