"""Compares teachers that compute the gradient of a student's training with teachers that estimate it.

The protocol, for each task (an environment and its label noise):

1.  Every method has a grid of equal size: learning rate x schedule of the student x four values of a parameter of its
    own (`benchmarks.compare.methods`). The grid is searched by successive halving on dev accuracy of fresh students,
    train and dev redrawn from the pool for each student. Fixed losses and random teachers only train students; a
    teacher that learns is trained in each configuration, at a part of its budget.
2.  With the configuration found, each seed trains a teacher for the same budget of student steps, and follows the dev
    objective of fresh students under it as it learns.
3.  Fresh students are trained under it on the whole pool, and so are students under the fixed losses. The test split is
    touched here, once, and nothing is chosen by it.

No method sees a label outside the pool. With label noise the whole pool has it, dev included.
"""

from benchmarks.compare.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
