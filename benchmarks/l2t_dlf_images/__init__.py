"""L2T-DLF on images: tables 1 and 2 and figures 3 and 4 of Wu et al. 2018.

The protocol is that of `benchmarks.compare` (grids of equal size searched by successive halving on dev; a budget of
student steps for each teacher; fresh students on the whole pool, test touched once), with these differences:

*   Students are trained longer than those that a teacher learns on: a teacher's episode is short, the final training
    has as many actions, each for more student steps. Tuning is by dev accuracy after a training run of the final
    length.
*   The grids have two values of a method's own parameter, for RL teachers too; RL teachers spend three times the
    student steps of gradient teachers.
*   Teachers are used for other students: from the MNIST perceptron by LeNet, from ResNet-8 by ResNet-20.

The paper's own numbers stand beside ours; they are of full CIFAR-10, where ours may be of a part of it (the table names
the data).
"""

from benchmarks.l2t_dlf_images.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
