"""Packages that only a part of the library needs: they are extras, and imported where that part begins to work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS: dict[str, tuple[str, str]] = {
    "ale_py": ("ale-py", "atari"),
    "cv2": ("opencv-python-headless", "atari"),
    "moviepy": ("moviepy", "video"),
    "pandas": ("pandas", "pandas"),
    "pycocotools": ("pycocotools", "detection"),
    "ray": ("ray", "ray"),
    "sacrebleu": ("sacrebleu", "translation"),
    "tokenizers": ("tokenizers", "translation"),
    "transformers": ("transformers", "nlp"),
}
"""By the name that Python imports: the package that brings it, and the extra of this project that installs it."""


@contextmanager
def needed_for(purpose: str) -> Iterator[None]:
    """Imports stand in this context, so that the error about a missing package says how to install it.

        with needed_for("BLEU"):
            import sacrebleu

    What is not in `EXTRAS`, a package that a package of an extra lacks for instance, raises Python's own error.

    Args:
        purpose: what is done with the package; the message begins with it, as in `BLEU needs sacrebleu`.

    Raises:
        ModuleNotFoundError: a package of `EXTRAS` is not installed; its name, and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        package, extra = EXTRAS[name]
        raise ModuleNotFoundError(
            f"{purpose} needs {package}, which is not installed: pip install 'teachenv[{extra}]'", name=name
        ) from error
