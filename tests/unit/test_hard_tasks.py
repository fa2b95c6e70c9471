"""Three tasks that the contract must carry: a graph, whose nodes are no batch, two networks that train each other, and
points whose number changes while they learn.

Kinds, models and tasks are made up here and registered here only; the loop, the runs and the artifacts are the house's.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira import artifact, kinds, registry
from oliveira.errors import Interrupted
from oliveira.kinds import BATCH, Argument, Axis, Kind
from oliveira.runs.records import Run
from oliveira.runs.run import fit
from oliveira.study.explanation import explain
from oliveira.tasks.base import Batch, Data, Metric, Split, Task
from oliveira.tasks.catalogue import tasks
from oliveira.training.curves import read_curve
from oliveira.training.optim import Optimizer, Replaced, Turn
from oliveira.training.settings import TrainSection

NODES = Axis(name="nodes", size="n_nodes", free=True)
GRAPH = Kind(
    name="graph",
    arguments=(
        Argument(name="x", axes=(NODES, Axis(name="numbers", size="d_in"))),
        Argument(name="edges", axes=(Axis(name="ends", size=2), Axis(name="edges", free=True)), dtype="int64"),
    ),
)
LABELS = Kind(name="nodes", arguments=(Argument(name="class", axes=(NODES, kinds.OUT)),))
NOISE = Kind(name="noise", arguments=(Argument(name="z", axes=(BATCH, Axis(name="numbers", size="d_in"))),))
POINTS = Kind(name="points", arguments=(Argument(name="point", axes=(BATCH, kinds.OUT)),))


@dataclass(frozen=True, kw_only=True)
class Config:
    d_in: int
    d_out: int
    d_model: int = 8
    sees: bool = True  # the edges; where it has got to grow
    n_points: int = 2


class GCN(nn.Module):
    """Every node averages its neighbours and itself, twice (Kipf & Welling 2017)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.first, self.second = nn.Linear(config.d_in, config.d_model), nn.Linear(config.d_model, config.d_out)

    def forward(self, x: Tensor, *, edges: Tensor) -> Tensor:
        near = torch.eye(len(x), dtype=x.dtype)
        if self.config.sees:
            near[edges[1], edges[0]] = 1.0
        near = near / near.sum(dim=1, keepdim=True)
        return near @ self.second(F.relu(near @ self.first(x)))


class Adversaries(nn.Module):
    """A generator, its critic, and the generator's moving average, which answers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

        def network(d_in: int, d_out: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(d_in, config.d_model), nn.ReLU(), nn.Linear(config.d_model, d_out))

        self.generator, self.critic = network(config.d_in, config.d_out), network(config.d_out, 1)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        answer: Tensor = self.average(z)
        return answer


class Splats(nn.Module):
    """A curve as a sum of bells: centres, widths and colours of points, as many as it takes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.resize(config)
        nn.init.uniform_(self.places, -1, 1)
        nn.init.zeros_(self.widths)
        nn.init.normal_(self.colours)

    def resize(self, config: Config) -> None:
        self.config, n = config, config.n_points
        self.places, self.widths = nn.Parameter(torch.zeros(n, config.d_in)), nn.Parameter(torch.zeros(n))
        self.colours = nn.Parameter(torch.zeros(n, config.d_out))

    def forward(self, z: Tensor) -> Tensor:
        far = (z[:, None] - self.places).square().sum(dim=2) / (0.1 * self.widths.exp())
        return (-far).exp() @ self.colours


class Toy(Data):
    def __init__(self) -> None:
        self.counts = {"train": 1, "validation": 1, "test": 1}

    def loss(self, output: Any, targets: Any) -> Tensor:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def answer(state: dict[str, Any], run: Any, request: dict[str, Any]) -> dict[str, Any]:
        return {}

    def request(self) -> dict[str, Any]:
        return {}


class Nodes(Toy):
    """Two groups of 40 nodes, far more edges within than between; four labels a group, features that tell nothing."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(0)
        group = np.repeat([0, 1], 40)
        odds = np.where(group[:, None] == group, 0.25, 0.01)
        self.edges = torch.from_numpy(np.stack(np.nonzero(random.random((80, 80)) < odds)))
        self.x = torch.from_numpy(random.normal(size=(80, 80)).astype(np.float32))
        self.targets = torch.from_numpy(group)
        shuffled = torch.from_numpy(random.permutation(80))
        self.nodes = {"train": shuffled[:24], "validation": shuffled[24:40], "test": shuffled[40:]}
        self.counts = {split: len(nodes) for split, nodes in self.nodes.items()}
        self.sizes = {"d_in": 80, "d_out": 2}

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        return Batch((self.x,), self.targets[self.nodes["train"]], {"edges": self.edges})

    def loss(self, output: Any, targets: Any) -> Tensor:
        return F.cross_entropy(output[self.nodes["train"]], targets)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        right = model(self.x, edges=self.edges).argmax(dim=1) == self.targets
        return {"accuracy": float(right[self.nodes[split]].float().mean())}


class Ring(Toy):
    """Points near (3, −2): the critic tells true ones from made ones, the generator makes what it takes for true."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = {"d_in": 2, "d_out": 2}
        self.seen = list[int]()  # updates

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        random = torch.Generator().manual_seed(1000 * seed + number)
        z, true = torch.randn(2, size, 2, generator=random)
        return Batch((z,), 0.5 * true + torch.tensor([3.0, -2.0]))

    def objective(self, model: nn.Module, batch: Batch) -> Tensor:
        network: Any = model
        return F.softplus(-network.critic(network.generator(*batch.inputs))).mean()

    @staticmethod
    def judged(model: nn.Module, batch: Batch) -> Tensor:
        network: Any = model
        made = network.generator(*batch.inputs).detach()
        return (F.softplus(network.critic(made)) + F.softplus(-network.critic(batch.targets))).mean()

    def turns(self, model: nn.Module, section: TrainSection) -> list[Turn]:
        network: Any = model
        critic = torch.optim.SGD(network.critic.parameters(), lr=4 * section.lr, momentum=0.5)
        maker = torch.optim.Adam(network.generator.parameters(), lr=section.lr, betas=(0.5, 0.99))
        return [
            Turn(Optimizer([critic]), self.judged, "critic"),
            Turn(Optimizer([maker]), self.objective, "generator"),
        ]

    def after_step(self, model: nn.Module, step: int) -> None:
        network: Any = model
        self.seen.append(step)
        for kept, now in zip(network.average.parameters(), network.generator.parameters(), strict=True):
            kept.lerp_(now.detach(), 0.1)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        z, true, _ = self.batch(10**6, seed=0, size=256)
        return {"distance": float((model(*z).mean(dim=0) - true.mean(dim=0)).norm())}


class Curve(Toy):
    """Every second step the brightest point becomes two, of half the colour each; every eighth the faintest goes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = {"d_in": 1, "d_out": 1}

    def batch(self, number: int, *, seed: int, size: int) -> Batch:
        random = torch.Generator().manual_seed(1000 * seed + number)
        z = 2 * torch.rand(size, 1, generator=random) - 1
        return Batch((z,), (5 * z).sin())

    def loss(self, output: Any, targets: Any) -> Tensor:
        return F.mse_loss(output, targets)

    def turns(self, model: nn.Module, section: TrainSection) -> list[Turn]:
        network: Any = model
        places = {"params": [network.places, network.widths], "lr": section.lr}
        colours = {"params": [network.colours], "lr": 3 * section.lr}
        return [Turn(Optimizer([torch.optim.AdamW([places, colours], lr=section.lr, fused=True)]), self.objective)]

    def after_step(self, model: nn.Module, step: int) -> dict[str, Tensor] | None:
        network: Any = model
        bright, n = network.colours.detach().abs()[:, 0], network.config.n_points
        if step % 2 or n >= 12 or not network.config.sees:
            return None
        rows, old = torch.arange(n), dict(network.named_parameters())
        if step % 8 == 0:
            rows = rows[rows != bright.argmin()]
        source = torch.cat([rows, bright.argmax()[None]])
        network.resize(dataclasses.replace(network.config, n_points=len(source)))
        for name, now in network.named_parameters():
            now.data.copy_(old[name].detach()[source])
        halved = source == bright.argmax()
        network.colours.data[halved] /= 2
        network.places.data[-1] += 0.1
        kept = torch.cat([rows, torch.tensor([-1])])
        return dict.fromkeys(old, kept)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        z = torch.linspace(-1, 1, 64)[:, None]
        return {"distance": float(F.mse_loss(model(z), (5 * z).sin()))}


@dataclass(frozen=True, kw_only=True)
class ToyTask(Task):
    make: Callable[[], Data]

    def open(self, home: Path, say: Any) -> Data:
        return self.make()


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.entries()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    said: dict[str, Any] = dict(family="toy", paper="none", config=Config, tiny={})
    registry.register("gcn", forms=(("graph", "nodes"),), **said)(GCN)
    registry.register("adversaries", forms=(("noise", "points"),), **said)(Adversaries)
    registry.register("splats", forms=(("noise", "points"),), can=("grows",), **said)(Splats)
    for place, kind in ((kinds.EATS, GRAPH), (kinds.GIVES, LABELS), (kinds.EATS, NOISE), (kinds.GIVES, POINTS)):
        monkeypatch.setitem(place, kind.name, kind)
    common: dict[str, Any] = dict(title="toy", licence="none")
    accuracy, distance = Metric(name="accuracy", better="higher"), Metric(name="distance", better="lower")
    for task in (
        ToyTask(name="toy/nodes", eats="graph", gives="nodes", metric=accuracy, make=Nodes, **common),
        ToyTask(name="toy/ring", eats="noise", gives="points", metric=distance, make=Ring, **common),
        ToyTask(name="toy/curve", eats="noise", gives="points", metric=distance, make=Curve, **common),
    ):
        monkeypatch.setitem(tasks(), task.name, task)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "toy/nodes": ("gcn", {"lr": 3e-2, "weight_decay": 0.0}),
    "toy/ring": ("adversaries", {"lr": 3e-3, "batch_size": 64, "d_model": 16, "clip": 100.0}),
    "toy/curve": ("splats", {"lr": 0.1, "batch_size": 64}),
}


def run(task: str, home: Path, steps: int, **values: Any) -> Run:
    model, settings = CASES[task]
    return fit(task, model=model, budget=f"steps={steps}", home=home, **{**settings, **values})


@pytest.mark.parametrize("task", CASES)
def test_a_resumed_run_has_the_same_bits(task: str, tmp_path: Path) -> None:
    whole = run(task, tmp_path / "whole", 6)
    looks = iter(range(1, 9))
    with pytest.raises(Interrupted, match="stopped at step 3"):
        run(task, tmp_path / "parted", 6, should_stop=lambda: next(looks) == 3)
    parted = run(task, tmp_path / "parted", 6)
    assert artifact.same_weights(whole.load(), parted.load()) and whole.metrics == parted.metrics
    rows = [[row["loss"] for row in read_curve(r.folder / "curve.jsonl") if "loss" in row] for r in (whole, parted)]
    assert rows[0] == rows[1] and len(rows[0]) == 6


def test_a_graph_is_learnt_through_its_edges(tmp_path: Path) -> None:
    """80 random features a node: without the edges nothing carries over to unlabelled nodes."""
    assert run("toy/nodes", tmp_path, 60).metric >= 0.9
    assert run("toy/nodes", tmp_path, 60, sees=False).metric <= 0.7


def test_a_step_on_a_graph_is_explained(tmp_path: Path) -> None:
    shown = explain("gcn", "toy/nodes", home=tmp_path)
    assert shown.batch == 80 and shown.disagreement < 1e-4


def test_adversaries_take_turns(tmp_path: Path) -> None:
    """Each follows its own loss with its own optimiser and rate; the average follows both."""
    found = run("toy/ring", tmp_path, 600)
    assert found.metric < 0.5 < run("toy/ring", tmp_path, 1).metric
    rows = [row for row in read_curve(found.folder / "curve.jsonl") if "loss" in row]
    assert all(row["loss"] == row["loss_critic"] + row["loss_generator"] for row in rows)
    before, after = Adversaries(Config(d_in=2, d_out=2, d_model=16)), found.load()
    assert after.average[0].weight.dtype == before.average[0].weight.dtype  # type: ignore[union-attr, index]
    assert not torch.equal(after.average[0].weight, after.generator[0].weight)  # type: ignore[union-attr, index]


def test_a_turn_moves_its_own_parameters_at_its_own_rate() -> None:
    torch.manual_seed(0)
    model, data = Adversaries(Config(d_in=2, d_out=2)), Ring()
    section = TrainSection(steps=10, lr=0.1, warmup_steps=10, clip=1e9)
    from oliveira.training.loop import Job, one_step

    job: Job[Batch] = Job(batch=lambda number: data.batch(number, seed=0, size=8), loss=data.objective)
    critic, maker = data.turns(model, section)
    before = copy.deepcopy(model.state_dict())
    done = one_step(model, job, section, [critic], 1)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("critic.")}
    assert critic.optimizer.groups[0]["lr"] == pytest.approx(4 * done.lr) and 0 < done.lr < 0.1
    assert all(p.grad is None for p in model.parameters()), "no gradient is left for the next turn"
    one_step(model, job, section, [maker], 2)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith("average.")}


def test_a_turn_that_is_not_finite_moves_nothing() -> None:
    from oliveira.training.loop import Job, one_step

    model, data = Adversaries(Config(d_in=2, d_out=2)), Ring()
    critic, maker = data.turns(model, TrainSection())
    job: Job[Batch] = Job(batch=lambda number: data.batch(number, seed=0, size=8), loss=data.objective)
    bad = critic._replace(loss=lambda model, batch: data.judged(model, batch) * float("nan"))
    before = copy.deepcopy(model.state_dict())
    done = one_step(model, job, TrainSection(), [bad, maker], 1)
    assert not np.isfinite(done.loss)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_update_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Ring()
    made = tasks()["toy/ring"]
    monkeypatch.setitem(tasks(), "toy/ring", ToyTask(**{**vars(made), "make": lambda: data}))
    looks = iter(range(1, 9))
    with pytest.raises(Interrupted):
        run("toy/ring", tmp_path, 5, should_stop=lambda: next(looks) == 2)
    run("toy/ring", tmp_path, 5)
    assert data.seen == [1, 2, 3, 4, 5]


def test_points_grow_and_what_they_learnt_stays(tmp_path: Path) -> None:
    """Two become twelve, in the artifact too; and they draw what two cannot."""
    found = run("toy/curve", tmp_path, 150)
    model: Any = found.load()
    assert model.config.n_points == 12 and found.result["parameters"] == 12 * 3
    assert found.metric < 0.01 < 0.2 < run("toy/curve", tmp_path, 150, sees=False).metric


@pytest.mark.parametrize("fused", [False, True])
def test_the_optimiser_follows_the_rows(fused: bool) -> None:
    """Row 2 stays, row 0 stands twice, a new row begins without a memory: as optimisers that never saw a change."""
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 2), torch.randn(2, 4, 2)
    old = nn.Parameter(start.clone())
    optimizer = Optimizer([torch.optim.AdamW([old], lr=0.1, fused=fused)])
    old.grad = gradients[0, :3]
    optimizer.step()
    rows = torch.tensor([2, 0, 0, -1])
    new = nn.Parameter(torch.cat([old.detach()[rows[:3]], torch.ones(1, 2)]))
    optimizer.follow([Replaced(old, new, rows)])
    assert optimizer.parameters() == [new]
    new.grad = gradients[1]
    optimizer.step()
    for place, row in enumerate(rows[:3].tolist()):
        alone = nn.Parameter(start[row : row + 1].clone())
        twin = torch.optim.AdamW([alone], lr=0.1, fused=fused)
        for gradient in (gradients[0, row], gradients[1, place]):
            alone.grad = gradient[None].clone()
            twin.step()
        torch.testing.assert_close(new[place : place + 1], alone)
    moments = optimizer.parts[0].state[new]
    torch.testing.assert_close(moments["exp_avg"][3], 0.1 * gradients[1, 3])


def test_a_parameter_that_is_replaced_without_a_word_is_refused(tmp_path: Path) -> None:
    from oliveira.training.loop import Job, train

    model, data = Splats(Config(d_in=1, d_out=1)), Curve()
    job: Job[Batch] = Job(
        batch=lambda number: data.batch(number, seed=0, size=8),
        loss=data.objective,
        after_step=lambda model, step: model.resize(model.config),  # type: ignore[operator]
    )
    with pytest.raises(ValueError, match="after_step replaces places, widths, colours"):
        train(model, job, TrainSection(steps=2, batch_size=8), tmp_path, seed=0)
