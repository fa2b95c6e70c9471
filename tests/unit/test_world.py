"""A world is right before anything starts: file < environment < flag, and every mistake is one sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oliveira.errors import UserError
from oliveira.settings import LARGEST
from oliveira.world import WORLDS, World, forget_injected, load_world, parse_override


def refused(
    path: str | Path = "tiny", flags: dict[str, str] | None = None, environment: dict[str, str] | None = None
) -> str:
    """The sentence; exit code 2, one line, a remedy at the end."""
    with pytest.raises(UserError) as caught:
        load_world(path, flags, environment or {})
    sentence = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in sentence and sentence[-1] in ".?" and len(sentence) < 500
    assert "Section" not in sentence and "pydantic" not in sentence
    return sentence


def write(folder: Path, text: str) -> Path:
    path = folder / "world.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(WORLDS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_worlds_that_ship_are_valid(path: Path) -> None:
    by_name, by_path = load_world(path.stem, environment={}), load_world(path, environment={})
    assert by_name == by_path == World.model_validate_json(by_name.model_dump_json())
    assert by_name.name == path.stem


def test_file_then_environment_then_flag(tmp_path: Path) -> None:
    path = write(tmp_path, "[train]\nsteps = 100\nlr = 0.5\nbatch_size = 3")
    environment = {"OLIVEIRA_TRAIN__STEPS": "200", "OLIVEIRA_TRAIN__LR": "0.25"}
    train = load_world(path, {"train.steps": "300"}, environment).train
    assert (train.steps, train.lr, train.batch_size, train.warmup_steps) == (300, 0.25, 3, 60)
    assert load_world(path, environment=environment).train.steps == 200
    assert load_world(path, environment={}).train.steps == 100


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEIRA_MODEL__D_FF", "72")
    assert load_world("tiny").model.d_ff == 72


def test_variables_of_the_command_line_are_not_fields() -> None:
    names = ("HOME", "PORT", "DATA", "KEY", "WORLD", "HOST", "SEEDS")
    environment = {f"OLIVEIRA_{name}": "x" for name in names} | {"PATH": "/bin", "oliveira_x": "1"}
    assert load_world("tiny", environment=environment) == load_world("tiny", environment={})


INJECTED = {
    "OLIVEIRA_PORT": "tcp://10.96.12.7:8420",
    "OLIVEIRA_SERVICE_HOST": "10.96.12.7",
    "OLIVEIRA_SERVICE_PORT": "8420",
    "OLIVEIRA_SERVICE_PORT_HTTP_METRICS": "8420",
    "OLIVEIRA_PORT_8420_TCP": "tcp://10.96.12.7:8420",
    "OLIVEIRA_PORT_8420_TCP_ADDR": "10.96.12.7",
    "OLIVEIRA_PORT_8420_TCP_PORT": "8420",
    "OLIVEIRA_PORT_8420_TCP_PROTO": "tcp",
    "OLIVEIRA_WEB_UI_SERVICE_HOST": "10.96.12.8",
    "OLIVEIRA_TRAIN_PORT": "tcp://10.96.12.8:80",
    "OLIVEIRA_NAME": "/web/oliveira",
    "OLIVEIRA_ENV_LANG": "C",
}


@pytest.mark.parametrize("name", INJECTED)
def test_what_a_cluster_injects_is_no_setting(name: str) -> None:
    environment = {name: INJECTED[name]}
    assert load_world("tiny", environment=environment) == load_world("tiny", environment={})
    forget_injected(environment)
    assert not environment


def test_what_a_person_sets_is_not_taken_for_a_clusters() -> None:
    mine = {"OLIVEIRA_PORT": "8420", "OLIVEIRA_NAME": "mine", "OLIVEIRA_SERVE__HOST": "::1", "HOME": "/root"}
    kept = dict(mine)
    forget_injected(kept)
    assert kept == mine
    world = load_world("tiny", environment=mine)
    assert (world.name, world.serve.host) == ("mine", "::1")
    assert load_world("tiny", environment={"OLIVEIRA_DEPLOYMENT": "x"}) == load_world("tiny", environment={})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OLIVEIRA_TRAIN_STEPS", "OLIVEIRA_TRAIN__STEPS"),
        ("OLIVEIRA_TRIAN_STEPS", "OLIVEIRA_TRAIN__STEPS"),
        ("OLIVEIRA_SERVE_HOST", "OLIVEIRA_SERVE__HOST"),
        ("OLIVEIRA_SEEED", "OLIVEIRA_SEED"),
        ("OLIVEIRA_HOMES", "OLIVEIRA_HOME"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_refused(name: str, meant: str) -> None:
    assert refused("tiny", environment={name: "1"}).endswith(f"{name} is not a setting. Did you mean {meant}?")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("data.base", "path:/texts/a b", "path:/texts/a b"),
        ("data.base", '"quoted"', "quoted"),
        ("data.base", "", ""),
        ("export.onnx", "false", False),
        ("compress.methods", '["nf4"]', ["nf4"]),
        ("train.lr", "1e-3", 0.001),
        ("update.every_hours", "2", 2.0),
    ],
)
def test_values_are_read_as_toml_and_bare_words_as_text(field: str, text: str, value: object) -> None:
    section, name = field.split(".")
    variable = f"OLIVEIRA_{section}__{name}".upper()
    for world in (load_world("tiny", {field: text}, {}), load_world("tiny", environment={variable: text})):
        assert getattr(getattr(world, section), name) == value


def test_an_unknown_key_names_the_neighbour_and_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "# a comment\n[adapt]\nstpes = 3 # here\n")
    sentence = refused(path)
    assert sentence.startswith("adapt.stpes is not a field of a world (world.toml:3). Did you mean steps")
    assert refused(write(tmp_path, "[modle]\n")).startswith(
        "modle is not a field of a world (world.toml:1). Did you mean model"
    )
    assert "validation" in refused("tiny", {"data.qqqq": "1"}), "without a neighbour, all fields are named"


def test_an_unknown_key_from_outside_names_its_origin() -> None:
    assert "(--set train.stepz)" in refused("tiny", {"train.stepz": "1"})
    sentence = refused("tiny", environment={"OLIVEIRA_TRIAN__STEPS": "1"})
    assert (
        sentence == "trian is not a field of a world (environment variable OLIVEIRA_TRIAN__STEPS). Did you mean train?"
    )


@pytest.mark.parametrize(
    ("line", "field", "value", "says"),
    [
        ('steps = "many"', "train.steps", "'many'", "valid integer"),
        ("steps = 1.5", "train.steps", "1.5", "valid integer"),
        ("steps = 0", "train.steps", "0", "greater than or equal to 1"),
        ("lr = -1.0", "train.lr", "-1.0", "greater than 0"),
        ("lr = nan", "train.lr", "nan", ""),
        ("lr = inf", "train.lr", "inf", "finite"),
        ('schedule = "linear"', "train.schedule", "'linear'", "'cosine' or 'noam'"),
        ("steps = []", "train.steps", "[]", "valid integer"),
    ],
)
def test_a_wrong_value_names_field_value_line_and_what_fits(
    tmp_path: Path, line: str, field: str, value: str, says: str
) -> None:
    sentence = refused(write(tmp_path, f"[adapt]\nsteps = 3\n\n[train]\nclip = 2.0\n{line}\n"))
    assert sentence.startswith(f"{field} = {value} is refused (world.toml:6): ") and says in sentence


def test_a_wrong_value_in_a_list_names_the_field() -> None:
    sentence = refused("tiny", {"compress.methods": '["int4", "int3"]'})
    assert (
        sentence.startswith("compress.methods = 'int3' is refused (--set compress.methods): ") and "'nf4'" in sentence
    )
    assert "'head'" in refused("tiny", {"adapt.targets": '["head"]'})


def test_a_wrong_value_from_outside_names_its_origin() -> None:
    assert "(--set train.steps)" in refused("tiny", {"train.steps": "x"})
    assert "OLIVEIRA_TRAIN__STEPS" in refused("tiny", environment={"OLIVEIRA_TRAIN__STEPS": "x"})
    both = refused("tiny", {"train.steps": "y"}, {"OLIVEIRA_TRAIN__STEPS": "x"})
    assert "train.steps = 'y'" in both and "(--set train.steps)" in both


def test_a_section_is_not_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, "train = 5\n")
    assert refused(path).startswith(
        "train = 5 (world.toml:1) is not a section. Set one of its fields: steps, batch_size"
    )
    assert refused(path, {"train.steps": "3"}).startswith("--set train.steps: train is not a section.")
    assert refused("tiny", {"train.steps.x": "3"}).startswith("--set train.steps.x: steps is not a section.")
    assert refused("tiny", {"train": "5"}).startswith("train = 5 (--set train) is not a section.")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"model.n_heads": "5", "model.d_model": "192"}, "n_heads = 5 does not divide model.d_model = 192"),
        ({"model.n_heads": "4", "model.n_kv_heads": "3"}, "n_kv_heads = 3 does not divide model.n_heads = 4"),
        ({"model.d_model": "30", "model.n_heads": "2"}, "positions = rope needs an even head width, not 15"),
        (
            {"data.validation": "0.3", "data.test": "0.3"},
            "data.validation + data.test = 0.6 leaves less than half",
        ),
        (
            {"train.steps": "10", "train.warmup_steps": "10"},
            "train.warmup_steps = 10 is not below train.steps = 10",
        ),
        ({"compress.serve": "nf4", "compress.methods": '["int4"]'}, "compress.serve = nf4 is not among"),
        ({"compress.serve": "int8"}, "compress.serve = int8 is not among compress.methods = ['int4', 'nf4']"),
        (
            {"model.feed_forward": "gelu", "adapt.targets": '["gate"]'},
            "holds gate, which model.feed_forward = gelu does not have",
        ),
        ({"adapt.targets": '["query", "head"]'}, "holds head, which no layer of the model is called"),
        ({"task.name": "classify/digits", "compress.serve": "nf4"}, "compress.serve = nf4 is of text, whose kernels"),
        ({"update.method": "full"}, "update.method = full is of a task's model: text is retrained by LoRA"),
    ],
)
def test_an_impossible_pair_names_both_and_the_remedy(flags: dict[str, str], says: str) -> None:
    sentence = refused("tiny", flags)
    assert says in sentence and "(--set " in sentence
    assert any(word in sentence.split(").", 1)[1] for word in ("Use ", "Make ", "Add ", "Change ")), "no remedy"


def test_an_impossible_pair_in_the_file_names_the_line(tmp_path: Path) -> None:
    sentence = refused(write(tmp_path, "[data]\n# n_heads = 9\n[model]\nd_model = 192\nn_heads = 5\n"))
    assert "(world.toml:5)" in sentence
    assert sentence.endswith("Use 3, 4, 6 heads, or d_model = 190 or 195.")


def test_the_remedies_work(tmp_path: Path) -> None:
    """What a sentence tells the user to do is accepted."""
    for heads, d_model in ((3, 192), (4, 192), (6, 192), (5, 190), (5, 195)):
        flags = {"model.n_heads": str(heads), "model.n_kv_heads": str(heads), "model.d_model": str(d_model)}
        positions = {"model.positions": "learned"} if d_model // heads % 2 else {}
        load_world("tiny", flags | positions, {})
    targets = '["query", "key", "value", "output", "up", "down"]'
    load_world("tiny", {"model.feed_forward": "gelu"}, {})
    load_world("tiny", {"model.feed_forward": "gelu", "adapt.targets": targets}, {})
    load_world("tiny", {"train.steps": "1", "train.warmup_steps": "1"}, {})
    load_world("tiny", {"compress.serve": "nf4"}, {})
    load_world("tiny", {"task.name": "classify/digits", "update.method": "full", "compress.serve": "int8"}, {})
    load_world("tiny", {"task.name": "classify/digits", "update.method": "lora", "adapt.targets": '["project"]'}, {})
    load_world("tiny", {"compress.serve": "int8", "compress.methods": '["int8"]'}, {})


def test_a_file_that_is_no_world(tmp_path: Path) -> None:
    assert refused("defualt").startswith(
        "world 'defualt' cannot be read. Give the path of a .toml file or one of: assistant, default, tiny"
    )
    assert "cannot be read" in refused(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\x00\xfe")
    assert "cannot be read" in refused(tmp_path / "binary.toml")
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in refused(tmp_path / "folder.toml")
    assert "is not valid TOML" in refused(write(tmp_path, "[train\nsteps = 1"))
    assert "is not valid TOML" in refused(write(tmp_path, "[train]\nsteps = 1\nsteps = 2\n"))


def test_an_empty_file_is_the_default_world(tmp_path: Path) -> None:
    assert load_world(write(tmp_path, ""), environment={}) == World()


@pytest.mark.parametrize("text", ["train.steps", "=3", " = 3", ""])
def test_a_flag_without_field_or_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not of the form section.field=value, for example --set train.steps=50"):
        parse_override(text)


def test_a_flag_may_hold_equal_signs_and_spaces() -> None:
    assert parse_override(" data.base = path:/a=b ") == ("data.base", "path:/a=b")
    assert parse_override("data.base=") == ("data.base", "")


def test_a_seed_is_a_natural_number() -> None:
    assert load_world("tiny", {"seed": "7"}, {}).seed == 7
    assert refused("tiny", {"seed": "-1"}).startswith("seed = -1 is refused (--set seed): ")


def test_a_world_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        World().train.steps = 3  # type: ignore[misc]


@given(
    st.sampled_from(
        ["train.steps", "model.d_model", "data.base", "train", "adapt.targets", "nothing", "a.b.c", "seed"]
    ),
    st.text(max_size=20),
)
def test_any_flag_gives_a_world_or_a_sentence(key: str, value: str) -> None:
    world = None
    with contextlib.suppress(UserError):
        world = load_world("tiny", {key: value}, {})
    if world is None:
        assert key.split(".")[0] in refused("tiny", {key: value})
    else:
        assert World.model_validate_json(world.model_dump_json()) == world


def test_the_largest_count_is_the_last_that_is_taken() -> None:
    assert load_world("tiny", {"update.min_new_chars": str(LARGEST)}, {}).update.min_new_chars == LARGEST
    assert "update.min_new_chars" in refused(flags={"update.min_new_chars": str(LARGEST + 1)})
