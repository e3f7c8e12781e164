"""L2T-DLN on labels of images, of pixels and of boxes: fixed losses, L2T-DLF, and the loss network with its teachers.

Protocol: an episode's pool is split into train and dev; teachers follow dev, and tuning goes by it. Each method has the
same small grid, two values of an own parameter for each learning rate. Fixed losses, and L2T-DLF's students under a
finished teacher, train on the whole pool in the end, the labels of dev included. L2T-DLN teaches while it learns: its
own student (`l2t-dln`) has no dev labels; `l2t-dln:replayed` is a fresh student on the whole pool under the same
sequence of losses. In the preset `released` nothing is tuned, and all train on the half that is not dev. Test is looked
at once, at the end. Hai et al. 2023 give tables for CIFAR, ImageNet, COCO and VOC,
of which we have no figures: their full text was not to be had.
"""

from benchmarks.l2t_dln.main import TABLES, Options, run

__all__ = ["TABLES", "Options", "run"]
