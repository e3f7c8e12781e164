"""Actions that set the optimiser: neutral at zero, as the documented maps say, and differentiated exactly."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import agents
import meta
import teachenv
from teachenv import Task, TeachEnv, TeachVectorEnv
from teachenv.control import CONTROLS, Control
from teachenv.optimizers import SGD
from teachenv.state import stack_episodes
from teachenv.tasks import FlipAndCrop
from teachenv.tasks.domains import Domains

ALL = {"momentum": 0.8, "weight_decay": 0.01, "learning_rate": 0.05}
SHORT = {"horizon": 6, "steps_per_action": 2, "dtype": "float64", "batch_size": 8, "dev_size": 20, **ALL}
SMOOTH = {"optimizer_kwargs": {"epsilon": 1e-2}}  # with 1e-8 the first steps are signs, on which differences are large
SUBSETS = [CONTROLS, ("learning-rate",), ("loss", "momentum"), ("weight-decay", "learning-rate"), ("augmentation",)]


def images(n, seed):
    """Images of bright quarters, whose classes shifting and flipping blur."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    pictures = rng.normal(size=(n, 1, 6, 6))
    for picture, label in zip(pictures, labels, strict=True):
        row, column = 3 * (label // 2), 3 * (label % 2)
        picture[0, row : row + 3, column : column + 3] += 1
    return torch.from_numpy(pictures).float(), torch.from_numpy(labels)


IMAGES = Task("quarters", "made here", images(60, 0), images(4, 1), num_outputs=4, augment=FlipAndCrop(1))
SHORT["task"] = IMAGES


def finished(env, actions, seed=3):
    env.reset(seed=seed)
    total = 0.0
    for action in actions:
        _, reward, _, _, info = env.step(action)
        total += reward
    return total, info


def drawn(env, seed=0):
    shape = (env.unwrapped.problem.actions, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(-0.6, 0.6, shape).astype(env.action_space.dtype)


@pytest.mark.parametrize("loss", ["bilinear", "sample-weights", "data-weights"])
@pytest.mark.parametrize("control", SUBSETS, ids="+".join)
def test_zero_leaves_the_training_bitwise_as_it_is(control, loss):
    steps = {"steps_per_action": 1} if loss == "sample-weights" else {}
    given = {**SHORT, "loss": loss, "dtype": "float32", **steps}
    plain, controlled = TeachEnv(**given), TeachEnv(**given, control=control)
    of_loss = plain.action_space.shape[0] if "loss" in control else 0
    assert controlled.action_space.shape == (of_loss + len(set(control) - {"loss"}),)
    for env in (plain, controlled):
        finished(env, np.zeros((env.problem.actions, *env.action_space.shape), dtype=np.float32))
    for name, tensor in plain.student.parameters.items():
        assert torch.equal(tensor, controlled.student.parameters[name])


def test_zero_leaves_a_setting_bitwise_as_it_is_beside_others_that_move():
    control, action = Control(0, False, ("learning-rate", "momentum", "weight-decay")), torch.zeros(2, 3)
    for momentum in (0.1, 0.3, 0.9):  # 1 - (1 - 0.1) is not 0.1
        action[1] = action[0, 0] = 0.5
        for of_one in (action[0], action):
            optimizer, _ = control.applied(SGD(momentum, 0.01), 0.1, of_one)
            first = {name: torch.as_tensor(getattr(optimizer, name)).flatten()[0] for name in vars(optimizer)}
            assert first["momentum"] == torch.as_tensor(momentum, dtype=first["momentum"].dtype)
            assert first["weight_decay"] == torch.as_tensor(0.01, dtype=first["weight_decay"].dtype)


def test_a_step_that_an_episode_does_not_have_is_named():
    for env in (TeachEnv(horizon=2), TeachVectorEnv(2, horizon=2)):
        env.reset(seed=0)
        state, episode = (env.student, env.episode) if isinstance(env, TeachEnv) else (env.students, env.episodes)
        action = torch.zeros(env.action_space.shape)
        for _ in range(2):
            state, _ = env.dynamics.step(state, episode, action)
        with pytest.raises(ValueError, match="found student step 2 of an episode whose steps are 0 to 1"):
            env.dynamics.step(state, episode, action)


def test_settings_are_what_the_maps_say():
    env = TeachEnv(**SHORT, control=("learning-rate", "momentum", "weight-decay"), lr_schedule="linear", augment=False)
    actions = np.array([[0.5, -0.3, 1.0], [-1.0, 1.0, 0.0], [0.0, -1.0, -0.5]])
    env.reset(seed=0)
    state, episode = env.student, env.episode
    parameters = {name: p.clone().requires_grad_() for name, p in state.parameters.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=1.0, momentum=0.5)
    for a, action in enumerate(actions):
        for t in (2 * a, 2 * a + 1):
            (group,) = optimizer.param_groups
            group["lr"] = 0.05 * (1 - t / 6) * 10 ** action[0]
            group["momentum"] = 1 - 0.2 ** (1 + action[1])
            group["weight_decay"] = 0.01 * 10 ** action[2]
            rows = episode.batches[t]
            inputs, targets = env.task.pool[0][rows], env.task.pool[1][rows]
            outputs = torch.func.functional_call(env.dynamics.student.module, parameters, (inputs,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(outputs, targets).backward()
            optimizer.step()
        _, _, _, _, info = env.step(action)
        assert info["learning_rate"] == pytest.approx(group["lr"])
    for name, p in parameters.items():
        torch.testing.assert_close(env.student.parameters[name], p.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({}, "rmd"),
        ({"loss": "data-weights", "pool_size": 60}, "rmd"),
        ({"loss": "data-weights", "control": ("learning-rate", "momentum")}, "rmd"),
        ({"loss": "data-weights", "pool_size": 3, "batch_size": 1, "dev_size": 1}, "rmd"),
        ({"nesterov": True}, "rmd"),
        ({"optimizer": "adam", "control": ("loss", "learning-rate", "weight-decay"), **SMOOTH}, "rmd"),
        ({"optimizer": "adamw", "control": ("learning-rate", "weight-decay"), **SMOOTH}, "rmd"),
        ({"control": ("learning-rate", "momentum")}, "forward"),
        ({}, "finite-difference"),
    ],
    ids=str,
)
def test_the_gradient_is_the_slope_of_the_return(options, method):
    given = {**SHORT, "control": CONTROLS, **options}
    if "optimizer" in options:
        del given["momentum"]
    env = TeachEnv(**given)
    wrapped = meta.ActionGradient(env, method=method)
    actions = drawn(env)
    gradient = finished(wrapped, actions)[1]["action_gradient"]
    rng = np.random.default_rng(1)
    for part in (slice(None), slice(-len([c for c in given["control"] if c != "loss"]), None)):
        along = np.zeros_like(actions)
        along[..., part] = rng.normal(size=along[..., part].shape)
        if "augmentation" in given["control"]:
            along[..., -1] = 0  # in it J is a step function
        step = 1e-5
        slope = (finished(env, actions + step * along)[0] - finished(env, actions - step * along)[0]) / (2 * step)
        close = 2e-4 if method == "finite-difference" else 1e-6
        assert (gradient * along).sum() == pytest.approx(slope, rel=close, abs=1e-9)


@pytest.mark.parametrize("path", ["vmap", "loop"])
def test_students_of_a_batch_are_each_under_their_own_settings(path):
    given = {**SHORT, "control": CONTROLS}
    single = meta.ActionGradient(TeachEnv(**given))
    batch = meta.VectorActionGradient(TeachVectorEnv(3, path=path, **given))
    actions = np.stack([drawn(single, seed) for seed in range(3)], 1)
    actions[:, 2] = 0
    batch.reset(seed=5)
    for action in actions:
        *_, infos = batch.step(action)
    for i in range(3):
        _, info = finished(single, actions[:, i], seed=5 + i)
        np.testing.assert_allclose(infos["action_gradient"][i], info["action_gradient"], rtol=1e-7, atol=1e-10)
        assert infos["final_info"]["learning_rate"][i] == pytest.approx(info["learning_rate"])


def test_a_pair_has_its_students_optimiser_controlled():
    env = gym.make("TeachDistill-v0", horizon=4, dtype="float64", control=("loss", "learning-rate"))
    wrapped = meta.ActionGradient(env)
    actions = drawn(env)
    gradient = finished(wrapped, actions)[1]["action_gradient"]
    along = np.random.default_rng(1).normal(size=actions.shape)
    slope = (finished(env, actions + 1e-5 * along)[0] - finished(env, actions - 1e-5 * along)[0]) / 2e-5
    assert (gradient * along).sum() == pytest.approx(slope, rel=1e-6)


def test_minibatches_are_augmented_as_often_as_the_map_says():
    env = TeachEnv(**{**SHORT, "batch_size": 40}, control="augmentation")
    episodes = [env.problem.episodes.of(seed) for seed in (0, 1)]
    minibatch, plain = env.dynamics.minibatch, env.task.pool[0].double()
    none, once, twice = (minibatch(episodes[0], 2, torch.tensor(a))[0] for a in (-1.0, 0.0, 1.0))
    assert torch.equal(none, plain[episodes[0].batches[2]])
    assert torch.equal(once, minibatch(episodes[0], 2)[0])
    assert not torch.equal(twice, once)

    def same(left, right):
        return (left == right).flatten(1).all(1)

    moved = ~same(none, once) & ~same(once, twice)
    chosen = {}
    for a, other in ((-0.7, none), (-0.3, none), (0.3, twice), (0.7, twice)):
        inputs, _ = minibatch(episodes[0], 2, torch.tensor(a))
        assert (same(inputs, once) | same(inputs, other)).all()
        chosen[a] = same(inputs, other) & moved
        assert float(chosen[a][moved].double().mean()) == pytest.approx(abs(a), abs=0.2)
    assert torch.equal(chosen[0.3], chosen[-0.3])  # the same samples at the same share
    assert (chosen[0.7] | ~chosen[0.3]).all()
    batched = TeachVectorEnv(2, **{**SHORT, "batch_size": 40}, control="augmentation").dynamics
    inputs, _ = batched.minibatch(stack_episodes(episodes), np.array([2, 1]), torch.tensor([-0.3, 0.7]))
    for i, (step, a) in enumerate(((2, -0.3), (1, 0.7))):
        assert torch.equal(inputs[i], minibatch(episodes[i], step, torch.tensor(a))[0])


def test_an_augmentation_may_write_into_what_it_gets():
    def doubled(inputs, rng):
        return inputs * 2

    def doubling(inputs, rng):
        return inputs.mul_(2)

    envs = [
        TeachEnv(**{**SHORT, "task": replace(IMAGES, augment=a)}, control="augmentation") for a in (doubled, doubling)
    ]
    for strength in (-0.5, 0.0, 0.5):
        one, other = (
            env.dynamics.minibatch(env.problem.episodes.of(0), 1, torch.tensor(strength), around=True)[0]
            for env in envs
        )
        assert torch.equal(one, other)
        assert not torch.equal(other[1], other[2])


@pytest.mark.parametrize("at", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize(
    "options", [{}, {"method": "forward"}, {"method": "finite-difference"}, {"memory": "all"}], ids=str
)
def test_of_augmentation_the_gradient_is_that_of_the_expected_steps(at, options):
    """At these coordinates the expected minibatch is the step's, so that derivatives of all orders can be unrolled."""
    env = TeachEnv(**SHORT, control=("augmentation", "learning-rate"))
    wrapped = meta.ActionGradient(env, **options)
    wrapped.reset(seed=0)
    student, episode = env.student, env.episode
    actions = np.array([[at, 0.3], [at, -0.2], [at, 0.1]])
    strengths = torch.full((3,), at, dtype=torch.float64, requires_grad=True)
    parameters = {name: p.clone().requires_grad_() for name, p in student.parameters.items()}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for t in range(6):
        a = strengths[t // 2]

        def loss(number, t=t, parameters=parameters):
            inputs, targets = env.dynamics.minibatch(episode, t, torch.tensor(number - 1.0))
            outputs = torch.func.functional_call(env.dynamics.student.module, parameters, (inputs,))
            return torch.nn.functional.cross_entropy(outputs, targets)

        if at < 0:
            expected = -a * loss(0) + (1 + a) * loss(1)
        elif at > 0:
            expected = (1 - a) * loss(1) + a * loss(2)
        else:
            expected = loss(1) + a * (loss(2) - loss(0)) / 2
        gradients = torch.autograd.grad(expected, list(parameters.values()), create_graph=True)
        rate = 0.05 * 10 ** actions[t // 2, 1]
        velocity = {
            name: 0.8 * v + g + 0.01 * p
            for (name, v), g, p in zip(velocity.items(), gradients, parameters.values(), strict=True)
        }
        parameters = {name: p - rate * velocity[name] for name, p in parameters.items()}
    inputs, targets = env.dynamics.dev(episode)
    outputs = torch.func.functional_call(env.dynamics.student.module, parameters, (inputs,))
    (slopes,) = torch.autograd.grad(env.dynamics.measure.objective(outputs, targets), strengths)
    for action in actions:
        *_, info = wrapped.step(action)
    for name, p in parameters.items():
        torch.testing.assert_close(env.student.parameters[name], p.detach(), rtol=1e-9, atol=1e-12)
    assert slopes.abs().min() > 1e-6
    close = 1e-4 if "method" in options and options["method"] == "finite-difference" else 1e-8
    np.testing.assert_allclose(info["action_gradient"][:, 0], slopes.numpy(), rtol=close)


@pytest.mark.parametrize("loss", ["bilinear", "sample-weights", "data-weights", "domain-weights"])
def test_of_augmentation_the_gradient_is_the_same_beside_every_neutral_loss(loss):
    domains = Domains(("one", "other"), np.arange(60) % 2)
    given = {**SHORT, "steps_per_action": 1, "task": replace(IMAGES, domains=domains)}
    gradients = []
    for control in (("augmentation",), ("loss", "augmentation", "momentum")):
        wrapped = meta.ActionGradient(TeachEnv(**given, loss=loss, control=control))
        actions = np.zeros((6, *wrapped.action_space.shape))
        place = actions.shape[1] - len(control[1:]) if "loss" in control else 0
        actions[:, place] = [-1, -0.5, 0, 0.2, 0.5, 1]
        gradients.append(finished(wrapped, actions)[1]["action_gradient"][:, place])
    np.testing.assert_allclose(*gradients, rtol=1e-9)


def network():
    layers = torch.nn.Linear(36, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Dropout(0.3)
    return torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(8, 4))


def test_of_augmentation_statistics_and_dropout_are_differentiated_likewise_by_all_methods():
    control = ("augmentation", "learning-rate")
    given = {**SHORT, "horizon": 2, "steps_per_action": 1, "control": control, "student": network}
    for at in (-0.4, 0.0):
        gradients = []
        for options in ({"memory": "sqrt"}, {"memory": "all"}, {"method": "forward"}, {"method": "finite-difference"}):
            wrapped = meta.ActionGradient(TeachEnv(**given), **options)
            gradients.append(finished(wrapped, np.array([[at, 0.1], [at, 0.0]]))[1]["action_gradient"])
        assert np.abs(gradients[0][:, 0]).min() > 1e-7
        for gradient in gradients[1:]:
            np.testing.assert_allclose(gradient, gradients[0], rtol=1e-4, atol=1e-8)


def test_environments_under_control_pass_the_checkers_and_snapshots_continue():
    controls = CONTROLS[:-1]  # digits are not augmented
    env = gym.make("TeachDigits-v0", control=controls, horizon=6, steps_per_action=2, weight_decay=0.001)
    check_env(env.unwrapped, skip_render_check=True)
    check_env_for_sb3(env.unwrapped)
    actions = drawn(env)
    env.reset(seed=0)
    env.step(actions[0])
    state = env.unwrapped.get_state()
    first = [env.step(action)[0] for action in actions[1:]]
    env.unwrapped.set_state(state)
    for one, action in zip(first, actions[1:], strict=True):
        np.testing.assert_array_equal(env.step(action)[0], one)


def test_teachers_learn_to_control():
    students = TeachVectorEnv(2, horizon=6, steps_per_action=2, control="learning-rate", learning_rate=0.01)
    teacher = meta.RMD("AttentionPolicy", students, seed=0).learn(24)
    students.reset(seed=0)
    action, _ = teacher.predict(np.zeros((2, *students.single_observation_space.shape), dtype=np.float32))
    assert action.shape == (2, 1)
    assert (action > 0).all()  # such students learn too slowly


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "rate"}, "unknown control 'rate'"),
        ({"control": ()}, "control must be a list of some of 'loss', 'learning-rate'"),
        ({"control": ("loss", "loss")}, "has a name twice"),
        ({"control": ("momentum",), "momentum": 0.0}, "change momentum=0 by a factor, to no effect"),
        ({"control": ("weight-decay",)}, "change weight_decay=0 by a factor"),
        ({"control": ("momentum",), "momentum": 1.0}, "needs momentum below 1, found 1"),
        ({"control": ("momentum",), "optimizer": "adam"}, "'adam' does not have as an option"),
        ({"control": "augmentation"}, "task 'digits' has no augmentation; give teachenv.Task"),
        ({"control": "augmentation", **SHORT, "augment": False}, "augmentation', but augment=False"),
        (
            {"control": "augmentation", **SHORT, "task": replace(IMAGES, trim=lambda x, y: (x, y))},
            "'quarters' trims minibatches",
        ),
    ],
)
def test_what_cannot_be_controlled_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        TeachEnv(**options)


def test_who_takes_actions_for_the_losses_alone_refuses_others():
    env = TeachEnv(loss="data-weights", control=("loss", "learning-rate"))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="attribution goes with actions that set the loss alone, found control="):
        meta.attribute(env, (env.task.pool[0][:2], env.task.pool[1][:2]))
    teacher = meta.RMD("AttentionPolicy", teachenv.TeachEnv(control="learning-rate"))
    with pytest.raises(ValueError, match="TaughtLoss goes with actions that set the loss alone"):
        meta.TaughtLoss.of(teacher)
    with pytest.raises(ValueError, match="leave 'augmentation' out, the neutral training is the same without it"):
        meta.smoothness(TeachEnv(**SHORT, control=("loss", "augmentation")))


@pytest.mark.parametrize("teacher", [meta.RMD, agents.DDPG])
@pytest.mark.parametrize(("control", "size"), [(("loss", "learning-rate"), 9), ("learning-rate", 1)])
def test_a_policy_for_samples_refuses_actions_of_another_size(teacher, control, size):
    env = TeachEnv(horizon=2, batch_size=8, loss="sample-weights", observe_samples=True, control=control)
    with pytest.raises(ValueError, match=f"a number for each of 8 samples, found actions of size {size}"):
        teacher("SamplePolicy", env)
