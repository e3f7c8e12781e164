"""Hypergradients: the derivative of a process's final objective with respect to every action taken on the way.

For x_{t+1} = step(x_t, a_t, t) and J = objective(x_T), dJ/da_t with the other actions held constant. The
module `process` beside this one says what is differentiated and derives one step back; this module follows the steps.

Methods:
    `"rmd"`: reverse-mode differentiation, exact. The cotangent dx_t = dJ/dx_t is carried backwards from ∂J/∂x_T; one
        double backward a step.
    `"finite-difference"`: the same, but the products of Hessian and mixed derivative with dg by central differences of
        the gradient along dg, at ω ± ε·dg with ε = r/‖dg‖. In float32 r = 0.01, which balances rounding and
        truncation; in float64, where rounding leaves room, r = 3e-8, too short to reach a kink of ReLU or max-pooling.
        Two gradients a step; no double backward. Running statistics are still followed exactly. Known gap: in float32 a
        network of many ReLUs has kinks within r, whose jumps count as curvature (relative errors measured over four
        steps: tanh perceptron 2e-5, LeNet 7e-4, ResNet-8 0.05 under a bilinear loss and 0.3 under a mixture).
    `"truncated"`: `"rmd"` over the last `last` steps only (`"finite-difference"` takes `last` as well). These gradients
        are exact; those of earlier actions are left at zero, which is the bias: small where the steps between contract,
        and all there is where they do not.
    `"forward"`: forward mode, exact. The tangent of the state with respect to each coordinate of each action is carried
        along: T·n tangents and O(T²n) Jacobian products, so for few coordinates; memory does not grow with T but with
        T·n.

Memory of the reverse methods, in states x and graphs g of one step, for T steps:
    `"all"`: T graphs; each step is taken once, its graph kept. Fastest.
    `"states"`: T states and one graph; each step is taken again when it is differentiated.
    `"reversible"`: T times some 2 bits a parameter (Adam: 4), and one graph; for SGD with momentum and for Adam. Each
        state is restored to the bit (`meta.hypergradients.reversal`). Beyond 16 states' bytes they are kept of one
        stretch at a time, and each step is taken once more.
    an integer k: k checkpoints and T/k states and one graph; each step is taken twice again.
    `"sqrt"`: ⌈√T⌉ checkpoints, hence about 2√T states.
    `"log"`: 2⌈log₂ T⌉ checkpoints and one graph, by binomial checkpointing; beside the forward walk each step is taken
        2.2 times on average for T = 5,000 and 2.9 times for 50,000.
    `"disk"`: one state and one graph, and T states in a file; each step is taken again when it is differentiated.
    `"auto"`: the fastest that is predicted to fit into `byte_budget`, by default half of the memory that is free. The
        result's `plan` says what it chose and why. From 64 steps on, a few are taken and differentiated beforehand, to
        measure their pace.

States may be kept in 16 bits (`state_dtype`). The gradient is then that of the steps at the rounded states. Relative
errors measured: bfloat16 5e-4 (tanh perceptron, 200 steps), 3e-3 (LeNet), 1e-3 (ResNet-8, transformer); float16 a sixth
of it, but its numbers end at 65,504 and 6e-8: not for Adam's squares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from meta.hypergradients.memory_policies import (
    GIVEN,
    MemoryOption,
    StateType,
    check_options,
    check_state_dtype,
    policies_of,
)
from meta.hypergradients.process import Process, PureProcess, as_process, double_backward_kernels
from meta.hypergradients.steps import Rounded, Steps, loaded, nothing
from meta.hypergradients.sweep import (
    METHODS,
    Hypergradient,
    Method,
    backwards,
    forward,
    forwards_and_backwards,
    stacked_results,
    starting_from,
)
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.modes import refuse_inference_mode


def check_method(method: str) -> Method:
    """Returns the method if there is one of this name.

    Raises:
        ValueError: the name is none of `METHODS`.
    """
    for known_method in METHODS:
        if method == known_method:
            return known_method
    raise unknown_name("method", method, METHODS)


def hypergradient(
    process: Process | PureProcess,
    initial: Any,
    actions: Sequence[torch.Tensor] | torch.Tensor,
    *,
    method: Method = "rmd",
    memory: MemoryOption = "auto",
    byte_budget: int | None = None,
    state_dtype: StateType | None = None,
    folder: str | None = None,
    last: int | None = None,
    steps_per_action: int = 1,
    states: Mapping[int, Any] | None = None,
    advance: Callable[[], None] = nothing,
) -> Hypergradient:
    """Differentiates J with respect to the actions, each with the others constant, and to the initial state.

    Args:
        process: `meta.Training` of an environment, `meta.Descent` on a loss, or anything with your own
            `step(state, action, t)` and `objective(state)`, which must be functions of their arguments alone, and
            leave these as they are.
        initial: x_0: a tensor, or nested dictionaries, tuples and dataclasses of tensors.
        actions: a_0, a_1, …, one tensor each, all of one shape; () for a number each.
        method: `"rmd"`, `"finite-difference"`, `"truncated"` or `"forward"`; the module says what each computes.
        memory: what is kept between forward and backward pass: `"auto"`, `"all"`, `"states"`, `"reversible"`, `"sqrt"`,
            `"log"`, `"disk"` or a number of checkpoints; the module says what each costs.
        byte_budget: how many bytes states and graphs may take with `memory="auto"`; None: half of the memory that is
            free.
        state_dtype: `"bfloat16"` or `"float16"`: states are kept in this type, in half the bytes, and the gradient is
            that of the steps at the rounded states; the module says how far it is off. None: as they are.
        folder: where `memory="disk"` keeps its file; None: the system's for temporary files (`TMPDIR`).
        last: how many steps at the end are differentiated; for `"truncated"`, and for `"finite-difference"` if
            wanted.
        steps_per_action: how many steps are taken under each action.
        states: states that are known already, by step: the final one at least, `{T: x_T, …}`. They are not computed
            again, and those between serve as checkpoints; `memory` then has nothing to decide.
        advance: called after each step that was differentiated, as a progress bar wants it.

    Raises:
        TypeError: `process` is no process, `"finite-difference"` of an arbitrary step, actions that are no tensors of
            real floating-point numbers, or a state with arrays of NumPy, complex tensors or no tensors.
        ValueError: actions of several shapes, of another than an environment's, or more than an episode has; a step or
            an objective that writes into its arguments, or an objective that is no scalar; an unknown method, policy or
            type, a policy that keeps no states to round, a budget or a folder that the policy has no use for, any of
            these with `"forward"`, which keeps nothing, a truncation longer than the episode, a budget that nothing
            fits, `states` without the final one, or parameters of a type that `"finite-difference"` has no radius for.
        OSError: there is no such folder, or it has no room.
        RuntimeError: a step taken again differs from the first time; or inference mode is on.
    """
    refuse_inference_mode("meta.hypergradient")
    process, method = as_process(process), check_method(method)
    check_tensors(actions)
    for state in (initial, *(states or {}).values()):
        process.check_state(state.state if isinstance(state, Rounded) else state)
    process.check_actions(loaded(initial), actions)
    check_alike(actions)
    steps = len(actions) * checks.integer("steps_per_action", steps_per_action, least=1)
    check_last(method, last, steps)
    chosen = None if memory == "auto" else memory
    check_kept(method, memory=chosen, byte_budget=byte_budget, state_dtype=state_dtype, folder=folder)
    if method == "finite-difference":
        process.check_differences(loaded(initial))
    check_options(memory, byte_budget, folder)
    dtype, policies = check_state_dtype(state_dtype), policies_of(memory, folder, rounded=state_dtype is not None)
    if states is None and (singles := process.singles(initial)):
        of_one = partial(
            hypergradient,
            method=method,
            memory=memory,
            byte_budget=byte_budget,
            state_dtype=state_dtype,
            folder=folder,
            last=last,
            steps_per_action=steps_per_action,
            advance=advance,
        )
        return stacked_results([of_one(*single, [a[i] for a in actions]) for i, single in enumerate(singles)])
    with double_backward_kernels():
        if method == "forward":
            return forward(process, initial, actions, steps_per_action, advance)
        taken = Steps(process, actions, steps_per_action, method == "finite-difference", dtype, advance)
        begin = 0 if last is None else steps - last
        if states is not None:
            return backwards(taken, starting_from(taken, states, initial, begin), begin, GIVEN, None)
        return forwards_and_backwards(taken, initial, begin, policies, byte_budget)


def check_tensors(actions: Sequence[torch.Tensor] | torch.Tensor) -> None:
    """Checks that actions can be differentiated.

    Raises:
        TypeError: one is no tensor, or not of real floating-point numbers.
    """
    for action in actions:
        if not isinstance(action, torch.Tensor):
            raise TypeError(f"actions must be tensors, found {checks.shown(action)}; torch.as_tensor makes one of it")
        if not action.is_floating_point():
            make = "torch.view_as_real makes two of each" if action.is_complex() else ".float() makes them of others"
            raise TypeError(f"found actions of {action.dtype}, expected real floating-point numbers; {make}")


def check_alike(actions: Sequence[torch.Tensor] | torch.Tensor) -> None:
    """Checks that actions have one shape.

    Raises:
        ValueError: they have several.
    """
    shapes = [tuple(action.shape) for action in actions]
    if other := [i for i, shape in enumerate(shapes) if shape != shapes[0]]:
        raise ValueError(
            f"found actions of the shapes {shapes[0]} and, at {other[0]}, {shapes[other[0]]}, expected one shape; pad "
            "them, and let the step read its part"
        )


def check_kept(method: Method, **options: object) -> None:
    """Checks that options which say what is kept have something to say.

    Raises:
        ValueError: one is not None, and the method keeps nothing.
    """
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    if given and method == "forward":
        raise ValueError(f'found {given[0]} with method="forward", which keeps no states; leave it out')


def check_last(method: Method, last: int | None, steps: int) -> None:
    """Checks the length of a truncation.

    Raises:
        ValueError: it is missing, of no use, or longer than the episode.
    """
    missing = last is None and method == "truncated"
    useless = last is not None and method not in ("truncated", "finite-difference")
    if missing or useless:
        raise ValueError(
            f'last={last!r} with method={method!r}: "truncated" needs it, "finite-difference" may have it, no other '
            "method takes it"
        )
    if last is not None and not 1 <= checks.integer("last", last) <= steps:
        raise ValueError(f"found last={last}, expected 1 to {steps}, the number of steps")
