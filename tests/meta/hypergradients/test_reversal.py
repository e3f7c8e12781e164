"""Steps taken backwards: every state restored to the bit, from a few bits a parameter and step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from meta import Training, hypergradient
from meta.hypergradients.corrections import Corrections
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.optimizers import SGD, Adam, RMSprop
from teachenv.trees import tensors_of, with_tensors
from tests.processes import GROUPS, Pendulum, actions_of, descent, pendulum_state, readable, start

REVERSED = [
    SGD(0.9),
    SGD(0.5, weight_decay=0.02),
    Adam(epsilon=1e-3),
    Adam((0.8, 0.95), 1e-8, 0.02),
    Adam(epsilon=1e-3, weight_decay=0.02, decoupled=True),
    GROUPS,
]


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 10))


# --- corrections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=readable)
def test_corrections_restore_anything_to_the_bit(dtype):
    rng, corrections, pairs = torch.Generator().manual_seed(0), Corrections(), []
    for near in (0.0, 0.01, 1.0, 30.0, 1e9):
        actual = torch.randn(400, generator=rng, dtype=torch.float64)
        predicted = actual * (1 + near * torch.finfo(dtype).eps * torch.randn(400, generator=rng, dtype=torch.float64))
        pairs.append((predicted.to(dtype), actual.to(dtype)))
    odd = torch.tensor([0.0, -0.0, float("inf"), float("nan")], dtype=dtype)
    pairs += [(odd, odd.flip(0)), (odd, torch.ones_like(odd))]
    for predicted, actual in pairs:
        corrections.push(predicted, actual)
    assert corrections.bytes > 0
    for predicted, actual in reversed(pairs):
        restored = corrections.pop(predicted.clone())
        assert torch.equal(restored.view(torch.uint8), actual.view(torch.uint8))
    assert (corrections.bytes, corrections.numbers) == (0, 0)


def test_good_predictions_take_a_few_bits():
    rng = torch.Generator().manual_seed(0)
    actual = torch.randn(40_000, generator=rng)
    for wrong, most in ((0.5, 2.1), (0.02, 0.5), (0.0, 0.26)):
        corrections = Corrections()
        last_bit = (torch.rand(40_000, generator=rng) < wrong).to(torch.int32)
        corrections.push((actual.view(torch.int32) + last_bit).view(torch.float32), actual)
        assert corrections.bytes * 8 / 40_000 < most


def test_more_than_a_block_of_corrections_is_a_stack_too(monkeypatch):
    monkeypatch.setattr("meta.hypergradients.corrections._BLOCK", 128)
    rng, corrections = torch.Generator().manual_seed(0), Corrections()
    pairs = [torch.randn(2, 36, generator=rng, dtype=torch.float64).unbind() for _ in range(5)]
    for _ in range(2):
        for predicted, actual in pairs:
            corrections.push(predicted, actual)
        for predicted, actual in reversed(pairs):
            assert torch.equal(corrections.pop(predicted.clone()), actual)


# --- walks ------------------------------------------------------------------------------------------------------------


def single_precision(state):
    return with_tensors(state, [t.float() if t.is_floating_point() else t for t in tensors_of(state)])


@pytest.mark.parametrize("rate", [0.05, lambda t: 0.0 if t == 3 else 0.1 / (t + 1)], ids=["constant", "schedule"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=readable)
@pytest.mark.parametrize("optimizer", REVERSED, ids=readable)
def test_every_state_comes_back_to_the_bit(optimizer, dtype, rate):
    process, actions = descent(optimizer, rate), actions_of(40).to(dtype)
    state = process.begin({name: p.to(dtype) for name, p in start().items()})
    walk, states = process.reversal(state, 0, graphs=True), [state]
    for action in actions:
        states.append(process.step(states[-1], action, 0))
        walk.step(action)
    walk.finish()
    for t in reversed(range(len(actions))):
        restored = walk.back(actions[t])
        assert restored.state.step == t
        for name, parameter in states[t].parameters.items():
            assert torch.equal(restored.state.parameters[name], parameter)
        for name, slot in states[t].slots.items() if optimizer.needs_gradient else ():
            assert torch.equal(restored.state.slots[name], slot)


ENVIRONMENTS = [
    ({}, 1),
    ({"momentum": 0.5, "weight_decay": 0.01, "lr_schedule": "linear"}, 3),
    ({"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.01}, 3),
    ({"student": normed}, 1),
    ({"student": normed, "optimizer": "adam", "learning_rate": 0.01}, 1),
]


@pytest.mark.parametrize(("options", "students"), ENVIRONMENTS, ids=readable)
def test_students_have_bitwise_the_gradient_of_kept_states(options, students):
    shared = {"horizon": 12, "batch_size": 8, "dev_size": 12}
    env = TeachEnv(**shared | options) if students == 1 else TeachVectorEnv(students, **shared | options)
    env.reset(seed=0)
    begin, episode = (env.student, env.episode) if students == 1 else (env.students, env.episodes)
    rng = np.random.default_rng(0)
    actions = [torch.tensor(rng.uniform(-0.5, 0.5, env.action_space.shape)).float() for _ in range(12)]
    process = Training(env.dynamics, episode)
    wanted = hypergradient(process, begin, actions, memory="states")
    found = hypergradient(process, begin, actions, memory="reversible")
    assert torch.equal(found.actions, wanted.actions)
    for one, other in zip(tensors_of(found.initial), tensors_of(wanted.initial), strict=True):
        assert torch.equal(one, other)


def test_students_of_a_batch_at_different_steps_are_reversed_each_at_its_own():
    env = TeachVectorEnv(2, horizon=8, batch_size=4, dev_size=12, optimizer="adam", lr_schedule="linear")
    env.reset(seed=0)
    actions = [torch.full(env.action_space.shape, 0.1 * t) for t in range(5)]
    begin = replace(env.students, step=np.array([0, 3]))
    process = Training(env.dynamics, env.episodes)
    wanted = hypergradient(process, begin, actions, memory="states")
    assert torch.equal(hypergradient(process, begin, actions, memory="reversible").actions, wanted.actions)


@pytest.mark.parametrize(
    ("options", "share"), [({}, 0.2), ({"optimizer": "adam", "learning_rate": 0.01}, 0.15)], ids=readable
)
def test_a_student_takes_about_as_much_as_predicted_and_much_less_than_its_states(options, share):
    env = TeachEnv(horizon=100, batch_size=8, dev_size=12, **options)
    env.reset(seed=0)
    process, actions = Training(env.dynamics, env.episode), torch.zeros(1, *env.action_space.shape)
    takes = {
        memory: hypergradient(process, env.student, actions, steps_per_action=100, memory=memory)
        for memory in ("states", "reversible")
    }
    found = takes["reversible"]
    assert 0.8 < found.measured_bytes / found.predicted_bytes < 1.25
    assert found.measured_bytes < share * takes["states"].measured_bytes


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def adamw_of_two_groups(model: nn.Module) -> torch.optim.Optimizer:
    weights, biases = ([p for p in model.parameters() if (p.dim() > 1) == matrix] for matrix in (True, False))
    return torch.optim.AdamW([{"params": weights}, {"params": biases, "weight_decay": 0.0, "lr": 0.02}], lr=0.01)


@pytest.mark.parametrize("make", [sgd, adamw_of_two_groups])
def test_learning_rates_of_a_loop_of_ones_own_are_differentiated_from_restored_slots(make):
    torch.manual_seed(0)
    x, model = torch.randn(60, 8), nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))
    rows = torch.arange(60).split(10)
    training = Training.of(
        model, make(model), rows, lambda m, b: m(x[b]).square().mean(), lambda m: m(x).mean(), epochs=4
    )
    found, wanted = (training.gradient(memory=memory) for memory in ("reversible", "states"))
    assert wanted.settings["learning_rate"].any()
    for name, values in wanted.settings.items():
        assert torch.equal(found.settings[name], values)


def test_long_walks_are_reversed_in_stretches(monkeypatch):
    process, actions = descent(SGD(0.9)), actions_of(60)
    state = process.begin(start())
    wanted = hypergradient(process, state, actions, memory="states")
    monkeypatch.setattr("meta.hypergradients.reversible._stretch", lambda steps, coded, state: 7)
    found = hypergradient(process, state, actions, memory="reversible")
    assert torch.equal(found.actions, wanted.actions)
    assert found.gradient_evaluations > 2.5 * 60


def test_a_step_that_is_not_repeated_to_the_bit_is_named():
    process, actions = descent(SGD(0.9)), actions_of(40)
    state = process.begin(start())
    walk = process.reversal(state, 100, graphs=False)
    for action in actions:
        walk.step(action)
    walk.finish()
    for t in reversed(range(33, 40)):
        walk.back(actions[t])

    def go_on():
        for t in reversed(range(33)):
            walk.back(actions[t] + 1e-6)  # another gradient than on the way forwards

    with pytest.raises(RuntimeError, match=r"before step 116 was not restored exactly.*take memory='log'"):
        go_on()


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (SGD(), "without momentum"),
        (SGD(0.9, nesterov=True), "Nesterov's form.*nesterov=False is reversible"),
        (Adam((0.0, 0.9)), r"betas=\[0.0, 0.9\] has a 0"),
        (RMSprop(), "RMSprop has no rule"),
    ],
    ids=readable,
)
def test_what_cannot_be_reversed_says_why_and_what_can_be_done(optimizer, reason):
    process, actions = descent(optimizer), actions_of(20)
    with pytest.raises(ValueError, match=f"memory='reversible': .*{reason}.*take memory='log'"):
        hypergradient(process, process.begin(start()), actions, memory="reversible")
    assert "'reversible'" not in hypergradient(process, process.begin(start()), actions).plan


def test_what_has_no_single_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"arbitrary step.*as meta\.Descent does; take memory='log'"):
        hypergradient(Pendulum(), pendulum_state(), actions_of(), memory="reversible")
