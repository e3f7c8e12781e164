"""Whether the second derivatives of a model are right, module by module: `meta.audit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from meta.hypergradients.calls import Call, Repeated, calls_of
from meta.hypergradients.second_derivatives import Derivative, Finding, NoDerivative, SecondDerivatives
from teachenv import checks
from teachenv.students.skeleton import Skeleton, refuse_foreign_tensors

_USES: dict[Derivative, str] = {
    "double backward": 'method="rmd", "truncated"',
    "forward over reverse": 'method="forward", adjoint="blockwise"',
}
_REVERSE = {
    F.batch_norm: "batch norm with a cheap second derivative, also of statistics",
    F.embedding_bag: "a table lookup",
    F.instance_norm: "instance norm with derivatives of statistics",
    F.multi_head_attention_forward: "attention's math kernel",
    F.scaled_dot_product_attention: "attention's math kernel",
    torch._weight_norm: "weight norm of elementary operations",
}
_REPLACED: dict[Derivative, dict[Any, str]] = {
    "double backward": _REVERSE,
    "forward over reverse": _REVERSE
    | {
        F.batch_norm: "batch norm of elementary operations, also of statistics",
        torch.cdist: "distances of elementary operations",
    },
}
_OTHERWISE: dict[Derivative, str] = {
    "double backward": "derivatives through what is detached, and padding",
    "forward over reverse": "derivatives through what is detached, and padding, or kernels outside oneDNN and cuDNN",
}
"""What makes a derivative right where no function of `_REPLACED` was called."""


@dataclass(frozen=True)
class AuditRow:
    """What was measured of one derivative of one module.

    Attributes:
        module: its name in the model; "" is the model itself.
        kind: the name of its class.
        derivative: `"double backward"` or `"forward over reverse"`.
        in_pytorch: with PyTorch's own kernels: `"right"`; `"wrong"`; `"missing"`, it raises; `"nondeterministic"`, two
            calls differ, so that nothing can be compared; `"unchecked"`, the module cannot be called in float64.
        error: relative to central differences; None where there is nothing to compare.
        operation: what has no derivative or a wrong one, or what differs between two calls, as far as known.
        replacement: what teachenv puts into its place; None: nothing.
        replaced: as `in_pytorch`, with the replacement.
        replaced_error: its error.
    """

    module: str
    kind: str
    derivative: Derivative
    in_pytorch: Finding
    error: float | None = None
    operation: str | None = None
    replacement: str | None = None
    replaced: Finding | None = None
    replaced_error: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the derivative is right as teachenv computes it."""
        return (self.in_pytorch if self.replaced is None else self.replaced) == "right"

    def _cells(self) -> tuple[str, ...]:
        in_pytorch = _with_error(self.in_pytorch, self.error)
        instead = self.replacement or ("" if self.in_pytorch == "right" else "nothing else")
        if self.replaced is not None:
            instead += f": {_with_error(self.replaced, self.replaced_error)}"
        return f"{self.module or 'the model'} ({self.kind})", self.derivative, in_pytorch, self.operation or "", instead


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        rows: two of each innermost module that was called and has derivatives, and of each outer one of which there is
            something to say that its parts do not explain.
        not_called: names of innermost modules that these inputs did not lead to.
    """

    rows: tuple[AuditRow, ...]
    not_called: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all derivatives are right as teachenv computes them."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        """A table of what is not right, or replaced, and a sentence on each way to differentiate."""
        said = [row._cells() for row in self.rows if row.in_pytorch != "right" or row.replacement is not None]
        cells = [("module", "derivative", "in PyTorch", "operation", "in teachenv"), *said] if said else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{c:{width}}" for c, width in zip(line, widths, strict=True)).rstrip() for line in cells]
        for derivative, used in _USES.items():
            rows = [row for row in self.rows if row.derivative == derivative]
            bad = [row.module or "the model" for row in rows if not row.ok]
            verdict = f"not right in {', '.join(bad)}" if bad else "right"
            lines.append(f"{derivative}, for {used}: {verdict} (modules checked: {len(rows)})")
        if self.not_called:
            lines.append(f"modules that were not called: {', '.join(self.not_called)}")
        return "\n".join(lines)


def audit(model: nn.Module, inputs: Any) -> Audit:
    """Compares the second derivatives of each module of a model with central differences, in float64.

        report = meta.audit(model, x)
        print(report)
        assert report.ok

    The model is called once, and then each of its modules again with what it got there, in the mode that it is in;
    dropout is seeded. Parameters, buffers, gradients and modes stay as they are; a generator of a module's own moves
    on. What no derivative flows through (integers, frozen parameters) is held constant.

    Args:
        model: any module; a small one of the same make tells as much as a large one, and each call is repeated some
            thirty times.
        inputs: what the model is called with: a tensor, a tuple of arguments, or a dictionary of arguments by name,
            such as a batch of Hugging Face.

    Returns:
        `rows` and `ok`; printed, a table of what is amiss and what teachenv does about it.

    Raises:
        TypeError: `model` is no module, or `inputs` of another kind.
        ValueError: the model has complex tensors, or is a TorchScript module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, found {checks.shown(model)}")
    args, kwargs = _arguments(inputs)
    refuse_foreign_tensors(model)
    skeleton = Skeleton(model)
    rows: list[AuditRow] = []
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(_restore, module, dict(module.__dict__))
        buffers = {n: b.detach().clone() for n, b in model.named_buffers() if n in skeleton.places}
        with skeleton.holding(buffers):
            calls = calls_of(model, args, kwargs)
        for call in calls:
            rows += _rows_of(skeleton, call, rows)
    called = {id(call.module) for call in calls}
    innermost = [(name, m) for name, m in model.named_modules() if not list(m.children())]
    return Audit(tuple(rows), tuple(name for name, m in innermost if id(m) not in called))


def _arguments(inputs: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple | list):
        return inputs, {}
    if isinstance(inputs, Mapping):
        return (), inputs
    raise TypeError(
        "inputs must be what the model is called with: a tensor, a tuple of arguments, or a dictionary of arguments by "
        f"name; found {checks.shown(inputs)}"
    )


def _restore(module: nn.Module, attributes: dict[str, Any]) -> None:
    module.__dict__.clear()
    module.__dict__.update(attributes)


def _rows_of(skeleton: Skeleton, call: Call, before: Sequence[AuditRow]) -> list[AuditRow]:
    """The rows of a call, given those before it, among them those of the modules that it contains."""
    inner = [row for row in before if not call.name or row.module.startswith(f"{call.name}.")]
    if any(row.in_pytorch in ("nondeterministic", "unchecked") for row in inner):
        return []  # and so is this call
    wide, narrow = Repeated(skeleton, call), Repeated(skeleton, call, dtype=None)
    alike = all(a.dtype == b.dtype for a, b in zip(wide.point, narrow.point, strict=True))
    try:
        derivatives = SecondDerivatives(wide, None if alike else narrow)
    except NoDerivative:
        return []
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        return [AuditRow(call.name, call.kind, d, "unchecked", operation=said) for d in _USES]
    if amiss := derivatives.nondeterministic():
        return [AuditRow(call.name, call.kind, d, "nondeterministic", operation=amiss) for d in _USES]
    rows = [_row(call, derivatives, d, [row for row in inner if row.derivative == d]) for d in _USES]
    return [row for row in rows if row is not None]


def _row(
    call: Call, derivatives: SecondDerivatives, derivative: Derivative, inner: Sequence[AuditRow]
) -> AuditRow | None:
    """The row of one derivative, given those of the modules inside; None if there is nothing to add to these."""
    functions = [function for function in _REPLACED[derivative] if function in call.functions]
    in_pytorch = derivatives.verdict(derivative, exchanged=False)
    row = AuditRow(call.name, call.kind, derivative, in_pytorch.finding, in_pytorch.error, in_pytorch.operation)
    if in_pytorch.finding == "right" and not functions:
        return None if list(call.module.children()) else row
    replaced = derivatives.verdict(derivative, exchanged=True)
    explained = any(row.in_pytorch != "right" for row in inner)
    if explained and not functions and (replaced.finding == "right" or not all(row.ok for row in inner)):
        return None
    names = {function.__name__ for function in functions}
    if in_pytorch.finding == "wrong" or explained:
        names |= derivatives.custom_functions()
        row = replace(row, operation=", ".join(sorted(names)) or None)
    if not functions and replaced.finding != "right":
        return row
    texts = {_REPLACED[derivative][function] for function in functions} or {_OTHERWISE[derivative]}
    return replace(row, replacement=", ".join(sorted(texts)), replaced=replaced.finding, replaced_error=replaced.error)


def _with_error(finding: Finding, error: float | None) -> str:
    return finding if error is None or finding == "right" else f"{finding} by {error:.1e}"
