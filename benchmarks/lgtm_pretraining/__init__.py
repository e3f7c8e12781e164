"""Does distillation influence help when a model is distilled while it is pre-trained, or while it is fine-tuned?

Ren et al. 2023 fine-tune students that others have pre-trained, and name pre-training as future work. Here a small
causal transformer is pre-trained as a language model and then fine-tuned to classify sentences; in each phase a larger
one may teach it, as a fixed teacher (KD), as one that learns beside it (ProKT), or as one that follows influence as
well (LGTM). All pairs of the two phases' methods are cells of one table.
"""

from benchmarks.lgtm_pretraining.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
