"""The steps of a process, taken forwards and differentiated backwards, with what that holds and costs.

`meta.hypergradient` says what the methods and memory policies are; here they are followed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from meta.hypergradients.memory_policies import STATES
from meta.hypergradients.planner import planned
from meta.hypergradients.policy import MemoryPolicy
from meta.hypergradients.process import Process
from meta.hypergradients.steps import Steps, loaded
from teachenv.trees import bytes_of, mapped, stack, tensors_of

Method = Literal["rmd", "finite-difference", "truncated", "forward"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Hypergradient:
    """A hypergradient and what it cost.

    Attributes:
        actions: dJ/da_t of each action, (actions, ...).
        initial: dJ/dx_0: for an arbitrary step a structure like the state's, with None in the place of a tensor that is
            not of floating point, else a `meta.Cotangent`; None if the method does not give it (`"truncated"`,
            `"forward"`).
        objective: J.
        memory: the memory policy that was followed.
        plan: what `memory="auto"` chose and why; None where nothing was chosen.
        gradient_evaluations: the number of gradients of minibatch losses that were computed for each student.
        hessian_vector_products: the number of double backward passes for each student.
        predicted_bytes: what the policy was expected to hold at its peak, besides the initial state; None where nothing
            was predicted (`"forward"`, or the states were given). Students of a batch that gain nothing from being
            taken together (path `"loop"`) are differentiated one by one, and this is of one of them.
        measured_bytes: the bytes at the peak, measured on the tensors in memory: states, and graphs, of `"all"` those
            of every 16th step, the others taken to be like them.
        predicted_seconds: how long it was expected to take, where `"auto"` measured the pace of the steps.
        nonfinite_step: the last step whose gradient is not finite, where it arose; None if all are finite.
    """

    actions: torch.Tensor
    initial: Any = field(repr=False)
    objective: torch.Tensor
    memory: str | int
    gradient_evaluations: int
    hessian_vector_products: int
    predicted_bytes: int | None
    measured_bytes: int
    nonfinite_step: int | None
    plan: str | None = None
    predicted_seconds: float | None = None


def starting_from(steps: Steps, states: Mapping[int, Any], initial: Any, begin: int) -> dict[int, Any]:
    """Returns the given states from x_begin on, which is computed if it is not among them.

    Raises:
        ValueError: the final state is not among them.
    """
    if steps.total not in states:
        raise ValueError(
            f"found states of the steps {sorted(states)}, expected the final one, states[{steps.total}], among them; "
            "add it, or leave states out"
        )
    nearest = max((t for t in states if t <= begin), default=0)
    state = loaded(states.get(nearest, initial))
    for t in range(nearest, begin):
        state = steps.step(state, t)
    return {t: x for t, x in states.items() if t > begin} | {begin: state}


def forwards_and_backwards(
    steps: Steps, state: Any, begin: int, policies: Sequence[MemoryPolicy], byte_budget: int | None
) -> Hypergradient:
    """Follows a process from x_0 and differentiates the steps from `begin` on.

    Args:
        steps: the steps of the process.
        state: x_0.
        begin: the first step that is differentiated.
        policies: what is kept on the way: the one, or one of several that fits into the budget.
        byte_budget: the bytes that may be held; None: half of what is free.
    """
    for t in range(begin):
        state = steps.step(state, t)
    if begin == steps.total:
        return backwards(steps, {begin: state}, begin, STATES, 0)
    if len(policies) == 1:
        policies[0].check(steps.process, state)
    sizes = steps.sizes(state, begin)
    plan = planned(policies, steps, sizes, state, begin, byte_budget) if len(policies) > 1 else None
    policy = policies[0] if plan is None else plan.policy
    predicted = policy.predicted_bytes(sizes)
    if steps.by_differences:
        policy = policy.without_graphs
    result = backwards(steps, policy.keep(steps, state, begin), begin, policy, predicted)
    return result if plan is None else replace(result, plan=plan.text, predicted_seconds=plan.seconds)


def backwards(
    steps: Steps, kept: dict[int, Any], begin: int, policy: MemoryPolicy, predicted: int | None
) -> Hypergradient:
    """Differentiates the steps from `begin` on.

    Args:
        steps: the steps of the process.
        kept: what the policy kept of them; it is emptied.
        begin: the first step that is differentiated.
        policy: the memory policy that was followed.
        predicted: the bytes that it was expected to need, for the result.
    """
    final = kept.pop(steps.total)
    objective, cotangent = steps.process.value(final)
    gradients = _Rows(steps.actions)
    for t, adjoint in policy.restore(steps, kept, final):
        cotangent, d_action = adjoint(cotangent)
        del adjoint  # what it holds must be gone before more states are computed
        gradients.add(t // steps.per_action, d_action)
        steps.advance()
    initial = steps.process.finished(cotangent) if begin == 0 else None
    actions = gradients.stacked()
    if actions.numel() and not actions.any():
        warnings.warn(
            "the gradient is zero for every action: no action reaches the objective. Does the step detach it, take "
            "gradients without create_graph=True, or have a learning rate of 0?",
            stacklevel=3,
        )
    return Hypergradient(
        actions,
        initial,
        objective,
        policy.name,
        steps.evaluations,
        steps.products,
        predicted,
        steps.meter.peak,
        _nonfinite(actions, steps.per_action),
    )


def stacked_results(results: Sequence[Hypergradient]) -> Hypergradient:
    """Stacks the hypergradients of students that were differentiated one after the other into that of a batch."""
    first = results[0]
    nonfinite = [result.nonfinite_step for result in results if result.nonfinite_step is not None]
    return replace(
        first,
        actions=torch.stack([result.actions for result in results], 1),
        initial=stack([result.initial for result in results]),
        objective=torch.stack([result.objective for result in results]),
        # One at a time.
        measured_bytes=max(result.measured_bytes for result in results),
        nonfinite_step=max(nonfinite, default=None),
    )


class _Rows:
    """The gradient of each action, to which the steps under it add their parts in any order.

    A part has the action's shape; where several objectives are differentiated at once, with a leading dimension more.
    """

    def __init__(self, actions: Any) -> None:
        self._actions = actions
        self._rows: torch.Tensor | None = None  # of all actions at once: small tensors that stay break up the heap

    def add(self, index: int, gradient: torch.Tensor) -> None:
        if self._rows is None:
            shape = (len(self._actions), *gradient.shape)
            self._rows = torch.zeros(shape, dtype=gradient.dtype, device=gradient.device)
        row = self._rows[index]
        if gradient.is_sparse:
            # By hand: PyTorch sorts the places first, which takes longer than a small student's step.
            places, values = gradient._indices(), gradient._values()
            strides = torch.tensor(row.stride(), device=places.device)
            row.view(-1).index_add_(0, (strides[:, None] * places).sum(0), values)
        else:
            row += gradient

    def stacked(self) -> torch.Tensor:
        if self._rows is not None:
            return self._rows
        return torch.stack([torch.zeros_like(action) for action in self._actions]) if len(self._actions) else _NOTHING


_NOTHING = torch.zeros(0)


def forward(
    process: Process, state: Any, actions: Any, steps_per_action: int, advance: Callable[[], None]
) -> Hypergradient:
    """Differentiates by forward mode: carries a tangent of the state for each coordinate of each action so far."""
    tangents: list[tuple[int, torch.Tensor, Any]] = []  # (action, direction in it, tangent of the state)
    _, cotangent_like = process.value(state)
    zero = mapped(torch.zeros_like, cotangent_like)
    batch = process.batch(state)
    peak = products = 0
    for t in range(len(actions) * steps_per_action):
        index, action = t // steps_per_action, actions[t // steps_per_action]
        if t % steps_per_action == 0:
            for direction in torch.eye(action[(0,) * len(batch)].numel(), dtype=action.dtype, device=action.device):
                shaped = direction.view(action.shape[len(batch) :]).expand(action.shape)
                tangents.append((index, shaped, zero))
        tangents = [
            (i, d, process.pushforward(state, action, t, tangent, d if i == index else torch.zeros_like(d)))
            for i, d, tangent in tangents
        ]
        products += len(tangents)
        state = process.step(state, action, t)
        peak = max(peak, bytes_of(state, [tangent for _, _, tangent in tangents]))
        advance()
    objective, cotangent = process.value(state)

    def along(tangent: Any) -> torch.Tensor:
        pairs = zip(tensors_of(cotangent), tensors_of(tangent), strict=True)
        return torch.stack([(a * b).reshape(*batch, -1).sum(-1) for a, b in pairs]).sum(0)

    stacked = torch.zeros(0)
    if tangents:
        values = torch.stack([along(tangent) for _, _, tangent in tangents]).view(len(actions), -1, *batch)
        stacked = values.movedim(1, -1).reshape(len(actions), *actions[0].shape)
    evaluations = process.gradient_evaluations * len(actions) * steps_per_action
    products *= process.hessian_vector_products
    return Hypergradient(
        stacked, None, objective, "forward", evaluations, products, None, peak, _nonfinite(stacked, steps_per_action)
    )


def _nonfinite(actions: torch.Tensor, per_action: int) -> int | None:
    """Returns the last step whose action has a gradient that is not finite; None if all are finite."""
    if not len(actions):
        return None
    finite = torch.isfinite(actions[:, None]).flatten(1).all(1)
    return None if bool(finite.all()) else int((~finite).nonzero().max()) * per_action
