"""L2T-DLF on translation: its Table 3 (Wu et al. 2018).

All methods begin from the same student, which cross-entropy has trained (a warm start, as in the paper), and have the
same number of further steps: with token cross-entropy, with label smoothing, with the losses of whole translations of
`teachenv.sequence_losses`, or under a teacher that decides what each token of the vocabulary counts.
"""

from benchmarks.l2t_dlf_translation.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
