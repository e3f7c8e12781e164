"""Adjoints kept while an environment steps: its steps stay what they are, and the gradient what it was."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from meta import ActionGradient, VectorActionGradient, hypergradient
from meta.hypergradients.memory import MemoryMeter
from meta.hypergradients.training import Training
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.trees import bytes_of, tensors_of
from tests.processes import readable

SHARED = {"horizon": 6, "steps_per_action": 2, "batch_size": 8, "dev_size": 20}


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 10))


def wide() -> nn.Module:
    """A student whose weights are written to memory that is used again."""
    return nn.Sequential(nn.Linear(64, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 10))


class Attentive(nn.Module):
    """PyTorch's fused attention, whose backward pass has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.enter(x.view(len(x), 1, 8, 8))
        return self.head(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(1))


class Recurrent(nn.Module):
    """An LSTM, whose step has other kernels with a graph than without."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x.view(len(x), 8, 8))[0][:, -1])


def play(env, episodes=2):
    """Returns all that an environment reports, and its students."""
    rng, told = np.random.default_rng(0), []
    for seed in range(episodes):
        told.append(env.reset(seed=seed))
        for _ in range(env.unwrapped.problem.actions):
            told.append(env.step(rng.uniform(-0.4, 0.4, env.action_space.shape).astype(np.float32)))
            one = isinstance(env.unwrapped, TeachEnv)
            told.append(tensors_of(env.unwrapped.student if one else env.unwrapped.students))
    return told


def without_gradients(told):
    if isinstance(told, dict):
        left_out = ("action_gradient", "_action_gradient", "final_obs", "final_info")
        return {key: without_gradients(value) for key, value in told.items() if key not in left_out}
    if isinstance(told, list | tuple):
        return [without_gradients(value) for value in told]
    return told.numpy() if isinstance(told, torch.Tensor) else told


def gradients(told):
    return [part[4]["action_gradient"] for part in told if isinstance(part, tuple) and "action_gradient" in part[-1]]


CASES = [
    ({}, True),
    ({"loss": "sample-weights", "optimizer": "adam", "learning_rate": 0.01}, True),
    ({"student": normed}, True),
    ({"student": wide, "momentum": 0.9, "weight_decay": 0.1, "steps_per_action": 1}, True),
    ({"student": wide, "momentum": 0.9, "nesterov": True}, True),
    ({"student": Attentive}, None),
    ({"student": Recurrent}, None),
]


@pytest.mark.parametrize(("options", "keeps"), CASES, ids=readable)
@pytest.mark.parametrize("memory", ["auto", "all"])
def test_an_environments_steps_stay_what_they_are(options, keeps, memory):
    plain = play(TeachEnv(**SHARED | options))
    env = ActionGradient(TeachEnv(**SHARED | options), memory=memory)
    told = play(env)
    np.testing.assert_equal(without_gradients(told), without_gradients(plain))
    if keeps is not None:
        assert env._tape.kept.used == keeps
    wanted = gradients(play(ActionGradient(TeachEnv(**SHARED | options), memory="states")))
    for found, expected in zip(gradients(told), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("path", ["vmap", "loop"])
@pytest.mark.parametrize("memory", ["auto", "all"])
def test_many_students_steps_stay_what_they_are(path, memory):
    plain = play(TeachVectorEnv(3, path=path, **SHARED))
    env = VectorActionGradient(TeachVectorEnv(3, path=path, **SHARED), memory=memory)
    told = play(env)
    np.testing.assert_equal(without_gradients(told), without_gradients(plain))
    assert env._tape.kept.used is True
    wanted = gradients(play(VectorActionGradient(TeachVectorEnv(3, path=path, **SHARED), memory="states")))
    for found, expected in zip(gradients(told), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps_per_action", [1, 2])
def test_states_that_nothing_holds_leave_their_memory_to_later_ones(steps_per_action):
    def taught(memory):
        options = SHARED | {"horizon": 40, "steps_per_action": steps_per_action}
        env = ActionGradient(TeachEnv(**options, student=wide, momentum=0.9), memory=memory)
        env.reset(seed=0)
        action, places = np.full(env.action_space.shape, 0.1, np.float32), []
        while True:
            *_, terminated, _, info = env.step(action)
            # The graph of a step reads the second layer's weights, and not the first one's.
            places.append([env.unwrapped.student.parameters[name].data_ptr() for name in ("0.weight", "2.weight")])
            if terminated:
                return info["action_gradient"], [len(set(each)) for each in zip(*places, strict=True)]

    (found, (first, second)), (wanted, _) = taught("all"), taught("states")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 * abs(wanted).max())
    assert second == 40 // steps_per_action
    assert first < 0.7 * second


def test_each_step_is_taken_once_where_adjoints_are_kept(monkeypatch):
    env = ActionGradient(TeachEnv(**SHARED))
    play(env, 1)
    taken = []
    dynamics = type(env.unwrapped.dynamics)
    plain = dynamics.step
    monkeypatch.setattr(dynamics, "step", lambda *arguments: taken.append(1) or plain(*arguments))
    play(env, 1)
    assert not taken


@pytest.mark.parametrize("path", ["single", "vmap", "loop"])
def test_graphs_that_do_not_fit_are_not_kept(path, monkeypatch):
    monkeypatch.setattr("meta.hypergradients.kept_adjoints.spare_memory", lambda tensors: 1000)

    def wrapped(memory):
        if path == "single":
            return ActionGradient(TeachEnv(**SHARED), memory=memory)
        return VectorActionGradient(TeachVectorEnv(3, path=path, **SHARED), memory=memory)

    env, kept = wrapped("auto"), wrapped("all")
    for one, other in zip(gradients(play(env)), gradients(play(kept)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    assert env._tape.kept.used is False
    assert kept._tape.kept.used is True


def test_one_students_graph_tells_that_those_of_all_do_not_fit(monkeypatch):
    monkeypatch.setattr("meta.hypergradients.kept_adjoints.spare_memory", lambda tensors: 1000)
    made, linearized = [], Training.linearized
    monkeypatch.setattr(
        Training,
        "linearized",
        lambda self, state, action, memory: made.append(action.dim()) or linearized(self, state, action, memory),
    )
    play(VectorActionGradient(TeachVectorEnv(3, path="loop", **SHARED)), 1)
    assert set(made) == {1}  # an action of one student: the graphs of three may be more than there is room for


@pytest.mark.parametrize("memory", ["states", "sqrt", "auto"])
def test_students_can_be_kept_in_fewer_bits(memory):
    options = SHARED | {"steps_per_action": 1, "dtype": "float64"}
    exact = gradients(play(ActionGradient(TeachEnv(**options)), 1))[0]
    rounded = ActionGradient(TeachEnv(**options), memory=memory, state_dtype="bfloat16")
    error = np.linalg.norm(gradients(play(rounded, 1))[0] - exact) / np.linalg.norm(exact)
    assert 1e-6 < error < 0.05
    with pytest.raises(ValueError, match="memory='all', which keeps no states to round"):
        ActionGradient(TeachEnv(**options), memory="all", state_dtype="bfloat16")


def test_an_interrupted_step_leaves_no_adjoints_behind(monkeypatch):
    options = SHARED | {"steps_per_action": 2, "dtype": "float64"}

    def last(env, interrupts):
        env.reset(seed=0)
        action = np.full(env.action_space.shape, 0.1)
        env.step(action)
        if interrupts:
            calls, linearized = [], Training.linearized

            def interrupted(*arguments):
                calls.append(1)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return linearized(*arguments)

            with monkeypatch.context() as patched:
                patched.setattr(Training, "linearized", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    env.step(action)
        while True:
            *_, terminated, _, info = env.step(action)
            if terminated:
                return info["action_gradient"]

    found, wanted = (last(ActionGradient(TeachEnv(**options)), interrupts) for interrupts in (True, False))
    np.testing.assert_array_equal(found, wanted)


def refused(*hooks: object) -> None:
    raise RuntimeError("torch.func.{grad} don't yet support saved tensor hooks")


@pytest.mark.parametrize("hooks", [torch.autograd.graph.saved_tensors_hooks, refused])
def test_the_adjoint_of_a_step_holds_no_parameters_that_its_graph_does_not_read(hooks, monkeypatch):
    env = TeachEnv(horizon=2, batch_size=2, dev_size=12)
    env.reset(seed=0)
    training, meter = Training(env.dynamics, env.episode), MemoryMeter()
    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", hooks)
    meter.weighed(lambda: training.linearize(env.student, torch.zeros(env.action_space.shape), 0))
    assert 0 < meter.graph_bytes < bytes_of(env.student.parameters)


def test_gradients_are_taken_where_autograd_is_off():
    env = TeachEnv(horizon=3, batch_size=4, dev_size=12)
    env.reset(seed=0)
    training, actions = Training(env.dynamics, env.episode), torch.zeros(3, *env.action_space.shape)
    wanted = hypergradient(training, env.student, actions, memory="all").actions
    with torch.no_grad():
        for memory in ("all", "states", "reversible"):
            assert torch.equal(hypergradient(training, env.student, actions, memory=memory).actions, wanted)


class Following(nn.Module):
    """A network whose copy is made in its forward pass, which takes leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)) + 0.1 * copy.deepcopy(self.body)(x))


def test_a_network_that_copies_its_parameters_is_differentiated():
    env = TeachEnv(student=Following, horizon=2, batch_size=4, dev_size=12, dtype="float64")
    env.reset(seed=0)
    training, rng = Training(env.dynamics, env.episode), torch.Generator().manual_seed(0)
    actions, along = torch.randn(2, 2, *env.action_space.shape, generator=rng, dtype=torch.float64).mul_(0.3)

    def objective(by: float) -> float:
        state = env.student
        for action in actions + by * along:
            state = training.step(state, action, 0)
        return float(training.value(state)[0])

    found = hypergradient(training, env.student, actions).actions
    assert float((found * along).sum()) == pytest.approx((objective(1e-5) - objective(-1e-5)) / 2e-5, rel=1e-6)


class LooksAhead(gym.vector.VectorWrapper):
    """Asks once an episode what the neutral action would lead to."""

    def step(self, actions):
        students = self.env.unwrapped
        if (students.students.step == 0).all():
            state = students.get_state()
            students.step(np.zeros_like(actions))
            students.set_state(state)
        return self.env.step(actions)


class Skipping(nn.Module):
    """It has attention from its third step on."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = Attentive(), nn.Linear(10, 10)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count += 1
        attends = not self.training or self.count > 2
        return self.head(torch.tanh(self.attention(x) if attends else x[:, :10]))


@pytest.mark.parametrize(
    ("student", "wrapper"), [("mlp", LooksAhead), (normed, LooksAhead), (Skipping, gym.vector.VectorWrapper)]
)
def test_steps_unlike_the_first_leave_the_gradient_what_it_is(student, wrapper):
    options = SHARED | {"student": student, "steps_per_action": 1, "horizon": 8}
    made = {
        memory: gradients(play(VectorActionGradient(wrapper(TeachVectorEnv(2, **options)), memory=memory), 3))
        for memory in ("auto", "states")
    }
    for found, expected in zip(made["auto"], made["states"], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_students_out_of_step_keep_no_adjoints():
    env = VectorActionGradient(TeachVectorEnv(2, **SHARED))
    env.reset(seed=0)
    neutral = np.zeros(env.action_space.shape, np.float32)
    env.step(neutral)
    env.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(4):
        env.step(neutral)
    assert not any(kept.adjoints for kept in env._tape.window)


class Growing(nn.Module):
    """Its graph is the larger, the more steps it has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count += 1
        y = self.layer(x)
        for _ in range(int(self.count)):
            y = torch.tanh(y)
        return y


def test_graphs_that_grow_are_not_kept_beyond_the_bound(monkeypatch):
    options = SHARED | {"student": Growing, "steps_per_action": 1, "horizon": 20}
    env = VectorActionGradient(TeachVectorEnv(1, **options))
    monkeypatch.setattr("meta.hypergradients.kept_adjoints.spare_memory", lambda tensors: 20 * 12_000)
    found = gradients(play(env, 1))
    assert env._tape.kept.used is False
    assert env._tape.kept._taken == 16  # where a graph is weighed again
    wanted = gradients(play(VectorActionGradient(TeachVectorEnv(1, **options), memory="states"), 1))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-7)
