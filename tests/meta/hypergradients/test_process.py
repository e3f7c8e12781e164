"""Processes of one's own, and every method and memory policy against unrolled autograd."""

import itertools
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel

import meta
from meta import Descent, Process, Training, hypergradient
from meta.hypergradients.memory import Arena
from teachenv import TeachEnv, TeachVectorEnv, optimizers
from teachenv.optimizers import SGD, Adam, RMSprop, make_optimizer
from teachenv.trees import bytes_of, tensors_of, with_tensors

T, N = 7, 3
POLICIES = ["auto", "all", "states", "sqrt", 1, 2, 3, T, 50]
Pair = namedtuple("Pair", "position speed")


def actions_of(steps=T, size=N, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(steps, size, generator=rng, dtype=torch.float64)


class Pendulum:
    """A process that is no training: a nested state, an integer in it, and a step that depends on t."""

    def step(self, state, action, t):
        position, speed = state["body"]
        force = torch.sin(position) * (1 + 0.1 * t) + action.tanh().sum() * position.cos()
        speed = 0.9 * speed - 0.1 * force
        return {"body": Pair(position + 0.3 * speed, speed), "count": state["count"] + 1}

    def objective(self, state):
        return (state["body"].position ** 2).sum() + state["body"].speed.prod()


def pendulum_state():
    return {
        "body": Pair(torch.tensor([0.3, -0.8]).double(), torch.tensor([1.0, 0.5]).double()),
        "count": torch.tensor(0),
    }


def unrolled(process, state, actions, steps_per_action=1):
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in tensors_of(state)]
    leaf = actions.clone().requires_grad_()
    current = with_tensors(state, leaves)
    for t in range(len(actions) * steps_per_action):
        current = process.step(current, leaf[t // steps_per_action], t)
    objective = process.objective(current)
    grads = torch.autograd.grad(objective, [leaf, *(x for x in leaves if x.requires_grad)])
    return objective.detach(), grads[0], grads[1:]


def quadratic(parameters, action, t):
    """A loss with curvature and a mixed derivative."""
    w, b = parameters["w"], parameters["b"]
    return (
        (torch.tanh(w @ action[: w.shape[1]]) - 0.1 * t).square().sum() + (b * action).square().sum() + (w**4).sum() / 9
    )


def descent(optimizer, rate=0.05):
    return Descent(quadratic, lambda p: (p["w"] ** 2).sum() + p["b"].sum(), optimizer, rate)


def start():
    rng = torch.Generator().manual_seed(1)
    return {"w": torch.randn(4, N, generator=rng).double(), "b": torch.randn(N, generator=rng).double()}


class Unrolled:
    """A descent with every step in the graph."""

    def __init__(self, optimizer, rate):
        self.optimizer, self.rate = optimizer, rate

    def step(self, state, action, t):
        parameters, slots = state
        loss = quadratic(parameters, action, t)
        grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        rate = self.rate(t) if callable(self.rate) else self.rate
        return self.optimizer.update(parameters, dict(zip(parameters, grads, strict=True)), slots, rate, t)

    def objective(self, state):
        return (state[0]["w"] ** 2).sum() + state[0]["b"].sum()


# A small ε bends the objective more than finite differences bear.
EPSILON = {
    name: {"epsilon": 1e-3} if "epsilon" in entry.options else {} for name, entry in optimizers.OPTIMIZERS.items()
}
OPTIMIZERS = [
    *(make_optimizer(name, options, weight_decay=0.02) for name, options in EPSILON.items()),
    SGD(0.9, 0.01),
    SGD(0.9, 0.01, nesterov=True),
    RMSprop(0.9, 1e-3, momentum=0.8),
]


# --- exact methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", POLICIES)
def test_an_arbitrary_step_is_differentiated_under_every_memory_policy(memory):
    process, actions = Pendulum(), actions_of()
    objective, wanted, initial = unrolled(process, pendulum_state(), actions)
    found = hypergradient(process, pendulum_state(), actions, memory=memory)
    torch.testing.assert_close(found.actions, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(tensors_of(found.initial), list(initial), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.objective, objective, rtol=1e-12, atol=0)
    assert found.memory == ("states" if memory == "auto" else memory)
    assert found.nonfinite_step is None


@pytest.mark.parametrize("rate", [0.05, lambda t: 0.1 / (t + 1)], ids=["constant", "schedule"])
@pytest.mark.parametrize("memory", ["all", "states", "sqrt", 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
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


@pytest.mark.parametrize("steps_per_action", [1, 2])
@pytest.mark.parametrize(
    "process", [Pendulum(), *(descent(o) for o in OPTIMIZERS)], ids=["pendulum", *map(str, OPTIMIZERS)]
)
def test_forward_mode_is_reverse_mode(process, steps_per_action):
    state = process.begin(start()) if isinstance(process, Descent) else pendulum_state()
    actions = actions_of(4)
    reverse = hypergradient(process, state, actions, steps_per_action=steps_per_action)
    forward = hypergradient(process, state, actions, method="forward", steps_per_action=steps_per_action)
    torch.testing.assert_close(forward.actions, reverse.actions, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(forward.objective, reverse.objective)


@pytest.mark.parametrize("memory", ["all", "states", "sqrt", 2])
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


@pytest.mark.parametrize("last", [1, 3, T])
def test_finite_differences_can_be_truncated(last):
    process = descent(SGD(0.9))
    state, actions = process.begin(start()), actions_of()
    whole = hypergradient(process, state, actions)
    found = hypergradient(process, state, actions, method="finite-difference", last=last)
    torch.testing.assert_close(found.actions[-last:], whole.actions[-last:], rtol=1e-6, atol=1e-9)
    assert not found.actions[: T - last].any()


@given(
    steps=st.integers(1, 12), per_action=st.integers(1, 3), memory=st.sampled_from(["all", "states", "sqrt", 1, 2, 5])
)
@settings(max_examples=25, deadline=None)
def test_any_length_under_any_policy(steps, per_action, memory):
    process, actions = Pendulum(), actions_of(steps, seed=steps)
    _, wanted, _ = unrolled(process, pendulum_state(), actions, per_action)
    found = hypergradient(process, pendulum_state(), actions, memory=memory, steps_per_action=per_action)
    torch.testing.assert_close(found.actions, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("students", [1, 3])
@pytest.mark.parametrize("options", [{}, {"optimizer": "adam", "learning_rate": 0.01}, {"student": "lenet"}], ids=str)
def test_environments_give_the_same_under_every_method_and_policy(students, options):
    if options.get("student") == "lenet":
        options = options | {"task": "synthetic", "pool_size": 40}
    shared = {"horizon": 4, "batch_size": 4, "dev_size": 12, "loss": "sample-weights", "dtype": "float64"}
    env = TeachEnv(**shared | options) if students == 1 else TeachVectorEnv(students, **shared | options)
    env.reset(seed=0)
    begin, episode = (env.student, env.episode) if students == 1 else (env.students, env.episodes)
    rng = np.random.default_rng(0)
    actions = [torch.tensor(rng.uniform(-0.5, 0.5, env.action_space.shape)) for _ in range(4)]
    process = Training(env.dynamics, episode)
    reference = hypergradient(process, begin, actions, memory="states")
    assert reference.actions.shape == (4, *env.action_space.shape)
    for memory in ("all", "sqrt", 1):
        other = hypergradient(process, begin, actions, memory=memory)
        torch.testing.assert_close(other.actions, reference.actions, rtol=1e-9, atol=1e-14)
    truncated = hypergradient(process, begin, actions, method="truncated", last=4)
    torch.testing.assert_close(truncated.actions, reference.actions, rtol=1e-12, atol=0)
    if options.get("student") != "lenet":  # max-pooling has no forward-over-reverse formula
        forward = hypergradient(process, begin, actions, method="forward")
        torch.testing.assert_close(forward.actions, reference.actions, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", ["rmd", "finite-difference", "truncated"])
def test_students_that_gain_nothing_from_each_other_are_taken_one_by_one(method):
    found = {}
    for path in ("vmap", "loop"):
        env = TeachVectorEnv(3, path=path, horizon=4, steps_per_action=2, batch_size=4, dev_size=12, dtype="float64")
        env.reset(seed=0)
        actions = 0.1 * torch.ones(2, *env.action_space.shape, dtype=torch.float64)
        process = Training(env.dynamics, env.episodes)
        last = 3 if method == "truncated" else None
        found[path] = hypergradient(process, env.students, actions, method=method, last=last, steps_per_action=2)
    loop, vmap = found["loop"], found["vmap"]
    rtol = 1e-9 if method != "finite-difference" else 1e-4
    torch.testing.assert_close(loop.actions, vmap.actions, rtol=rtol, atol=1e-9)
    torch.testing.assert_close(loop.objective, vmap.objective)
    assert (loop.initial is None) == (method == "truncated")
    if loop.initial is not None:
        for one, other in zip(tensors_of(loop.initial), tensors_of(vmap.initial), strict=True):
            torch.testing.assert_close(one, other, rtol=rtol, atol=1e-9)
    assert (loop.gradient_evaluations, loop.hessian_vector_products) == (
        vmap.gradient_evaluations,
        vmap.hessian_vector_products,
    )
    assert loop.measured_bytes < vmap.measured_bytes  # of one student at a time


POLICIES_AND_ENDS = list(itertools.product(["states", "sqrt", 1, 3], [None, 1, 3, 6]))
SOME_OF_THEM = [("states", None), ("sqrt", 3), (1, 1), (3, 6), ("states", 3)]


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


# --- memory -----------------------------------------------------------------------------------------------------------


def test_predictions_are_what_is_measured_and_grow_as_they_should():
    process = descent(SGD(0.9))
    state, held = process.begin(start()), {}
    for steps, memory in itertools.product((16, 64, 256), ("all", "states", "sqrt")):
        found = hypergradient(process, state, actions_of(steps), memory=memory)
        assert found.measured_bytes <= found.predicted_bytes <= 1.3 * found.measured_bytes + 4 * bytes_of(state)
        held[memory, steps] = found.measured_bytes
    for memory, exponent in (("all", 1.0), ("states", 1.0), ("sqrt", 0.5)):
        slope = np.log(held[memory, 256] / held[memory, 16]) / np.log(16)
        assert abs(slope - exponent) < 0.12, memory


@pytest.mark.parametrize(
    ("optimizer", "kept"), [(SGD(0.9), 1), (SGD(0.9, 0.1, nesterov=True), 1), (Adam(), 3), (RMSprop(), 2)], ids=str
)
def test_slots_are_kept_only_where_the_reverse_rule_reads_them(optimizer, kept):
    process = descent(optimizer)
    state = process.begin(start())
    found = hypergradient(process, state, actions_of(100), memory="states")
    parameters = bytes_of(state.parameters)
    assert 100 * kept * parameters <= found.measured_bytes <= 100 * kept * parameters + 3 * bytes_of(state) + 20_000


class LongVectors:
    """States of 2.4 MB, which a arena takes, with an integer and a tensor of no size among them."""

    def step(self, state, action, t):
        position, speed = state["body"]
        speed = 0.9 * speed - 0.1 * position.sin() * action.sum()
        return {"count": state["count"] + 1, "none": state["none"], "body": Pair(position + 0.3 * speed, speed)}

    def objective(self, state):
        return (state["body"].position ** 2).mean() + state["count"]


def test_states_in_an_arena_are_what_was_put_there():
    tensor = torch.randn(150_001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = {"count": torch.tensor(3), "none": torch.zeros(0), "body": Pair(tensor, tensor[::2].clone().half())}
    arena = Arena()
    kept = [arena.put(state) for _ in range(40)]
    blocks = {x.untyped_storage().data_ptr() for tree in kept for x in tensors_of(tree) if x.numel()}
    assert len(blocks) == 2  # of 32 MiB each, for 40 times 1.35 MB
    for tree in kept:
        assert isinstance(tree["body"], Pair)
        for found, expected in zip(tensors_of(tree), tensors_of(state), strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
            assert found.data_ptr() % 64 == 0
    assert bytes_of(kept) == 40 * bytes_of(state)
    small = {"x": torch.zeros(100)}
    assert arena.put(small) is small


def test_large_states_are_differentiated_alike_under_every_policy():
    generator = torch.Generator().manual_seed(0)
    body = Pair(*torch.randn(2, 150_000, generator=generator, dtype=torch.float64))
    state = {"count": torch.tensor(0), "none": torch.zeros(0), "body": body}
    actions = actions_of(30)
    expected = hypergradient(LongVectors(), state, actions, memory="all")
    for memory in ("states", "sqrt", 3):
        found = hypergradient(LongVectors(), state, actions, memory=memory)
        assert torch.equal(found.actions, expected.actions), memory
        for one, other in zip(found.initial, expected.initial, strict=True):
            assert torch.equal(one, other)
        assert found.measured_bytes <= found.predicted_bytes


def test_a_budget_chooses_the_fastest_policy_that_fits():
    process, actions = descent(SGD(0.9)), actions_of(64)
    state = process.begin(start())
    needs = {m: hypergradient(process, state, actions, memory=m).predicted_bytes for m in ("all", "states", "sqrt")}
    assert needs["sqrt"] < needs["states"] < needs["all"]
    for memory, needed in needs.items():
        assert hypergradient(process, state, actions, byte_budget=needed).memory == memory
    with pytest.raises(ValueError, match=r"byte_budget=1,000 holds no policy.*'sqrt' needs .*raise it"):
        hypergradient(process, state, actions, byte_budget=1000)


def test_costs_are_counted():
    process = descent(SGD())
    state, actions = process.begin(start()), actions_of(9)

    def cost(**options):
        found = hypergradient(process, state, actions, **options)
        return found.gradient_evaluations, found.hessian_vector_products

    assert cost(memory="all") == (9, 9)
    # One step is taken with its graph to be weighed, and the last one once more to see that it is the same.
    assert cost(memory="states") == (18, 10)
    assert cost(memory="sqrt") == (18 + 4, 10)  # the last of three segments need not be taken again
    assert cost(memory="states", method="finite-difference") == (9 + 18 + 1, 0)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_step_that_draws_anew_when_it_is_taken_again_is_named():
    class Drawing(Pendulum):
        def step(self, state, action, t):
            drawn = super().step(state, action, t)
            return drawn | {"body": drawn["body"]._replace(speed=drawn["body"].speed + torch.randn(2).double())}

    for memory in ("states", "sqrt", 2):
        with pytest.raises(
            RuntimeError, match=rf"step {T - 1} was taken again and led to another state.*a function of t"
        ):
            hypergradient(Drawing(), pendulum_state(), actions_of(), memory=memory)


def test_an_action_that_does_not_reach_the_objective_is_noticed():
    class Detached(Pendulum):
        def step(self, state, action, t):
            return super().step(state, action.detach(), t)

    with pytest.warns(UserWarning, match=r"zero for every action.*create_graph=True"):
        hypergradient(Detached(), pendulum_state(), actions_of())
    constant = SimpleNamespace(step=lambda state, action, t: state, objective=lambda state: torch.tensor(1.0))
    with pytest.warns(UserWarning, match="zero for every action"):
        hypergradient(constant, torch.zeros(2), actions_of())


def test_the_step_where_a_gradient_became_infinite_is_reported():
    class Rooted(Pendulum):
        def step(self, state, action, t):
            bent = super().step(state, action, t)
            kink = (0 * action.sum()).sqrt() if t == 4 else 0
            return bent | {"body": bent["body"]._replace(speed=bent["body"].speed + kink)}

    found = hypergradient(Rooted(), pendulum_state(), actions_of())
    assert found.nonfinite_step == 4
    assert torch.isfinite(found.actions[5:]).all()


def test_batch_norm_modules_in_a_step_of_your_own_are_differentiated_exactly():
    normed = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    normed = normed.double()
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(parameters, action, t):
        return (torch.func.functional_call(normed, parameters, (inputs,)).sin() * action[0].exp()).mean()

    process = Descent(loss, lambda p: p["0.weight"].square().sum() + p["3.weight"].sum(), SGD(0.9), 0.1)
    begin = process.begin(dict(normed.named_parameters()))
    actions = actions_of(5)
    leaf, parameters = actions.clone().requires_grad_(), dict(normed.named_parameters())
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for t in range(5):
        grads = torch.autograd.grad(loss(parameters, leaf[t], t), list(parameters.values()), create_graph=True)
        velocity = {name: 0.9 * velocity[name] + g for name, g in zip(parameters, grads, strict=True)}
        parameters = {name: p - 0.1 * velocity[name] for name, p in parameters.items()}
    (wanted,) = torch.autograd.grad(parameters["0.weight"].square().sum() + parameters["3.weight"].sum(), leaf)
    for memory in ("all", "states", "sqrt"):
        before = normed[1].running_mean.clone()
        found = hypergradient(process, begin, actions, memory=memory)
        torch.testing.assert_close(found.actions, wanted, rtol=1e-10, atol=1e-14)
        assert not torch.equal(normed[1].running_mean, before)  # updated in place, as by the module itself


@pytest.mark.parametrize("arbitrary", [False, True])
def test_weight_norm_in_a_step_of_your_own_is_differentiated_exactly(arbitrary):
    """PyTorch's fused kernel has a wrong second derivative: 1 % of this gradient."""
    rng = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 5)), torch.nn.Tanh())
    inputs, targets = (torch.randn(7, size, generator=rng, dtype=torch.float64) for size in (4, 5))
    parameters = {
        name: torch.randn(p.shape, generator=rng, dtype=torch.float64) for name, p in network.named_parameters()
    }

    def loss(parameters, action, t):
        errors = torch.func.functional_call(network, parameters, (inputs,)) - targets
        return (errors.square().mean(0)[:N] * action.exp()).sum()

    def objective(parameters):
        return (torch.func.functional_call(network, parameters, (inputs,)) - targets.flip(0)).square().mean()

    def step(parameters, action, t):
        leaves = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad():
            grads = torch.autograd.grad(loss(leaves, action, t), list(leaves.values()), create_graph=True)
        return {name: p - 0.3 * g for (name, p), g in zip(leaves.items(), grads, strict=True)}

    descent = Descent(loss, objective, learning_rate=0.3)
    process, state = (Process(step, objective), parameters) if arbitrary else (descent, descent.begin(dict(parameters)))
    actions, along = 0.3 * actions_of(4), actions_of(4, seed=1)

    def value(shift):
        reached = state
        for t, action in enumerate(actions + shift * along):
            reached = process.step(reached, action, t)
        return float(process.value(reached)[0])

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    found = hypergradient(process, state, actions).actions
    assert float((found * along).sum()) == pytest.approx(slope, rel=1e-6)


def test_an_operation_without_a_second_derivative_gives_advice():
    def fused(parameters, action, t):
        tokens = (parameters["w"] * action).view(1, 1, 4, N)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # chosen within the step, in spite of what is chosen around it
            return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).square().sum()

    process = Descent(fused, lambda p: p["w"].sum())
    state = process.begin(start())
    with pytest.raises(RuntimeError, match='"finite-difference", which needs no double backward'):
        hypergradient(process, state, actions_of())
    assert hypergradient(process, state, actions_of(), method="finite-difference").actions.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rdm"}, "did you mean 'rmd'"),
        ({"memory": "sqr"}, "did you mean 'sqrt'"),
        ({"memory": 0}, "at least 1 checkpoint"),
        ({"method": "truncated"}, "needs it"),
        ({"last": 2}, "no other method takes it"),
        ({"method": "truncated", "last": T + 1}, rf"found last={T + 1}, expected 1 to {T}"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hypergradient(Pendulum(), pendulum_state(), actions_of(), **options)


def test_what_is_no_process_is_refused():
    with pytest.raises(TypeError, match=r"meta\.Process\(step, objective\)"):
        hypergradient(lambda state: state, pendulum_state(), actions_of())
    with pytest.raises(TypeError, match=r"describe it as meta\.Descent"):
        hypergradient(Pendulum(), pendulum_state(), actions_of(), method="finite-difference")
    assert hypergradient(Process(Pendulum().step, Pendulum().objective), pendulum_state(), actions_of()).actions.any()
    with pytest.raises(ValueError, match="memory policy of an action gradient 'all'"):
        meta.ActionGradient(TeachEnv(horizon=2), memory="all")
