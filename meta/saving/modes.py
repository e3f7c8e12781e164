"""Modes of torch and NumPy, kept through interruptions.

Ctrl-C can come between two lines of a context manager: when it has changed a mode, and nothing knows yet that the mode
is to be changed back. Gradients then stay off in the process, a function mode goes on replacing operations, hooks go on
counting tensors.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch.autograd import forward_ad


@contextmanager
def modes_kept() -> Iterator[None]:
    """Enables gradients inside the block; afterwards all modes are as before it, whatever interrupted it."""
    modes, hooks, level = torch._C._len_torch_function_stack(), _hooks(), forward_ad._current_level
    warned, cast = np.geterr(), {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}
    with torch.enable_grad():
        try:
            yield
        except BaseException as error:
            _finish_contexts(error)
            while torch._C._len_torch_function_stack() > modes:
                torch._C._pop_torch_function_stack()
            while _hooks() not in (hooks, None):
                torch._C._autograd._pop_saved_tensors_default_hooks()
            while forward_ad._current_level > level:
                forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]
            for device, enabled in cast.items():
                torch.set_autocast_enabled(device, enabled)
            np.seterr(**warned)
            raise


def _hooks() -> object:
    """Returns the hooks on saved tensors that are in force; torch before 2.8 does not say which."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return None if top is None else top(True)


def _finish_contexts(error: BaseException) -> None:
    """Ends context managers made of generators in whose entry or exit the error came.

    They would end on their own when the traceback is let go, and put back then, in the midst of what comes later, what
    they had found: the state of a random generator, for example.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == contextlib.__file__:
            generator = getattr(frame.f_locals.get("self"), "gen", None)
            with suppress(RuntimeError, ValueError):  # it still runs
                if generator is not None:
                    generator.close()  # Python 3.10 keeps it alive elsewhere
                frame.clear()
