"""Distillation through teacher assistants (TAKD): Mirzadeh et al. 2020."""

from __future__ import annotations

from meta.distillation.kd import KD


class TAKD(KD):
    """KD, at each hop of a chain from teacher to student: the class adds nothing to `KD` but its name.

    The chain is the caller's: an assistant, a network of a size between theirs, is a student of the teacher first, and
    then the student's teacher. Each hop is a `TAKD` of its own.
    """
