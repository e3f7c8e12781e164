"""What every memory policy of the table does; a policy of a number of checkpoints is tried with several numbers."""

import errno
import io
import itertools
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import meta
from meta import hypergradient
from meta.hypergradients.memory_policies import MEMORY_POLICIES, MemoryOption, StateType, memory_policy
from meta.hypergradients.steps import Sizes, Steps
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.optimizers import OPTIMIZERS as OPTIMIZER_NAMES
from teachenv.optimizers import SGD, Adam
from teachenv.trees import bytes_of, tensors_of
from tests.processes import (
    OPTIMIZERS,
    Pair,
    Pendulum,
    T,
    Unrolled,
    actions_of,
    descent,
    pendulum_state,
    start,
    unrolled,
)

NAMES = [*MEMORY_POLICIES]
ANY = [name for name in NAMES if name != "reversible"]
"""Those for any process; steps of an optimiser can be reversed alone, and not of each."""
POLICIES = [*ANY, 1, 2, 3, T, 50]
FEW = [*NAMES, 2]
BOTH = [(optimizer, memory) for optimizer in OPTIMIZERS for memory in FEW]
BOTH = [(optimizer, memory) for optimizer, memory in BOTH if memory != "reversible" or not optimizer.irreversible()]

# Those that keep every k-th state: the steps between them are taken again, and a wrapper can keep the states as they
# come by.
SPACED = [name for name in NAMES if MEMORY_POLICIES[name].spacing(T) is not None]


def test_the_table_has_the_names_that_are_documented():
    names, number = get_args(MemoryOption)
    assert list(get_args(names)) == ["auto", *NAMES]
    assert number is int
    assert all(policy.name == name for name, policy in MEMORY_POLICIES.items())


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["auto", *POLICIES])
def test_an_arbitrary_step_is_differentiated(memory):
    process, actions = Pendulum(), actions_of()
    objective, wanted, initial = unrolled(process, pendulum_state(), actions)
    found = hypergradient(process, pendulum_state(), actions, memory=memory)
    torch.testing.assert_close(found.actions, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(tensors_of(found.initial), list(initial), rtol=1e-10, atol=1e-12)
    assert isinstance(found.initial["body"], Pair)
    assert found.initial["count"] is None
    torch.testing.assert_close(found.objective, objective, rtol=1e-12, atol=0)
    assert found.memory == ("all" if memory == "auto" else memory)
    assert (found.plan is None) == (memory != "auto")
    assert found.nonfinite_step is None


@pytest.mark.gpu
@pytest.mark.parametrize(("optimizer", "memory"), BOTH, ids=str)
def test_a_gradient_on_a_gpu_is_the_cpus(optimizer, memory):
    parameters, actions, process = start(), actions_of(), descent(optimizer)
    wanted = hypergradient(process, process.begin(parameters), actions, memory="states")
    moved = process.begin({name: p.cuda() for name, p in parameters.items()})
    found = hypergradient(process, moved, actions.cuda(), memory=memory)
    assert found.actions.is_cuda
    torch.testing.assert_close(found.actions.cpu(), wanted.actions, rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", NAMES)
def test_students_of_an_environment_are_differentiated_on_a_gpu(memory):
    found = {}
    for device in ("cpu", "cuda"):
        env = TeachEnv(horizon=5, dtype="float64", device=device)
        env.reset(seed=0)
        action = torch.zeros(env.action_space.shape, dtype=torch.float64, device=device)
        process = meta.Training(env.dynamics, env.episode)
        found[device] = hypergradient(process, env.student, [action] * 5, memory=memory).actions.cpu()
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("rate", [0.05, lambda t: 0.1 / (t + 1)], ids=["constant", "schedule"])
@pytest.mark.parametrize(("optimizer", "memory"), BOTH, ids=str)
def test_a_descent_is_differentiated_through_every_optimizer(optimizer, memory, rate):
    actions, parameters = actions_of(), start()
    _, wanted, initial = unrolled(Unrolled(optimizer, rate), (parameters, optimizer.init(parameters)), actions)
    process = descent(optimizer, rate)
    found = hypergradient(process, process.begin(parameters), actions, memory=memory)
    torch.testing.assert_close(found.actions, wanted, rtol=1e-9, atol=1e-12)
    for own, other in zip(tensors_of(found.initial), initial, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    close = hypergradient(process, process.begin(parameters), actions, method="finite-difference", memory=memory)
    assert 0 < float((close.actions - wanted).norm() / wanted.norm()) < 1e-4
    assert close.memory == found.memory == memory


@pytest.mark.parametrize("memory", ["auto", *FEW])
@pytest.mark.parametrize(("method", "last"), [("rmd", None), ("truncated", 3), ("finite-difference", None)])
def test_each_step_that_is_differentiated_is_reported(method, last, memory):
    calls, process = [], descent(SGD(0.9))
    hypergradient(
        process, process.begin(start()), actions_of(), method=method, last=last, memory=memory,
        advance=lambda: calls.append(1),
    )  # fmt: skip
    assert len(calls) == (last or T)


@pytest.mark.parametrize("memory", FEW)
@pytest.mark.parametrize("last", range(1, T + 1))
def test_a_truncation_is_the_end_of_the_gradient(last, memory):
    process = descent(SGD(0.9))
    state, actions = process.begin(start()), actions_of()
    whole = hypergradient(process, state, actions)
    found = hypergradient(process, state, actions, method="truncated", last=last, memory=memory)
    torch.testing.assert_close(found.actions[-last:], whole.actions[-last:], rtol=1e-12, atol=0)
    assert not found.actions[: T - last].any()
    assert (found.initial is None) == (last < T)
    assert found.hessian_vector_products < whole.hessian_vector_products + 2 - (T - last)


@given(steps=st.integers(1, 12), per_action=st.integers(1, 3), memory=st.sampled_from([*ANY, 1, 2, 5]))
@settings(max_examples=25, deadline=None)
def test_any_length_is_differentiated(steps, per_action, memory):
    process, actions = Pendulum(), actions_of(steps, seed=steps)
    _, wanted, _ = unrolled(process, pendulum_state(), actions, per_action)
    found = hypergradient(process, pendulum_state(), actions, memory=memory, steps_per_action=per_action)
    torch.testing.assert_close(found.actions, wanted, rtol=1e-9, atol=1e-12)


class LongVectors:
    """States of 2.4 MB, which an arena takes, with an integer and a tensor of no size among them."""

    def step(self, state, action, t):
        position, speed = state["body"]
        speed = 0.9 * speed - 0.1 * position.sin() * action.sum()
        return {"count": state["count"] + 1, "none": state["none"], "body": Pair(position + 0.3 * speed, speed)}

    def objective(self, state):
        return (state["body"].position ** 2).mean() + state["count"]


def test_large_states_are_differentiated_alike():
    generator = torch.Generator().manual_seed(0)
    body = Pair(*torch.randn(2, 150_000, generator=generator, dtype=torch.float64))
    state = {"count": torch.tensor(0), "none": torch.zeros(0), "body": body}
    actions = actions_of(30)
    expected = hypergradient(LongVectors(), state, actions, memory="all")
    for memory in [*ANY[1:], 3]:
        found = hypergradient(LongVectors(), state, actions, memory=memory)
        assert torch.equal(found.actions, expected.actions), memory
        for one, other in zip(tensors_of(found.initial), tensors_of(expected.initial), strict=True):
            assert torch.equal(one, other)
        assert found.measured_bytes <= found.predicted_bytes


@pytest.mark.parametrize("memory", [*ANY[1:], 3])
@pytest.mark.parametrize("size", [3, 40_000])  # the second is one that an arena takes
def test_a_state_may_hand_on_tensors_of_earlier_ones_and_of_the_users_own(size, memory):
    rng = torch.Generator().manual_seed(0)
    tables, start = torch.randn(2, 30, size, generator=rng, dtype=torch.float64)
    tables = list(tables)

    def step(state, action, t):
        now, before, long_before, table = state
        return now.sin() + 0.5 * before * action - 0.3 * long_before + 0.1 * table, now, before, tables[t]

    process = meta.Process(step, lambda state: state[0].square().sum())
    state, actions, copies = (*start[:3], start[3]), 1 + 0.1 * actions_of(30, 1), [table.clone() for table in tables]
    expected = hypergradient(process, state, actions, memory="all")
    found = hypergradient(process, state, actions, memory=memory)
    torch.testing.assert_close(found.actions, expected.actions, rtol=1e-12, atol=0)
    assert all(torch.equal(*pair) for pair in zip(tables, copies, strict=True))


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [0, 3])
@pytest.mark.parametrize("memory", [*POLICIES, "reversible"])
@pytest.mark.parametrize("by_differences", [False, True])
def test_what_was_kept_gives_the_adjoint_of_each_step_back(memory, begin, by_differences):
    process, actions = descent(SGD(0.9)), actions_of()
    states = [process.begin(start())]
    for t in range(T):
        states.append(process.step(states[-1], actions[t], t))
    cotangent = process.value(states[-1])[1]
    steps, policy = Steps(process, actions, 1, by_differences), memory_policy(memory)
    policy = policy.without_graphs if by_differences else policy
    kept = policy.keep(steps, states[begin], begin)
    final = kept.pop(T)
    torch.testing.assert_close(tensors_of(final), tensors_of(states[-1]), rtol=1e-12, atol=1e-14)
    pullback = process.pullback_by_differences if by_differences else process.pullback
    rtol = 1e-6 if by_differences else 1e-9  # the last bits of a sum count there
    restored = []
    for t, adjoint in policy.restore(steps, kept, final):
        found, expected = adjoint(cotangent), pullback(states[t], actions[t], t, cotangent)
        for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
            torch.testing.assert_close(one, other, rtol=rtol, atol=1e-3 * rtol)
        restored.append(t)
    assert restored == list(range(T - 1, begin - 1, -1))
    assert not kept


@pytest.mark.parametrize("memory", [*SPACED, 2])
def test_a_step_that_draws_anew_when_it_is_taken_again_is_named(memory):
    class Drawing(Pendulum):
        def step(self, state, action, t):
            drawn = super().step(state, action, t)
            return drawn | {"body": drawn["body"]._replace(speed=drawn["body"].speed + torch.randn(2).double())}

    torch.manual_seed(0)  # a step that happens to draw nearly the same numbers again is not named

    with pytest.raises(RuntimeError, match=rf"step {T - 1} was taken again and led to another state.*a function of t"):
        hypergradient(Drawing(), pendulum_state(), actions_of(), memory=memory)


@pytest.mark.parametrize("memory", [name for name in POLICIES if name != "all"])  # which takes no step again
def test_a_step_that_is_not_its_arguments_alone_is_found_wherever_it_is(memory):
    class Counting(Pendulum):
        calls = 0

        def step(self, state, action, t):
            self.calls += t == 2
            reached = super().step(state, action, t)
            return reached | {"body": reached["body"]._replace(speed=reached["body"].speed + (-1) ** self.calls)}

    with pytest.raises(RuntimeError, match=r"step \d was taken again and led to another state"):
        hypergradient(Counting(), pendulum_state(), actions_of(), memory=memory)


@pytest.mark.parametrize("memory", ["states", "sqrt", "log", "disk"])
def test_rounding_is_no_other_state_where_a_step_is_short(memory):
    """As of kernels that sum in another order when there is a graph."""

    class Resting(Pendulum):
        def step(self, state, action, t):
            speed = state["body"].speed
            bit = 1e-16 if speed.requires_grad and t < T - 1 else 0
            return state | {"body": Pair(state["body"].position, speed * (1 + 1e-17 * action.sum()) + bit)}

    start = pendulum_state()
    assert torch.isfinite(hypergradient(Resting(), start, actions_of(), memory=memory).actions).all()


# --- bytes ------------------------------------------------------------------------------------------------------------


def assert_predicted(found, state):
    assert found.measured_bytes <= found.predicted_bytes <= 1.3 * found.measured_bytes + 4 * bytes_of(state)


# What is held grows like the number of steps to this power.
GROWTH = {"all": 1.0, "states": 1.0, "sqrt": 0.5, "log": 0.25, "disk": 0.0}


@pytest.mark.parametrize("memory", [name for name in FEW if name != "reversible"])  # whose bytes depend on the numbers
def test_predictions_are_what_is_measured_and_grow_as_they_should(memory):
    process, held = descent(SGD(0.9)), {}
    state = process.begin(start())
    for steps in (16, 64, 256):
        found = hypergradient(process, state, actions_of(steps), memory=memory)
        assert_predicted(found, state)
        held[steps] = found.measured_bytes
    if memory in GROWTH:  # a logarithm doubles from 16 to 256
        assert abs(np.log(held[256] / held[16]) / np.log(16) - GROWTH[memory]) < 0.12


@pytest.mark.parametrize(("optimizer", "memory"), [pair for pair in BOTH if pair[1] != "reversible"], ids=str)
def test_predictions_hold_with_every_optimizer(optimizer, memory):
    process = descent(optimizer)
    state = process.begin(start())
    found = hypergradient(process, state, actions_of(16), memory=memory)
    assert_predicted(found, state)


def test_a_budget_chooses_the_fastest_policy_that_fits_and_says_why():
    process, actions = descent(SGD(0.9)), actions_of(64)
    state = process.begin(start())
    needs = {m: hypergradient(process, state, actions, memory=m).predicted_bytes for m in NAMES}
    assert needs["disk"] < min(needs["log"], needs["sqrt"]) < needs["states"] < needs["all"]
    for memory in ("all", "states", "disk"):
        found = hypergradient(process, state, actions, byte_budget=needs[memory])
        assert found.memory == memory
        assert found.plan.startswith(f"{memory!r}: {needs[memory]:,} bytes in ")
        assert "the fastest of those that fit" in found.plan
        assert all(f"{name!r}: {needed:,} bytes" in found.plan for name, needed in needs.items())
        assert found.predicted_seconds > 0
    with pytest.raises(ValueError, match=r"byte_budget=100 is too small.*'sqrt' needs .*raise it"):
        hypergradient(process, state, actions, byte_budget=100)
    for budget in ("a", 1.5, 0, -5):
        with pytest.raises(ValueError, match="byte_budget must be"):
            hypergradient(process, state, actions, byte_budget=budget)


@pytest.mark.parametrize("memory", [*(name for name in NAMES if name != "auto"), 3])
def test_options_that_a_policy_would_leave_aside_are_refused(memory):
    process = descent(SGD(0.9))
    state = process.begin(start())
    with pytest.raises(ValueError, match=r'found byte_budget=9 with memory=.*expected memory="auto"'):
        hypergradient(process, state, actions_of(2), memory=memory, byte_budget=9)
    if memory != "disk":
        with pytest.raises(ValueError, match=r"found folder='x' with memory=.*which writes no file"):
            hypergradient(process, state, actions_of(2), memory=memory, folder="x")


def test_a_full_disk_leaves_the_other_policies(monkeypatch):
    process, actions = descent(SGD(0.9)), actions_of(64)
    state = process.begin(start())
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    needed = hypergradient(process, state, actions, memory="sqrt").predicted_bytes
    found = hypergradient(process, state, actions, byte_budget=needed)
    assert found.memory in ("reversible", "sqrt", "log")
    assert "'disk'" not in found.plan


@pytest.mark.parametrize(("steps", "most"), [(1, 1), (2, 2), (10, 2.5), (100, 3.5), (5000, 4.6), (50_000, 4.9)])
def test_a_logarithm_of_checkpoints_takes_few_steps_again(steps, most):
    policy = MEMORY_POLICIES["log"]
    assert policy.count(steps) <= 2 * np.log2(steps) + 2
    assert steps <= policy.predicted_steps(Sizes(steps, 0, 0, 0, 0, None)) <= most * steps


@pytest.mark.parametrize("memory", [*NAMES, 2])
@pytest.mark.parametrize("steps", [1, 2, 9, 40])
def test_predicted_steps_are_those_taken(steps, memory):
    process, actions = descent(SGD(0.9)), actions_of(steps)
    sizes = Steps(process, actions, 1, by_differences=False).sizes(process.begin(start()), 0)
    found = hypergradient(process, process.begin(start()), actions, memory=memory)
    # One step is weighed with its graph beforehand; it counts as one of the walk, but where the walk cannot use it.
    wanted = memory_policy(memory).predicted_steps(sizes) + steps + (memory == "reversible")
    assert found.gradient_evaluations == wanted


@pytest.mark.parametrize("last", [None, 5])
@pytest.mark.parametrize("memory", ["auto", *(name for name in NAMES if MEMORY_POLICIES[name].keeps_states), 2])
@pytest.mark.parametrize("state_dtype", get_args(StateType))
def test_states_are_rounded_if_that_is_asked_for(memory, state_dtype, last):
    process, method = descent(Adam(epsilon=1e-3)), "rmd" if last is None else "truncated"
    state, actions = process.begin(start()), actions_of(20)
    exact = hypergradient(process, state, actions, method=method, last=last, memory="states")
    found = hypergradient(process, state, actions, method=method, last=last, memory=memory, state_dtype=state_dtype)
    error = float((found.actions - exact.actions).norm() / exact.actions.norm())
    assert 1e-6 < error < 0.1
    assert found.objective == exact.objective
    assert found.actions.dtype == torch.float64
    if memory == "states" and last is None:
        assert found.predicted_bytes < 0.5 * exact.predicted_bytes
    assert found.measured_bytes <= found.predicted_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "all"}, "state_dtype with memory='all', which keeps no states to round.*'sqrt'"),
        ({"state_dtype": "bfloat"}, "state_dtype 'bfloat'.*did you mean 'bfloat16'"),
    ],
)
def test_a_type_of_states_that_has_no_effect_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hypergradient(Pendulum(), pendulum_state(), actions_of(), **{"state_dtype": "bfloat16"} | options)


@pytest.mark.parametrize(
    "option", [{"memory": "sqrt"}, {"byte_budget": 10**9}, {"state_dtype": "bfloat16"}, {"folder": "."}], ids=str
)
def test_forward_mode_refuses_whatever_says_what_is_kept(option):
    name = next(iter(option))
    with pytest.raises(ValueError, match=f'found {name}=.* with method="forward", which keeps no states; leave it out'):
        hypergradient(Pendulum(), pendulum_state(), actions_of(), method="forward", **option)


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_states_on_disk_leave_nothing_behind_even_after_an_exception(tmp_path):
    options = {"memory": "disk", "folder": str(tmp_path)}
    hypergradient(Pendulum(), pendulum_state(), actions_of(), **options)
    assert not list(tmp_path.iterdir())

    class Failing(Pendulum):
        def step(self, state, action, t):
            if t == 4:
                assert not list(tmp_path.iterdir())  # while it is written to, the file has no name
                raise ZeroDivisionError
            return super().step(state, action, t)

    with pytest.raises(ZeroDivisionError):
        hypergradient(Failing(), pendulum_state(), actions_of(), **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_room_is_named(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Full())
    with pytest.raises(OSError, match=r"is full after 1\d\d bytes.*folder=.*state_dtype='bfloat16'") as refusal:
        hypergradient(Pendulum(), pendulum_state(), actions_of(), memory="disk", folder=str(tmp_path))
    assert refusal.value.errno == errno.ENOSPC


@pytest.mark.parametrize("memory", ["auto", "disk"])
def test_a_folder_that_is_not_there_is_named(memory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no folder '.*nowhere', expected one.*make it"):
        hypergradient(Pendulum(), pendulum_state(), actions_of(), memory=memory, folder=str(tmp_path / "nowhere"))


# --- wrappers ---------------------------------------------------------------------------------------------------------

WRAPPED = ["all", *SPACED]
POLICIES_AND_ENDS = list(itertools.product([*WRAPPED, 1, 3], [None, 1, 3, 6]))
SOME_OF_THEM = [*((name, None) for name in WRAPPED), ("sqrt", 3), ("all", 3), (1, 1), (3, 6), ("states", 3)]


@pytest.mark.parametrize(
    ("memory", "last", "per_action", "students"),
    [
        *((*both, 1, 1) for both in POLICIES_AND_ENDS),
        *((*both, 2, 1) for both in SOME_OF_THEM),
        *((*both, per_action, 3) for both in SOME_OF_THEM for per_action in (1, 2)),
    ],
)
def test_the_wrappers_follow_the_policies(memory, last, per_action, students):
    shared = {"horizon": 6, "batch_size": 4, "dev_size": 12, "steps_per_action": per_action, "dtype": "float64"}
    method = "rmd" if last is None else "truncated"

    def gradient(later=None, **options):
        if students == 1:
            env = meta.ActionGradient(TeachEnv(**shared), **options)
        else:
            env = meta.VectorActionGradient(TeachVectorEnv(students, **shared), **options)
        rng = np.random.default_rng(0)
        env.reset(seed=0)
        if later is not None:
            env.differentiate_last(later)
        for _ in range(2):  # two episodes: what the first leaves must not reach the second
            for _ in range(6 // per_action):
                info = env.step(rng.uniform(-0.3, 0.3, env.action_space.shape))[4]
            if students == 1:
                result = info["action_gradient"][None]
                env.reset()
            else:
                result = info["action_gradient"]
        return result

    whole, found = gradient(), gradient(method=method, memory=memory, last=last)
    np.testing.assert_array_equal(gradient(memory=memory, later=last), found)
    if last is None:
        np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-14)
        return
    kept = last // per_action
    np.testing.assert_allclose(
        found[:, 6 // per_action - kept :], whole[:, 6 // per_action - kept :], rtol=1e-9, atol=1e-14
    )
    assert not found[:, : 6 // per_action - -(-last // per_action)].any()


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
@pytest.mark.parametrize("memory", [*WRAPPED, 2])
def test_a_wrapped_environment_has_the_gradient_of_its_training(memory, optimizer):
    env = TeachEnv(horizon=4, batch_size=4, dev_size=12, optimizer=optimizer, learning_rate=0.02, dtype="float64")
    wrapped = meta.ActionGradient(env, memory=memory)
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (4, *env.action_space.shape))
    wrapped.reset(seed=0)
    begin, process = env.student, meta.Training(env.dynamics, env.episode)
    for action in actions:
        info = wrapped.step(action)[4]
    wanted = hypergradient(process, begin, torch.from_numpy(actions), memory="all").actions
    np.testing.assert_allclose(info["action_gradient"], wanted, rtol=1e-9, atol=1e-14)


# --- bad input --------------------------------------------------------------------------------------------------------


def refusals(memory):
    """Says what each place that takes a policy answers."""
    with pytest.raises(ValueError, match="memory") as direct:
        hypergradient(Pendulum(), pendulum_state(), actions_of(), memory=memory)
    with pytest.raises(ValueError, match="memory") as wrapped:
        meta.ActionGradient(TeachEnv(horizon=2), memory=memory)
    with pytest.raises(ValueError, match="memory") as window:
        meta.WindowGradient(TeachEnv(horizon=2), memory=memory)
    return {str(refusal.value) for refusal in (direct, wrapped, window)}


@pytest.mark.parametrize("memory", ["sqr", True, 1.5, None, ["all"]])
def test_an_unknown_policy_is_refused_in_one_line_that_has_all_names(memory):
    (message,) = refusals(memory)
    assert "\n" not in message
    assert message.startswith(f"unknown memory policy {memory!r}")
    assert all(repr(name) in message for name in ["auto", *NAMES])


@pytest.mark.parametrize("memory", [0, -1])
def test_less_than_one_checkpoint_is_refused(memory):
    assert refusals(memory) == {f"found memory={memory}, expected at least 1 checkpoint"}


@pytest.mark.parametrize("memory", ["reversible", "log", "disk"])
def test_a_wrapper_refuses_what_keeps_no_states_as_they_come_by(memory):
    known = ", ".join(map(repr, sorted(["all", "auto", *SPACED])))
    with pytest.raises(ValueError, match=f"memory policy of an action gradient '{memory}'.*{known}"):
        meta.ActionGradient(TeachEnv(horizon=2), memory=memory)


def test_graphs_that_hold_less_than_a_state_are_counted_with_what_is_lost_between_them():
    lean, heavy = (Sizes(10, 100, 100, graph, 100, None) for graph in (20, 300))
    policy = MEMORY_POLICIES["all"]
    assert policy.resident_bytes(lean) > policy.predicted_bytes(lean)
    assert policy.resident_bytes(heavy) == policy.predicted_bytes(heavy)
