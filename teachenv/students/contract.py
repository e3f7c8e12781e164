"""Is the function that is trained the module that was given? Checked once, when a student is made.

A `FunctionalStudent` runs a module with other tensors in its places. That is right as long as the module's passes
depend on its parameters and buffers, its mode, the inputs and the global random generators, and on nothing else. Here a
short training is taken twice, by the module itself as a plain PyTorch loop has it and by the function, and their
outputs, buffers and gradients are compared; then by the function once more from the same beginning. A module that
counts in a Python attribute, keeps tensors outside its buffers, merges weights in `eval()`, or holds a weight where it
cannot be exchanged is found by what comes out of it, whatever the mechanism; attributes are looked at only to name the
culprit. Caches that change nothing are let pass.

What is compared next is the form that is differentiated (`teachenv.students.kernels`), and its derivative with central
differences: what that leaves out is named in `FunctionalStudent.unfollowed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from teachenv.optimizers import Tensors
from teachenv.randomness import Purpose, all_seeded, generator_states
from teachenv.students.attributes import attributes_of, changed
from teachenv.students.culprits import likely_cause, place_of_draws
from teachenv.students.derivatives import compare_derivatives, random_direction
from teachenv.students.prediction import logits_of
from teachenv.students.traces import Trace, equal, first_difference, gradient_of, passed

if TYPE_CHECKING:
    from teachenv.students.functional import FunctionalStudent

_FAR = (10, 100, 1_000, 10_000, 1_000_000)
"""By how much a number that moves in each pass is moved on, to see whether it ever changes anything."""

_EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-7}
"""Largest relative differences between the same and between different operations."""

_TRAINED = "its outputs in evaluation after a training"
_UNTRAINED = "its outputs in evaluation right after those of other weights"


def check_student(student: FunctionalStudent, few: torch.Tensor, reached: set[str] | None) -> None:
    """Compares a student with its module, and sets what the student knows of its derivatives.

    Args:
        student: just made.
        few: a few inputs on which the module runs.
        reached: the tensors that a training pass's outputs are computed from; None: the graph does not show all.

    Raises:
        ValueError: they differ; names the module, what differs, the likely cause and what to do.
    """
    check = _Check(student, few)
    check.fresh_networks_are_apart()
    check.module_is_what_runs()
    check.numbers_that_move_change_nothing()
    if reached is None:
        check.differentiable_forms_are_equal()
        check.derivatives_are_complete()
    else:
        student.reads_statistics = not reached.isdisjoint(student.statistics)


class _Check:
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

    def error(self, what: str) -> ValueError:
        return ValueError(f"the student {self.student.name} {what}")

    # --- fresh networks -----------------------------------------------------------------------------------------------

    def fresh_networks_are_apart(self) -> None:
        """Two products of the factory share no module, and are a function of the seed."""
        with all_seeded(0, Purpose.INIT, device=self.device):
            self.reference = self.student.build()
        shared = {id(m): name for name, m in self.module.named_modules()}
        for name, module in self.reference.named_modules():
            if id(module) in shared:
                part = f"its module {name!r} ({type(module).__name__})" if name else "the same module"
                raise self.error(
                    f"needs a network of its own in each episode, but its factory returned {part} twice; build a "
                    "fresh one in the factory, for example with copy.deepcopy"
                )
        begin, named = self.begin[0] | self.begin[1], dict(self.reference.named_parameters())
        again = named | dict(self.reference.named_buffers())
        if again.keys() != begin.keys():
            raise self.error("has other parameters each time it is built; build the same architecture every time")
        for name, tensor in again.items():
            if not equal(tensor.detach(), begin[name]):
                raise self.error(
                    f"is not initialised by its episode's seed: {name!r} differs between two networks built under one "
                    "seed; draw it from the global generator of torch, Python or NumPy, all of which are seeded, and "
                    "not from one of your own"
                )
        # The reference is trained in place, and a factory may give several networks the same tensors.
        for tensor in (*self.reference.parameters(), *self.reference.buffers()):
            tensor.data = tensor.data.clone()

    # --- evaluation ---------------------------------------------------------------------------------------------------

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

    # --- a short training ---------------------------------------------------------------------------------------------

    def module_is_what_runs(self) -> None:
        """The module's own training, the function's, and the function's once more are the same."""
        attributes = attributes_of(self.reference)
        try:
            own, first = self.by_module(), self.by_function()
            again, _ = self.pass_by_function(0, self.start, self.copies()[1], gradient=False)
            failed = None
        except RuntimeError as error:
            failed = error
        moved = changed(attributes, attributes_of(self.reference))
        if failed is not None:
            cause = likely_cause(self.module, moved, "")
            raise self.error(f"runs once, but not in a training ({str(failed).splitlines()[0]}); {cause}") from failed
        if label := first_difference(own, first, self.exact):
            raise self.error(
                f"is not a function of its tensors: {label} differ from those of a plain loop over the module; "
                + likely_cause(self.module, moved, label)
            )
        if label := first_difference(first[: len(again)], again, self.exact):
            raise self.error(
                f"remembers earlier trainings: {label} differ in a second training from the same tensors; "
                + likely_cause(self.module, moved, label)
            )
        self.moving = moved
        # Frozen parameters that a pass moves (an average of other weights) are statistics like any buffer.
        self.student.statistics += [
            name
            for name, tensor in self.after.items()
            if name not in self.buffers and tensor.is_floating_point() and not equal(tensor, self.begin[1][name])
        ]

    def by_module(self) -> Trace:
        """As a loop in plain PyTorch trains it, but that the parameters are moved along a given direction."""
        trace: Trace = []
        module, student = self.reference, self.student
        named = dict(module.named_parameters())
        parameters: Tensors = {name: named[name] for name in self.begin[0]}

        def evaluated() -> torch.Tensor:
            module.eval()
            with torch.no_grad(), student.precision():
                return logits_of(module(self.minibatches[0]), student.name, training=False).clone()

        def move() -> None:
            with torch.no_grad():
                for name, along in self.moves.items():
                    parameters[name].add_(along)

        move()
        untrained = evaluated()
        for t, inputs in enumerate(self.minibatches):
            module.train()
            with student.random_state(0, t), student.precision(), torch.enable_grad():
                outputs = logits_of(module(inputs), student.name, training=True)
                gradient = gradient_of(outputs, parameters) if t else {}
            for child in module.modules():
                # One that is updated with its graph would keep it, and every loop detaches it.
                child._buffers.update({k: b.detach() for k, b in child._buffers.items() if b is not None})
            after = dict(module.named_buffers())
            trace += passed(t, outputs, {name: after[name] for name in self.buffers}, gradient)
            move()
        return [*trace, (_TRAINED, evaluated()), (_UNTRAINED, untrained)]

    def by_function(self) -> Trace:
        trace: Trace = []
        parameters, buffers = self.start, self.copies()[1]
        for t in range(len(self.minibatches)):
            made, buffers = self.pass_by_function(t, parameters, buffers, gradient=t > 0)
            trace += made
            parameters = {name: p + self.moves[name] for name, p in parameters.items()}
        self.after = buffers
        trace.append((_TRAINED, self.evaluated(parameters, buffers)))
        # No training pass lies between: a weight that was kept for evaluation is another network's now.
        return [*trace, (_UNTRAINED, self.evaluated(self.start, self.copies()[1]))]

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
        prediction, new_buffers = self.student(parameters, buffers, inputs, **how)
        for name, buffer in new_buffers.items():
            if not isinstance(buffer, torch.Tensor):
                raise self.error(f"sets its buffer {name!r} to {buffer!r} in a pass; leave a tensor there")
        return prediction.outputs, new_buffers

    def copies(self) -> tuple[Tensors, Tensors]:
        parameters, buffers = ({n: t.clone() for n, t in each.items()} for each in self.begin)
        return parameters, buffers

    # --- numbers that move --------------------------------------------------------------------------------------------

    def numbers_that_move_change_nothing(self) -> None:
        """A counter that nothing reads is harmless; one that is read later on is not, and is moved on to see."""
        modules = dict(self.module.named_modules())
        numbers = {}
        for path, key in self.moving:
            number = modules[path].__dict__.get(key)
            if isinstance(number, int | float) and not isinstance(number, bool):
                numbers[path, key] = number
        if not numbers:
            return
        here = self.with_moved({}, 0)
        for far in _FAR:
            # All at once; one by one to find the culprit, and where they cannot be moved together.
            together = self.with_moved(numbers, far)
            if together and not first_difference(here, together, self.exact):
                continue
            for place, number in numbers.items():
                alone = self.with_moved({place: number}, far)
                if alone and (label := first_difference(here, alone, self.exact)):
                    raise self.error(
                        f"is not a function of its tensors: {label} depend on a number that each pass moves; "
                        + likely_cause(self.module, {place: self.moving[place]}, label)
                    )

    def with_moved(self, numbers: Mapping[tuple[str, str], float], far: int) -> Trace:
        """What comes out of a pass with some of the module's numbers moved on; nothing if it fails."""
        modules, trace = dict(self.module.named_modules()), []
        for (path, key), number in numbers.items():
            modules[path].__dict__[key] = type(number)(number + far)
        with suppress(Exception):
            made, buffers = self.pass_by_function(0, *self.copies(), gradient=True)
            trace = [*made, (_TRAINED, self.evaluated(self.begin[0], buffers))]
        for (path, key), number in numbers.items():
            modules[path].__dict__[key] = number
        return trace

    # --- derivatives --------------------------------------------------------------------------------------------------

    def differentiable_forms_are_equal(self) -> None:
        """The forms that derivatives are taken of give the same; without `opens`, if they do not with it."""
        plain = cache(partial(self.one_pass, False))
        for form in (True, "batched"):
            label = self.difference_of_form(plain, form)
            if label and self.student.opens:
                self.student.opens = False
                label = self.difference_of_form(plain, form)
            if label:
                raise self.error(
                    f"cannot be differentiated twice as it is: {label} differ in the form that is differentiated "
                    f"(differentiable={form!r}); this is a fault of teachenv, please report it with the module"
                )

    def difference_of_form(self, plain: Callable[[torch.dtype], Trace], form: Any) -> str | None:
        """What differs; in float64 as well, since rounding alone can move the gradients of a deep network far."""
        label = None
        for dtype, tolerance in self.close.items():
            if dtype == torch.float32 and self.student.dtype != dtype:
                continue
            # What fails here says so when it is differentiated; a student need not be differentiable.
            with suppress(Exception):
                label = first_difference(plain(dtype), self.one_pass(form, dtype), tolerance)
            if label is None:
                break
        return label

    def one_pass(self, form: Any, dtype: torch.dtype) -> Trace:
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

    def derivatives_are_complete(self) -> None:
        """Sets what the student knows of its derivatives, from a comparison with central differences in float64."""
        if self.student.autocast:
            return
        # What cannot be differentiated so, or not in float64, says so when it is tried.
        with suppress(Exception):
            compare_derivatives(self.student, *self.copies(), self.minibatches[0])
