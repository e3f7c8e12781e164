"""DACBench's SGD environment on our dynamics: the trajectory of a plain loop that does what DACBench does."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchvision import datasets, transforms

from benchmarks.__main__ import main as command_line
from benchmarks.dacbench import main, measure, report, theirs
from benchmarks.dacbench.adapter import SGDEnv
from benchmarks.dacbench.baselines import BASELINES
from benchmarks.dacbench.cases import SIZES, Size
from benchmarks.dacbench.files import find_images
from benchmarks.dacbench.instance import Instance, convolutions, mlp
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.tasks.base import Task

TINY = Size(1, 120, 150, 70, (3, 2, 0), 2, 1, 1, 2, 0)
with_dacbench = pytest.mark.skipif(theirs.installed() is None, reason="DACBench is not installed: see the extra peers")


def network():
    """Running statistics, too: DACBench validates after the pass that moves them, before the step that follows."""
    # A bias before batch norm has a gradient of rounding errors alone, which Adam makes a step of full length.
    hidden = [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(8, 3), nn.LogSoftmax(1))


def data(samples, seed):
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.standard_normal((samples, 6), dtype=np.float32))
    return inputs, torch.from_numpy(rng.integers(3, size=samples))


TASK = Task("numbers", "procedural", data(100, 0), data(70, 1), num_outputs=3)


def instance(**changes):
    return Instance(**{"network": network, "batch_size": 8, "cutoff": 6, "by_epoch": False, "seed": 5, **changes})


def evaluated(model, loader, most):
    model.eval()
    losses, accuracies = [], []
    with torch.no_grad():
        for i, (inputs, targets) in enumerate(loader, start=1):
            outputs = model(inputs)
            losses.append(F.nll_loss(outputs, targets, reduction="none"))
            accuracies.append((outputs.argmax(1) == targets).sum() / len(targets))
            if i >= most:
                break
    return torch.cat(losses), torch.tensor(accuracies)


def as_dacbench_trains(rates, batch_size, by_epoch):
    """An episode as dacbench/envs/sgd.py 0.5.6 has it, from torch's global generator."""
    pool, test = TensorDataset(*TASK.pool), TensorDataset(*TASK.test)
    size = int(len(pool) * 0.8)
    size -= size % batch_size
    train, validation = random_split(pool, [size, len(pool) - size])
    loader = DataLoader(train, batch_size=batch_size, drop_last=True, shuffle=True)
    validation_loader = DataLoader(validation, batch_size=batch_size, shuffle=True)
    test_loader = DataLoader(test, batch_size=64)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    for step, rate in enumerate(rates, start=1):
        optimizer.param_groups[0]["lr"] = rate
        model.train()
        losses = []
        if by_epoch:
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = F.nll_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        else:
            optimizer.step()
            optimizer.zero_grad()
            inputs, targets = next(iter(loader))
            loss = F.nll_loss(model(inputs), targets)
            loss.backward()
            losses.append(loss.item())
        ended = step == len(rates)
        share = 1.0 if ended or len(rates) % len(loader) == 0 else 0.1
        losses_, accuracies = evaluated(model, validation_loader, share * len(validation) / batch_size)
        state = {
            "step": step,
            "loss": losses[-1],
            "validation_loss": losses_.mean().item(),
            "validation_accuracy": accuracies.mean().item(),
            "done": ended,
        }
        if by_epoch:
            state["average_loss"] = sum(losses) / len(losses)
        reward = 0.0
        if ended:
            state["test_losses"], state["test_accuracies"] = evaluated(model, test_loader, len(test) / batch_size)
            reward = -state["test_losses"].sum().item() / len(test)
        yield state, reward, {name: p.detach().clone() for name, p in model.named_parameters()}


# Of a batch size of 40 DACBench tests on a part of the test set; of two epochs it validates on all.
@pytest.mark.parametrize(
    ("batch_size", "by_epoch", "actions"), [(8, False, 6), (8, True, 3), (40, True, 2), (80, False, 3)]
)
def test_states_rewards_and_students_are_those_of_a_plain_loop(batch_size, by_epoch, actions):
    env = SGDEnv(instance(batch_size=batch_size, by_epoch=by_epoch, cutoff=actions), TASK)
    rates = [0.01, 0.0, 0.05, 0.2, 1e-4, 0.003][:actions]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for _ in range(2):  # the second episode's draws come after the first one's
            start, info = env.reset()
            assert (start["step"], start["done"], info) == (0, False, {})
            untrained = env.student.parameters
            for rate, (expected, reward, parameters) in zip(
                rates, as_dacbench_trains(rates, batch_size, by_epoch), strict=True
            ):
                before = torch.get_rng_state()
                state, ours, terminated, truncated, _ = env.step(rate)
                assert torch.equal(torch.get_rng_state(), before)
                assert state.keys() == expected.keys()
                for name, value in expected.items():
                    torch.testing.assert_close(torch.as_tensor(state[name]), torch.as_tensor(value), msg=name)
                assert ours == pytest.approx(reward, rel=1e-5)
                assert (terminated, truncated) == (False, expected["done"])
                torch.testing.assert_close(env.student.parameters, parameters, rtol=1e-4, atol=1e-5)
                if not by_epoch and state["step"] == 1:  # there is no gradient yet
                    assert all(torch.equal(p, untrained[name]) for name, p in env.student.parameters.items())
            assert (env.student.parameters["0.weight"] - untrained["0.weight"]).abs().max() > 1e-3


def test_a_training_that_crashes_ends_with_the_penalty():
    env = SGDEnv(instance(by_epoch=True, crash_penalty=-7.0), TASK)
    env.reset()
    state, reward, terminated, truncated, _ = env.step(1e30)
    assert (reward, terminated, truncated, state["done"]) == (-7.0, False, True, True)
    assert not math.isfinite(state["loss"])
    assert "test_losses" not in state


def test_dropout_is_refused_as_its_masks_are_others():
    task = find_images("/nowhere", 20, 10).task()
    with pytest.raises(ValueError, match="leave its dropout out"):
        SGDEnv(instance(network=convolutions, batch_size=2), task)


def test_our_environment_has_the_learning_rates_of_the_action_space():
    env = measure.TeachEnv(**instance().options(TASK))
    env.reset(seed=0)
    rates = [env.step(np.full(1, a, dtype=np.float32))[-1]["learning_rate"] for a in (-1, 0, 1)]
    assert rates == pytest.approx([0.0005, 0.005, 0.05])


def test_both_read_the_same_images(tmp_path, capsys):
    images = find_images("/nowhere", 12, 5)
    assert images.name == "procedural-28x28"
    assert "procedural" in capsys.readouterr().err
    images.write(tmp_path)
    normalised = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    task = images.task()
    for train, (inputs, targets) in ((True, task.pool), (False, task.test)):
        read = datasets.MNIST(tmp_path, train=train, transform=normalised)
        assert torch.equal(torch.stack([x for x, _ in read]), inputs)
        assert [y for _, y in read] == targets.tolist()
    again = find_images(str(tmp_path), 10, 5)
    assert (again.name, len(again.train[1])) == ("mnist-subset-10", 10)
    assert torch.equal(again.train[0], images.train[0][:10])


def test_baselines_are_learning_rates_by_action():
    for baseline in BASELINES.values():
        rates = baseline(10, 3)
        assert len(rates) == 10
        assert rates == baseline(10, 3)
        assert all(0 <= rate <= 0.05 for rate in rates)
    assert BASELINES["cosine-0.01"](10, 0)[5] == pytest.approx(0.005)
    released = BASELINES["cosine-0.01:released"](10, 0)
    assert released[:2] == pytest.approx(BASELINES["cosine-0.01"](10, 0)[:2])
    assert min(released) > 0.002  # it anneals late, and not to 0
    held = BASELINES["random:held-3"](10, 3)
    assert held[0] == held[2] != held[3]
    assert held != BASELINES["random:held-3"](10, 4)


def test_the_plain_loop_learns():
    losses = measure.plain_actions(instance(by_epoch=True, network=mlp), find_images("/nowhere", 200, 10).task(), 0)
    first, *_, last = (next(losses) for _ in range(4))
    assert last < 0.5 * first


def test_the_benchmark_without_dacbench_says_so_and_measures_this_library_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(theirs, "installed", lambda: None)
    monkeypatch.setattr(main, "SIZES", dict.fromkeys(SIZES, TINY))
    command = ["dacbench", "--preset", "smoke", "--out", str(tmp_path), "--threads", "1", "--data-root", "/nowhere"]
    assert command_line(command) == 0
    assert "pip install -e '.[peers]'" in capsys.readouterr().err
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.config["measurement"] for row in rows} == {"speed", "baseline"}
    assert {row.method for row in rows} == {"step", "epoch", *BASELINES}
    assert all(row.value > 0 and not row.metric.startswith("dacbench") for row in rows if row.metric != "test_accuracy")
    table = (tmp_path / "table.md").read_text()
    assert "## Speed" in table
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert command_line([*command, "--check"]) == 0


def row(metric, value, seed=0, **config):
    config = {"measurement": "speed", "students": 64, "batch_size": 32, "train": 600, "dacbench": "0.5.6"} | config
    return Row("dacbench", "mnist", "d", "mlp", "step", seed, metric, value, 1, 1.0, config, "c", {})


def test_the_table_judges_the_median_over_repetitions():
    rows = [row("vector_speedup", value, seed) for seed, value in enumerate([9.0, 30.0, 12.0])]
    (line,) = report.lines(rows)
    assert report.verdict(line) == "reached"
    assert "| 12.0 [9.0, 30.0] |" in report.make(rows).table()
    slower = [dataclasses.replace(each, value=each.value / 2) for each in rows]
    assert report.verdict(report.lines(slower)[0]) == "missed"


@with_dacbench
@pytest.mark.parametrize(("by_epoch", "actions"), [(False, 6), (True, 2)])
def test_the_trajectory_is_that_of_dacbench_itself(by_epoch, actions, tmp_path):
    images = find_images("/nowhere", 300, 70)
    case = main.Measured("trajectory", "mlp", by_epoch, actions, 300)
    values = measure.measure(case, images, 1, TINY, True, tmp_path).values
    assert max(value for name, value in values.items() if name.endswith("difference")) < 1e-4


@with_dacbench
def test_baselines_are_those_of_dacbench(tmp_path):
    images = find_images("/nowhere", 120, 70)
    images.write(tmp_path)
    with torch.random.fork_rng():
        env = theirs.make(instance(network=mlp, cutoff=10), tmp_path)
    from dacbench.agents import DynamicRandomAgent, StaticAgent
    from dacbench.envs.policies.sgd_ca import CosineAnnealingAgent

    env.action_space.seed(3)
    agents = {
        "constant-0.01": StaticAgent(env, 0.01),
        "cosine-0.01:released": CosineAnnealingAgent(env, base_lr=0.01, t_max=10),
        "random:held-3": DynamicRandomAgent(env, 3),
    }
    for name, agent in agents.items():
        assert [float(agent.act(None, None)) for _ in range(10)] == pytest.approx(BASELINES[name](10, 3))
