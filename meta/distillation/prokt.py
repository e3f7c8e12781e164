"""Progressive knowledge teaching: Shi et al. 2021 (ProKT)."""

from __future__ import annotations

from meta.distillation.base import OnlineDistiller


class ProKT(OnlineDistiller):
    """The teacher learns from the labels but stays near the student: α CE(y, T) + (1 − α) KL(S ‖ T); then KD.

    It is LGTM without influence.
    """
