"""Is the function that is trained the module that was given? Checked once, when a student is made.

A `FunctionalStudent` runs a module with other tensors in its places. That is right as long as the module's passes
depend on its parameters and buffers, its mode, the inputs and the global random generators, and on nothing else. Here a
short training run is taken twice, by the module itself as a plain PyTorch loop has it and by the function, and their
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
from typing import Any

import torch

from teachenv.students.attributes import attributes_of, changed
from teachenv.students.calling import Call, as_floats
from teachenv.students.culprits import likely_cause
from teachenv.students.derivatives import compare_derivatives
from teachenv.students.factories import StudentFactory
from teachenv.students.functional import FunctionalStudent
from teachenv.students.traces import Trace, equal, first_difference
from teachenv.students.trial import TRAINED, Trial
from teachenv.students.watch import watch_passes

_FAR = (10, 100, 1_000, 10_000, 1_000_000)
"""By how much a number that moves in each pass is moved on, to see whether it ever changes anything."""


def functional_student(
    factory: StudentFactory,
    example: torch.Tensor,
    dtype: torch.dtype,
    device: torch.device,
    *,
    autocast: bool = False,
    known: bool = False,
    call: Call | None = None,
) -> FunctionalStudent:
    """A network as a pure function, which has been compared with the module itself.

    Args:
        factory: builds the network, see `FunctionalStudent`.
        example: a minibatch of inputs.
        dtype: floating type of parameters and buffers.
        device: where they live.
        autocast: run the network in bfloat16, see `FunctionalStudent`.
        known: whether the network is one of this package's, which its tests compare with the module itself.
        call: how it is called, see `FunctionalStudent`.

    Raises:
        ValueError: the network is not what a student must be; names the module, what differs and what to do.
    """
    example = as_floats(example, dtype)
    student = FunctionalStudent(factory, example, dtype, device, autocast=autocast, known=known, call=call)
    few = example[: student.few]
    reached = watch_passes(student, few)
    if not known:
        check_student(student, few, reached)
    return student


def check_student(student: FunctionalStudent, few: torch.Tensor, reached: set[str] | None) -> None:
    """Compares a student with its module, and sets what the student knows of its derivatives.

    Args:
        student: a student that was just made.
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


class _Check(Trial):
    """The checks, which raise where the module and its function differ."""

    def fresh_networks_are_apart(self) -> None:
        """Two products of the factory share no module, and are a function of the seed."""
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

    def module_is_what_runs(self) -> None:
        """The module's own training, the function's, and the function's once more are the same."""
        attributes = attributes_of(self.reference)
        try:
            module_trace, function_trace = self.by_module(), self.by_function()
            again, _ = self.pass_by_function(0, self.start, self.copies()[1], gradient=False)
            failed = None
        except RuntimeError as error:
            failed = error
        moved = changed(attributes, attributes_of(self.reference))
        if failed is not None:
            cause = likely_cause(self.module, moved, "")
            raise self.error(f"runs once, but not in a training ({str(failed).splitlines()[0]}); {cause}") from failed
        if label := first_difference(module_trace, function_trace, self.exact):
            raise self.error(
                f"is not a function of its tensors: {label} differ from those of a plain loop over the module; "
                + likely_cause(self.module, moved, label)
            )
        if label := first_difference(function_trace[: len(again)], again, self.exact):
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
            passes, buffers = self.pass_by_function(0, *self.copies(), gradient=True)
            trace = [*passes, (TRAINED, self.evaluated(self.begin[0], buffers))]
        for (path, key), number in numbers.items():
            modules[path].__dict__[key] = number
        return trace

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
        """What differs between two forms; in float64 too, as rounding alone can move a deep network's gradients far."""
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

    def derivatives_are_complete(self) -> None:
        """Sets what the student knows of its derivatives, from a comparison with central differences in float64."""
        if self.student.autocast:
            return
        # What cannot be differentiated so, or not in float64, says so when it is tried.
        with suppress(Exception):
            compare_derivatives(self.student, *self.copies(), self.minibatches[0])
