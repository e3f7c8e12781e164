"""Knowledge distillation (KD): Hinton et al. 2015."""

from __future__ import annotations

from meta.distillation.base import Distiller


class KD(Distiller):
    """λ CE(y, S) + (1 − λ) KL(T ‖ S) under a fixed, fine-tuned teacher."""
