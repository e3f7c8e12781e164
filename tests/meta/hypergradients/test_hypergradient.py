"""The hypergradient against an unrolled episode that shares only the minibatches with it, and against replays."""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from meta import ActionGradient, Hypergradient, Training, VectorActionGradient, hypergradient
from teachenv import LOSSES, Prediction, Task, TeachEnv, TeachVectorEnv
from teachenv.losses import make_loss
from teachenv.tasks.synthetic import make_synthetic

REVERSE = ("rmd", "finite-difference")
CLASSES = 10
FAMILIES = [name for name in LOSSES if not (make_loss(name).of_pairs or make_loss(name).of_domains)]


@functools.cache
def images() -> Task:
    return make_synthetic(pool_size=60, test_size=10)


@functools.cache
def vectors() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(90) % CLASSES
    inputs = rng.normal(size=(90, 6)) + 2 * rng.normal(size=(CLASSES, 6))[targets]
    return Task("vectors", "made-up", (inputs[:80], targets[:80]), (inputs[80:], targets[80:]), CLASSES)


def batch_norm_student() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9, momentum=0.3), nn.Tanh(), nn.Linear(9, CLASSES))


def cumulative_batch_norm_student() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9, momentum=None), nn.Tanh(), nn.Linear(9, CLASSES))


def dropout_student() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Dropout(0.4), nn.Linear(20, CLASSES))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 5, num_layers=2, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x.view(len(x), 3, 2))[0][:, -1])


class Attentive(nn.Module):
    """PyTorch's fused attention, whose backward pass has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.head = nn.Linear(2, 8), nn.Linear(8, 24), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.enter(x.view(len(x), 3, 2))
        query, key, value = (t.view(len(x), 3, 2, 4).transpose(1, 2) for t in self.qkv(tokens).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head((tokens + mixed.transpose(1, 2).flatten(2)).mean(1))


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.one, self.two, self.head = (
            nn.Linear(6, 7),
            *(nn.Linear(7, 7) for _ in "12"),
            nn.Linear(7, 10),
        )
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(torch.tanh(self.enter(x)))))))


def weight_normed_student() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 9))
    return nn.Sequential(normed, nn.Tanh(), nn.Linear(9, CLASSES))


@dataclass(frozen=True)
class Case:
    name: str
    student: Any = "mlp"
    loss: str = "bilinear"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def smooth(self) -> bool:
        return self.student not in ("lenet", "resnet8")

    def env(self, **changes: Any) -> TeachEnv:
        return TeachEnv(**self.settings(**changes))

    def settings(self, **changes: Any) -> dict[str, Any]:
        ours = {"student": self.student, "loss": self.loss, "horizon": 4, "dtype": "float64"}
        if self.student in ("lenet", "resnet8"):
            ours |= {"task": images(), "batch_size": 4, "dev_size": 10}
        else:
            ours |= {"task": vectors(), "batch_size": 6, "dev_size": 16}
        ours |= {"learning_rate": 0.05, "loss_kwargs": {"scale": 0.02} if self.loss == "mixture" else {}}
        return ours | self.options | changes


def cases() -> list[Case]:
    found = []
    small = [("mlp", loss, 0.9) for loss in FAMILIES] + [("mlp", loss, 0.0) for loss in ("bilinear", "sample-weights")]
    of_images = [("lenet", "sample-weights", 0.0), ("lenet", "mixture", 0.9), ("resnet8", "bilinear", 0.9)]
    for student, loss, momentum in (*small, *of_images):
        options = {"momentum": momentum, "weight_decay": 0.01}
        options |= {"horizon": 6} if student == "mlp" else {"augment": True, "horizon": 3}
        found.append(Case(f"{student}-{loss}-{momentum}", student, loss, options))
    extras = {
        "long": {"horizon": 30, "learning_rate": 0.1},
        "nesterov": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
        "linear-schedule": {"lr_schedule": "linear", "learning_rate": 0.3},
        "two-steps-an-action": {"steps_per_action": 2, "horizon": 8, "lr_schedule": "linear"},
        "one-action": {"steps_per_action": 5, "horizon": 5},
        "noisy-train-clean-dev": {"label_noise": 0.4, "dev_noise": False},
        "temperature": {"objective_temperature": 1.0},
    }
    found += [Case(name, options=options) for name, options in extras.items()]
    for student in (batch_norm_student, cumulative_batch_norm_student, dropout_student):
        found.append(Case(student.__name__, student, "mixture", {"horizon": 6, "weight_decay": 0.01}))
    for student in (Recurrent, Attentive, Tied, weight_normed_student):
        found.append(Case(student.__name__, student, options={"weight_decay": 0.01}))
    for optimizer in ("adam", "adamw"):
        options = {"optimizer": optimizer, "optimizer_kwargs": {"betas": [0.8, 0.9], "epsilon": 1e-3}}
        options |= {"weight_decay": 0.03, "lr_schedule": "linear", "learning_rate": 0.02, "horizon": 6}
        for student in ("mlp", batch_norm_student, Attentive):
            found.append(Case(f"{optimizer}-{getattr(student, '__name__', student)}", student, options=options))
    held = {"horizon": 8, "steps_per_action": 8, "weight_decay": 0.01}
    found.append(Case("label-weights", batch_norm_student, "label-weights", held))
    for student in (batch_norm_student, dropout_student):
        found.append(Case(f"data-weights-{student.__name__}", student, "data-weights", held))
    adam = {"optimizer": "adam", "optimizer_kwargs": {"betas": [0.8, 0.9], "epsilon": 1e-3}, "learning_rate": 0.02}
    found.append(Case("data-weights-adam", "mlp", "data-weights", held | adam))
    found.append(
        Case("data-weights-lenet", "lenet", "data-weights", {"horizon": 4, "steps_per_action": 2} | {"augment": True})
    )
    found.append(Case("dropout-replayed", dropout_student, options={"horizon": 6, "steps_per_action": 3}))
    found.append(
        Case("resnet8-replayed", "resnet8", options={"steps_per_action": 2, "augment": True, "nesterov": True})
    )
    return found


CASES = cases()
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def teach(env: Any, actions: np.ndarray, seed: int = 3) -> tuple[float, dict[str, Any]]:
    """(return, last info) of the episode of a seed under the given actions."""
    env.reset(seed=seed)
    total = 0.0
    for action in actions:
        _, reward, terminated, _, info = env.step(action)
        total += reward
    assert terminated
    return total, info


def some_actions(env: TeachEnv, seed: int = 0) -> np.ndarray:
    size = env.action_space.shape[0]
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (env.problem.actions, size))


def differentiate(env: Any, states: Any, actions: Any, final: Any, **options: Any) -> Hypergradient:
    """The hypergradient of an episode of which the state before each action is known."""
    per_action = options.get("steps_per_action", 1)
    known = {t * per_action: state for t, state in enumerate([*states, final])}
    return hypergradient(Training(env.dynamics, env.episode), known[0], list(actions), states=known, **options)


@functools.cache
def exact(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(actions, their gradient by "rmd")."""
    env = case.env()
    actions = some_actions(env)
    return actions, teach(ActionGradient(env), actions)[1]["action_gradient"]


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert np.isfinite(found).all()
    assert np.linalg.norm(wanted) > 1e-6
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


class ReferenceBatchNorm(nn.Module):
    """Batch normalisation by its definition; leaves new running statistics in `fresh`, differentiable."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.rate = original.weight, original.bias, original.eps, original.momentum
        for name, buffer in original.named_buffers():
            self.register_buffer(name, buffer)
        self.fresh: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = x.transpose(0, 1).flatten(1)
        mean, variance = self.running_mean, self.running_var
        if self.training:
            seen = self.num_batches_tracked + 1
            rate = 1 / seen.double() if self.rate is None else self.rate
            mean = columns.mean(1)
            squares = (columns - mean[:, None]).square().sum(1)
            variance = squares / columns.shape[1]
            unbiased = squares / (columns.shape[1] - 1)
            self.fresh = {
                "running_mean": (1 - rate) * self.running_mean + rate * mean,
                "running_var": (1 - rate) * self.running_var + rate * unbiased,
                "num_batches_tracked": seen,
            }
        normal = (columns - mean[:, None]) / (variance[:, None] + self.eps).sqrt()
        result = normal * self.weight[:, None] + self.bias[:, None]
        return result.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1)


def with_reference_batch_norm(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, ReferenceBatchNorm(child))
        else:
            with_reference_batch_norm(child)
    return module


def unrolled(case: Case, actions: np.ndarray, seed: int = 3) -> tuple[float, np.ndarray]:
    """(return, gradient) of the episode, by one backward pass through all its steps."""
    env = case.env()
    env.reset(seed=seed)
    settings, dynamics, episode = env.problem.settings, env.dynamics, env.episode
    module = with_reference_batch_norm(dynamics.student.factory()).double()
    for child in module.modules():
        if type(child).__name__ == "_WeightNorm":  # its double backward is wrong
            child.forward = lambda g, v: g * v / v.square().sum(1, keepdim=True).sqrt()
    head = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    caught: dict[str, torch.Tensor] = {}
    head.register_forward_pre_hook(lambda m, inputs: caught.update(features=inputs[0], head_weight=m.weight))

    parameters = {name: p.clone().requires_grad_() for name, p in env.student.parameters.items()}
    buffers = dict(env.student.buffers)
    velocity, square = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    leaf = torch.tensor(actions, requires_grad=True)

    def objective() -> torch.Tensor:
        inputs, labels = env.problem.task.pool[0][episode.dev], dynamics.rows.dev_targets[episode.dev]
        outputs = functional_call(module.eval(), parameters | buffers, (inputs,))
        chances = torch.softmax(outputs / settings.objective_temperature, 1)
        return chances[torch.arange(len(labels)), labels].mean()

    before = objective().item()
    for t in range(settings.horizon):
        inputs, labels = dynamics.minibatch(episode, t)
        with dynamics.student.random_state(episode.seeds[0], t), sdpa_kernel(SDPBackend.MATH):
            outputs = functional_call(module.train(), parameters | buffers, (inputs,))
        action = leaf[t // settings.steps_per_action]
        if dynamics.loss.of_pool:
            action = action.view(len(env.task.pool[0]), -1)[episode.batches[t]].flatten()
        loss = dynamics.loss(action, Prediction(outputs, **caught), labels)
        gradient = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        rate = settings.learning_rate * (1 - t / settings.horizon if settings.lr_schedule == "linear" else 1.0)
        updated = {}
        for (name, p), g in zip(parameters.items(), gradient, strict=True):
            if settings.optimizer != "sgd":
                (first, second), epsilon = settings.optimizer_kwargs["betas"], settings.optimizer_kwargs["epsilon"]
                decay = settings.weight_decay * p
                g = g + decay if settings.optimizer == "adam" else g
                velocity[name] = first * velocity[name] + (1 - first) * g
                square[name] = second * square[name] + (1 - second) * g**2
                mean, spread = velocity[name] / (1 - first ** (t + 1)), square[name] / (1 - second ** (t + 1))
                # A gradient that was always zero has no square root to differentiate.
                root = torch.where(spread > 0, spread, 1.0).sqrt() * (spread > 0)
                updated[name] = p - rate * mean / (root + epsilon)
                if settings.optimizer == "adamw":
                    updated[name] = updated[name] - rate * decay
                continue
            g = g + settings.weight_decay * p
            velocity[name] = settings.momentum * velocity[name] + g
            updated[name] = p - rate * (g + settings.momentum * velocity[name] if settings.nesterov else velocity[name])
        parameters = updated
        for path, child in module.named_modules():
            if isinstance(child, ReferenceBatchNorm):
                buffers |= {f"{path}.{name}": value for name, value in child.fresh.items()}
    after = objective()
    return after.item() - before, torch.autograd.grad(after, leaf)[0].numpy()


# --- the gradient -----------------------------------------------------------------------------------------------------


@by_name
def test_rmd_is_the_gradient_of_the_unrolled_episode(case):
    actions, found = exact(case)
    value, wanted = unrolled(case, actions)
    assert found.dtype == np.float64
    assert found.shape == actions.shape
    assert abs(teach(case.env(), actions)[0] - value) < 1e-10
    assert relative(found, wanted) < 1e-9


@by_name
def test_rmd_is_the_slope_of_the_return_over_replayed_episodes(case):
    actions, gradient = exact(case)
    env = case.env()
    rng = np.random.default_rng(1)
    step = 1e-5 if case.smooth else 1e-6
    for _ in range(2):
        # Along the gradient and across it, so that the slope is not small beside the rounding of J.
        direction = gradient / np.linalg.norm(gradient) + 0.1 * rng.normal(size=actions.shape) / actions.size**0.5
        slope = (teach(env, actions + step * direction)[0] - teach(env, actions - step * direction)[0]) / (2 * step)
        wanted = float((gradient * direction).sum())
        assert abs(slope - wanted) < (1e-6 if case.smooth else 1e-4) * abs(wanted)


@by_name
def test_finite_differences_of_gradients_come_close(case):
    actions, wanted = exact(case)
    found = teach(ActionGradient(case.env(), method="finite-difference"), actions)[1]["action_gradient"]
    assert 0 < relative(found, wanted) < 1e-3


@pytest.mark.parametrize(
    ("student", "method", "error"),
    [
        ("mlp", "rmd", 1e-5),
        ("lenet", "rmd", 1e-4),
        ("resnet8", "rmd", 5e-3),
        ("mlp", "finite-difference", 1e-3),
        ("lenet", "finite-difference", 2e-2),
    ],
)
def test_single_precision_gives_the_same_gradient_roughly(student, method, error):
    case = Case(student, student, options={"momentum": 0.9, "horizon": 3})
    actions, wanted = exact(case)
    env = ActionGradient(case.env(dtype="float32"), method=method)
    found = teach(env, actions.astype(np.float32))[1]["action_gradient"]
    assert found.dtype == np.float32
    assert relative(found, wanted) < error


@pytest.mark.parametrize("student", ["mlp", "lenet", batch_norm_student, dropout_student, Recurrent, Attentive, Tied])
def test_a_forward_pass_in_bfloat16_gives_the_same_gradient_roughly(student):
    case = Case("autocast", student, options={"momentum": 0.9, "horizon": 3})
    actions = some_actions(case.env()).astype(np.float32)
    try:
        fast = case.env(dtype="float32", autocast="bfloat16")
    except ValueError as error:
        assert student is Recurrent
        assert "try autocast=None" in str(error)  # noqa: PT017
        pytest.skip("this processor has no LSTM in bfloat16")
    found, plain = (
        teach(ActionGradient(env), actions)[1]["action_gradient"] for env in (fast, case.env(dtype="float32"))
    )
    # bfloat16 has 8 significant bits.
    assert 1e-5 < relative(found, plain) < 0.1
    env = case.env(dtype="float32", autocast="bfloat16")
    env.reset(seed=3)
    env.step(actions[0])
    state = env.student
    for tensors in (state.parameters, state.slots, state.buffers):
        assert all(t.dtype == torch.float32 for t in tensors.values() if t.is_floating_point())


@pytest.mark.parametrize(
    ("student", "path"), [("mlp", "vmap"), ("mlp", "loop"), (batch_norm_student, "vmap"), ("lenet", "loop")]
)
def test_a_batch_in_bfloat16_is_its_students(student, path):
    case = Case("autocast", student, options={"momentum": 0.9, "horizon": 2, "autocast": "bfloat16"})
    env = case.env(dtype="float32")
    actions = some_actions(env).astype(np.float32)
    wanted = teach(ActionGradient(env), actions)[1]["action_gradient"]
    batch = VectorActionGradient(TeachVectorEnv(2, path=path, **case.settings(dtype="float32")))
    batch.reset(seed=3)
    for action in actions:
        infos = batch.step(np.stack([action] * 2))[4]
    assert relative(infos["action_gradient"][0], wanted) < 0.05


def test_momentum_and_running_statistics_matter():
    # Otherwise the comparisons above would not notice a recursion that leaves them out.
    actions, with_momentum = exact(Case("mlp", options={"momentum": 0.9, "horizon": 6}))
    _, without = exact(Case("mlp-plain", options={"momentum": 0.0, "horizon": 6}))
    assert relative(without, with_momentum) > 0.1
    env = Case("statistics", batch_norm_student).env()
    actions = torch.tensor(some_actions(env))
    env.reset(seed=3)
    states = [env.student]
    for action in actions:
        states.append(env.dynamics.step(states[-1], env.episode, action)[0])
    whole = differentiate(env, states[:-1], actions, states[-1])
    assert all(d.abs().max() > 1e-6 for d in whole.initial.buffers.values())
    frozen = type(states[0])(states[-1].parameters, states[-1].slots, states[0].buffers, states[-1].step)
    process = Training(env.dynamics, env.episode)
    process.replays_exactly = True  # or it would be noticed that the final state is another one
    known = dict(enumerate([*states[:-1], frozen]))
    without = hypergradient(process, states[0], list(actions), states=known)
    assert relative(without.actions.numpy(), whole.actions.numpy()) > 0.01


# --- special cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", REVERSE)
def test_one_step_has_a_closed_form(method):
    """dJ/da = −η ∂/∂a ⟨∇_ω L(ω_0, a), ∇J(ω_1)⟩."""
    case = Case("one", options={"horizon": 1, "momentum": 0.9, "learning_rate": 0.2})
    env = ActionGradient(case.env(), method=method)
    teacher = env.unwrapped
    actions = some_actions(teacher)
    env.reset(seed=0)
    start, episode, dynamics = teacher.student, teacher.episode, teacher.dynamics
    found = env.step(actions[0])[4]["action_gradient"]

    module = dynamics.student.factory().double()
    inputs, labels = dynamics.minibatch(episode, 0)
    end = {name: p.clone().requires_grad_() for name, p in teacher.student.parameters.items()}
    outputs = functional_call(module, end, (teacher.problem.task.pool[0][episode.dev],))
    truth = dynamics.rows.dev_targets[episode.dev]
    chances = torch.softmax(outputs / teacher.problem.settings.objective_temperature, 1)
    slope = torch.autograd.grad(chances[torch.arange(len(truth)), truth].mean(), list(end.values()))
    begin = {name: p.clone().requires_grad_() for name, p in start.parameters.items()}
    leaf = torch.tensor(actions[0], requires_grad=True)
    loss = dynamics.loss(leaf, Prediction(functional_call(module, begin, (inputs,))), labels)
    gradient = torch.autograd.grad(loss, list(begin.values()), create_graph=True)
    inner = sum((g * s).sum() for g, s in zip(gradient, slope, strict=True))
    wanted = -0.2 * torch.autograd.grad(inner, leaf)[0].numpy()[None]
    assert relative(found, wanted) < (1e-10 if method == "rmd" else 1e-6)


@pytest.mark.parametrize("method", REVERSE)
@pytest.mark.parametrize("student", ["mlp", batch_norm_student])
def test_a_learning_rate_of_zero_gives_zeros(student, method):
    env = ActionGradient(Case("still", student).env(learning_rate=0.0), method=method)
    with pytest.warns(UserWarning, match="zero for every action"):
        gradient = teach(env, some_actions(env.unwrapped))[1]["action_gradient"]
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_the_gradient_is_linear_in_a_small_learning_rate():
    gradients = []
    for rate in (1e-5, 2e-5):
        env = ActionGradient(Case("slow").env(learning_rate=rate))
        gradients.append(teach(env, some_actions(env.unwrapped))[1]["action_gradient"])
    assert relative(gradients[1], 2 * gradients[0]) < 1e-3


@pytest.mark.parametrize("method", REVERSE)
def test_no_action_has_an_empty_gradient_and_the_cotangent_of_the_start_is_that_of_the_end(method):
    env = Case("none").env()
    env.reset(seed=0)
    result = differentiate(env, [], [], env.student, method=method)
    assert result.actions.numel() == 0
    assert result.gradient_evaluations == result.hessian_vector_products == 0
    parameters = {name: p.clone().requires_grad_() for name, p in env.student.parameters.items()}
    state = type(env.student)(parameters, env.student.slots, env.student.buffers, 0)
    wanted = torch.autograd.grad(env.dynamics.objective(state, env.episode), list(parameters.values()))
    for found, expected in zip(result.initial.parameters.values(), wanted, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("method", REVERSE)
def test_the_initial_cotangent_is_the_slope_along_the_initial_parameters(method):
    env = Case("initial", batch_norm_student).env(momentum=0.9)
    actions = torch.tensor(some_actions(env))
    env.reset(seed=0)
    dynamics, episode, start = env.dynamics, env.episode, env.student

    def run(distance):
        rng = np.random.default_rng(0)
        moved = {name: p + distance * torch.tensor(rng.normal(size=p.shape)) for name, p in start.parameters.items()}
        statistic = start.buffers["1.running_mean"]
        shift = distance * torch.tensor(rng.normal(size=statistic.shape))
        buffers = start.buffers | {"1.running_mean": statistic + shift}
        states = [type(start)(moved, start.slots, buffers, 0)]
        for action in actions:
            states.append(dynamics.step(states[-1], episode, action)[0])
        return states

    states = run(0.0)
    initial = differentiate(env, states[:-1], actions, states[-1], method=method).initial
    ahead, behind = (dynamics.objective(run(distance)[-1], episode).item() for distance in (1e-5, -1e-5))
    rng = np.random.default_rng(0)
    wanted = sum(float((d * torch.tensor(rng.normal(size=d.shape))).sum()) for d in initial.parameters.values())
    d_mean = initial.buffers["1.running_mean"]
    wanted += float((d_mean * torch.tensor(rng.normal(size=d_mean.shape))).sum())
    assert abs((ahead - behind) / 2e-5 - wanted) < 1e-6 * abs(wanted)


@pytest.mark.parametrize(("method", "gradients", "products"), [("rmd", 6 + 3, 6), ("finite-difference", 12 + 3, 0)])
def test_the_cost_is_counted(method, gradients, products):
    env = Case("cost").env(horizon=6, steps_per_action=2)
    actions = some_actions(env)
    env.reset(seed=0)
    states = []
    for action in actions:
        states.append(env.student)
        env.step(action)
    result = differentiate(env, states, list(torch.tensor(actions)), env.student, steps_per_action=2, method=method)
    assert (result.gradient_evaluations, result.hessian_vector_products) == (gradients, products)


def test_differentiating_leaves_no_graph_and_no_trace():
    env = Case("trace", dropout_student).env()
    actions = some_actions(env)
    env.reset(seed=0)
    states = []
    for action in actions:
        states.append(env.student)
        env.step(action)
    before = torch.random.get_rng_state()
    copies = [{name: p.clone() for name, p in s.parameters.items()} for s in states]
    result = differentiate(env, states, list(torch.tensor(actions)), env.student)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not result.actions.requires_grad
    for state, copy in zip(states, copies, strict=True):
        for name, p in state.parameters.items():
            assert torch.equal(p, copy[name])
            assert not p.requires_grad
            assert p.grad is None


def test_an_unknown_method_is_refused_with_a_suggestion():
    env = Case("unknown").env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"unknown method 'finite-diference'.*did you mean 'finite-difference'\?"):
        differentiate(env, [], [], env.student, method="finite-diference")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("actions", "options", "error", "message"),
    [
        (torch.zeros(2, 7), {}, ValueError, r"found an action of shape \(7,\), expected \(100,\)"),
        (torch.zeros(3, 100), {}, ValueError, "found student step 2 of an episode whose steps are 0 to 1"),
        (np.zeros((2, 100)), {}, TypeError, "actions must be tensors, found array"),
        (torch.zeros(2, 100), {"steps_per_action": 0}, ValueError, "steps_per_action must be an integer of at least 1"),
    ],
    ids=["width", "number", "NumPy", "no steps"],
)
def test_actions_that_are_not_the_environments_are_refused(actions, options, error, message):
    env = TeachEnv(horizon=2, batch_size=8, dev_size=20)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        hypergradient(Training(env.dynamics, env.episode), env.student, actions, **options)
