"""LoTPPO: PPO to the last bit without the regulariser, and what the regulariser does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.envs import IdentityEnvMultiBinary, IdentityEnvMultiDiscrete, SimpleMultiObsEnv
from torch import distributions as td

from agents.distributions import factors_of, policy_distance, tempered
from agents.lot_ppo import LoTPPO
from meta import imitability

SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu"}

# Policy, environment, and PPO's options.
SPACES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "discrete": ("MlpPolicy", lambda: gym.make("CartPole-v1"), SMALL),
    "continuous": ("MlpPolicy", lambda: gym.make("Pendulum-v1"), SMALL),
    "gsde": ("MlpPolicy", lambda: gym.make("Pendulum-v1"), {**SMALL, "use_sde": True}),
    # A squashed Gaussian has no entropy in closed form.
    "squashed": (
        "MlpPolicy",
        lambda: gym.make("Pendulum-v1"),
        {**SMALL, "use_sde": True, "policy_kwargs": {"squash_output": True}},
    ),
    "multi-discrete": ("MlpPolicy", lambda: IdentityEnvMultiDiscrete(dim=3), SMALL),
    "multi-binary": ("MlpPolicy", lambda: IdentityEnvMultiBinary(dim=3), SMALL),
    "dict": ("MultiInputPolicy", lambda: SimpleMultiObsEnv(random_start=False), SMALL),
}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("space", SPACES)
def test_alpha_zero_is_sb3s_ppo_bitwise(space: str) -> None:
    policy, make, options = SPACES[space]
    plain = PPO(policy, make(), **options).learn(64)
    after = np.random.random(), torch.rand(1)  # noqa: NPY002
    ours = LoTPPO(policy, make(), alpha=0.0, student_steps=3, students=2, **options).learn(64)
    assert after == (np.random.random(), torch.rand(1))  # noqa: NPY002
    assert same(plain.policy, ours.policy)
    assert plain.logger.name_to_value.get("train/loss") == ours.logger.name_to_value.get("train/loss")
    assert ours.lot.updates == 3 * ours.lot.teacher_steps == 3 * 2 * 2 * 2


@pytest.mark.parametrize("space", SPACES)
def test_every_space_is_regularised(space: str) -> None:
    policy, make, options = SPACES[space]
    plain = LoTPPO(policy, make(), alpha=0.0, **options).learn(64)
    ours = LoTPPO(policy, make(), alpha=1.0, student_steps=2, warm_up=0, **options).learn(64)
    assert not same(plain.policy, ours.policy)
    assert all(bool(p.isfinite().all()) for p in ours.policy.parameters())


def test_the_term_is_in_the_gradient() -> None:
    """One step of SGD on one minibatch differs from PPO's by −α times the divergence's own gradient."""
    options = {**SMALL, "batch_size": 32, "n_epochs": 1, "max_grad_norm": 1e9, "learning_rate": 0.1, "vf_coef": 0.0}

    def make(alpha: float) -> LoTPPO:
        kwargs = {"optimizer_class": torch.optim.SGD}
        model = LoTPPO(
            "MlpPolicy", "CartPole-v1", alpha=alpha, warm_up=0, temperature=2.0, policy_kwargs=kwargs, **options
        )
        with torch.no_grad():  # last layers begin so small that all policies are uniform
            for policy in (model.policy, model.students[0]):
                policy.action_net.weight *= 100
        return model

    before = make(0.0)
    both = [make(alpha).learn(32) for alpha in (0.0, 0.7)]
    observations = torch.as_tensor(both[1].rollout_buffer.observations)
    teacher, student = (p.get_distribution(observations) for p in (before.policy, before.students[0]))
    divergence = policy_distance(factors_of(teacher), factors_of(student), 2.0)
    gradients = torch.autograd.grad(divergence, list(before.policy.parameters()), allow_unused=True)
    moved = False
    for (name, plain), ours, gradient in zip(
        both[0].policy.named_parameters(), both[1].policy.parameters(), gradients, strict=True
    ):
        expected = torch.zeros_like(plain) if gradient is None else -0.1 * 0.7 * gradient
        torch.testing.assert_close(ours - plain, expected, rtol=1e-3, atol=1e-6, msg=name)
        moved |= gradient is not None and bool((expected.abs() > 1e-5).any())
    assert moved


@pytest.mark.parametrize("space", SPACES)
def test_students_with_labels_take_ppos_own_step(space: str) -> None:
    """A student that is the policy, and without a term, stays the policy: it sees the same rewards."""
    policy, make, options = SPACES[space]
    model = LoTPPO(
        policy, make(), alpha=0.0, labels=True, student_weight_decay=0.0, vf_coef=0.0, ent_coef=0.1, **options
    )
    start = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.students[0].load_state_dict(start)
    model.learn(64)
    for name, value in model.policy.state_dict().items():
        torch.testing.assert_close(model.students[0].state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert not all(torch.equal(value, start[name]) for name, value in model.policy.state_dict().items())
    assert same(PPO(policy, make(), vf_coef=0.0, ent_coef=0.1, **options).learn(64).policy, model.policy)


def test_students_with_labels_are_drawn_to_the_policy_too() -> None:
    found = []
    for alpha in (0.0, 20.0):
        model = LoTPPO("MlpPolicy", "CartPole-v1", alpha=alpha, labels=True, warm_up=0, **{**SMALL, "n_epochs": 20})
        with torch.no_grad():
            model.students[0].action_net.weight *= 300
        found.append(model.learn(64).logger.name_to_value["train/student_kl"])
    assert found[1] < found[0]


def test_labels_want_rewards_of_the_present() -> None:
    with pytest.raises(ValueError, match="found student_steps=2, expected 1"):
        LoTPPO("MlpPolicy", "CartPole-v1", labels=True, student_steps=2, **SMALL)


def test_students_that_are_held_teach(tmp_path: Path) -> None:
    """N = 0: distillation from a trained policy, which a checkpoint keeps."""
    before = PPO("MlpPolicy", "CartPole-v1", **SMALL)
    with torch.no_grad():
        before.policy.action_net.weight *= 300
    model = LoTPPO("MlpPolicy", "CartPole-v1", student_steps=0, warm_up=0, alpha=5.0, **{**SMALL, "n_epochs": 20})
    model.students[0].load_state_dict(before.policy.state_dict())
    seen = [model.learn(32, reset_num_timesteps=False).logger.name_to_value["train/student_kl"] for _ in range(4)]
    assert seen[-1] < 0.5 * seen[0]
    assert same(model.students[0], before.policy)
    assert model.lot.updates == 0
    model.save(tmp_path / "model")
    again = LoTPPO.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert same(again.students[0], before.policy)


def test_students_come_nearer() -> None:
    model = LoTPPO("MlpPolicy", "CartPole-v1", student_steps=8, student_weight_decay=0.0, **SMALL)
    seen: list[float] = []
    for _ in range(6):
        model.learn(32, reset_num_timesteps=False)
        seen.append(model.logger.name_to_value["train/student_kl"])
    assert seen[-1] < seen[0]


def test_alpha_warms_up() -> None:
    model = LoTPPO("MlpPolicy", "CartPole-v1", alpha=0.5, warm_up=2, **SMALL)
    seen = []
    for _ in range(4):
        model.learn(32, reset_num_timesteps=False)
        seen.append(model.lot.alpha)
    assert seen == [0.0, 0.0, 0.5, 0.5]


def test_a_share_chooses_alpha_by_what_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("agents.lot_ppo._MEASURED", 2)
    # A whole rollout is one minibatch: its gains are the normalised advantages.
    options = {**SMALL, "batch_size": 32, "n_epochs": 1}
    model = LoTPPO("MlpPolicy", "CartPole-v1", term_share=0.05, warm_up=1, **options)
    sizes, kls = [], []
    for rollout in range(4):
        model.learn(32, reset_num_timesteps=False)
        kls.append(model.logger.name_to_value["train/student_kl"])
        advantages = model.rollout_buffer.advantages
        sizes.append(np.abs((advantages - advantages.mean()) / advantages.std(ddof=1)).mean())
        assert (model.lot.alpha > 0) == (rollout == 3)
        if rollout == 1:
            model.save(tmp_path / "model")
            model = LoTPPO.load(tmp_path / "model", env=model.get_env())
    expected = 0.05 * sum(sizes[1:3]) / sum(kls[1:3])
    assert model.lot.alpha == pytest.approx(expected, rel=1e-4)
    share = expected * kls[3] / sizes[3]
    assert model.logger.name_to_value["train/term_share"] == pytest.approx(share, rel=1e-4)
    assert model.spent == pytest.approx([expected * kls[3], sizes[3]], rel=1e-4)


def test_alpha_and_its_share_are_not_both_chosen() -> None:
    with pytest.raises(ValueError, match=r"alpha=0.5 and term_share=0.1, expected one"):
        LoTPPO("MlpPolicy", "CartPole-v1", alpha=0.5, term_share=0.1, **SMALL)


def test_students_are_counted_where_an_update_is_stopped_early() -> None:
    model = LoTPPO("MlpPolicy", "CartPole-v1", student_steps=3, target_kl=1e-6, learning_rate=0.01, **SMALL)
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    model.policy.optimizer.register_step_post_hook(count)
    model.learn(96)
    assert 0 < steps < 3 * 2 * 2
    assert (model.lot.teacher_steps, model.lot.updates) == (steps, 3 * steps)


def test_students_never_train_their_values() -> None:
    model = LoTPPO("MlpPolicy", "CartPole-v1", **SMALL)
    student = model.students[0]
    before = {name: p.clone() for name, p in student.named_parameters()}
    model.learn(64)
    changed = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "value" not in name}
    assert not same(student, model.policy)


def test_the_replay_holds_the_last_rollouts() -> None:
    model = LoTPPO("MlpPolicy", "CartPole-v1", student_steps=2, replay=3, **SMALL)
    seen = []
    for _ in range(5):
        model.learn(32, reset_num_timesteps=False)
        seen.append(model.rollout_buffer.observations.reshape(32, -1).copy())
    kept = [rollout[""] for rollout in model.last_rollouts.rollouts]
    assert len(kept) == 3
    for own, expected in zip(kept, seen[-3:], strict=True):
        np.testing.assert_array_equal(np.sort(own, axis=0), np.sort(expected, axis=0))
    assert len({own.ctypes.data for own in kept}) == 3
    batch = next(model.last_rollouts).numpy()
    every = np.concatenate(kept)
    assert all((every == row).all(axis=1).any() for row in batch)


def test_it_is_saved_with_its_students(tmp_path: Path) -> None:
    model = LoTPPO("MlpPolicy", "CartPole-v1", student_steps=2, students=2, **SMALL).learn(64)
    model.save(tmp_path / "model")
    again = LoTPPO.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert same(model.policy, again.policy)
    assert all(same(a, b) for a, b in zip(model.students, again.students, strict=True))
    assert (again.lot.teacher_steps, again.lot.updates, again.rollouts_seen) == (8, 16, 2)
    for one in (model, again):
        one.set_random_seed(7)
        one._last_obs = None
        one.learn(32, reset_num_timesteps=False)
    assert same(model.policy, again.policy)
    assert all(same(a, b) for a, b in zip(model.students, again.students, strict=True))


def test_students_may_be_smaller() -> None:
    model = LoTPPO("MlpPolicy", "CartPole-v1", student_policy_kwargs={"net_arch": [4]}, warm_up=0, **SMALL).learn(64)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model.students[0], model.policy)]
    assert sizes[0] < sizes[1] / 10


# --- the measure ------------------------------------------------------------------------------------------------------


def test_tempering_is_a_power_of_the_density() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    normal = td.Normal(torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    rest = tempered(normal, 2.5).log_prob(x) - normal.log_prob(x) / 2.5
    torch.testing.assert_close(rest, rest[:1].expand_as(rest))
    bernoulli, outcomes = td.Bernoulli(logits=torch.tensor(1.3)), torch.tensor([0.0, 1.0])
    rest = tempered(bernoulli, 2.5).log_prob(outcomes) - bernoulli.log_prob(outcomes) / 2.5
    torch.testing.assert_close(rest[0], rest[1])
    with pytest.raises(TypeError, match="found Laplace"):
        tempered(td.Laplace(0.0, 1.0), 1.0)


def test_of_categories_it_is_imitability() -> None:
    own, other = torch.randn(5, 4), torch.randn(5, 4)
    found = policy_distance([td.Categorical(logits=own)], [td.Categorical(logits=other)], 1.5)
    torch.testing.assert_close(found, imitability(own, other, 1.5))


@pytest.mark.parametrize(
    "options",
    [
        {"students": 0}, {"replay": 0}, {"warm_up": -1}, {"student_weight_decay": -1.0}, {"students": 2.0},
        {"replay": True}, {"alpha": float("nan")}, {"term_share": 0.0}, {"temperature": 0}, {"student_steps": "1"},
        {"labels": "no"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        LoTPPO("MlpPolicy", "CartPole-v1", **options)


@pytest.mark.parametrize("total", [-1, "10", None, 1.5])
def test_another_number_of_steps_is_refused(total: Any) -> None:
    with pytest.raises(ValueError, match="total_timesteps must be an integer of at least 0, found"):
        LoTPPO("MlpPolicy", "CartPole-v1").learn(total)
