"""Jobs on a Ray cluster."""

from __future__ import annotations

from teachenv.experiment.inline import Inline


class Ray(Inline):
    """To come."""

    def __init__(self, workers: int | None, address: str | None) -> None:
        raise NotImplementedError("the Ray backend is being written")
