"""The registered environments. Strings and JSON values only: nothing is built or read before `gym.make`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    # 8x8 handwritten digits: a pool of 1,000, 797 test samples; perceptron 64-32-10.
    "TeachDigits-v0": {"task": "digits", "student": "mlp"},
    # wines of three growers, 13 measurements each: a pool of 128, 50 test samples; perceptron 13-32-3.
    "TeachWine-v0": {"task": "wine", "student": "mlp", "batch_size": 16, "dev_size": 48},
    # MNIST: a pool of 60,000; perceptron 784-500-10 with L2T-DLF's batch size and learning rate.
    "TeachMNIST-v0": {
        "task": "mnist",
        "student": "mlp",
        "horizon": 200,
        "batch_size": 20,
        "dev_size": 1000,
        "learning_rate": 0.01,
    },
    # Joint distillation on the digits: perceptron 64-128-10 teaches 64-16-10; actions weigh the samples of a minibatch.
    "TeachDistill-v0": {
        "task": "digits",
        "student": "mlp",
        "student_kwargs": {"hidden": [16]},
        "teacher": "mlp",
        "teacher_kwargs": {"hidden": [128]},
        "loss": "distillation",
        "learning_rate": 0.2,
    },
    # CIFAR-10: a pool of 50,000; ResNet-8 with L2T-DLF's batch size, learning rate and augmentation.
    "TeachCIFAR-v0": {"task": "cifar10", "student": "resnet8", "horizon": 200, "batch_size": 128, "dev_size": 1000},
    # CIFAR-100: the same with 100 classes (actions of 10,000 coordinates for the bilinear losses).
    "TeachCIFAR100-v0": {"task": "cifar100", "student": "resnet8", "horizon": 200, "batch_size": 128, "dev_size": 1000},
    # Boxes of objects: procedural shapes by default, `dataset="coco"` or `"voc2012"` for photographs; a small SSD.
    "TeachDetection-v0": {
        "task": "detection",
        "student": "ssd",
        "horizon": 100,
        "batch_size": 8,
        "dev_size": 50,
    },
    # Labels of pixels: procedural shapes by default, `dataset="camvid"` or `"voc2012"` for photographs; a small FCN.
    "TeachSegmentation-v0": {
        "task": "segmentation",
        "student": "fcn",
        "horizon": 100,
        "batch_size": 8,
        "dev_size": 50,
    },
    # German to English: number words by default, `dataset="multi30k"` or `"iwslt14"`; an LSTM with attention.
    "TeachTranslation-v0": {
        "task": "translation",
        "student": "lstm",
        "student_kwargs": {"width": 64},
        "loss": "diagonal",
        "optimizer": "adam",
        "learning_rate": 0.002,
        "horizon": 100,
        "steps_per_action": 10,
        "batch_size": 32,
        "dev_size": 400,
        "dev_measured": 64,
    },
    # Next tokens of documents of several domains, dev and test of one of them: Markov chains by default,
    # `dataset="text"` for Penn Treebank, WikiText-2 and Multi30k; a causal transformer. Actions weigh the domains.
    "TeachLanguage-v0": {
        "task": "language",
        "student": "causal-transformer",
        "student_kwargs": {"width": 32, "layers": 1, "inner": 64},
        "loss": "domain-weights",
        "optimizer": "adam",
        "learning_rate": 0.005,
        "horizon": 100,
        "steps_per_action": 10,
        "batch_size": 32,
        "objective": "likelihood",
    },
}

RL_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    # PPO on CartPole; `task="Acrobot-v1"` or `"Pendulum-v1"` for the others. Actions set its coefficients.
    "TeachControl-v0": {},
}
"""Those whose students learn by reinforcement, with options of their own: `teachenv.rl.ControlSettings`."""


def register() -> None:
    """Registers the environments with Gymnasium."""
    for name, kwargs in RL_ENVIRONMENTS.items():
        gym.register(id=name, entry_point="teachenv.rl.env:TeachControlEnv", kwargs={"defaults": kwargs})
    for name, kwargs in ENVIRONMENTS.items():
        gym.register(
            id=name,
            entry_point="teachenv.env:TeachEnv",
            vector_entry_point="teachenv.vector_env:TeachVectorEnv",
            # Apart from what a user chooses: a default without effect is none of their mistakes.
            kwargs={"defaults": kwargs},
        )
