"""Learning from teaching: a model is regularised by how well students can imitate it (LoT; Jin et al. 2024).

T and S_i are the distributions softmax(z/τ) of the model (the teacher, which is kept) and of student i:

    teacher:  its own loss + α Σ_i λ_i τ² mean KL(S_i ‖ T),   S_i detached
    student:  τ² mean KL(T ‖ S_i),                            T detached

Each side moves towards the other, which is detached, so that in the space of logits the two gradients are opposite:
ατλ_i(T − S_i)/rows and τ(S_i − T)/rows. The directions of KL, the factor τ² and the points of detaching are the
released code's; the paper's students see no labels, those of the released code for language models and images do, with
α on their KL as well: `labels=True`.

For each step of the teacher there are N of each student: one on the teacher's own minibatch, with the logits that it
has there (the released code's joint step), and N − 1 on batches of the student's own. In those the released code runs
the teacher in training mode, so that its running statistics drift and its random numbers are used up. Here it is in
evaluation mode, without gradients, and all that students do draws from a stream of their own. Hence α = 0 is the plain
training, bitwise. With N = 0 the students stay as they are: a trained one teaches, as in distillation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from meta.distillation.learner import check_network
from meta.distillation.losses import cross_entropy
from meta.saving.generators import Generators, Stream, generators
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.losses.distillation import divergence
from teachenv.modes import evaluating
from teachenv.precision import in_full_precision
from teachenv.trees import mapped

Metric = Literal["kl", "l2"]
Distance = Callable[[Any, Any], torch.Tensor]
"""(trained outputs, fixed outputs) to a tensor of one number, their mean distance; the second come detached."""

TaskLoss = Callable[[Any, Any], torch.Tensor]
"""(outputs, targets) to a loss, a mean."""

_IGNORED = -100
"""The target that PyTorch's cross-entropy ignores."""


def imitability(
    logits: torch.Tensor, fixed_logits: torch.Tensor, temperature: float = 1.0, metric: Metric = "kl", dim: int = -1
) -> torch.Tensor:
    """Computes how far a network's logits are from those that it shall imitate: a scalar, the mean over rows.

    LoT uses it in both directions (Jin et al. 2024): for students, which shall imitate the teacher, and for the
    teacher, which shall be easy to imitate. It is computed in float32 or float64, whatever autocast says.

    Args:
        logits: the logits of the network that is trained, of any shape with two classes or more.
        fixed_logits: the logits of the other one, of the same shape; they are detached.
        temperature: τ > 0, which divides logits.
        metric: `"kl"`: τ² KL(softmax(fixed_logits/τ) ‖ softmax(logits/τ)). `"l2"`: the squared distance of these two
            distributions (the paper has an ablation with L2; it does not say between what).
        dim: the dimension of the classes: −1, or 1 for pixels as PyTorch's losses have them.

    Raises:
        TypeError: outputs that are no tensors.
        ValueError: the shapes differ, there is one output, or an unknown metric.
    """
    return _distances(logits, fixed_logits, temperature, metric, dim).mean()


@in_full_precision
def _distances(
    logits: torch.Tensor, fixed_logits: torch.Tensor, temperature: float, metric: Metric, dim: int
) -> torch.Tensor:
    """Computes what `imitability` is the mean of: a number for each row."""
    for outputs in (logits, fixed_logits):
        if not isinstance(outputs, torch.Tensor):
            raise TypeError(
                f"found outputs {checks.shown(outputs)}, expected a tensor of logits; give LoT a function of such "
                "outputs as metric="
            )
    if logits.shape != fixed_logits.shape:
        raise ValueError(
            f"teacher's and student's logits must have one shape, found {logits.shape} and {fixed_logits.shape}"
        )
    if not logits.ndim or logits.shape[dim] == 1:
        raise ValueError(
            f"one output has no distribution (found shape {tuple(logits.shape)}): softmax of one logit is 1; for a "
            "regression give LoT metric=lambda trained, fixed: (trained - fixed).square().mean()"
        )
    logits, constant = logits.movedim(dim, -1), fixed_logits.detach().movedim(dim, -1)
    if metric == "kl":
        return temperature**2 * divergence(constant, logits, temperature)
    if metric == "l2":
        return (F.softmax(logits / temperature, -1) - F.softmax(constant / temperature, -1)).square().sum(-1)
    raise unknown_name("metric", metric, get_args(Metric))


class _Pending(NamedTuple):
    """What the students' first step is made of: their outputs and the teacher's on its minibatch, and labels."""

    students: list[Any]
    teacher: Any
    targets: Any


class LoT:
    """The regulariser, and the students that it takes, for any training loop.

    Two calls a step: `lot(logits, inputs)` is the term to add to the loss, `lot.step(model)` trains the students.
    Networks are called in the mode that they are in, but for the teacher in the students' own steps, which is in
    evaluation mode there.

    Args:
        students: one or several modules with the teacher's output shape, of any size.
        optimizers: one optimiser for each student; with N = 0 they may be left out.
        alpha: α ≥ 0, the weight of the students' distances in the teacher's loss.
        temperature: τ > 0, which divides logits.
        student_steps: N, the number of steps of each student for each step of the teacher; 0: students stay as they
            are, in the mode that they are in.
        data: batches for the N − 1 further steps, begun anew when they end: inputs, alone or in a list of one, or pairs
            (inputs, targets). An iterator that is one already keeps its place itself: it is not part of `state_dict`.
        weights: λ_i; None: 1/K of K students, so that α means the same for any number of them.
        metric: `"kl"` or `"l2"`, as in `imitability`; or a function (trained outputs, fixed outputs) for outputs that
            are no logits, the mean distance of the two. Tensors of the second are detached, in lists, tuples, dicts and
            dataclasses, too; what other objects hold it detaches itself. It has the factor τ² and all else itself.
        labels: whether students also learn from labels: cross-entropy + α · their KL; or a function (outputs, targets)
            that takes the place of cross-entropy. With and without labels, places whose target is -100, PyTorch's
            `ignore_index`, count for nothing in `"kl"` and `"l2"`, as in cross-entropy: the padding of texts.
        forward: (module, inputs) to outputs, for models that are not simply called.
        dim: the dimension of the classes in the logits: −1, or 1 for pixels.
        seed: the seed of all that students draw at random.

    Attributes:
        teacher_steps: how often `step` was called.
        updates: how often each student was trained: N times for each step of the teacher.
        stream: the random numbers of all that students do.

    Raises:
        TypeError: students that are no modules, or optimisers that are no `torch.optim.Optimizer`.
        ValueError: numbers out of range; optimisers or weights that are not one for each student, or an optimiser
            without any parameter of its student; N > 1 without data.

    Example:
        >>> import torch, meta
        >>> model, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> lot = meta.LoT(student, torch.optim.SGD(student.parameters(), lr=0.1), alpha=0.5)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
        >>> logits = model(x)
        >>> loss = torch.nn.functional.cross_entropy(logits, y) + lot(logits, x)
        >>> loss.backward(); optimizer.step()
        >>> distance = lot.step(model)
        >>> lot.teacher_steps, lot.updates
        (1, 1)
    """

    def __init__(
        self,
        students: nn.Module | Sequence[nn.Module],
        optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] = (),
        *,
        alpha: float = 1.0,
        temperature: float = 1.5,
        student_steps: int = 1,
        data: Iterable[Any] | None = None,
        weights: Sequence[float] | None = None,
        metric: Metric | Distance = "kl",
        labels: bool | TaskLoss = False,
        forward: Callable[[Any, Any], Any] = lambda module, inputs: module(inputs),
        dim: int = -1,
        seed: int = 0,
    ) -> None:
        """Checks the options, and begins the students' stream of random numbers."""
        self.students = _each(students)
        self.optimizers = _each(optimizers)
        for i, student in enumerate(self.students):
            check_network(f"students[{i}]", student)
        for i, optimizer in enumerate(self.optimizers):
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(
                    f"optimizers[{i}] must be a torch.optim.Optimizer, found {checks.shown(optimizer)}; make one of "
                    "student.parameters()"
                )
        count = len(self.students)
        self.weights = [1 / count] * count if weights is None and count else list(weights or ())
        optimised = len(self.optimizers) == count or not (self.optimizers or student_steps)
        if not count or not optimised or len(self.weights) != count:
            raise ValueError(
                f"each student has an optimiser and a weight: found {count} students, {len(self.optimizers)} "
                f"optimisers and {len(self.weights)} weights"
            )
        for i, (student, optimizer) in enumerate(zip(self.students, self.optimizers, strict=False)):
            of_student = {id(parameter) for parameter in student.parameters()}
            if not any(id(each) in of_student for group in optimizer.param_groups for each in group["params"]):
                raise ValueError(
                    f"optimizers[{i}] has no parameter of students[{i}], which would never move; make it of "
                    "student.parameters(), in the order of the students"
                )
        alpha = checks.number("alpha", alpha, least=0)
        temperature = checks.number("temperature", temperature, above=0)
        student_steps = checks.integer("student_steps", student_steps, least=0)
        self.weights = [checks.number(f"weights[{i}]", weight) for i, weight in enumerate(self.weights)]
        if isinstance(metric, str) and metric not in get_args(Metric):
            raise unknown_name("metric", metric, get_args(Metric))
        if student_steps > 1 and data is None:
            raise ValueError(
                f"student_steps={student_steps}: the further {student_steps - 1} need data=, an iterable of batches"
            )
        self.alpha, self.temperature, self.student_steps = alpha, temperature, student_steps
        self.metric: Metric | Distance = metric
        if not callable(labels):
            labels = checks.flag("labels", labels)
        self.labels: TaskLoss | None = self._cross_entropy if labels is True else labels or None
        self.dim = dim
        self.teacher_steps, self.updates = 0, 0
        self._data, self._forward, self.stream = data, forward, Stream(seed)
        self._batches: Iterator[Any] | None = None
        self._began: Generators | None = None
        self._drawn = 0
        self._pending: _Pending | None = None

    def __call__(self, logits: Any, inputs: Any, targets: Any = None) -> torch.Tensor:
        """Computes α Σ_i λ_i · (student i's distance from the teacher on its minibatch), to be added to its loss.

        Args:
            logits: the teacher's logits on the minibatch, (batch, classes) or with more dimensions; with a function as
                `metric` any outputs.
            inputs: the minibatch's inputs, which students are called with.
            targets: class indices, one for each row of the logits and -100 where there is nothing to imitate; or what
                the function `labels` takes. Needed with `labels`.

        Raises:
            RuntimeError: neither `step` nor `skip` since the last term.
            ValueError: targets are missing, the logits have the shape (batch,), or a student's have another one.
        """
        if self._pending is not None:
            raise RuntimeError(
                "two terms without a step between them: call step(model) after each step of the teacher, or skip()"
            )
        if self.labels is not None and targets is None:
            raise ValueError(
                "found a minibatch without targets, expected them for labels=: pass them as the third argument, "
                "lot(logits, inputs, targets)"
            )
        with self.stream(), torch.set_grad_enabled(torch.is_grad_enabled() and self.student_steps > 0):
            outputs = [self._forward(student, inputs) for student in self.students]
        term = torch.zeros(())
        # Without it there is nothing to differentiate, and the teacher's gradient is the plain one to the last bit.
        if self.alpha:
            for weight, student in zip(self.weights, outputs, strict=True):
                term = term + weight * self._distance(logits, _detached(student), targets)
            term = self.alpha * term
        self._pending = _Pending(outputs, _detached(logits), targets)
        return term

    def skip(self) -> None:
        """Forgets the last term: the teacher made no step with it (its loss was not finite, say)."""
        self._pending = None

    def step(self, teacher: nn.Module) -> torch.Tensor:
        """Takes the students' N steps: one on the minibatch of the last term, N − 1 on batches of their own.

        Returns:
            Their mean distance from the teacher on that minibatch, before the step.

        Raises:
            RuntimeError: there was no term since the last step.
            TypeError: the teacher is no module.
            ValueError: a batch has no targets, with `labels`; there are no batches; or the teacher is a student.
        """
        check_network("teacher", teacher)
        if self._pending is None:
            raise RuntimeError("no term since the last step: call lot(logits, inputs) for each step of the teacher")
        for i, student in enumerate(self.students):
            if student is teacher and self.student_steps:
                raise ValueError(f"students[{i}] is the teacher itself, expected another network")
        pending, self._pending = self._pending, None
        with self.stream():
            loss = self._train(pending)
            for _ in range(self.student_steps - 1):
                inputs, targets = self._next()
                with torch.no_grad(), evaluating(teacher):
                    taught = self._forward(teacher, inputs)
                outputs = [self._forward(student, inputs) for student in self.students]
                self._train(_Pending(outputs, taught, targets))
        self.teacher_steps += 1
        return loss

    def _distance(self, outputs: Any, fixed_outputs: Any, targets: Any) -> torch.Tensor:
        """Computes the mean over rows, but for those whose target says that they count for nothing."""
        if callable(self.metric):
            return _scalar("metric=", self.metric(outputs, fixed_outputs))
        if isinstance(outputs, torch.Tensor) and outputs.ndim == 1:
            # Their softmax would be over the minibatch.
            raise ValueError(
                f"found outputs of shape {tuple(outputs.shape)}, expected (batch, classes): softmax is over classes; "
                "for a regression give metric=lambda trained, fixed: (trained - fixed).square().mean()"
            )
        rows = _distances(outputs, fixed_outputs, self.temperature, self.metric, self.dim)
        if not isinstance(targets, torch.Tensor) or targets.dtype != torch.int64 or targets.numel() != rows.numel():
            return rows.mean()
        counted = (targets.reshape(rows.shape) != _IGNORED).to(rows.device)
        return rows.where(counted, 0.0).sum() / counted.sum().clamp(min=1)

    def _train(self, batch: _Pending) -> torch.Tensor:
        """Takes a step of each student, unless N = 0; returns their mean distance from the teacher before it."""
        distances = [self._distance(outputs, batch.teacher, batch.targets) for outputs in batch.students]
        if self.student_steps:
            for optimizer, outputs, distance in zip(self.optimizers, batch.students, distances, strict=True):
                loss = distance
                if self.labels is not None:
                    loss = _scalar("labels=", self.labels(outputs, batch.targets)) + self.alpha * distance
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            self.updates += 1
        return torch.stack(distances).detach().mean()

    def _cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = logits.movedim(self.dim, -1).flatten(0, -2)
        return cross_entropy(rows, targets.reshape(-1), ignore_index=_IGNORED)

    def _next(self) -> tuple[Any, Any]:
        """Takes the next batch (inputs, targets) from `data`, which begins anew when it ends."""
        batch = next(self._batches, None) if self._batches is not None else None
        if batch is None:
            self._begin()
            assert self._batches is not None
            batch = next(self._batches, None)
        if batch is None:
            raise ValueError(
                "data= gave no batch: it is empty, or an iterator that cannot begin anew; pass a DataLoader or a list"
            )
        self._drawn += 1
        inputs, targets = batch, None
        if isinstance(batch, tuple | list) and len(batch) in (1, 2):  # a DataLoader of one tensor gives lists of one
            inputs, targets = batch[0], batch[1] if len(batch) == 2 else None
        if self.labels is not None and targets is None:
            raise ValueError(
                "found a batch of data= without targets, expected them for labels=: each batch must be a pair "
                "(inputs, targets)"
            )
        return inputs, targets

    def _begin(self) -> None:
        assert self._data is not None
        began = generators()
        self._batches = iter(self._data)
        self._began, self._drawn = (None if self._batches is self._data else began), 0

    def state_dict(self) -> dict[str, Any]:
        """Returns all that training goes on from: students, optimisers, counts, random state, the place in `data`.

        Raises:
            RuntimeError: a term was computed, and `step` has not been called since.
        """
        if self._pending is not None:
            raise RuntimeError("in the middle of a step: save after lot.step(model)")
        return {
            "students": [student.state_dict() for student in self.students],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "steps": (self.teacher_steps, self.updates),
            "stream": self.stream.states,
            "data": (self._began, self._drawn),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`; batches that were taken from `data` since it began are taken again.

        Raises:
            ValueError: the state is of another number of students.
        """
        if len(state["students"]) != len(self.students):
            raise ValueError(f"this state has {len(state['students'])} students, found {len(self.students)}")
        for student, saved in zip(self.students, state["students"], strict=True):
            student.load_state_dict(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.teacher_steps, self.updates = state["steps"]
        began, count = state["data"]
        if began is not None:
            self.stream.states = began
            with self.stream():
                self._begin()
                for _ in range(count):
                    self._next()
        self.stream.states = state["stream"]


def _each(given: Any) -> list[Any]:
    """What was given, one or several, as a list."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, nn.Module | type) else [given]


def _detached(outputs: Any) -> Any:
    """Outputs without their graph; objects that hold tensors in ways of their own stay as they are."""
    # PyTorch knows the containers of other libraries, and not our dataclasses.
    return pytree.tree_map(lambda leaf: mapped(torch.Tensor.detach, leaf), outputs)


def _scalar(name: str, value: Any) -> torch.Tensor:
    """What a function of the user's returned, if it is a tensor of one number."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value
    found = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else checks.shown(value)
    raise ValueError(f"{name} returned {found}, expected a tensor of one number: end it in .mean()")
