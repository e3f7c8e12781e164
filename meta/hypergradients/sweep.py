"""The steps of a process, taken forwards and differentiated backwards, with what that holds and costs.

`meta.hypergradient` says what the methods and memory policies are; here they are followed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from meta.hypergradients.memory import Arena, MemoryMeter
from meta.hypergradients.process import Adjoint, Process
from teachenv.trees import bytes_of, mapped, stack, tensors_of

Method = Literal["rmd", "finite-difference", "truncated", "forward"]
METHODS: tuple[Method, ...] = get_args(Method)
MemoryPolicy = Literal["auto", "all", "states", "sqrt"] | int
"""What is kept between the forward and the backward pass; `meta.hypergradients.hypergradient` says what each costs."""

# A replayed step may differ by rounding, since kernels do; by this part of the step's own length it may not.
_REPLAY_TOLERANCE = 0.1

# To weigh a graph takes Python at each tensor that it saves: of `"all"` so many steps are taken to be alike.
_WEIGHED_EVERY = 16


@dataclass(frozen=True)
class Hypergradient:
    """A hypergradient and what it cost.

    Attributes:
        actions: dJ/da_t of each action, (actions, ...).
        initial: dJ/dx_0: for an arbitrary step a structure like the state's, else a `meta.Cotangent`; None if the
            method does not give it (`"truncated"`, `"forward"`).
        objective: J.
        memory: The memory policy that was followed.
        gradient_evaluations: The number of gradients of minibatch losses that were computed for each student.
        hessian_vector_products: The number of double backward passes for each student.
        predicted_bytes: What the policy was expected to hold at its peak, besides the initial state; None where nothing
            was predicted (`"forward"`, or the states were given). Students of a batch that gain nothing from being
            taken together (path `"loop"`) are differentiated one by one, and this is of one of them.
        measured_bytes: The bytes at the peak, measured on the tensors in memory: states, and graphs, of `"all"` those
            of every 16th step, the others taken to be like them.
        nonfinite_step: The last step whose gradient is not finite, where it arose; None if all are finite.
    """

    actions: torch.Tensor
    initial: Any
    objective: torch.Tensor
    memory: str | int
    gradient_evaluations: int
    hessian_vector_products: int
    predicted_bytes: int | None
    measured_bytes: int
    nonfinite_step: int | None


class Sweep:
    """The steps of one process under given actions, forwards and backwards, with what they cost."""

    def __init__(self, process: Process, actions: Any, steps_per_action: int, method: Method) -> None:
        self.process, self.actions, self.per_action, self.method = process, actions, steps_per_action, method
        self.steps = len(actions) * steps_per_action
        self.evaluations = self.products = 0
        self.meter = MemoryMeter()

    def forwards_and_backwards(
        self, state: Any, begin: int, memory: MemoryPolicy, byte_budget: int | None
    ) -> Hypergradient:
        """Follows the process from x_0 and differentiates the steps from `begin` on."""
        for t in range(begin):
            state = self._step(state, t)
        if begin == self.steps:
            return self.backwards({begin: state}, begin, 0, "states")
        after: Any = None
        adjoint: Adjoint | None = None
        graph = 0
        if self.method != "finite-difference":
            # The first step is taken with its graph, to weigh it.
            with self.meter.graph(min(_WEIGHED_EVERY, self.steps - begin)) as weight:
                after, adjoint = self._linearize(state, begin)
            graph = weight.bytes
        needed_bytes = bytes_of(self.process.needed(state))
        policy, predicted = self._choose(memory, byte_budget, bytes_of(state), needed_bytes, graph, self.steps - begin)
        if policy == "all" and adjoint is not None:
            return self._all(state, begin, after, adjoint, predicted)
        adjoint = None
        self.meter.release()
        count = {"all": self.steps, "states": self.steps, "sqrt": _root(self.steps - begin)}
        checkpoints = count[policy] if isinstance(policy, str) else policy
        every = max(1, -(-(self.steps - begin) // checkpoints))
        # All states from the last checkpoint on are kept: those steps need not be taken again.
        last = begin + (self.steps - 1 - begin) // every * every if every > 1 else begin
        states, arena = {begin: state}, Arena()
        for t in range(begin, self.steps):
            keep = t >= last or (t + 1 - begin) % every == 0
            first = after if t == begin else None
            state = self._step(state, t, arena if keep else None) if first is None else first
            if keep:
                states[t + 1] = arena.put(self._needed(state, t + 1) if t >= last else state)
        return self.backwards(states, begin, predicted, policy)

    def starting_from(self, states: Mapping[int, Any], initial: Any, begin: int) -> dict[int, Any]:
        """Returns the given states from x_begin on, which is computed if it is not among them."""
        nearest = max((t for t in states if t <= begin), default=0)
        state = states.get(nearest, initial)
        for t in range(nearest, begin):
            state = self._step(state, t)
        return {t: x for t, x in states.items() if t > begin} | {begin: state}

    def backwards(self, states: dict[int, Any], begin: int, predicted: int | None, policy: str | int) -> Hypergradient:
        """Differentiates the steps from `begin` on; the states between known ones are computed again.

        Args:
            states: x_t by t; x_begin and x_T must be among them. It is emptied.
            begin: The first step that is differentiated.
            predicted: The bytes that the policy was expected to need, for the result.
            policy: The memory policy that was followed, for the result.
        """
        final = states.pop(self.steps) if begin < self.steps else states[begin]
        objective, cotangent = self.process.value(final)
        gradients = _Rows(self.actions)
        end, after, arena = self.steps, final, Arena()
        for start in sorted((t for t in states if t < self.steps), reverse=True):
            state = states.pop(start)
            arena.clear()
            segment = [self._needed(state, start)]
            for t in range(start + 1, end):
                state = self._step(state, t - 1, arena)
                segment.append(arena.put(self._needed(state, t)))
            del state
            if end > self.steps - 2 * (end - start):  # later on fewer states are held
                self.meter.states(states, segment)
            for t in range(end - 1, start - 1, -1):
                cotangent, d_action = self._pullback(segment.pop(), t, cotangent, after)
                gradients.add(t // self.per_action, d_action)
                after = None
            end = start
        return self._result(
            gradients, self.process.finished(cotangent) if begin == 0 else None, objective, policy, predicted
        )

    def _all(self, state: Any, begin: int, after: Any, adjoint: Adjoint, predicted: int) -> Hypergradient:
        adjoints = [adjoint]
        for t in range(begin + 1, self.steps):
            if (t - begin) % _WEIGHED_EVERY == 0:
                with self.meter.graph(min(_WEIGHED_EVERY, self.steps - t)):
                    after, adjoint = self._linearize(after, t)
            else:
                after, adjoint = self._linearize(after, t)
            adjoints.append(adjoint)
        objective, cotangent = self.process.value(after)
        gradients = _Rows(self.actions)
        for t in range(self.steps - 1, begin - 1, -1):
            cotangent, d_action = adjoints.pop()(cotangent)
            gradients.add(t // self.per_action, d_action)
        return self._result(
            gradients, self.process.finished(cotangent) if begin == 0 else None, objective, "all", predicted
        )

    def _result(
        self, gradients: _Rows, initial: Any, objective: torch.Tensor, policy: str | int, predicted: int | None
    ) -> Hypergradient:
        actions = gradients.stacked()
        nonfinite = _nonfinite(actions, self.per_action)
        if len(actions) and not actions.any():
            warnings.warn(
                "the gradient is zero for every action: no action reaches the objective. Does the step detach it, take "
                "gradients without create_graph=True, or have a learning rate of 0?",
                stacklevel=4,
            )
        return Hypergradient(
            actions, initial, objective, policy, self.evaluations, self.products, predicted, self.meter.peak, nonfinite
        )

    def _needed(self, state: Any, t: int) -> Any:
        """Returns what is kept of x_t to differentiate there; all of the last two states, which a comparison reads."""
        return state if t >= self.steps - 1 else self.process.needed(state)

    def _action(self, t: int) -> torch.Tensor:
        action: torch.Tensor = self.actions[t // self.per_action]
        return action

    def _step(self, state: Any, t: int, arena: Arena | None = None) -> Any:
        self.evaluations += self.process.gradient_evaluations
        return self.process.step(state, self._action(t), t, arena)

    def _linearize(self, state: Any, t: int) -> tuple[Any, Adjoint]:
        self.evaluations += self.process.gradient_evaluations
        self.products += self.process.hessian_vector_products
        return self.process.linearize(state, self._action(t), t)

    def _pullback(self, state: Any, t: int, cotangent: Any, after: Any) -> tuple[Any, torch.Tensor]:
        """Goes one step back; `after` is the state that the step led to before, if it is to be compared."""
        action, compared = self._action(t), after is not None and not self.process.replays_exactly
        if self.method == "finite-difference":
            if compared:
                self._compare(state, self._step(state, t), after, t)
            self.evaluations += 2 * self.process.gradient_evaluations
            return self.process.pullback_by_differences(state, action, t, cotangent)
        if compared:
            replayed, adjoint = self._linearize(state, t)
            self._compare(state, replayed, after, t)
            return adjoint(cotangent)
        self.evaluations += self.process.gradient_evaluations
        self.products += self.process.hessian_vector_products
        return self.process.pullback(state, action, t, cotangent)

    def _compare(self, before: Any, replayed: Any, after: Any, t: int) -> None:
        def distance(one: Any, other: Any) -> float:
            pairs = zip(tensors_of(one), tensors_of(other), strict=True)
            return math.hypot(*(float((a - b).norm()) for a, b in pairs if a.is_floating_point()))

        if distance(replayed, after) > _REPLAY_TOLERANCE * max(distance(after, before), distance(replayed, before)):
            raise RuntimeError(
                f"step {t} was taken again and led to another state: the step is not a function of (state, action, t) "
                "alone. Make what it draws (minibatch, augmentation, dropout) a function of t, or put it into the state"
            )

    def _choose(
        self,
        memory: MemoryPolicy,
        byte_budget: int | None,
        state_bytes: int,
        needed_bytes: int,
        graph_bytes: int,
        steps: int,
    ) -> tuple[str | int, int]:
        """Returns (the policy to follow, the bytes that it is predicted to need).

        Args:
            memory: The policy that the caller asked for.
            byte_budget: The bytes that the caller allows; None: any number.
            state_bytes: The bytes of a state.
            needed_bytes: The bytes of what has to be kept of a state to differentiate there.
            graph_bytes: The bytes of a step's graph.
            steps: How many steps are differentiated.
        """

        def checkpoints(count: int) -> int:
            every = -(-steps // count)
            return (
                (min(count, steps) + 1) * (state_bytes if every > 1 else needed_bytes)
                + every * needed_bytes
                + graph_bytes
                + state_bytes
            )

        predicted = {
            "all": steps * graph_bytes + state_bytes if graph_bytes else checkpoints(steps),
            "states": checkpoints(steps),
            "sqrt": checkpoints(_root(steps)),
        }
        if isinstance(memory, int):
            return memory, checkpoints(memory)
        if memory != "auto":
            return memory, predicted[memory]
        if byte_budget is None:
            return "states", predicted["states"]
        for policy, policy_bytes in predicted.items():
            if policy_bytes <= byte_budget:
                return policy, policy_bytes
        raise ValueError(
            f"byte_budget={byte_budget:,} holds no policy: over {steps} steps "
            + ", ".join(f"{policy!r} needs {policy_bytes:,}" for policy, policy_bytes in predicted.items())
            + '; raise it, or differentiate fewer steps (method="truncated")'
        )


def _root(steps: int) -> int:
    """Returns ⌈√T⌉ for a number of steps T of at least 1."""
    return math.isqrt(steps - 1) + 1


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
    """The gradient of each action, to which the steps under it add their parts in any order."""

    def __init__(self, actions: Any) -> None:
        self._rows = [torch.zeros_like(action) for action in actions]

    def add(self, index: int, gradient: torch.Tensor) -> None:
        self._rows[index] += gradient

    def stacked(self) -> torch.Tensor:
        return torch.stack(self._rows) if self._rows else torch.zeros(0)


def forward(process: Process, state: Any, actions: Any, steps_per_action: int) -> Hypergradient:
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
    finite = torch.isfinite(actions).flatten(1).all(1)
    return None if bool(finite.all()) else int((~finite).nonzero().max()) * per_action
