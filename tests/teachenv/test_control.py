"""Actions that set the optimiser: neutral at zero, as the documented maps say, and differentiated exactly."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

import meta
import teachenv
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.control import CONTROLS, Control
from teachenv.optimizers import SGD

ALL = {"momentum": 0.8, "weight_decay": 0.01, "learning_rate": 0.05}
SHORT = {"horizon": 6, "steps_per_action": 2, "dtype": "float64", "batch_size": 8, "dev_size": 20, **ALL}
SMOOTH = {"optimizer_kwargs": {"epsilon": 1e-3}}  # with 1e-8 the first steps are signs, on which differences are large
SUBSETS = [CONTROLS, ("learning-rate",), ("loss", "momentum"), ("weight-decay", "learning-rate")]


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
    env = TeachEnv(**SHORT, control=("learning-rate", "momentum", "weight-decay"), lr_schedule="linear")
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


def test_environments_under_control_pass_the_checkers_and_snapshots_continue():
    env = gym.make("TeachDigits-v0", control=CONTROLS, horizon=6, steps_per_action=2, weight_decay=0.001)
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
