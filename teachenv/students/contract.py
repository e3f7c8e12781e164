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

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from teachenv.optimizers import Tensors
from teachenv.randomness import Purpose, all_seeded, generator_states
from teachenv.students.attributes import attributes_of, changed, kept_parameter, module_at
from teachenv.students.derivatives import compare_derivatives, random_direction

if TYPE_CHECKING:
    from teachenv.students.functional import FunctionalStudent

_PASSES = 3
_FAR = (10, 100, 1_000, 10_000, 1_000_000)
"""By how much a number that moves in each pass is moved on, to see whether it ever changes anything."""

_EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-7}
"""Largest relative differences between the same and between different operations."""

Trace = list[tuple[str, torch.Tensor]]
"""What came out of a short training: (what it is, its value)."""


def check_student(student: FunctionalStudent, few: torch.Tensor) -> None:
    """Compares a student with its module.

    Args:
        student: just made.
        few: a few inputs on which the module runs.

    Raises:
        ValueError: they differ; names the module, what differs, the likely cause and what to do.
    """
    check = _Check(student, few)
    check.fresh_networks_are_apart()
    check.evaluation_is_a_function()
    check.module_is_what_runs()
    check.numbers_that_move_change_nothing()
    check.differentiable_forms_are_equal()
    check.derivatives_are_complete()


class _Check:
    def __init__(self, student: FunctionalStudent, few: torch.Tensor) -> None:
        self.student, self.module, self.device = student, student.module, student.device
        half = max(len(few) // 2, 1)
        self.minibatches = [few, few.roll(half, 0), few.flip(0)]
        self.buffers = student.buffers
        # bfloat16 has eight bits: another order of the same operations may differ in the last one of them.
        self.exact, self.close = (0.02, 0.2) if student.autocast else (_EXACT[student.dtype], _CLOSE[student.dtype])
        self.begin = tuple({n: t.clone() for n, t in each.items()} for each in student.tensors_of(student.module))
        rng = torch.Generator().manual_seed(0)
        self.moves = [
            {n: random_direction(p, rng) for n, p in self.begin[0].items()} for _ in range(_PASSES)
        ]  # of the parameters, after each pass

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
            if not _equal(tensor.detach(), begin[name]):
                raise self.error(
                    f"is not initialised by its episode's seed: {name!r} differs between two networks built under one "
                    "seed; draw it from the global generator of torch, Python or NumPy, all of which are seeded, and "
                    "not from one of your own"
                )
        # The reference is trained in place, and a factory may give several networks the same tensors.
        for tensor in (*self.reference.parameters(), *self.reference.buffers()):
            tensor.data = tensor.data.clone()

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluation_is_a_function(self) -> None:
        """It draws nothing, and changes no buffer."""
        parameters, buffers = self.copies()
        before = generator_states(self.device)
        with torch.no_grad(), all_seeded(0, Purpose.DROPOUT, device=self.device):
            seeded = generator_states(self.device)
            self.run(parameters, buffers, self.minibatches[0], training=False)
            drawn = [name for name, state in generator_states(self.device).items() if state != seeded[name]]
        assert before == generator_states(self.device)
        if drawn:
            raise self.error(
                f"draws random numbers in evaluation mode{self.place_of_draws(drawn[0])}, from {drawn[0]}'s generator, "
                "so that its measured value is no function of its weights; draw only if self.training (dropout: "
                "F.dropout(x, p, self.training))"
            )
        for name, buffer in buffers.items():
            if not _equal(buffer, self.begin[1][name]):
                raise self.error(
                    f"changes its buffer {name!r} in evaluation mode, so that measuring it would train it; change it "
                    "only if self.training"
                )

    def place_of_draws(self, generator: str) -> str:
        """Names the innermost module in which a generator moves in an evaluation pass."""
        innermost: list[str] = []
        stack: list[bytes] = []

        def enter(_module: nn.Module, _inputs: Any) -> None:
            stack.append(generator_states(self.device)[generator])

        def leave(module: nn.Module, _inputs: Any, _outputs: Any) -> None:
            if stack.pop() != generator_states(self.device)[generator] and not innermost:
                innermost.append(next(name for name, m in self.module.named_modules() if m is module))

        handles = [
            h
            for m in self.module.modules()
            for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))
        ]
        parameters, buffers = self.copies()
        with torch.no_grad(), all_seeded(0, Purpose.DROPOUT, device=self.device), suppress(Exception):
            self.run(parameters, buffers, self.minibatches[0], training=False)
        for handle in handles:
            handle.remove()
        return f" in {module_at(self.module, innermost[0])}" if innermost and innermost[0] else ""

    # --- a short training ---------------------------------------------------------------------------------------------

    def module_is_what_runs(self) -> None:
        """The module's own training, the function's, and the function's once more are the same."""
        attributes = attributes_of(self.reference)
        try:
            own, first, again = self.by_module(), self.by_function(), self.by_function()
            failed = None
        except RuntimeError as error:
            failed = error
        moved = changed(attributes, attributes_of(self.reference))
        if failed is not None:
            raise self.error(
                f"runs once, but not in a training ({str(failed).splitlines()[0]}); {self.cause(moved, '')}"
            ) from failed
        if label := _first_difference(own, first, self.exact):
            raise self.error(
                f"is not a function of its tensors: {label} differ from those of a plain loop over the module; "
                + self.cause(moved, label)
            )
        if label := _first_difference(first, again, self.exact):
            raise self.error(
                f"remembers earlier trainings: {label} differ in a second training from the same tensors; "
                + self.cause(moved, label)
            )
        self.moving, self.trace = moved, again
        # Frozen parameters that a pass moves (an average of other weights) are statistics like any buffer.
        self.student.statistics += [
            name
            for name, tensor in self.after.items()
            if name not in self.buffers and tensor.is_floating_point() and not _equal(tensor, self.begin[1][name])
        ]

    def by_module(self) -> Trace:
        """As a loop in plain PyTorch trains it, but that the parameters are moved along given directions."""
        trace: Trace = []
        module, student = self.reference, self.student
        named = dict(module.named_parameters())
        parameters: Tensors = {name: named[name] for name in self.begin[0]}
        module.eval()
        with torch.no_grad(), student.precision():
            untrained = student.logits(module(self.minibatches[0]), training=False).clone()
        for t, inputs in enumerate(self.minibatches):
            module.train()
            with student.random_state(0, t), student.precision(), torch.enable_grad():
                outputs = student.logits(module(inputs), training=True)
                gradient = _gradient(outputs, parameters)
            for child in module.modules():
                # One that is updated with its graph would keep it, and every loop detaches it.
                child._buffers.update({k: b.detach() for k, b in child._buffers.items() if b is not None})
            after = dict(module.named_buffers())
            trace += _passed(t, outputs, {name: after[name] for name in self.buffers}, gradient)
            with torch.no_grad():
                for name, move in self.moves[t].items():
                    parameters[name].add_(move)
                module.eval()
                with student.precision():
                    outputs = student.logits(module(inputs), training=False)
            trace.append((f"its outputs in evaluation after pass {t + 1}", outputs.clone()))
        return [*trace, ("its outputs in evaluation right after those of other weights", untrained)]

    def by_function(self) -> Trace:
        trace: Trace = []
        parameters, buffers = self.copies()
        for t, inputs in enumerate(self.minibatches):
            leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
            with self.student.random_state(0, t), torch.enable_grad():
                outputs, buffers = self.run(leaves, buffers, inputs, training=True)
                gradient = _gradient(outputs, leaves)
            self.check_parameters(parameters, leaves)
            for name, grad in gradient.items():
                if grad.layout != torch.strided:
                    raise self.error(
                        f"has sparse gradients of {name!r}, which no optimizer here takes; build it with sparse=False"
                    )
            buffers = {name: b.detach() for name, b in buffers.items()}
            trace += _passed(t, outputs, {name: buffers[name] for name in self.buffers}, gradient)
            parameters = {name: p + self.moves[t][name] for name, p in parameters.items()}
            with torch.no_grad():
                outputs, _ = self.run(parameters, buffers, inputs, training=False)
            trace.append((f"its outputs in evaluation after pass {t + 1}", outputs.clone()))
        self.after = buffers
        # No training pass lies between: a weight that was kept for evaluation is another network's now.
        with torch.no_grad():
            outputs, _ = self.run(*self.copies(), self.minibatches[0], training=False)
        return [*trace, ("its outputs in evaluation right after those of other weights", outputs.clone())]

    def check_parameters(self, before: Tensors, after: Tensors) -> None:
        for name, tensor in before.items():
            if not _equal(tensor, after[name].detach()):
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

    # --- naming the culprit -------------------------------------------------------------------------------------------

    def cause(self, moved: Mapping[tuple[str, str], tuple[str, str]], label: str) -> str:
        """The likely cause, and what to do."""
        if stale := kept_parameter(self.module):
            name, where = stale
            return f"its parameter {name!r} is kept in {where} as well, where it cannot be exchanged; leave that out"
        if moved:
            (path, key), (before, after) = next(iter(moved.items()))
            others = f" (and {', '.join(repr(k) for _, k in list(moved)[1:4])})" if len(moved) > 1 else ""
            if "Generator" in before or "RandomState" in before or before.startswith("random"):
                advice = "draw from the global generator, torch.rand, which is seeded for each step"
            else:
                advice = (
                    f"make it a buffer, self.register_buffer({key!r}, ...), and change it by tensor operations: "
                    "buffers are part of a student's state"
                )
            values = f" ({before}, then {after})" if len(before + after) < 60 else ""
            return f"{module_at(self.module, path)} changes its attribute {key!r}{others} in a pass{values}; {advice}"
        if label.startswith("its gradients"):
            return (
                "gradient checkpointing, a custom autograd function or a module that keeps weights elsewhere may be "
                "the reason; leave checkpointing out (meta.hypergradient has its own)"
            )
        return (
            "it keeps something outside its tensors (in a closure, a global variable, another object, a generator of "
            "its own), or its train() and eval() change weights; keep state in buffers (self.register_buffer)"
        )

    def numbers_that_move_change_nothing(self) -> None:
        """A counter that nothing reads is harmless; one that is read later on is not, and is moved on to see."""
        modules = dict(self.module.named_modules())
        for (path, key), (before, after) in self.moving.items():
            number = modules[path].__dict__.get(key)
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            for far in _FAR:
                modules[path].__dict__[key] = type(number)(number + far)
                label = None
                with suppress(Exception):
                    label = _first_difference(self.trace, self.by_function(), self.exact)
                modules[path].__dict__[key] = number
                if label:
                    raise self.error(
                        f"is not a function of its tensors: {label} depend on a number that each pass moves; "
                        + self.cause({(path, key): (before, after)}, label)
                    )

    # --- derivatives --------------------------------------------------------------------------------------------------

    def differentiable_forms_are_equal(self) -> None:
        """The forms that derivatives are taken of give the same; without `opens`, if they do not with it."""
        plain = self.one_pass(False)
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

    def difference_of_form(self, plain: Trace, form: Any) -> str | None:
        other = None
        # What fails here says so when it is differentiated; a student need not be differentiable.
        with suppress(Exception):
            other = self.one_pass(form)
        return None if other is None else _first_difference(plain, other, self.close)

    def one_pass(self, form: Any) -> Trace:
        parameters, buffers = self.copies()
        leaves = {name: (p + self.moves[0][name]).requires_grad_() for name, p in parameters.items()}
        trace: Trace = []
        for training in (True, False):
            with self.student.random_state(0, 0), torch.enable_grad():
                outputs, buffers = self.run(
                    leaves, buffers, self.minibatches[0], training=training, differentiable=form
                )
                gradient = _gradient(outputs, leaves)
            buffers = {name: b.detach() for name, b in buffers.items()}
            trace += _passed(0, outputs, buffers if training else {}, gradient)
        return trace

    def derivatives_are_complete(self) -> None:
        """Sets what the student knows of its derivatives, from a comparison with central differences in float64."""
        if self.student.autocast:
            return
        # What cannot be differentiated so, or not in float64, says so when it is tried.
        with suppress(Exception):
            compare_derivatives(self.student, *self.copies(), self.minibatches[0])


def _gradient(outputs: torch.Tensor, parameters: Tensors) -> Tensors:
    if not outputs.requires_grad:
        return {name: torch.zeros_like(p) for name, p in parameters.items()}
    loss = outputs.double().square().mean()
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, grads, strict=True))


def _passed(t: int, outputs: torch.Tensor, buffers: Tensors, gradient: Tensors) -> Trace:
    trace = [(f"its outputs in training pass {t + 1}", outputs.detach().clone())]
    trace += [(f"its values of buffer {name!r} after pass {t + 1}", b.detach().clone()) for name, b in buffers.items()]
    return trace + [(f"its gradients of {name!r} in pass {t + 1}", g.detach()) for name, g in gradient.items()]


def _first_difference(one: Trace, other: Trace, tolerance: float) -> str | None:
    """What is the first thing to differ."""
    if [label for label, _ in one] != [label for label, _ in other]:
        return "its buffers"
    # Gradients that are zero but for rounding (of a bias before a batch norm) are compared on the others' scale.
    scale = max((_size(a) for label, a in one if label.startswith("its gradients")), default=0.0)
    for (label, a), (_, b) in zip(one, other, strict=True):
        if not _equal(a, b, tolerance, scale if label.startswith("its gradients") else 0.1):
            return label
    return None


def _equal(a: torch.Tensor, b: torch.Tensor, tolerance: float = 0.0, scale: float = 0.0) -> bool:
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):  # far faster, and large networks are mostly equal
        return True
    if not a.is_floating_point():
        return False
    largest = tolerance * max(_size(a), scale)
    if float(torch.linalg.vector_norm(a - b, float("inf"))) <= largest:
        return True
    return torch.allclose(a.double(), b.double(), rtol=0.0, atol=largest, equal_nan=True)


def _size(tensor: torch.Tensor) -> float:
    if not tensor.numel():
        return 0.0
    largest = float(torch.linalg.vector_norm(tensor, float("inf")))
    if largest < float("inf"):
        return largest
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
