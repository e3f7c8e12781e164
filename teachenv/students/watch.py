"""Watches a network as it runs, to know which of its tensors a derivative follows.

Nothing is left out where nothing leaves autograd's graph, and the graph has only operations whose derivatives are known
to be right. Watching costs a forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]

from teachenv.nodes import nodes_of
from teachenv.randomness import Purpose, all_seeded
from teachenv.students.functional import FunctionalStudent, copied
from teachenv.students.kernels import DifferentiableKernels
from teachenv.students.stopped_tensors import DATA
from teachenv.trees import tensors_of

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
        """Chooses elementary operations, which `_FOLLOWED` has, in the place of others."""
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
            outputs: what the pass returned.
            buffers: those of floating point, after it; before it they had a graph.

        Returns:
            None: something has left the graph, or it has an operation that is not known.
        """
        if self._leaves_graph or self._unseen + _get_sequence_nr() - self._next:
            return None
        leaves: set[int] = set()
        for tensor in (*buffers, outputs):
            if not (isinstance(tensor, torch.Tensor) and tensor.requires_grad):
                return None
            leaves = set()
            for node in nodes_of([tensor.grad_fn]):
                name = re.sub(r"(Backward)?\d*$", "", node.name().removeprefix("torch::autograd::"))
                if name not in _FOLLOWED or isinstance(node, torch.autograd.function.BackwardCFunction):
                    return None
                if name == "AccumulateGrad":
                    leaves.add(id(node.variable))
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


def watch_passes(student: FunctionalStudent, few: torch.Tensor) -> set[str] | None:
    """Runs a student on a few inputs, and sets `exchanged` and `opens` by what its passes do.

    Returns:
        Names of the tensors that a training pass's outputs are computed from; None: what derivatives follow is not
        known from the graphs.
    """
    reached: set[str] | None = set()
    parameters, first_buffers = (copied(each) for each in student.tensors_of(student.module))
    leaves = {n: t.requires_grad_() for n, t in (parameters | first_buffers).items() if t.is_floating_point()}
    for training in (True, False):
        buffers = copied(first_buffers)  # of leaves nothing may change in place
        watch = Watch(buffers.values())
        try:
            with (
                all_seeded(0, Purpose.DROPOUT, device=student.device),
                torch.enable_grad(),
                student.holding(parameters | buffers, training),
                watch,
                student.precision(),
            ):
                outputs = student.call(student.module, few, student.name, training)
                after = [student.tensor_at(name) for name in buffers if name in leaves]
        except Exception:
            student.opens, reached = False, None  # something in the network needs its gradients stopped
        else:
            begins = watch.leaves_of(outputs, after)
            if begins is None or reached is None:
                reached = None
            elif training:
                reached = {name for name, leaf in leaves.items() if id(leaf) in begins}
        student.exchanged[training] = watch.used
    return reached
