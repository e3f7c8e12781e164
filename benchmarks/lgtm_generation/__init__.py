"""LGTM for generation: do teachers that follow distillation influence make better translators?

That is future work of Ren et al. 2023, whose students classify. A transformer of two layers teaches an LSTM of one to
translate Multi30k: by its probabilities of each token (`kd`), by its own translations (`sequence-kd`, Kim & Rush
2016), or while it learns itself, from the student as well (`prokt`), and from its influence on the student's loss on
held-out sentences (`lgtm`). All teachers begin as the same one that was trained on the training sentences. The held-out
sentences are taken from the training data; controls train on them instead (`:mixed`).
"""

from benchmarks.lgtm_generation.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
