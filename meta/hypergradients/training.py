"""The training of an environment's students as a process: each step is an update, or several of them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from meta.hypergradients.cotangent import Cotangent
from meta.hypergradients.gradient_process import GradientProcess, needed_if
from meta.hypergradients.left_out import warn_of_parts_left_out
from meta.hypergradients.loop import Loop
from meta.hypergradients.memory import Arena, ReusedMemory
from meta.hypergradients.process import Adjoint, Process
from meta.hypergradients.reversal import Reversal
from teachenv.dynamics import Dynamics
from teachenv.mapping import One
from teachenv.state import Episode, Outcome, StudentState, apart


class Training(Process):
    """The training of an environment's student, or of a batch of them, as a process over `StudentState`.

    Args:
        dynamics: the environment's dynamics, `env.unwrapped.dynamics`: the student's step, and J on dev.
        episode: which training of it: splits and minibatches, `env.unwrapped.episode`.
        objective: what is differentiated, a function of the final state to a scalar or (B,); None: the dynamics' J.
    """

    compares_every_step = False

    def __init__(
        self, dynamics: Dynamics, episode: Episode, objective: Callable[[StudentState], torch.Tensor] | None = None
    ) -> None:
        """Makes a process of each of the step's updates: one, or in joint training one for each network."""
        self.dynamics, self.episode, self._own_objective = dynamics, episode, objective is not None
        self.replays_exactly = dynamics.known_pure
        self._updates = [
            GradientProcess(
                update,
                objective or (lambda state: dynamics.objective(state, episode)),
                dynamics.student.statistics,
                stops_gradients=dynamics.student.reads_stopped or any(move.detaches for move in dynamics.moves),
            )
            for update in dynamics.updates(episode)
        ]
        self.hessian_vector_products = self.gradient_evaluations = len(self._updates)
        if left_out := dynamics.student.unfollowed:
            warn_of_parts_left_out(f"{', '.join(left_out[:3])} of the student {dynamics.student.name}", stacklevel=2)
        for move in dynamics.moves:
            if move.unfollowed:
                warn_of_parts_left_out(f"the loss {type(move.loss).__name__}", stacklevel=2)

    @staticmethod
    def of(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Any],
        loss: Callable[..., torch.Tensor],
        objective: Callable[[nn.Module], torch.Tensor],
        **options: Any,
    ) -> Loop:
        """Makes a process of a training loop of your own.

            weights = torch.ones(len(x))
            training = meta.Training.of(
                model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), torch.arange(len(x)).split(32),
                lambda model, rows, weights: (weights[rows] * errors(model(x[rows]), y[rows])).mean(),
                lambda model: errors(model(x_dev), y_dev).mean(),
                hyperparameters={"weights": weights},
            )
            gradient = training.gradient()
            gradient.hyperparameters["weights"], gradient.settings["learning_rate"], gradient.initial

        `training.gradient()` differentiates J with respect to all of these at once. Model, optimiser and scheduler stay
        as they are. What a step draws from the global generators of torch, Python and NumPy (dropout) is a function of
        `seed` and the step. The model is called in the mode that it is in; a mode that loss or objective set is put
        back. Gradients that are clipped or scaled, hooks that change a step, and optimisers that have stepped already,
        are not taken. A warning says where the gradient leaves out a part: a straight-through function, or a loss or
        objective that depends on numbers which it reads of tensors (`float(x)`).

        Args:
            model: its trainable parameters that the first step's loss depends on move; buffers are part of the state.
            optimizer: a fresh `torch.optim.SGD`, `Adam`, `AdamW` or `RMSprop`, also with several `param_groups`.
            batches: the batch of each step, whatever the loss takes; read once, so that their order is fixed.
            loss: (model, batch), and each hyperparameter by its name, to a scalar.
            objective: (model) to J, a scalar; it reads no hyperparameter.
            **options: `scheduler`, one of `torch.optim.lr_scheduler` on the optimiser, called after every
                `scheduler_every` steps (1); `hyperparameters`, tensors that the loss reads, by name; `settings`, which
                of the optimiser's are differentiated (`"learning_rate"`, `"momentum"`, `"weight_decay"`; by default the
                first and the last); `epochs`, how often the batches are read (1); `seed` (0);
                `adjoint="blockwise"`, which holds the graph of one block of the model at a time instead of all of it,
                for more time; `blocks`, names of the modules that these are, of an `nn.Sequential` or `nn.ModuleList`
                its members (by default those of the model's outermost ones).

        Raises:
            TypeError: an optimiser, a scheduler or a hyperparameter of another kind.
            ValueError: no batches, or one that is written into when the next is read; a loss that is no scalar, reaches
                no parameter, reads one past the model, or computes activations again in its backward pass; an
                objective that reads a hyperparameter, or a parameter past the model; hooks; an optimiser that has
                stepped, or a setting that it does not have; no blocks, or one that updates its buffers.
            RuntimeError: the first step, taken twice, is not the same: says which module, or which kernel, differs; or
                it is called in `torch.inference_mode()`.
        """
        return Loop(model, optimizer, batches, loss, objective, **options)

    def check_state(self, state: StudentState) -> None:
        """Refuses what is no state of a student."""
        self._updates[-1].check_state(state)

    def check_differences(self, state: StudentState) -> None:
        """Refuses parameters that central differences have no radius for."""
        for update in self._updates:
            update.check_differences(state)

    def check_actions(self, state: StudentState, actions: Iterable[torch.Tensor]) -> None:
        """Refuses actions that are not the environment's.

        Raises:
            ValueError: one has another shape.
        """
        shape = (*self.batch(state), self.dynamics.control.size)
        for action in actions:
            if tuple(action.shape) != shape:
                raise ValueError(
                    f"found an action of shape {tuple(action.shape)}, expected {shape}, as env.action_space has it"
                )

    def batch(self, state: StudentState) -> tuple[int, ...]:
        """Returns the shape in which students are stacked: (B,) for a batch, () for a single one."""
        return self._updates[-1].batch(state)

    def singles(self, state: StudentState) -> Sequence[tuple[Training, StudentState]]:
        """Returns (training, student) of each student of a batch that is taken one by one; else nothing."""
        if not self.dynamics.mapping.one_by_one or self._own_objective:
            return []
        single = self.dynamics.mapped(One())
        return [(Training(single, episode), student) for student, episode in apart(state, self.episode)]

    def needed(self, state: StudentState) -> StudentState:
        """Returns what of a state `pullback` reads: all that has to be kept of it."""
        return needed_of(self.dynamics, state)

    def irreversible(self, state: StudentState) -> str | None:
        """Returns why a step cannot be taken backwards; None if it can."""
        if len(self._updates) > 1:
            return "a step moves several networks, one after the other"
        return self._updates[0].irreversible(state)

    def coded_bytes(self, state: StudentState) -> int:
        """Returns about how many bytes take the state before a step from the one after it."""
        return self._updates[0].coded_bytes(state)

    def reversal(self, state: StudentState, first: int, graphs: bool) -> Reversal:
        """Returns steps from a state on, to be taken forwards and then backwards; see `Reversal`."""
        return self._updates[0].reversal(state, first, graphs)

    def finished(self, cotangent: Cotangent) -> Cotangent:
        """Returns the cotangent of the initial state in the form that the caller gets."""
        return self._updates[-1].finished(cotangent)

    def step(self, state: StudentState, action: torch.Tensor, t: int, arena: Arena | None = None) -> StudentState:
        """Takes all updates of one student step, in order."""
        for update in self._updates:
            state = update.step(state, action, t, arena)
        return state

    def value(self, state: StudentState) -> tuple[torch.Tensor, Cotangent]:
        """Returns (J on dev, ∂J/∂x_T) at the final state x_T."""
        return self._updates[-1].value(state)

    def linearize(
        self, state: StudentState, action: torch.Tensor, t: int, memory: ReusedMemory | None = None
    ) -> tuple[StudentState, Adjoint]:
        """Returns (next state, adjoint of the step), composed of those of its updates."""
        return self.linearized(state, action, memory)[:2]

    def linearized(
        self, state: StudentState, action: torch.Tensor, memory: ReusedMemory | None = None
    ) -> tuple[StudentState, Adjoint, Outcome]:
        """Returns (next state, adjoint of the step, what it reports), of a student or a batch."""
        adjoints = []
        for update in self._updates:
            state, adjoint, outcome = update.linearized(state, action, memory)
            adjoints.append(adjoint)
        return state, _reversed(adjoints), outcome

    def pullback(
        self, state: StudentState, action: torch.Tensor, t: int, cotangent: Cotangent
    ) -> tuple[Cotangent, torch.Tensor]:
        """Applies the adjoint at once: the last update's without its graph, which a batch of students has recorded."""
        *earlier, last = self._updates
        adjoints = []
        for update in earlier:
            state, adjoint = update.linearize(state, action, t)
            adjoints.append(adjoint)

        def of_last(cotangent: Cotangent) -> tuple[Cotangent, torch.Tensor]:
            return last.pullback(state, action, t, cotangent)

        return _reversed([*adjoints, of_last])(cotangent)

    def pullback_by_differences(
        self, state: StudentState, action: torch.Tensor, t: int, cotangent: Cotangent
    ) -> tuple[Cotangent, torch.Tensor]:
        """Applies the adjoint, that of each update by central differences."""
        states = [state]
        for update in self._updates[:-1]:
            states.append(update.step(states[-1], action, t))

        def adjoint_at(update: GradientProcess, state: StudentState) -> Adjoint:
            return lambda cotangent: update.pullback_by_differences(state, action, t, cotangent)

        return _reversed([adjoint_at(*pair) for pair in zip(self._updates, states, strict=True)])(cotangent)

    def pushforward(
        self, state: StudentState, action: torch.Tensor, t: int, tangent: Cotangent, of_action: torch.Tensor
    ) -> Cotangent:
        """Carries a tangent through all updates, by forward mode over their reverse-mode gradients."""
        *earlier, last = self._updates
        for update in earlier:
            tangent = update.pushforward(state, action, t, tangent, of_action)
            state = update.step(state, action, t)
        return last.pushforward(state, action, t, tangent, of_action)


def needed_of(dynamics: Dynamics, state: StudentState) -> StudentState:
    """Returns what has to be kept of a state to differentiate the step from it: all, if there are several updates."""
    reads = dynamics.optimizer.needs_gradient or bool(dynamics.control.settings)
    return needed_if(len(dynamics.moves) > 1 or reads, state)


def _reversed(adjoints: list[Adjoint]) -> Adjoint:
    """Composes the adjoints of updates: the last one's comes first, and the cotangents of the action add up."""
    if len(adjoints) == 1:
        return adjoints[0]

    def adjoint(cotangent: Cotangent) -> tuple[Cotangent, torch.Tensor]:
        cotangent, of_action = adjoints[-1](cotangent)
        for earlier in reversed(adjoints[:-1]):
            cotangent, part = earlier(cotangent)
            of_action = of_action + part
        return cotangent, of_action

    return adjoint
