"""Processes of one's own, and every method; memory policies are in `tests/contracts/test_memory_policies.py`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import meta
from meta import Descent, Process, Training, hypergradient
from meta.hypergradients.memory import Arena, ReusedMemory
from meta.hypergradients.memory_policies import MEMORY_POLICIES
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.optimizers import SGD, Adam, RMSprop
from teachenv.trees import bytes_of, tensors_of
from tests.processes import OPTIMIZERS, N, Pair, Pendulum, T, actions_of, descent, pendulum_state, start

# --- exact methods ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("last", [1, 3, T])
def test_finite_differences_can_be_truncated(last):
    process = descent(SGD(0.9))
    state, actions = process.begin(start()), actions_of()
    whole = hypergradient(process, state, actions)
    found = hypergradient(process, state, actions, method="finite-difference", last=last)
    torch.testing.assert_close(found.actions[-last:], whole.actions[-last:], rtol=1e-6, atol=1e-9)
    assert not found.actions[: T - last].any()


# Several LeNets are trained one after the other.
@pytest.mark.parametrize(
    ("students", "options"),
    [
        *((n, options) for n in (1, 3) for options in ({}, {"optimizer": "adam", "learning_rate": 0.01})),
        (1, {"student": "lenet"}),
    ],
    ids=str,
)
def test_environments_give_the_same_under_every_method_and_policy(students, options, few_images):
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
    for memory in (*MEMORY_POLICIES, 1):
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


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "kept"), [(SGD(0.9), 1), (SGD(0.9, 0.1, nesterov=True), 1), (Adam(), 3), (RMSprop(), 2)], ids=str
)
def test_slots_are_kept_only_where_the_reverse_rule_reads_them(optimizer, kept):
    process = descent(optimizer)
    state = process.begin(start())
    found = hypergradient(process, state, actions_of(100), memory="states")
    parameters = bytes_of(state.parameters)
    assert 100 * kept * parameters <= found.measured_bytes <= 100 * kept * parameters + 3 * bytes_of(state) + 20_000


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


def test_memory_is_used_again_once_nothing_holds_it():
    memory, like = ReusedMemory(), {"wide": torch.zeros(300, 300), "half": torch.zeros(5000, 9).half()}

    def place():
        placed = memory.place(like)
        for name, tensor in placed.items():
            assert (tensor.shape, tensor.dtype) == (like[name].shape, like[name].dtype)
            assert tensor.data_ptr() % 64 == 0
        return {name: tensor.fill_(1) for name, tensor in placed.items()}

    def pointers(placed):
        return {name: tensor.data_ptr() for name, tensor in placed.items()}

    first = place()
    was = pointers(first)
    second = place()
    assert not set(pointers(second).values()) & set(was.values())
    row, weight = first["half"][0], torch.ones(300, 300, requires_grad=True)
    graph = (weight * first.pop("wide")).sum()  # it holds the other factor
    del first
    third = place()
    assert not set(pointers(third).values()) & set(was.values())
    graph.backward()
    assert torch.equal(weight.grad, torch.ones(300, 300))
    del row, graph
    assert pointers(place()) == was
    assert memory.place({"small": torch.zeros(3)})["small"].shape == (3,)


def test_little_memory_is_kept_of_much_that_comes_back():
    memory, like = ReusedMemory(), torch.zeros(100_000)
    held = [memory.place(like) for _ in range(20)]
    was = {tensor.data_ptr() for tensor in held}
    del held
    again = [memory.place(like).data_ptr() for _ in range(3)]  # let go at once, so that one is enough
    assert len(set(again)) == 1
    assert set(again) <= was
    assert sum(map(len, memory._free.values())) == 2


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
    for memory in MEMORY_POLICIES:
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

    def step(state, action, t):
        (gradient,) = torch.autograd.grad(fused(state, action, t), state["w"], create_graph=True)
        return {**state, "w": state["w"] - 0.1 * gradient}

    with pytest.raises(RuntimeError, match=r"replace the operation .* or describe the step as meta\.Descent\("):
        hypergradient(SimpleNamespace(step=step, objective=lambda state: state["w"].sum()), start(), actions_of())


def test_inference_mode_is_named():
    """There PyTorch records nothing: it said that tensors do not track a version counter."""
    process = descent(SGD(0.9))
    state, model = process.begin(start()), torch.nn.Linear(2, 2)

    def losses(model, batch):
        return model(batch).sum(1)

    calls = {
        "meta.hypergradient": lambda: hypergradient(process, state, actions_of()),
        "meta.Training.of": lambda: meta.Training.of(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            [torch.ones(2, 2)],
            lambda model, batch: model(batch).sum(),
            lambda model: model(torch.ones(1, 2)).sum(),
        ),
        "meta.influence": lambda: meta.influence(model, losses, torch.ones(2, 2), {"weight": torch.ones(2, 2)}),
        "meta.held_out_gradient": lambda: meta.held_out_gradient(model, losses, torch.ones(2, 2)),
    }
    for name, call in calls.items():
        with (
            torch.inference_mode(),
            pytest.raises(RuntimeError, match=rf"^{name} .*torch\.inference_mode\(\).*outside"),
        ):
            call()
        with torch.no_grad():
            call()
    with torch.inference_mode():
        model = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"tensors that were made in torch\.inference_mode\(\).*clone"):
        calls["meta.Training.of"]()


@pytest.mark.parametrize("method", ["rmd", "truncated", "forward"])
def test_an_action_may_be_a_number(method):
    process, last = Pendulum(), T if method == "truncated" else None
    wide = hypergradient(process, pendulum_state(), actions_of(size=1)).actions
    found = hypergradient(process, pendulum_state(), actions_of(size=1)[:, 0], method=method, last=last)
    torch.testing.assert_close(found.actions, wide[:, 0])


NAMES = [name for name in MEMORY_POLICIES if name != "reversible"]


def linear(state, action, t):
    return {"x": state["x"] * 0.9 + action.sum(), "m": (0.9 * state["m"][0], state["m"][1] + 1)}


def writing(state, action, t):
    with torch.no_grad():
        state["m"][0].mul_(0.9)
    return linear(state, action, t)


def counting(state, action, t):
    state["m"][1].add_(1)
    return {"x": state["x"] + action.sum(), "m": state["m"]}


def overwriting(state, action, t):
    return {"x": state["x"].mul_(0.9) + action.sum(), "m": state["m"]}


def squared(state):
    return (state["x"] ** 2).sum()


def clearing(state):
    state["m"][1].zero_()
    return squared(state)


def linear_state():
    return {"x": torch.ones(2), "m": (torch.ones(2), torch.tensor(0))}


@pytest.mark.parametrize("options", [*({"memory": name} for name in NAMES), {"method": "forward"}], ids=str)
@pytest.mark.parametrize(
    ("step", "objective", "message"),
    [
        (writing, squared, r"step\(state, action, 0\) writes in place into state\['m'\]\[0\], expected new tensors"),
        (counting, squared, r"step\(state, action, 0\) writes in place into state\['m'\]\[1\], .*a copy"),
        (overwriting, squared, r"step\(state, action, 0\) writes in place into "),
        (linear, clearing, r"objective\(state\) writes in place into state\['m'\]\[1\]"),
        (linear, lambda state: state["x"] ** 2, r"found shape \(2,\) from objective\(state\), expected a scalar; take"),
        (linear, lambda state: 1.0, r"found 1.0 from objective\(state\), expected a scalar"),
    ],
    ids=["parameter", "counter", "leaf", "objective", "vector", "number"],
)
def test_functions_whose_gradient_would_be_wrong_are_refused(step, objective, message, options):
    with pytest.raises(ValueError, match=message):
        hypergradient(Process(step, objective), linear_state(), torch.ones(3, 1), **options)


@pytest.mark.parametrize("options", [*({"memory": name} for name in NAMES), {"method": "forward"}], ids=str)
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x": torch.ones(2), "m": (torch.ones(2) * 1j, torch.tensor(0))}, r"a complex tensor at state\['m'\]\[0\]"),
        ({"x": np.ones(2), "m": (torch.ones(2), torch.tensor(0))}, r"a NumPy array at state\['x'\], expected a tensor"),
        (np.ones(2), "a NumPy array at state, expected a tensor; torch.from_numpy"),
        ([1.0, 2.0], r"found \[1.0, 2.0\] as the state, expected tensors"),
    ],
    ids=["complex", "entry", "NumPy", "numbers"],
)
def test_states_that_cannot_be_differentiated_are_refused(state, message, options):
    with pytest.raises(TypeError, match=message):
        hypergradient(Process(linear, squared), state, torch.ones(3, 1), **options)
    turned = Process(lambda state, action, t: state * 1j if t == 1 else state * action, lambda state: state.abs().sum())
    with pytest.raises(TypeError, match=r"a complex tensor at state, expected real ones; .*view_as_real"):
        hypergradient(turned, torch.ones(1), torch.ones(3, 1), **options)


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        ([torch.ones(3), torch.ones(2)], ValueError, r"shapes \(3,\) and, at 1, \(2,\), expected one shape; pad"),
        ([torch.ones(3), torch.ones(())], ValueError, r"shapes \(3,\) and, at 1, \(\), expected one"),
        ([torch.ones(()), torch.ones(3)], ValueError, r"shapes \(\) and, at 1, \(3,\), expected one"),
        (torch.ones(3, 2, dtype=torch.int64), TypeError, r"found actions of torch.int64, expected real .*\.float\(\)"),
        (1j * torch.ones(3, 2), TypeError, "found actions of torch.complex64, expected real .*view_as_real"),
    ],
    ids=["wider", "number later", "number first", "integers", "complex"],
)
def test_actions_that_cannot_be_differentiated_are_refused(actions, error, message):
    with pytest.raises(error, match=message):
        hypergradient(Process(linear, squared), linear_state(), actions)


@pytest.mark.parametrize("states", [{}, {0: linear_state()}], ids=["none", "initial"])
def test_given_states_without_the_final_one_are_refused(states):
    with pytest.raises(ValueError, match=r"found states of the steps \[0?\], expected the final one, states\[3\]"):
        hypergradient(Process(linear, squared), linear_state(), torch.ones(3, 1), states=states)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ((torch.bfloat16,) * 2, "torch.bfloat16"),
        ((torch.float16,) * 2, "torch.float16"),
        ((torch.float32, torch.float64), "torch.float32 and torch.float64"),
    ],
    ids=["bfloat16", "float16", "mixed"],
)
def test_finite_differences_refuse_parameters_that_they_have_no_radius_for(kinds, found):
    process = descent(SGD())
    parameters = {name: p.to(kind) for (name, p), kind in zip(start().items(), kinds, strict=True)}
    with pytest.raises(ValueError, match=rf'found parameters of {found}, expected .*take method="rmd"'):
        hypergradient(process, process.begin(parameters), actions_of(), method="finite-difference")


def test_parameters_that_no_descent_has_begun_with_are_refused():
    with pytest.raises(TypeError, match=r"found a dict as the state, expected a StudentState; meta\.Descent\(.*begin"):
        hypergradient(descent(SGD()), start(), actions_of())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rdm"}, "did you mean 'rmd'"),
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
