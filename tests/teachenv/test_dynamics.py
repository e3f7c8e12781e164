import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from teachenv.losses import LOSSES, make_loss
from teachenv.mapping import Loop, Vmap
from teachenv.problem import Problem
from teachenv.recording import Recorder
from teachenv.settings import Settings
from teachenv.state import stack_episodes, take
from teachenv.students import make_student
from teachenv.tasks import ClassificationMeasure, Task, make_task
from teachenv.tasks.synthetic import make_synthetic

IMAGES = make_synthetic(pool_size=48, test_size=4)
SMALL = {"horizon": 4, "batch_size": 8, "dev_size": 16}


def normed():
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))


def dropped():
    return nn.Sequential(nn.Linear(64, 12), nn.Dropout(0.3), nn.Tanh(), nn.Linear(12, 10))


STUDENTS = {
    "mlp": {"task": "digits"},
    "relu": {"task": "digits", "student_kwargs": {"activation": "relu", "hidden": [16, 16]}},
    "normed": {"task": "digits", "student": normed},
    "lenet": {"task": IMAGES, "student": "lenet"},
    "resnet8": {"task": IMAGES, "student": "resnet8"},
}


def problem_of(name="mlp", **settings):
    return Problem(Settings(**(SMALL | STUDENTS[name] | settings)))


def random_actions(problem, *shape, seed=0):
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (*shape, len(problem.neutral_action)))
    return torch.from_numpy(actions).to(problem.task.pool[0].dtype)


def tensors_of(value):
    """All tensors of nested records, dictionaries and tuples, by their paths."""
    if isinstance(value, torch.Tensor):
        return {"": value}
    if dataclasses.is_dataclass(value):
        value = vars(value)
    elif isinstance(value, tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    return {f"{key}.{path}": t for key, inner in value.items() for path, t in tensors_of(inner).items()}


def assert_same(a, b, **tolerance):
    """Two states, or other records of tensors, agree: bitwise without a tolerance."""
    one, other = tensors_of(a), tensors_of(b)
    assert one.keys() == other.keys()
    for path in one:
        if tolerance:
            torch.testing.assert_close(one[path], other[path], **tolerance)
        else:
            assert torch.equal(one[path], other[path]), path


# --- the neutral teacher is plain training ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bilinear", "sample-weights"])
@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(
    "sgd",
    [
        {"momentum": 0.0},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "lr_schedule": "cosine"},
    ],
    ids=["plain", "nesterov"],
)
def test_the_zero_action_is_a_plain_training_loop_bitwise(name, loss, sgd):
    problem = problem_of(name, loss=loss, **sgd)
    dynamics, episode = problem.dynamics, problem.episodes.of(5)
    state = dynamics.init(episode)

    student = STUDENTS[name].get("student", "mlp")
    inputs = problem.task.pool[0]
    kwargs = STUDENTS[name].get("student_kwargs")
    module = student() if callable(student) else make_student(student, tuple(inputs.shape[1:]), 10, kwargs)()
    module.load_state_dict(state.parameters | state.buffers)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=0.1,
        momentum=sgd["momentum"],
        nesterov=sgd.get("nesterov", False),
        weight_decay=sgd.get("weight_decay", 0.0),
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=SMALL["horizon"])
    assert (dynamics.augmentation is not None) == (name in ("lenet", "resnet8"))
    for step in range(SMALL["horizon"]):
        x, y = dynamics.minibatch(episode, step)
        optimizer.param_groups[0]["lr"] = dynamics.rate(step)  # equal to torch's up to rounding
        if "lr_schedule" in sgd:
            assert dynamics.rate(step) == pytest.approx(cosine.get_last_lr()[0])
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
        cosine.step()
        state, _ = dynamics.step(state, episode, problem.neutral_action)
    assert state.step == SMALL["horizon"]
    for key, value in module.state_dict().items():
        assert torch.equal((state.parameters | state.buffers)[key], value), key
    x, y = dynamics.dev(episode)
    with torch.no_grad():
        outputs = module.eval()(x)
    objective, score, _ = dynamics.metrics(state, x, y)
    assert float(score) == pytest.approx((outputs.argmax(1) == y).float().mean().item())
    assert float(objective) == pytest.approx((outputs / 0.2).softmax(1)[range(len(y)), y].mean().item(), abs=1e-6)


def test_outcomes_are_of_the_minibatch_before_the_update():
    problem = problem_of("mlp", loss="sample-weights")
    dynamics, episode = problem.dynamics, problem.episodes.of(1)
    state, action = dynamics.init(episode), random_actions(problem)
    x, y = dynamics.minibatch(episode, 0)
    outputs = dynamics.student(state.parameters, state.buffers, x, training=True)[0].outputs
    _, outcome = dynamics.step(state, episode, action)
    weighted = ((1 + action) * F.cross_entropy(outputs, y, reduction="none")).mean()
    torch.testing.assert_close(outcome.loss, weighted.detach())
    assert float(outcome.train_score) == pytest.approx((outputs.argmax(1) == y).double().mean().item())


# --- purity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STUDENTS, "dropped"])
def test_a_step_can_be_replayed_and_leaves_its_arguments_as_they_are(name):
    problem = (
        problem_of("mlp", student=dropped) if name == "dropped" else problem_of(name, loss="bilinear", momentum=0.9)
    )
    dynamics, episode = problem.dynamics, problem.episodes.of(2)
    actions = random_actions(problem, 3)
    states = [dynamics.init(episode)]
    for action in actions:
        states.append(dynamics.step(states[-1], episode, action)[0])
    copy = dataclasses.replace(
        states[1],
        **{p: {k: t.clone() for k, t in getattr(states[1], p).items()} for p in ("parameters", "slots", "buffers")},
    )
    again = dynamics.step(states[1], episode, actions[1])[0]
    dynamics.updates(episode)[0].gradient(states[1], actions[1], with_action=True)
    assert_same(again, states[2])
    assert_same(states[1], copy)


@pytest.mark.parametrize("loss", ["bilinear", "bilinear-generalized", "bilinear-sigmoid", "sample-weights", "mixture"])
def test_gradients_are_those_of_the_reported_loss(loss):
    problem = problem_of("mlp", loss=loss, dtype="float64")
    dynamics, episode = problem.dynamics, problem.episodes.of(0)
    state, action = dynamics.init(episode), random_actions(problem)
    gradient = dynamics.updates(episode)[0].gradient(state, action, with_action=True)

    def value(parameters, a):
        moved = dataclasses.replace(state, parameters=parameters)
        return float(dynamics.updates(episode)[0].gradient(moved, a).outcome.loss)

    rng, h = torch.Generator().manual_seed(0), 1e-6
    direction = {n: torch.randn(p.shape, generator=rng, dtype=p.dtype) for n, p in state.parameters.items()}
    moved = [{n: p + s * h * direction[n] for n, p in state.parameters.items()} for s in (1, -1)]
    slope = (value(moved[0], action) - value(moved[1], action)) / (2 * h)
    assert slope == pytest.approx(
        sum(float((gradient.parameters[n] * d).sum()) for n, d in direction.items()), rel=1e-5
    )
    toward = torch.randn(action.shape, generator=rng, dtype=action.dtype)
    slope = value(state.parameters, action + h * toward) - value(state.parameters, action - h * toward)
    assert slope / (2 * h) == pytest.approx(float(gradient.action @ toward), rel=1e-5)


def test_running_statistics_move_once_a_step_differentiable_or_not():
    problem = problem_of("normed", dtype="float64")
    dynamics, episode = problem.dynamics, problem.episodes.of(0)
    state = dynamics.init(episode)
    after, _ = dynamics.step(state, episode, problem.neutral_action)
    assert int(after.buffers["1.num_batches_tracked"]) == 1
    again = dynamics.updates(episode)[0].gradient(state, problem.neutral_action)
    assert_same(again.buffers, after.buffers)


@pytest.mark.parametrize("second_order", [True, False])
def test_a_pullback_is_the_derivative_of_gradient_and_running_statistics(second_order):
    """Central differences of <cotangents, (gradient, new statistics)> along a random direction of all inputs."""
    problem = problem_of("normed", dtype="float64", loss="bilinear")
    dynamics, episode = problem.dynamics, problem.episodes.of(0)
    state, action = dynamics.init(episode), random_actions(problem)
    rng, h = torch.Generator().manual_seed(0), 1e-5
    names = dynamics.student.statistics
    assert names

    def noise(tensors):
        return {n: torch.randn(t.shape, generator=rng, dtype=t.dtype) for n, t in tensors.items()}

    statistics = {n: state.buffers[n] for n in names}
    d_gradient, d_statistics = noise(state.parameters), noise(statistics)
    along, along_statistics = noise(state.parameters), noise(statistics)
    along_action = torch.randn(action.shape, generator=rng, dtype=action.dtype)

    def value(t):
        moved = dataclasses.replace(
            state,
            parameters={n: p + t * along[n] for n, p in state.parameters.items()},
            buffers=state.buffers | {n: statistics[n] + t * along_statistics[n] for n in names},
        )
        gradient = dynamics.updates(episode)[0].gradient(moved, action + t * along_action)
        total = sum((gradient.buffers[n] * d_statistics[n]).sum() for n in names)
        if second_order:
            total = total + sum((gradient.parameters[n] * d_gradient[n]).sum() for n in d_gradient)
        return float(total)

    back = dynamics.updates(episode)[0].pullback(state, action, d_gradient if second_order else None, d_statistics)
    found = sum(float((back.parameters[n] * along[n]).sum()) for n in along)
    found += sum(float((back.statistics[n] * along_statistics[n]).sum()) for n in names)
    found += float((back.action * along_action).sum())
    assert found == pytest.approx((value(h) - value(-h)) / (2 * h), rel=1e-6)


# --- batches of students ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "dtype", "tolerance"),
    [
        ("mlp", "vmap", "float32", 1e-5),
        ("mlp", "loop", "float64", 1e-10),
        ("normed", "vmap", "float64", 1e-10),
        ("normed", "loop", "float32", 1e-5),
        ("lenet", "loop", "float32", 1e-5),
        ("lenet", "vmap", "float64", 1e-10),
        ("resnet8", "loop", "float32", 1e-5),
        ("resnet8", "vmap", "float64", 1e-10),
    ],
)  # fmt: skip
def test_batched_students_are_single_ones(name, path, dtype, tolerance):
    problem = problem_of(name, dtype=dtype, loss="mixture", learning_rate=0.02)
    single, seeds, steps = problem.dynamics, (3, 8), 3
    batched = single.mapped(Vmap() if path == "vmap" else Loop())
    episodes = [problem.episodes.of(seed) for seed in seeds]
    together = stack_episodes(episodes)
    actions = random_actions(problem, steps, len(seeds))
    batch, outcome = batched.init(together), None
    for action in actions:
        batch, outcome = batched.step(batch, together, action)
    objectives = batched.objective(batch, together)
    measured = batched.metrics(batch, *batched.dev(together))
    for i, episode in enumerate(episodes):
        state = single.init(episode)
        for action in actions[:, i]:
            state, alone = single.step(state, episode, action)
        row = dataclasses.replace(take(batch, [i]), step=steps)
        for part in ("parameters", "slots", "buffers"):
            found = {n: t[0] for n, t in getattr(row, part).items()}
            torch.testing.assert_close(found, getattr(state, part), rtol=0, atol=tolerance)
        torch.testing.assert_close(outcome.loss[i], alone.loss, rtol=0, atol=tolerance)
        torch.testing.assert_close(objectives[i], single.objective(state, episode), rtol=0, atol=10 * tolerance)
        of_one = single.metrics(state, *single.dev(episode))
        torch.testing.assert_close(measured[0][i], of_one[0], rtol=0, atol=10 * tolerance)
        torch.testing.assert_close(measured[1][i], of_one[1], rtol=0, atol=1 / SMALL["dev_size"])


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        # Those with a sigmoid are the others with one operation more.
        *[("mlp", loss) for loss, kind in LOSSES.items() if not (loss.endswith("-sigmoid") or kind.of_domains)],
        ("normed", "bilinear"),
        ("lenet", "sample-weights"),
    ],
)
def test_recordings_are_what_they_recorded(name, loss, monkeypatch):
    """At the call that records, later with other values, and (of one family) for other and for fewer students."""
    monkeypatch.setattr("teachenv.recording.CALLS_BEFORE", 0)
    pair = {"teacher": "mlp"} if make_loss(loss).of_pairs else {}
    problem = problem_of(name, loss=loss, momentum=0.9, learning_rate=0.02, **pair)
    plain = problem.dynamics.mapped(Vmap())
    recorded = plain.mapped(Vmap(Recorder(), (*plain.pieces, *(move.loss for move in plain.moves))))
    for seeds in ((3, 8, 5), *([(4, 1, 9), (2, 7)] if loss == "bilinear" else [])):
        episodes = stack_episodes([problem.episodes.of(seed) for seed in seeds])
        state = plain.init(episodes)
        for action in random_actions(problem, 2, len(seeds)):
            rng = torch.Generator().manual_seed(seeds[0])
            d_gradient = {n: torch.randn(p.shape, generator=rng) for n, p in state.parameters.items()}
            d_statistics = {n: torch.ones_like(state.buffers[n]) for n in plain.student.statistics}
            calls = [
                lambda d: d.step(state, episodes, action),  # noqa: B023 - called at once
                lambda d: d.updates(episodes)[0].gradient(state, action, with_action=True),  # noqa: B023
                lambda d: d.updates(episodes)[0].pullback(state, action, d_gradient, d_statistics),  # noqa: B023
                lambda d: d.metrics(state, *d.dev(episodes)),  # noqa: B023
            ]
            if d_statistics:
                calls.append(lambda d: d.updates(episodes)[0].pullback(state, action, None, d_statistics))  # noqa: B023
            for call in calls:
                assert_same(call(recorded), call(plain))
            state, _ = recorded.step(state, episodes, action)


def test_what_replaces_a_part_of_recorded_dynamics_is_what_runs(monkeypatch):
    monkeypatch.setattr("teachenv.recording.CALLS_BEFORE", 0)
    problem = problem_of("mlp", loss="bilinear")
    recorded = problem.dynamics.mapped(problem.vmap())
    episodes = stack_episodes([problem.episodes.of(seed) for seed in (3, 8)])
    state, action = recorded.init(episodes), random_actions(problem, 1, 2)[0]
    changes = (
        {"measure": ClassificationMeasure(10, temperature=5.0)},
        {"moves": (dataclasses.replace(recorded.moves[0], loss=make_loss("bilinear-sigmoid")),)},
    )
    for change in ({}, *changes, {}):
        changed = dataclasses.replace(recorded, **change)
        plain = changed.mapped(Vmap())
        for call in (lambda d: d.step(state, episodes, action), lambda d: d.metrics(state, *d.dev(episodes))):
            assert_same(call(changed), call(plain))


def test_dropout_students_are_batched_by_the_loop():
    problem = problem_of("mlp", student=dropped)
    episodes = [problem.episodes.of(seed) for seed in (3, 8)]
    batched = problem.dynamics.mapped(Loop())
    batch, together = batched.init(stack_episodes(episodes)), stack_episodes(episodes)
    action = problem.neutral_action
    batch, _ = batched.step(batch, together, action.expand(2, -1))
    for i, episode in enumerate(episodes):
        alone, _ = problem.dynamics.step(problem.dynamics.init(episode), episode, action)
        torch.testing.assert_close({n: t[i] for n, t in batch.parameters.items()}, alone.parameters, rtol=0, atol=1e-6)


# --- episodes --------------------------------------------------------------------------------------------------------


def numbered_task(pool, test=3):
    """Each sample's input is its own number, test samples' negative."""
    inputs = torch.arange(pool, dtype=torch.float32)[:, None]
    return Task(
        "numbered",
        "numbered",
        (inputs, torch.arange(pool) % 2),
        (-1 - torch.arange(test, dtype=torch.float32)[:, None], torch.zeros(test, dtype=torch.int64)),
        num_outputs=2,
    )


@given(data=st.data(), seed=st.integers(0, 2**62))
@settings(max_examples=60)
def test_an_episode_is_a_disjoint_split_and_epochs_without_repeats(data, seed):
    pool = data.draw(st.integers(4, 40), label="pool")
    dev_size = data.draw(st.integers(1, pool - 2), label="dev_size")
    train_size = data.draw(st.none() | st.integers(1, pool - dev_size), label="train_size")
    train_on = data.draw(st.sampled_from(["split", "pool"]), label="train_on")
    available = pool if train_on == "pool" else pool - dev_size if train_size is None else train_size
    batch = data.draw(st.integers(1, available), label="batch_size")
    options = {
        "task": numbered_task(pool),
        "student": lambda: nn.Linear(1, 2),
        "dev_size": dev_size,
        "train_size": train_size,
        "train_on": train_on,
        "batch_size": batch,
    }
    problem = Problem(Settings(horizon=12, **options))
    episode = problem.episodes.of(seed)
    train, dev = set(episode.train.tolist()), set(episode.dev.tolist())
    assert len(train) == len(episode.train) == available == problem.episodes.train_size
    assert len(dev) == len(episode.dev) == dev_size
    assert train == set(range(pool)) if train_on == "pool" else not train & dev
    assert episode.batches.shape == (12, batch)
    per_epoch = available // batch
    for start in range(0, 12, per_epoch):
        epoch = episode.batches[start : start + per_epoch].flatten().tolist()
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= train
    # A longer training begins as a shorter one: minibatch t is a function of (seed, t).
    shorter = Problem(Settings(horizon=5, **options)).episodes.of(seed)
    assert torch.equal(shorter.batches, episode.batches[:5])
    for split, inputs in (("train", episode.train), ("dev", episode.dev)):
        assert torch.equal(problem.episodes.split(episode, split)[0][:, 0], inputs.float())
    assert (problem.episodes.split(episode, "test")[0] < 0).all()


def test_episodes_of_one_seed_are_equal_and_of_others_differ():
    problem = problem_of("mlp")
    one, again, other = (problem.episodes.of(seed) for seed in (1, 1, 2))
    for part in ("batches", "dev", "train"):
        assert torch.equal(getattr(one, part), getattr(again, part))
        assert not torch.equal(getattr(one, part), getattr(other, part))
    fixed = [problem_of("mlp", resplit=False).episodes.of(seed) for seed in (1, 2)]
    assert torch.equal(fixed[0].dev, fixed[1].dev)
    assert torch.equal(fixed[0].train, fixed[1].train)
    assert not torch.equal(fixed[0].batches, fixed[1].batches)
    elsewhere = problem_of("mlp", resplit=False, split_seed=1).episodes.of(1)
    assert not torch.equal(fixed[0].dev, elsewhere.dev)


def test_epochs_are_shuffled_anew():
    episode = problem_of("mlp", dev_size=984, horizon=4).episodes.of(0)  # two minibatches an epoch
    first, second = episode.batches[:2].flatten(), episode.batches[2:].flatten()
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(episode.train.tolist())
    assert first.tolist() != second.tolist()


def test_minibatches_are_a_function_of_seed_and_step_with_augmentation():
    problem = problem_of("resnet8")
    dynamics, episode = problem.dynamics, problem.episodes.of(0)
    (x, y), (again, _) = dynamics.minibatch(episode, 2), dynamics.minibatch(problem.episodes.of(0), 2)
    assert torch.equal(x, again)
    assert not torch.equal(x, IMAGES.pool[0][episode.batches[2]])
    assert torch.equal(y, IMAGES.pool[1][episode.batches[2]])
    fixed = dataclasses.replace(episode, batches=episode.batches[:1].expand(4, -1))
    assert not torch.equal(dynamics.minibatch(fixed, 0)[0], dynamics.minibatch(fixed, 1)[0])
    plain = problem_of("resnet8", augment=False)
    assert torch.equal(plain.dynamics.minibatch(episode, 2)[0], IMAGES.pool[0][episode.batches[2]])
    batched = dynamics.mapped(Loop())
    episodes = [problem.episodes.of(seed) for seed in (0, 1)]
    stacked, _ = batched.minibatch(stack_episodes(episodes), np.array([2, 1]))
    assert torch.equal(stacked[0], x)
    assert torch.equal(stacked[1], dynamics.minibatch(episodes[1], 1)[0])


@pytest.mark.parametrize("dev_noise", [True, False])
def test_label_noise_is_in_the_whole_pool_and_in_dev_unless_it_is_wanted_clean(dev_noise):
    clean = make_task("digits")
    problem = problem_of("mlp", label_noise=0.4, dev_noise=dev_noise, dev_size=300)
    episode = problem.episodes.of(0)
    wrong = {
        split: float((problem.episodes.split(episode, split)[1] != labels).double().mean())
        for split, labels in (
            ("train", clean.pool[1][episode.train]),
            ("dev", clean.pool[1][episode.dev]),
            ("pool", clean.pool[1]),
            ("test", clean.test[1]),
        )
    }
    assert wrong["pool"] == 0.4
    assert wrong["test"] == 0.0
    assert 0.3 < wrong["train"] < 0.5
    assert (0.3 < wrong["dev"] < 0.5) if dev_noise else wrong["dev"] == 0.0
    assert torch.equal(problem_of("mlp", label_noise=0.4, dev_size=20).task.pool[1], problem.task.pool[1])


def test_evaluation_in_pieces_is_evaluation_at_once(monkeypatch):
    problem = problem_of("normed", dtype="float64")
    dynamics, episode = problem.dynamics, problem.episodes.of(0)
    state, _ = dynamics.step(dynamics.init(episode), episode, problem.neutral_action)
    at_once = dynamics.metrics(state, *problem.task.test)
    monkeypatch.setattr("teachenv.model._MOST_SAMPLES", 100)
    torch.testing.assert_close(dynamics.metrics(state, *problem.task.test), at_once)
