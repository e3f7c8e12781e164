"""LGTM and ten other ways to distil, on GLUE: table 1 and the ablations of Ren et al. 2023.

Protocol: teacher and student begin from one pre-trained encoder, the student from its first layers. Methods with a
fixed teacher get one that was fine-tuned on the same training data for as many epochs; teachers that learn beside the
student begin untuned, as in the paper, but for PESF-KD and Meta Distill, which start from the fine-tuned one. Feedback
comes from data that is neither trained on nor selects nor is reported (`teachenv.data.load_glue`; the paper's way is
`--protocol two-way`). Of each run the checkpoint that is best on dev is reported on test, which is touched once.

The study rates asks at which factor the influence term teaches, on images and texts with wrong labels (`rates`).
"""

from benchmarks.lgtm.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
