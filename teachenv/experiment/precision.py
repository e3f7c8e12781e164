"""The precision in which networks run: what this machine is fast at.

Residual networks take half the time in bfloat16 on a processor that has instructions for it, and LeNet six times as
long on one that has none. So presets say where bfloat16 would do (`autocast` among the options of an environment), and
the machine whether it is used. It is no part of what a row is known by: a run that goes on elsewhere does not begin
anew, and tuning is taken over. Rows tell it beside the versions of the libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

# Of an environment's options: where it is run, and how.
_OF_MACHINE = ("data_root", "autocast", "device")


def has_bfloat16(device: str | None = None) -> bool:
    """Whether the device multiplies matrices in bfloat16; False where torch cannot tell (before 2.10 or so).

    Args:
        device: a torch device; None: the CPU.
    """
    if device is not None and torch.device(device).type != "cpu":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def on_this_machine(options: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's options, with `autocast` only where it is fast."""
    fast = has_bfloat16(options.get("device"))
    return {name: value for name, value in options.items() if fast or name != "autocast"}


def on_any_machine(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say what is measured, not where or how: those that a row's config has."""
    return {name: value for name, value in options.items() if name not in _OF_MACHINE}


def precision(options: Mapping[str, Any]) -> dict[str, str]:
    """The precision as a row has it among its versions: `{"precision": "bfloat16"}`, say."""
    return {"precision": options.get("autocast") or options.get("dtype", "float32")}


MatmulPrecision = Literal["highest", "medium"]


@contextmanager
def matmuls(precision: MatmulPrecision) -> Iterator[None]:
    """Sets `torch.set_float32_matmul_precision` for a while.

    `"medium"` lets products of float32 matrices round their factors to bfloat16, where the processor multiplies those
    in units of their own (AMX). Elsewhere they keep their precision, but are computed by oneDNN instead of MKL, which
    on AMD's processors takes half the time.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
