"""A short training run of a module, taken by the module itself and by the function that stands for it.

What comes out of either is a trace, which `teachenv.students.contract` compares.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from teachenv.optimizers import Tensors
from teachenv.randomness import Purpose, all_seeded, generator_states
from teachenv.students.culprits import place_of_draws
from teachenv.students.derivatives import random_direction
from teachenv.students.functional import FunctionalStudent
from teachenv.students.traces import Trace, equal, gradient_of, passed

_EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-7}
"""Largest relative differences between the same and between different operations."""

TRAINED = "its outputs in evaluation after a training"
UNTRAINED = "its outputs in evaluation right after those of other weights"


class Trial:
    """The short training run, and the passes that it consists of.

    Args:
        student: a student that was just made.
        few: inputs on which the module runs.
    """

    def __init__(self, student: FunctionalStudent, few: torch.Tensor) -> None:
        self.student, self.module, self.device = student, student.module, student.device
        half = max(len(few) // 2, 1)
        self.minibatches = [few, few.roll(half, 0)]
        self.buffers = student.buffers
        # bfloat16 has eight bits: another order of the same operations may differ in the last one of them.
        self.exact, self.close = (0.02, {student.dtype: 0.2}) if student.autocast else (_EXACT[student.dtype], _CLOSE)
        self.begin = tuple({n: t.clone() for n, t in each.items()} for each in student.tensors_of(student.module))
        rng = torch.Generator().manual_seed(0)
        # Trainings begin at other weights than the skeleton has seen, and they grow: a cache of the first, and the
        # least and the largest of all that was seen, then differ from those of a module that has seen nothing.
        self.moves = {n: random_direction(p, rng).add_(p, alpha=0.1) for n, p in self.begin[0].items()}
        self.start = {name: p + self.moves[name] for name, p in self.begin[0].items()}
        with all_seeded(0, Purpose.INIT, device=self.device):
            self.reference = student.build()

    def error(self, fault: str) -> ValueError:
        """The error that says what is wrong with the student, by name."""
        return ValueError(f"the student {self.student.name} {fault}")

    def evaluated(self, parameters: Tensors, buffers: Tensors) -> torch.Tensor:
        """Outputs in evaluation, which draws nothing and changes no buffer."""
        before = {name: b.clone() for name, b in buffers.items()}
        with torch.no_grad(), all_seeded(0, Purpose.DROPOUT, device=self.device):
            seeded = generator_states(self.device)
            outputs, _ = self.run(parameters, buffers, self.minibatches[0], training=False)
            drawn = [name for name, state in generator_states(self.device).items() if state != seeded[name]]
        if drawn:
            where = place_of_draws(self.module, drawn[0], self.device, self.evaluate_once)
            raise self.error(
                f"draws random numbers in evaluation mode{where}, from {drawn[0]}'s generator, "
                "so that its measured value is no function of its weights; draw only if self.training (dropout: "
                "F.dropout(x, p, self.training))"
            )
        for name, buffer in buffers.items():
            if not equal(buffer, before[name]):
                raise self.error(
                    f"changes its buffer {name!r} in evaluation mode, so that measuring it would train it; change it "
                    "only if self.training"
                )
        return outputs.clone()

    def evaluate_once(self) -> None:
        """An evaluation pass of the module, from which errors do not come."""
        parameters, buffers = self.copies()
        with torch.no_grad(), all_seeded(0, Purpose.DROPOUT, device=self.device), suppress(Exception):
            self.run(parameters, buffers, self.minibatches[0], training=False)

    def by_module(self) -> Trace:
        """The training by the module, as a loop in plain PyTorch, but that parameters move along a given direction."""
        trace: Trace = []
        module, student = self.reference, self.student
        named = dict(module.named_parameters())
        parameters: Tensors = {name: named[name] for name in self.begin[0]}

        def evaluated() -> torch.Tensor:
            module.eval()
            with torch.no_grad(), student.precision():
                return student.call(module, self.minibatches[0], student.name, training=False).clone()

        def move() -> None:
            with torch.no_grad():
                for name, along in self.moves.items():
                    parameters[name].add_(along)

        move()
        untrained = evaluated()
        for t, inputs in enumerate(self.minibatches):
            module.train()
            with student.random_state(0, t), student.precision(), torch.enable_grad():
                outputs = student.call(module, inputs, student.name, training=True)
                gradient = gradient_of(outputs, parameters) if t else {}
            for child in module.modules():
                # One that is updated with its graph would keep it, and every loop detaches it.
                child._buffers.update({k: b.detach() for k, b in child._buffers.items() if b is not None})
            after = dict(module.named_buffers())
            trace += passed(t, outputs, {name: after[name] for name in self.buffers}, gradient)
            move()
        return [*trace, (TRAINED, evaluated()), (UNTRAINED, untrained)]

    def by_function(self) -> Trace:
        """The same training, by the function that stands for the module."""
        trace: Trace = []
        parameters, buffers = self.start, self.copies()[1]
        for t in range(len(self.minibatches)):
            passes, buffers = self.pass_by_function(t, parameters, buffers, gradient=t > 0)
            trace += passes
            parameters = {name: p + self.moves[name] for name, p in parameters.items()}
        self.after = buffers
        trace.append((TRAINED, self.evaluated(parameters, buffers)))
        # No training pass lies between: a weight that was kept for evaluation is another network's now.
        return [*trace, (UNTRAINED, self.evaluated(self.start, self.copies()[1]))]

    def pass_by_function(
        self, t: int, parameters: Tensors, buffers: Tensors, *, gradient: bool
    ) -> tuple[Trace, Tensors]:
        """(What came out of a training pass, buffers after it)."""
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        with self.student.random_state(0, t), torch.enable_grad():
            outputs, buffers = self.run(leaves, buffers, self.minibatches[t], training=True)
            gradients = gradient_of(outputs, leaves) if gradient else {}
        self.check_parameters(parameters, leaves)
        for name, grad in gradients.items():
            if grad.layout != torch.strided:
                raise self.error(
                    f"has sparse gradients of {name!r}, which no optimizer here takes; build it with sparse=False"
                )
        buffers = {name: b.detach() for name, b in buffers.items()}
        return passed(t, outputs, {name: buffers[name] for name in self.buffers}, gradients), buffers

    def check_parameters(self, before: Tensors, after: Tensors) -> None:
        """Refuses a pass that changes parameters, or makes new ones."""
        for name, tensor in before.items():
            if not equal(tensor, after[name].detach()):
                raise self.error(
                    f"changes its parameter {name!r} in its forward pass, which belongs to the optimiser; compute the "
                    "changed weight from the parameter in the forward pass, or with torch.nn.utils.parametrize"
                )
        known = set(before) | set(self.begin[1])
        for name, _ in self.module.named_parameters():
            if name not in known:
                raise self.error(
                    f"makes the parameter {name!r} in its forward pass, where no optimiser knows of it; make it in "
                    "__init__, or use a lazy module of torch.nn"
                )

    def run(
        self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, **how: Any
    ) -> tuple[torch.Tensor, Tensors]:
        """(Outputs, new buffers) of a pass of the function."""
        prediction, new_buffers = self.student(parameters, buffers, inputs, **how)
        for name, buffer in new_buffers.items():
            if not isinstance(buffer, torch.Tensor):
                raise self.error(f"sets its buffer {name!r} to {buffer!r} in a pass; leave a tensor there")
        return prediction.outputs, new_buffers

    def copies(self) -> tuple[Tensors, Tensors]:
        """(Parameters, buffers) of the untrained network, in memory of their own."""
        parameters, buffers = ({n: t.clone() for n, t in each.items()} for each in self.begin)
        return parameters, buffers

    def one_pass(self, form: Any, dtype: torch.dtype) -> Trace:
        """A training pass and an evaluation by the function, in one of its forms and in another precision."""

        def converted(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

        leaves = {name: converted(p).requires_grad_() for name, p in self.start.items()}
        buffers = {name: converted(b) for name, b in self.begin[1].items()}
        inputs = converted(self.minibatches[0])
        trace: Trace = []
        for training in (True, False):
            with self.student.random_state(0, 0), torch.enable_grad():
                outputs, buffers = self.student.raw(leaves, buffers, inputs, training=training, differentiable=form)
                gradient = gradient_of(outputs, leaves)
            buffers = {name: b.detach() for name, b in buffers.items()}
            trace += passed(0, outputs, buffers if training else {}, gradient)
        return trace
