"""A trusted dev set: what is measured on it, who learns from it, and what is refused of it."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import meta
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.tasks import Task

POOL, DEV, CLASSES = 30, 12, 3
OPTIONS = {"student": "mlp", "batch_size": 4, "horizon": 5, "dtype": "float64", "learning_rate": 0.3}
SOURCES = ("pool", "dev", "pool and dev")


def samples(count, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4)), np.arange(count) % CLASSES


def task(**changes) -> Task:
    fields = {"pool": samples(POOL, 0), "test": samples(9, 1), "dev": samples(DEV, 2), "num_outputs": CLASSES}
    return Task(**{"name": "points", "dataset": "made-up"} | fields | changes)


def make(kind=TeachEnv, **changes):
    return kind(**({"task": task()} | OPTIONS | changes))


def rolled(env, seed=1, count=None):
    """Numbers of a training under random actions: observations, rewards, and its last info."""
    env.reset(seed=seed)
    rng, seen = np.random.default_rng(3), []
    for _ in range(OPTIONS["horizon"]):
        action = rng.uniform(-1, 1, env.unwrapped.problem.neutral_action.shape)
        actions = action if count is None else np.broadcast_to(action, (count, *action.shape))
        observation, reward, *_, info = env.step(actions)
        seen.append((observation, reward))
    return seen, info


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_on", ["split", "pool"])
@pytest.mark.parametrize("learn_from", SOURCES)
def test_an_episode_is_judged_on_dev_and_learns_from_what_was_chosen(learn_from, train_on):
    env = make(learn_from=learn_from, train_on=train_on)
    judged, seen = set(), set()
    for seed in range(6):
        env.reset(seed=seed)
        dev, train, batches = (
            set(indices.flatten().tolist()) for indices in (env.episode.dev, env.episode.train, env.episode.batches)
        )
        learned = {"pool": range(POOL), "dev": range(POOL, POOL + DEV)}.get(learn_from, range(POOL + DEV))
        assert len(dev) == (DEV if learn_from == "pool" else DEV // 2)
        assert dev <= set(range(POOL, POOL + DEV))
        assert train == set(learned) - (dev if train_on == "split" else set())
        assert batches <= train
        judged, seen = judged | dev, seen | batches
    assert judged == set(range(POOL, POOL + DEV))
    assert bool(seen & judged) == (learn_from != "pool")
    assert bool(seen - judged) == (learn_from != "dev")


def test_minibatches_hold_the_samples_that_the_indices_name():
    env = make(learn_from="pool and dev", label_noise=0.4)
    env.reset(seed=0)
    inputs, targets = (torch.cat(pair) for pair in zip(env.task.pool, env.task.dev, strict=True))
    indices = env.episode.batches[0]
    found = env.dynamics.minibatch(env.episode, 0)
    assert torch.equal(found[0], inputs[indices])
    assert torch.equal(found[1], targets[indices])


def test_a_smaller_dev_split_is_drawn_from_dev_and_a_larger_one_refused():
    env = make(dev_size=5)
    drawn = []
    for seed in range(4):
        env.reset(seed=seed)
        drawn.append(sorted(env.episode.dev.tolist()))
        assert len(drawn[-1]) == 5
        assert drawn[-1][0] >= POOL
        assert len(env.episode.train) == POOL
    assert len({*map(tuple, drawn)}) > 1
    for changes in ({"dev_size": 13}, {"dev_size": 12, "learn_from": "dev"}, {"train_size": 31}):
        with pytest.raises(ValueError, match="of a pool of 30 samples beside a trusted dev set of 12"):
            make(**changes)
    with pytest.raises(ValueError, match="dev_measured must be at most dev_size=12, found 13"):
        make(dev_measured=13)
    with pytest.raises(ValueError, match="batch_size=8 is larger than the 6 training samples"):
        make(batch_size=8, learn_from="dev")


def test_defaults_of_an_id_are_for_a_dev_split_of_the_pool():
    for options in ({"trusted_dev": 20}, {"task": task(), "student": "mlp", "batch_size": 4}):
        env = gym.make("TeachWine-v0", **options).unwrapped  # its dev_size is 48
        assert env.problem.episodes.dev_size == len(env.task.dev[0])


# --- what is measured and learned ------------------------------------------------------------------------------------


def test_j_is_measured_on_all_of_dev_and_on_nothing_else():
    env = make(label_noise=0.4)
    _, info = rolled(env)
    outputs = env.predict(env.task.dev[0])
    p = (outputs / env.problem.settings.objective_temperature).softmax(1)
    truth = torch.from_numpy(samples(DEV, 2)[1])
    assert info["objective"] == pytest.approx(float(p[range(DEV), truth].mean()), abs=1e-12)
    accuracy = float((outputs.argmax(1) == truth).double().mean())
    assert info["dev_accuracy"] == env.evaluate("dev")["dev_accuracy"] == pytest.approx(accuracy)
    of_pool = (env.predict(env.task.pool[0]).argmax(1) == env.task.pool[1]).double().mean()
    assert env.evaluate("pool")["pool_accuracy"] == env.evaluate("train")["train_accuracy"] == pytest.approx(of_pool)


@pytest.mark.parametrize(("learn_from", "learns"), [("pool", False), ("dev", True), ("pool and dev", True)])
@pytest.mark.parametrize("kind", [TeachEnv, TeachVectorEnv])
def test_the_students_gradient_reads_the_labels_of_dev_only_where_it_shall(kind, learn_from, learns):
    inputs, labels = samples(DEV, 2)
    envs = [
        make(kind, task=task(dev=(inputs, (labels + shift) % CLASSES)), learn_from=learn_from, warm_start=2)
        for shift in (0, 1)
    ]
    for env in envs:
        env.reset(seed=1)
        neutral = np.zeros(env.action_space.shape)
        for _ in range(OPTIONS["horizon"] - 1):
            *_, info = env.step(neutral)
    first, second = ((env.student if kind is TeachEnv else env.students).parameters for env in envs)
    assert learns == any(not torch.equal(first[name], second[name]) for name in first)
    measured = [env.evaluate("dev")["dev_objective"] if kind is TeachEnv else info["objective"][0] for env in envs]
    assert learns or kind is TeachVectorEnv or measured[0] != measured[1]


@pytest.mark.parametrize("observe", [False, True])
@pytest.mark.parametrize("learn_from", SOURCES)
def test_a_vector_environment_trains_as_single_ones(learn_from, observe):
    options = {"learn_from": learn_from, "label_noise": 0.4}
    if observe:
        options |= {"loss": "sample-weights", "observe_samples": True}
    envs = make(TeachVectorEnv, num_envs=2, **options)
    seen, infos = rolled(envs, count=2)
    assert envs.path == "vmap"
    for i in range(2):
        single, info = rolled(make(**options), seed=1 + i)
        for (observations, rewards), (observation, reward) in zip(seen[:-1], single[:-1], strict=True):
            assert observations[i] == pytest.approx(observation, abs=1e-9)
            assert rewards[i] == pytest.approx(reward, abs=1e-9)
        assert infos["final_info"]["objective"][i] == pytest.approx(info["objective"], abs=1e-9)


def test_the_gradient_of_actions_is_that_of_j_on_dev():
    env = meta.ActionGradient(make(loss="data-weights", steps_per_action=5))
    env.reset(seed=1)
    *_, info = env.step(np.zeros(POOL))
    gradient, direction = info["action_gradient"][0], np.eye(POOL)[int(env.unwrapped.episode.batches[0, 0])]

    def objective(size):
        single = make(loss="data-weights", steps_per_action=5)
        single.reset(seed=1)
        return single.step(size * direction)[-1]["objective"]

    slope = (objective(1e-4) - objective(-1e-4)) / 2e-4
    assert abs(slope) > 1e-6
    assert gradient @ direction == pytest.approx(slope, rel=1e-4)


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_continues_with_the_same_dev_and_is_refused_with_another():
    env, again = make(), make()
    env.reset(seed=0)
    neutral = np.zeros(env.action_space.shape)
    env.step(neutral)
    state = env.get_state()
    again.set_state(state)
    assert again.step(neutral)[1] == env.step(neutral)[1]
    inputs, labels = samples(DEV, 2)
    for dev in ((inputs + 1, labels), (inputs, (labels + 1) % CLASSES), (inputs[1:], labels[1:]), None):
        other = make(task=task(dev=dev)) if dev else make(task=task(dev=dev), dev_size=DEV)
        with pytest.raises(ValueError, match=r"state of another environment \(task: "):
            other.set_state(state)


def test_sizes_that_are_the_defaults_have_one_fingerprint():
    chosen = {"dev_size": DEV, "dev_measured": DEV, "train_size": POOL}
    assert make(**chosen).problem.fingerprint == make().problem.fingerprint
    digits = TeachEnv(task="digits", trusted_dev=100)
    assert digits.problem.fingerprint == TeachEnv(task="digits", trusted_dev=100, pool_size=1000).problem.fingerprint
    assert digits.problem.fingerprint != TeachEnv(task="digits", trusted_dev=101).problem.fingerprint


# --- a dev set taken out of the pool ---------------------------------------------------------------------------------


def test_a_part_of_the_pool_becomes_dev_before_label_noise():
    whole = task(dev=None, lengths=np.arange(POOL))
    parted = whole.with_dev(8, seed=3)
    again, other = whole.with_dev(8, seed=3), whole.with_dev(8, seed=4)
    noisy = parted.with_label_noise(0.5, "pair", 0)
    assert (parted.name, noisy.name) == ("points-dev-8", "points-dev-8-noisy-50")
    assert torch.equal(parted.dev[0], again.dev[0])
    assert not torch.equal(parted.dev[0], other.dev[0])
    rows = {tuple(x): (int(y), n) for n, (x, y) in enumerate(zip(whole.pool[0].tolist(), whole.pool[1], strict=True))}
    inputs, targets = (torch.cat(pair) for pair in zip(parted.pool, parted.dev, strict=True))
    assert [(int(y), int(n)) for y, n in zip(targets, parted.lengths, strict=True)] == [
        rows[tuple(x)] for x in inputs.tolist()
    ]
    assert len({*map(tuple, inputs.tolist())}) == POOL
    assert torch.equal(noisy.dev[1], parted.dev[1])
    assert int((noisy.pool[1] != parted.pool[1]).sum()) == 11
    dataclasses.replace(parted)  # it passes all checks
    assert parted.subset_pool(5, 0).lengths.shape == (5 + 8,)


def test_samples_that_the_pool_has_twice_stay_there():
    inputs, labels = samples(10, 0)
    inputs[5:9] = inputs[0]
    parted = task(pool=(inputs, labels), dev=None).with_dev(5, seed=0)
    assert len(parted.pool[0]) == 5
    assert (parted.pool[0] == torch.from_numpy(inputs[0])).all()
    with pytest.raises(ValueError, match=r"trusted_dev is 6: expected 1 to 5.* 10 samples, 5 of them once"):
        task(pool=(inputs, labels), dev=None).with_dev(6, seed=0)
    with pytest.raises(ValueError, match="trusted_dev is 30: expected 1 to 29"):
        task(dev=None).with_dev(30, seed=0)
    with pytest.raises(ValueError, match="has a trusted dev set already; leave trusted_dev out"):
        make(trusted_dev=5)


def test_digits_with_a_trusted_dev_set_and_noise_have_wrong_labels_in_the_pool_alone():
    env = gym.make("TeachDigits-v0", trusted_dev=100, label_noise=0.4).unwrapped
    clean = TeachEnv(task="digits", trusted_dev=100).task
    assert env.task.name == "digits-dev-100-noisy-40"
    assert torch.equal(env.task.dev[1], clean.dev[1])
    assert int((env.task.pool[1] != clean.pool[1]).sum()) == 360
    env.reset(seed=0)
    assert (len(env.episode.dev), len(env.episode.train)) == (100, 900)
    mapping = TeachEnv(task={"name": "digits", "trusted_dev": 100, "label_noise": 0.4})
    assert mapping.problem.fingerprint == env.problem.fingerprint


# --- what is refused -------------------------------------------------------------------------------------------------

X, Y = samples(DEV, 2)


class Frame:
    """What a pandas frame of a column of texts and one of numbers is to NumPy."""

    def __array__(self, dtype=None, copy=None):
        return np.array([["red", 1.0]] * DEV, dtype=object)


@pytest.mark.parametrize(
    ("dev", "message"),
    [
        ((np.concatenate([X[:9], samples(POOL, 0)[0][4:7]]), Y), "3 of the 12 samples of dev are in the pool too"),
        ((np.where(X[0, 0] == X, -0.0, X), Y[:5]), "same number of samples"),
        ((X[:, :3], Y), r"inputs of one sample are \(4,\) torch.float64 in the pool but \(3,\)"),
        ((X.astype(np.float32), Y), r"in the pool but \(4,\) torch.float32 in dev"),
        ((X, Y + 1), r"dev: class indices lie in \[1, 3\], expected \[0, 3\)"),
        ((X, Y - 0.5), "targets such as -0.5 are no class indices"),
        ((X, Y.astype(str)), "labels are texts in dev and numbers in pool; expected texts in both"),
        ((X, np.array(["a", "b", "c"] * 4, dtype=object)), "labels are texts in dev and numbers in pool"),
        ((Frame(), Y), r"dev: inputs are of dtype object; expected numbers: of columns .*get_dummies"),
        ((X * np.nan, Y), "dev: inputs contain NaN"),
        ((X[:0], Y[:0]), "dev: no samples"),
        (X, r"dev: expected a pair \(inputs, targets\)"),
    ],
)
def test_bad_dev_is_one_line(dev, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        task(dev=dev)
    assert "\n" not in str(error.value)


def test_zeros_of_both_signs_are_the_same_sample():
    zeros, (inputs, labels) = np.zeros((1, 4)), samples(POOL, 0)
    with pytest.raises(ValueError, match="1 of the 12 samples of dev"):
        task(pool=(np.concatenate([zeros, inputs[1:]]), labels), dev=(np.concatenate([-zeros, X[1:]]), Y))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learn_from": "dev", "task": task(dev=None), "dev_size": 5}, "learn_from='dev' needs a trusted dev set"),
        ({"learn_from": "pool and dev", "loss": "data-weights"}, "weights of the pool's samples do not go with"),
        ({"dev_noise": False, "label_noise": 0.4}, "dev_noise=False has no effect with a trusted dev set"),
        ({"task": task(dev=None), "trusted_dev": 30}, "trusted_dev is 30"),
    ],
)
def test_settings_that_do_not_go_with_dev_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**changes)
    assert "\n" not in str(error.value)


def test_attribution_is_of_the_pools_samples():
    x, y = samples(3, 5)
    scores = meta.attribute(make(loss="data-weights"), tests=(x, y), seeds=[0])
    assert scores.values.shape == (3, POOL)
    with pytest.raises(ValueError, match="weights of the pool's samples do not go with learn_from='pool and dev'"):
        meta.attribute(make(loss="sample-weights", learn_from="pool and dev"), tests=(x, y), seeds=[0])


def test_a_warm_start_learns_from_what_was_chosen():
    env = make(learn_from="dev", warm_start=3)
    env.reset(seed=0)
    warm = env.dynamics._warm_episode(env.episode)
    assert set(warm.batches.flatten().tolist()) <= set(env.episode.train.tolist())
    outputs = env.predict(env.task.dev[0])
    assert bool(torch.isfinite(F.cross_entropy(outputs, env.task.dev[1])))
