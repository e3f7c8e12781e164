"""Forward-mode differentiation, by kernels that have it.

Of some operations PyTorch has a derivative for backward passes only. Where the same result comes of others, those are
taken: attention's math kernel, `nn.Transformer`'s layers without their fused path, weight normalisation, bags of
embeddings and distances from elementary operations, and, if that was not enough, oneDNN and cuDNN are left out
(recurrent layers), which is slower for convolutions. All switches are put back afterwards.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from teachenv.students.kernels import embedding_bag, weight_norm

T = TypeVar("T")


class NoForwardMode(RuntimeError):
    """An operation has no forward-mode derivative, whichever kernels are chosen."""


def in_forward_mode(compute: Callable[[], T]) -> T:
    """Calls a function at a level of forward-mode differentiation, and returns its result.

    Args:
        compute: makes dual tensors (`dual`), and takes tangents of what comes of them (`tangent_of`); it is called
            anew with other kernels if the first ones have no derivative.

    Raises:
        NoForwardMode: no kernels of an operation have one.
    """
    for last in (False, True):
        try:
            with _kernels(plain=last), dual_level():
                return compute()
        except RuntimeError as error:
            message = str(error).splitlines()[0]
            if not any(sign in message.lower() for sign in ("forward ad", "forward-mode", "forward mode", "jvp")):
                raise
            if last:
                raise NoForwardMode(f"there is no forward-mode derivative ({message})") from error
    raise AssertionError


@contextmanager
def dual_level() -> Iterator[None]:
    """A level of forward-mode differentiation, by PyTorch's own kernels."""
    _load_forward_mode()
    with forward_ad.dual_level():
        yield


def dual(primal: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """Makes a dual tensor: a primal value with the tangent that forward mode carries along."""
    if primal.untyped_storage().nbytes() > primal.numel() * primal.element_size():
        # PyTorch gives the tangent as much memory as all has that the primal is a view of: an arena of states, say.
        primal = primal.detach().clone().requires_grad_(primal.requires_grad)
    dual_tensor: torch.Tensor = forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
    return dual_tensor


def tangent_of(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tangent of a dual tensor, detached; zeros for a tensor that has none."""
    tangent = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(tensor) if tangent is None else tangent.detach()


def value_of(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the primal value of a dual tensor, detached."""
    value: torch.Tensor = forward_ad.unpack_dual(tensor).primal.detach()  # type: ignore[no-untyped-call]
    return value


@functools.cache
def _load_forward_mode() -> None:
    """Takes PyTorch's first step into forward mode, at which it warns of its own use of TorchScript."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


@contextmanager
def _kernels(plain: bool) -> Iterator[None]:
    fused = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        torch.backends.mha.set_fastpath_enabled(False)
        libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn) if plain else ()
        for library in libraries:
            # Not by their `flags`, which set other switches too, and warn of them.
            stack.callback(setattr, library, "enabled", library.enabled)
            library.enabled = False
        stack.enter_context(_Elementary())
        yield


class _Elementary(TorchFunctionMode):
    """Computes what has no forward-mode derivative from operations that have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))


def _cdist(x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: str | None = None) -> torch.Tensor:
    """Computes what `torch.cdist` does, from differences and their norms."""
    distances: torch.Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return distances


def _norms(tensors: Sequence[torch.Tensor], ord: float = 2, **options: Any) -> tuple[torch.Tensor, ...]:
    """Computes what `torch._foreach_norm` does, of one tensor after the other."""
    return tuple(torch.linalg.vector_norm(tensor, ord, **options) for tensor in tensors)


_REPLACED: dict[Any, Callable[..., Any]] = {
    torch._foreach_norm: _norms,
    torch._weight_norm: weight_norm,
    torch.cdist: _cdist,
    F.embedding_bag: embedding_bag,
}
