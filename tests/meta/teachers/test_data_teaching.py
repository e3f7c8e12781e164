"""L2T's data teacher: what it sees, what it is paid, and how it learns."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from meta import DataTeacher, DataTeaching, RandomDropTeacher, SelfPacedTeacher
from meta.teachers.data_teaching import DROP, KEEP, DataPolicy
from teachenv import TeachEnv, TeachVectorEnv

SETTINGS = {"loss": "sample-weights", "horizon": 8, "batch_size": 6, "dev_size": 40, "learning_rate": 0.3}
M, C = 6, 10


def environment(threshold=0.9, **changes):
    return DataTeaching(TeachEnv(**SETTINGS | changes), threshold)


def of_each(observation):
    """(samples, 2C + 5): the numbers that all share, and then those of each."""
    shared, of_samples = observation[:3], observation[3:].reshape(2 * C + 2, M)
    return np.concatenate([np.tile(shared, (M, 1)), of_samples.T], 1)


def keep_all(env):
    return np.full(env.action_space.shape, KEEP, dtype=np.float32)


def run(env, actions=None, seed=0):
    """(observations, rewards, last info) of an episode."""
    observation, _ = env.reset(seed=seed)
    observations, rewards, ended, info = [observation], [], False, {}
    while not ended:
        action = keep_all(env) if actions is None else actions[len(rewards)]
        observation, reward, ended, _, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return observations, rewards, info


# --- the environment -------------------------------------------------------------------------------------------------


def test_the_features_of_each_sample():
    env = environment()
    observation, info = env.reset(seed=0)
    losses, best = [], info["dev_accuracy"]
    for t in range(4):
        seen = of_each(observation)
        teach = env.unwrapped
        rows = teach.episode.batches[t]
        inputs, labels = (tensor[rows] for tensor in teach.problem.task.pool)
        p = teach.dynamics.student(teach.student.parameters, {}, inputs, training=False)[0].outputs.softmax(1)
        np.testing.assert_array_equal(seen[:, 3 : C + 3].argmax(1), labels)
        assert (seen[:, 3 : C + 3].sum(1) == 1).all()
        np.testing.assert_allclose(seen[:, 0], t / 8, atol=1e-6)
        np.testing.assert_allclose(seen[:, 1], min(np.mean(losses) / math.log(C), 1) if losses else 1, atol=1e-6)
        np.testing.assert_allclose(seen[:, 2], best, atol=1e-6)
        np.testing.assert_allclose(seen[:, C + 3 : 2 * C + 3], p.detach(), atol=1e-6)
        own = p[torch.arange(M), labels]
        hardest, surest = int(own.argmin()), int(own.argmax())
        assert seen[hardest, -2] == pytest.approx((M - 1) / M)
        assert seen[surest, -2] == 0
        margins = [float(p[i, y] - max(p[i, j] for j in range(C) if j != y)) for i, y in enumerate(labels.tolist())]
        np.testing.assert_allclose(seen[:, -1], [sum(m < own for m in margins) / M for own in margins], atol=1e-6)
        assert env.observation_space.contains(observation)
        observation, _, _, _, info = env.step(keep_all(env))
        losses.append(info["train_loss"])
        best = max(best, info["dev_accuracy"])


def test_keeping_all_is_plain_training_and_dropping_all_leaves_the_student():
    env, plain = environment(), TeachEnv(**SETTINGS)
    run(env)
    plain.reset(seed=0)
    for _ in range(8):
        plain.step(np.zeros(M, dtype=np.float32))
    for name, value in plain.student.parameters.items():
        assert torch.equal(env.unwrapped.student.parameters[name], value)
    env.reset(seed=0)
    before = env.unwrapped.student.parameters
    env.step(np.full(M, DROP, dtype=np.float32))
    assert all(torch.equal(before[name], p) for name, p in env.unwrapped.student.parameters.items())


def test_a_dropped_sample_does_not_count():
    env = environment()
    env.reset(seed=0)
    action = keep_all(env)
    action[2] = DROP
    teach = env.unwrapped
    rows = [int(r) for i, r in enumerate(teach.episode.batches[0]) if i != 2]
    leaves = {name: p.clone().requires_grad_() for name, p in teach.student.parameters.items()}
    inputs, labels = (tensor[rows] for tensor in teach.problem.task.pool)
    outputs = teach.dynamics.student(leaves, {}, inputs, training=True)[0].outputs
    loss = torch.nn.functional.cross_entropy(outputs, labels, reduction="sum") / M
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    env.step(action)
    for name, value in teach.student.parameters.items():
        torch.testing.assert_close(value, leaves[name].detach() - 0.3 * grads[name], rtol=1e-5, atol=1e-6)


def test_the_reward_is_paid_at_the_end_for_being_early():
    env = environment(threshold=0.25, horizon=40)
    teach = env.unwrapped
    env.reset(seed=0)
    accuracies, rewards, ended = [], [], False
    while not ended:
        _, reward, ended, _, info = env.step(keep_all(env))
        accuracies.append(info["dev_accuracy"])
        rewards.append(reward)
    first = next(i for i, a in enumerate(accuracies, start=1) if a > 0.25)
    assert 1 < first < 40
    assert info["reached_after"] == first
    assert rewards == [0.0] * 39 + [-math.log(first / 40)]
    assert teach.student.step == 40
    _, rewards, info = run(environment(threshold=0.999))
    assert (info["reached_after"], sum(rewards)) == (8, 0.0)


def test_an_episode_continues_from_its_snapshot():
    env = environment(threshold=0.15)
    env.reset(seed=0)
    for _ in range(3):
        env.step(keep_all(env))
    state = env.get_state()
    rest = [env.step(keep_all(env))[:2] for _ in range(5)]
    env.reset(seed=1)
    env.set_state(state)
    for (observation, reward), (again, same, *_) in zip(rest, (env.step(keep_all(env)) for _ in range(5)), strict=True):
        np.testing.assert_array_equal(observation, again)
        assert reward == same
    with pytest.raises(ValueError, match="without DataTeaching"):
        env.set_state(env.unwrapped.get_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "bilinear"}, "needs loss='sample-weights' with scale 1, found 'bilinear'"),
        ({"loss_kwargs": {"scale": 0.5}}, "with scale 1"),
        ({"steps_per_action": 2}, "steps_per_action=1, found 2"),
    ],
)
def test_environments_without_samples_to_drop_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        environment(**changes)


def test_a_threshold_is_an_accuracy():
    with pytest.raises(ValueError, match=r"in \(0, 1\), found 90"):
        environment(threshold=90)
    other = gym.make("CartPole-v1")
    with pytest.raises(TypeError, match="found CartPoleEnv"):
        DataTeaching(other)


# --- the teachers ----------------------------------------------------------------------------------------------------


def test_the_gradient_is_reinforces():
    teacher = DataTeacher("DataPolicy", environment(threshold=0.2), seed=0, students_per_update=2)
    teacher.baseline = 0.3
    collected = []
    improve = teacher._improve
    teacher._improve = lambda students: (collected.append((students, list(teacher._actions))), improve(students))
    before = {name: p.detach().clone() for name, p in teacher.policy.named_parameters()}
    teacher.learn(16)
    ((students, actions),) = collected
    found = {name: p.grad.clone() for name, p in teacher.policy.named_parameters()}
    twin = DataTeacher("DataPolicy", environment(), seed=0).policy
    twin.load_state_dict({**twin.state_dict(), **before})
    total = 0.0
    for student, own in zip(students, actions, strict=True):
        assert own.shape == (8, M)
        assert set(np.unique(own)) <= {DROP, KEEP}
        keep = twin(torch.as_tensor(student.observations))
        log_p = torch.distributions.Bernoulli(keep).log_prob(torch.as_tensor(own == KEEP).float()).sum()
        total = total + (student.info["episode"]["r"] - 0.3) * log_p / 2
    total.backward()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(found[name], -p.grad, rtol=1e-4, atol=1e-6)
    rewards = [s.info["episode"]["r"] for s in students]
    assert teacher.baseline == pytest.approx(0.8 * 0.3 + 0.2 * np.mean(rewards))


class PaidForDropping(DataTeaching):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(np.mean(action == DROP)), *rest


def test_it_learns_what_it_is_paid_for():
    env = PaidForDropping(TeachEnv(**SETTINGS))
    teacher = DataTeacher("DataPolicy", env, learning_rate=0.1, students_per_update=4, seed=0)
    observation, _ = env.reset(seed=0)
    keep = [float(teacher.policy(torch.as_tensor(observation)[None]).detach().mean())]
    teacher.learn(25 * 4 * 8)
    keep.append(float(teacher.policy(torch.as_tensor(observation)[None]).detach().mean()))
    assert keep[0] > 0.75
    assert keep[1] < 0.3


def test_it_is_saved_and_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = DataTeacher("DataPolicy", environment(0.2), seed=0).learn(6 * 8)
    part = DataTeacher("DataPolicy", environment(0.2), seed=0).learn(3 * 8)
    part.save(tmp_path / "teacher")
    part = DataTeacher.load(tmp_path / "teacher", env=environment(0.2))
    part.learn(3 * 8, reset_num_timesteps=False)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(part.policy.state_dict()[name], value), name
    assert part.baseline == whole.baseline


def test_it_starts_by_keeping_nearly_all_and_judges_each_sample_alone():
    env = environment()
    policy = DataTeacher("DataPolicy", env, seed=0).policy
    assert isinstance(policy, DataPolicy)
    observation = torch.as_tensor(env.reset(seed=0)[0])
    keep = policy(observation[None])[0]
    assert (keep > 0.6).all()
    turned = torch.cat([observation[:3], observation[3:].view(-1, M).flip(1).flatten()])[None]
    torch.testing.assert_close(policy(turned)[0], keep.flip(0))
    # 25 features, as in L2T.
    assert [tuple(p.shape) for p in policy.actor.parameters()] == [(12, 25), (12,), (1, 12), (1,)]


def test_self_paced_learning_drops_the_hardest_ever_fewer():
    env = environment()
    teacher = SelfPacedTeacher("SelfPacedPolicy", env)
    observation, _ = env.reset(seed=0)
    kept = []
    for _ in range(8):
        action, _ = teacher.predict(observation)
        ranks = of_each(observation)[:, -2]
        kept.append(int((action == KEEP).sum()))
        if kept[-1] < M:
            assert ranks[action == KEEP].max() < ranks[action == DROP].min()
        observation, *_ = env.step(action)
    assert kept[0] == 1
    assert kept == sorted(kept)
    assert kept[-1] >= M - 1
    early = SelfPacedTeacher("SelfPacedPolicy", env, policy_kwargs={"until": 0.25})
    run(env)
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        observation, *_ = env.step(keep_all(env))
    assert (early.predict(observation)[0] == KEEP).all()


def test_self_paced_learning_of_many_students_ranks_what_they_observe():
    options = {**SETTINGS, "task": "digits", "observe_samples": True, "loss_kwargs": {"normalise": True}}
    envs = TeachVectorEnv(2, **options)
    warmed = SelfPacedTeacher("SelfPacedPolicy", envs, policy_kwargs={"until": 2.0, "warm_up": 0.5})
    teacher = SelfPacedTeacher("SelfPacedPolicy", envs, policy_kwargs={"until": 2.0})
    observations, _ = envs.reset(seed=0)
    p = observations[:, envs.interface.observation_space.place("label_probability")]
    for t in range(8):
        actions, _ = teacher.predict(observations)
        kept = actions == KEEP
        p = observations[:, envs.interface.observation_space.place("label_probability")]
        assert (kept.sum(1) == 1 + round(5 * t / 16)).all()
        np.testing.assert_array_equal(warmed.predict(observations)[0] == KEEP, kept if t >= 4 else True)
        for row, chosen in zip(p, kept, strict=True):
            assert set(np.flatnonzero(chosen)) == set(np.argsort(-row)[: chosen.sum()])
        observations, *_ = envs.step(actions)
    with pytest.raises(ValueError, match="a policy for samples needs an environment that shows them"):
        SelfPacedTeacher("SelfPacedPolicy", TeachEnv(**SETTINGS))


def test_random_dropping_keeps_the_given_fraction():
    env = environment(batch_size=50)
    teacher = RandomDropTeacher("RandomDropPolicy", env, policy_kwargs={"keep": 0.7})
    torch.manual_seed(0)
    observation, _ = env.reset(seed=0)
    kept = [np.mean(teacher.predict(observation, deterministic=True)[0] == KEEP) for _ in range(40)]
    assert np.mean(kept) == pytest.approx(0.7, abs=0.03)
    assert len({float(k) for k in kept}) > 1
