"""What the derivative of a student's training pass follows, and what it leaves out.

Nothing is left out where nothing leaves autograd's graph, and the graph has only operations whose derivatives are known
to be right. A network is watched for that while it runs (`Watch`), which costs a forward pass. Where it is not known,
derivatives are compared with central differences, once (`compare_derivatives`), which costs some thirty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]

from teachenv.optimizers import Tensors
from teachenv.students.kernels import DATA, DifferentiableKernels, opened
from teachenv.trees import tensors_of

if TYPE_CHECKING:
    from teachenv.students.functional import FunctionalStudent

_EPSILON = 1e-6
_IN_TRAINING = "its outputs in training"
_DRAWN = 4_093
"""Numbers drawn for a random direction, at most; a prime, so that rows of a weight are not alike."""

# What stops gradients, some within itself; and what takes of a tensor its shape alone.
_STOPS = {"detach", "detach_", "gumbel_softmax", "gaussian_nll_loss"}
_OF_SHAPES = {"empty_like", "zeros_like", "ones_like", "rand_like", "randn_like", "new_empty", "new_zeros", "new_ones"}
# Operations as autograd calls them, whose derivative is that of their values in all their floating-point arguments, and
# that change none of these. (Batch norm with running statistics is replaced by some of them.)
_FOLLOWED = """
    Abs AccumulateGrad AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D Add Addbmm Addcdiv Addcmul Addmm Addmv
    Alias Amax Amin AsStrided AvgPool2D AvgPool3D Baddbmm Bmm Cat Celu Clamp ClampMax ClampMin Clone ConstantPadNd
    Convolution Copy CopyBackwards CopySlices Cos Cumsum Div Dot Elu Embedding Erf Exp Expand Flip Gather Gelu
    Hardshrink Hardsigmoid Hardswish Hardtanh Index IndexSelect LeakyRelu Lerp LinalgVectorNorm Log LogSigmoid
    LogSoftmax Logsumexp MaskedFill MaxPool2DWithIndices MaxPool3DWithIndices Maximum Mean Minimum Mish
    MkldnnRnnLayer Mm Mul Mv NativeDropout NativeGroupNorm NativeLayerNorm Neg Norm Permute PixelShuffle Pow
    PreluKernel Reciprocal ReflectionPad1D ReflectionPad2D Relu Repeat ReplicationPad1D ReplicationPad2D
    ReshapeAlias Roll Rsqrt Rsub SafeSoftmax ScaledDotProductFlashAttentionForCpu Select Sigmoid Silu Sin Slice
    Softmax Softplus Softshrink Split SplitWithSizes Sqrt Squeeze Stack Std Sub Sum T Tanh Threshold ToCopy
    Transpose Trilinear Unbind UnsafeSplit UnsafeView Unsqueeze UpsampleBicubic2D UpsampleBilinear2D
    UpsampleNearest1D UpsampleNearest2D Var VarMean View Where
""".split()  # noqa: SIM905 - a hundred of them


class Watch(DifferentiableKernels):
    """Sees whether anything that is computed from floating-point tensors leaves autograd's graph.

    Args:
        buffers: tensors that the network may update in place.
    """

    def __init__(self, buffers: Iterable[torch.Tensor]) -> None:
        """Holds the options; operations are replaced by elementary ones, which `_FOLLOWED` has."""
        super().__init__(fused=False, opens=True, buffers=buffers)
        # Autograd numbers its operations; those of TorchScript, for one, do not come through here.
        self._leaves_graph, self._next, self._unseen = False, _get_sequence_nr(), 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in the place of each of PyTorch's functions."""
        name = getattr(func, "__name__", "")
        stops = func == DATA or name in _STOPS or not (torch.is_grad_enabled() or name == "_set_grad_enabled")
        self._unseen += _get_sequence_nr() - self._next
        result = super().__torch_function__(func, types, args, kwargs)
        self._next = _get_sequence_nr()
        if stops or not (name in _OF_SHAPES or name == "__setitem__" or _in_graph(result, [args, kwargs])):
            self._leaves_graph = True
        return result

    def leaves_of(self, outputs: torch.Tensor, buffers: Iterable[Any]) -> set[int] | None:
        """Identities of the tensors from which the outputs of the pass were computed.

        Args:
            outputs: of the pass.
            buffers: those of floating point, after it; before it they had a graph.

        Returns:
            None: something has left the graph, or it has an operation that is not known.
        """
        if self._leaves_graph or self._unseen + _get_sequence_nr() - self._next:
            return None
        leaves: set[int] = set()
        seen: set[Any]
        for tensor in (*buffers, outputs):
            if not (isinstance(tensor, torch.Tensor) and tensor.requires_grad):
                return None
            ahead: list[Any] = [tensor.grad_fn]
            leaves, seen = set(), set()
            while ahead:
                node = ahead.pop()
                if node is None or node in seen:
                    continue
                seen.add(node)
                name = re.sub(r"(Backward)?\d*$", "", node.name().removeprefix("torch::autograd::"))
                if name not in _FOLLOWED or isinstance(node, torch.autograd.function.BackwardCFunction):
                    return None
                if name == "AccumulateGrad":
                    leaves.add(id(node.variable))
                ahead += [before for before, _ in node.next_functions]
        return leaves


def _in_graph(result: Any, made_from: Any) -> bool:
    """Whether what was made from something with a graph has one, or no derivative to lose."""
    if not any(tensor.requires_grad for tensor in tensors_of(made_from)):
        return True
    if isinstance(result, torch.Tensor):
        return result.requires_grad or not (result.is_floating_point() or result.is_complex())
    if isinstance(result, list | tuple):
        return all(_in_graph(part, made_from) for part in result)
    return isinstance(result, int | str | torch.dtype | torch.device | torch.layout)


def compare_derivatives(
    student: FunctionalStudent, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor
) -> None:
    """Sets what a student knows of its derivatives: `unfollowed`, `reads_stopped` and `reads_statistics`.

    A training pass and an evaluation after it are differentiated, in float64, with respect to parameters and
    floating-point buffers along a random direction.

    Args:
        student: just made.
        parameters: where the derivatives are taken.
        buffers: likewise.
        inputs: (batch, ...).

    Raises:
        Exception: the network cannot be differentiated, or not in float64.
    """
    rng, statistics = torch.Generator().manual_seed(1), student.statistics
    point = {n: t.double() if t.is_floating_point() else t for n, t in (parameters | buffers).items()}
    wanted = [*parameters, *statistics]
    along = {n: random_direction(point[n], rng) for n in wanted}
    inputs = inputs.double() if inputs.is_floating_point() else inputs

    def values(tensors: Tensors, form: Any) -> Tensors:
        arguments = {n: tensors[n] for n in parameters}, {n: tensors[n] for n in buffers}
        with student.random_state(0, 0):
            outputs, new = student.raw(*arguments, inputs, training=True, differentiable=form)
        with torch.set_grad_enabled(form is not False):
            arguments = arguments[0], arguments[1] | new
        evaluated, _ = student.raw(*arguments, inputs, training=False, differentiable=form)
        results = {_IN_TRAINING: outputs, "its outputs in evaluation": evaluated}
        return results | {f"its buffer {n!r}": new[n] for n in statistics}

    with torch.no_grad():
        plus, minus = (
            values(point | {n: point[n] + sign * _EPSILON * along[n] for n in wanted}, False) for sign in (1, -1)
        )
    leaves = {n: point[n].clone().requires_grad_() for n in wanted}
    with torch.enable_grad():
        here = values(point | leaves, True)
    weights = {n: torch.randn(v.shape, generator=rng, dtype=torch.float64).to(v.device) for n, v in here.items()}
    products = {n: weights[n] * (plus[n] - minus[n]) / (2 * _EPSILON) for n in here}
    sizes = {n: float(product.abs().sum()) for n, product in products.items()}

    def is_followed(names: list[str], tolerance: float) -> bool:
        # Of several each counts as much, whatever its size, and one backward pass serves them all.
        scales = {n: 1.0 if len(names) == 1 or sizes[n] < 1e-9 else 1 / sizes[n] for n in names}
        expected = sum(scales[n] * float(products[n].sum()) for n in names)
        with opened():
            value = sum(scales[n] * (weights[n] * here[n]).sum() for n in names)
            followed = sum(_along(value, leaves, along).values())
        size = sum(scales[n] * sizes[n] for n in names)
        return abs(followed - expected) <= tolerance * max(size, abs(followed)) + 1e-9

    # Outputs are compared each by itself: what two of them leave out may cancel.
    outputs = [n for n in here if not n.startswith("its buffer")]
    buffers_alone = [n for n in here if n not in outputs]
    unfollowed: list[str] = []
    if buffers_alone and not is_followed(buffers_alone, 1e-3 / len(buffers_alone)):
        unfollowed = [n for n in buffers_alone if not is_followed([n], 1e-3)]
    student.unfollowed = tuple(unfollowed or [n for n in outputs if not is_followed([n], 1e-3)])

    in_training = (weights[_IN_TRAINING] * here[_IN_TRAINING]).sum()
    closed = _along(in_training, leaves, along)
    with opened():
        followed = sum(_along(in_training, leaves, along).values())
    size = max(abs(followed), sizes[_IN_TRAINING])
    student.reads_stopped = abs(sum(closed.values()) - followed) > 1e-9 * size
    student.reads_statistics = any(closed[n] != 0.0 for n in statistics)


def random_direction(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A random direction of the tensor's shape, a tenth as long as it; of a large one it repeats."""
    size = float(torch.linalg.vector_norm(tensor.detach().float())) / max(tensor.numel(), 1) ** 0.5
    count = tensor.numel()
    drawn = torch.randn(min(count, _DRAWN), generator=rng).mul_(0.1 * (size or 0.1)).to(tensor)
    return drawn.repeat(count // _DRAWN + 1)[:count].view(tensor.shape)


def _along(value: Any, leaves: Tensors, along: Tensors) -> dict[str, float]:
    """The derivative of a scalar along a direction, by the leaf that it comes from."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad or not leaves:
        return dict.fromkeys(leaves, 0.0)
    grads = torch.autograd.grad(
        value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {n: float((g * along[n]).sum()) for n, g in zip(leaves, grads, strict=True)}
