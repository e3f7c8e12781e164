"""One resumable training loop, on a small network with momentum, dropout and a generator of its own."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from teachenv import checkpoints
from teachenv.experiment import loop
from teachenv.experiment.loop import Record, better, evenly, train
from teachenv.randomness import Purpose, torch_seed

KIND = "a training of a test"


class Small:
    """Learns to sum its inputs; `scores`, one for each stop, stand for what is measured."""

    def __init__(self, scores: list[float] | None = None, width: int = 3) -> None:
        with torch_seed(0, Purpose.INIT):
            self.network = nn.Sequential(nn.Linear(width, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.05, momentum=0.9)
        self.rng, self.width = np.random.default_rng(0), width
        self.scores, self.stop_before = scores, math.inf
        self.taken: list[int] = []

    def step(self, number: int) -> dict[str, float]:
        if number >= self.stop_before:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(self.rng.normal(size=(8, self.width))).float()
        with torch_seed(0, Purpose.DROPOUT, number):
            loss = (self.network(inputs)[:, 0] - inputs.sum(1)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.taken.append(number)
        return {"loss": loss.item()} | ({"first": number} if number % 4 == 3 else {})

    def evaluate(self, record: Record) -> dict[str, Any]:
        score = self.scores[len(record.curve)] if self.scores else self.network[0].weight.sum().item()
        record.offer("network", score, self.network)
        return {"score": score}

    def state(self) -> Any:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "rng": self.rng}

    def load(self, state: Any) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng = state["rng"]


def comparable(record: Record) -> dict[str, Any]:
    whole = vars(replace(record, seconds=0.0, earlier=0.0))
    return whole | {"best": {name: (b.value, b.step, str(b.weights)) for name, b in record.best.items()}}


def test_an_interrupted_training_ends_bitwise_as_a_whole_one(tmp_path: Path) -> None:
    stops, file = [4, 8, 12, 13], tmp_path / "deep" / "training"
    whole = Small()
    expected = train(whole, stops, tmp_path / "whole", KIND)
    assert whole.taken == [*range(13)]
    for begun, place in ((0, 3), (0, 6), (4, 8), (8, 12)):
        learner = Small()
        learner.stop_before = place
        with pytest.raises(KeyboardInterrupt):
            train(learner, stops, file, KIND)
        assert learner.taken == [*range(begun, place)]
    learner = Small()
    record = train(learner, stops, file, KIND)
    assert learner.taken == [12]
    assert comparable(record) == comparable(expected)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, learner.network.state_dict()[name])
    done = Small()
    assert comparable(train(done, stops, file, KIND)) == comparable(expected)
    assert done.taken == []
    assert torch.equal(done.network[0].weight, whole.network[0].weight)
    assert 0 < record.earlier < record.seconds


def test_points_have_the_means_of_what_steps_logged(tmp_path: Path) -> None:
    record = train(Small(), [4, 12], tmp_path / "training", KIND)
    assert [(point.step, point.logged["first"]) for point in record.curve] == [(4, 3), (12, 9)]
    assert all(point.logged["loss"] > 0 for point in record.curve)


@pytest.mark.parametrize(
    ("scores", "step", "value"),
    [([1.0, 3.0, 2.0], 2, 3.0), ([math.nan, -1.0, math.nan], 2, -1.0), ([2.0, 2.0, 2.0], 1, 2.0)],
)
def test_the_best_weights_are_kept(scores: list[float], step: int, value: float, tmp_path: Path) -> None:
    learner = Small(scores)
    best = train(learner, [1, 2, 3], tmp_path / "training", KIND).best["network"]
    assert (best.value, best.step) == (value, step)
    other = Small(scores)
    train(other, [step], tmp_path / "other", KIND)
    assert torch.equal(best.weights["0.weight"], other.network[0].weight)
    assert not torch.equal(best.weights["0.weight"], learner.network[0].weight)


def test_what_is_better() -> None:
    assert better(2, 1)
    assert not better(1, 1)
    assert better(1, 2, higher_is_better=False)
    assert not better(math.nan, 1)
    assert not better(math.nan, math.nan, higher_is_better=False)


def test_stops_at_even_distances(tmp_path: Path) -> None:
    assert evenly(10, 4) == [2, 5, 7, 10]
    # Where there are more stops than steps, some are the same.
    assert [point.step for point in train(Small(), evenly(2, 5), tmp_path / "training", KIND).curve] == [1, 2]


class _Planted:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return Path.touch, (self.flag,)


def _of_another_network(file: Path, flag: Path) -> None:
    train(Small(width=5), [1], file, KIND)


FILES: dict[str, Callable[[Path, Path], Any]] = {
    "pickle": lambda file, flag: file.write_bytes(pickle.dumps(_Planted(flag))),
    "torch": lambda file, flag: torch.save({"record": _Planted(flag)}, file),
    "another kind": lambda file, flag: checkpoints.save(file, {"record": 3}, "something else"),
    "another record": lambda file, flag: checkpoints.save(file, {"record": 3, "learner": None}, KIND),
    "another network": _of_another_network,
    "empty": lambda file, flag: file.write_bytes(b""),
    "garbage": lambda file, flag: file.write_bytes(bytes(range(256)) * 4),
}


@pytest.mark.parametrize("content", FILES)
def test_a_file_of_something_else_runs_nothing_and_is_one_line_that_names_it(content: str, tmp_path: Path) -> None:
    file, flag = tmp_path / "training", tmp_path / "flag"
    FILES[content](file, flag)
    with pytest.raises(ValueError, match=f"^{file} ") as caught:
        loop.train(Small(), [1], file, KIND)
    assert "\n" not in str(caught.value)
    assert not flag.exists()
