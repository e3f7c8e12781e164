"""The benchmarks by name: plain data, so that listing them imports none of them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What the command line knows of a benchmark before it imports it.

    Attributes:
        options: `module:Class` of its options, a frozen dataclass derived from `benchmarks.options.CommonOptions`.
            The same module has `run(options: Class) -> None`, and `TABLES: benchmarks.options.Tables`.
        summary: one sentence: which question it answers.
        minutes: estimated time on two cores by preset, for a reader: `"40 min"`.
    """

    options: str
    summary: str
    minutes: Mapping[str, str]


BENCHMARKS: dict[str, Entry] = {
    # All teachers of the library against tuned fixed losses, with the same labels and the same budget of student steps.
    "compare": Entry(
        options="benchmarks.compare:Options",
        summary="Which teacher makes the best student, from the same labels and the same number of student steps?",
        minutes={"smoke": "1 min", "quick": "8 min", "laptop": "12 min", "paper": "several hours (estimated)"},
    ),
    # All plain losses, tuned alike.
    "losses": Entry(
        options="benchmarks.losses:Options",
        summary="Which of the library's plain losses is best on digits and MNIST, with right labels and with wrong?",
        minutes={"smoke": "1 min", "laptop": "20 min (estimated)", "paper": "5 h (estimated)"},
    ),
    # Student steps per second: single, vectorised, differentiated.
    "throughput": Entry(
        options="benchmarks.throughput:Options",
        summary="How many student steps a second do the single, the vector and the differentiated environment reach?",
        minutes={"smoke": "1 min", "laptop": "7 min", "paper": "2 h (estimated)"},
    ),
    # Wu et al. 2018, tables 1 and 2, figures 3 and 4.
    "l2t_dlf_images": Entry(
        options="benchmarks.l2t_dlf_images:Options",
        summary="Do learned dynamic losses (L2T-DLF) make better image classifiers than tuned fixed losses?",
        minutes={
            "smoke": "1 min",
            "laptop": "4.5 h (MNIST 3.9 h; estimated)",
            "published": "hours for each seed",
            "paper": "weeks, for a GPU",
        },
    ),
    # Wu et al. 2018, table 3.
    "l2t_dlf_translation": Entry(
        options="benchmarks.l2t_dlf_translation:Options",
        summary="Do learned losses of tokens (L2T-DLF) translate better than sequence losses, from one warm start?",
        minutes={"smoke": "1 min", "laptop": "3.6 h (estimated; LSTM-2 40 min more)", "paper": "weeks, for a GPU"},
    ),
    # Ren et al. 2023, table 1 and its ablations.
    "lgtm": Entry(
        options="benchmarks.lgtm:Options",
        summary="Does a teacher that follows distillation influence (LGTM) teach transformers better than ten others?",
        minutes={"smoke": "1 min", "laptop": "3.5 h (rates 1 h)", "paper": "days, for a GPU"},
    ),
    # The future work of Ren et al. 2023: the same teacher while students are pre-trained.
    "lgtm_pretraining": Entry(
        options="benchmarks.lgtm_pretraining:Options",
        summary="Does distillation influence help when a language model is distilled: in pre-training or fine-tuning?",
        minutes={"smoke": "1 min", "laptop": "1.1 h on one core for a task (estimated)", "paper": "weeks (estimated)"},
    ),
    # Future work of Ren et al. 2023: students that generate.
    "lgtm_generation": Entry(
        options="benchmarks.lgtm_generation:Options",
        summary="Does a teacher that follows distillation influence (LGTM) make better translators than others?",
        minutes={"smoke": "1 min", "laptop": "1 h on one core", "paper": "days, for a GPU (estimated)"},
    ),
    # Hai et al. 2023: a loss network steered within the training, on labels of images, pixels and boxes.
    "l2t_dln": Entry(
        options="benchmarks.l2t_dln:Options",
        summary="Does a loss network steered by a recurrent teacher (L2T-DLN) train better students than fixed losses?",
        minutes={
            "smoke": "1 min",
            "laptop": "3.6 h",
            "released": "45 min a task of digits, 2.3 h one of MNIST (estimated)",
            "paper": "weeks, for a GPU",
        },
    ),
    # Jin et al. 2024: what is easy to imitate generalises.
    "lot_language": Entry(
        options="benchmarks.lot_language:Options",
        summary="Do language models that students can imitate (LoT) generalise better, at equal steps and in total?",
        minutes={
            "smoke": "1 min",
            "laptop": "2.7 h (sizes 30 min on one core, estimated)",
            "released": "weeks (estimated)",
            "paper": "days, for a GPU",
        },
    ),
    "lot_atari": Entry(
        options="benchmarks.lot_atari:Options",
        summary="Does PPO play better when students can imitate its policy (LoT), on Atari games and in control?",
        minutes={"smoke": "2 min", "laptop": "3.5 h (share, Breakout: 15 h, estimated)", "paper": "days"},
    ),
    "lot_images": Entry(
        options="benchmarks.lot_images:Options",
        summary="Do image classifiers that students can imitate (LoT) generalise better, at equal steps and in total?",
        minutes={
            "smoke": "1 min",
            "laptop": "1.3 h (regularisers 6 h, sizes 30 min on one core; estimated)",
            "released": "days, for a GPU",
            "paper": "days, for a GPU",
        },
    ),
    # CLIP (Radford et al. 2021) in small, with captions made of class names of which some are wrong.
    "lot_multimodal": Entry(
        options="benchmarks.lot_multimodal:Options",
        summary="Does LoT help a two-tower model to match images and captions of which some are wrong?",
        minutes={"smoke": "1 min", "laptop": "40 min on one core (estimated)", "paper": "days (estimated)"},
    ),
    # Time, memory and error of every way to differentiate a training run, peers among them.
    "hypergradients": Entry(
        options="benchmarks.hypergradients:Options",
        summary="What does the gradient of a whole training run cost, here and elsewhere, and what do estimates miss?",
        minutes={"smoke": "1 min", "laptop": "3 h (estimators 40 min; estimated)", "paper": "10 h (estimated)"},
    ),
    # What the weight of each training sample does to each test, and which labels are wrong, peers among the methods.
    "attribution": Entry(
        options="benchmarks.attribution:Options",
        summary="Which samples helped and which labels are wrong: how well do this library and its peers say so?",
        minutes={"smoke": "1 min", "laptop": "2 h (TRAK on MNIST 35 min)", "paper": "days (estimated)"},
    ),
    # Labels that are wrong and classes that are rare: Ren et al. 2018, Shu et al. 2019, and teachers of this library.
    "sample_weights": Entry(
        options="benchmarks.sample_weights:Options",
        summary="Do weights of samples, learned with a small trusted dev set, make better students from bad data?",
        minutes={"smoke": "1 min", "laptop": "90 min on one core", "paper": "weeks (estimated)"},
    ),
    # Language models whose actions weigh domains of text: Xie et al. 2023 beside teachers of this library.
    "data_mixture": Entry(
        options="benchmarks.data_mixture:Options",
        summary="Which mixture of texts, and which documents, make the best language model of one target text?",
        minutes={"smoke": "1 min", "laptop": "50 min on one core", "paper": "weeks, for a GPU (estimated)"},
    ),
    # Actions that set the optimiser: dynamic algorithm configuration by gradients, RL and search.
    "schedules": Entry(
        options="benchmarks.schedules:Options",
        summary="Does a learned schedule of the learning rate beat tuned constant, cosine, step and one-cycle ones?",
        minutes={"smoke": "1 min", "laptop": "2 h on one core (digits 1 h)", "paper": "weeks (estimated)"},
    ),
    # Eimer et al. 2021: a training run whose learning rate is the action, elsewhere and here.
    "dacbench": Entry(
        options="benchmarks.dacbench:Options",
        summary="Does DACBench's SGD environment give the same students here, and how many times as fast?",
        minutes={"smoke": "1 min", "laptop": "25 min on one core (estimated)", "paper": "2 days (estimated)"},
    ),
    # Hyperparameters of reinforcement learning as actions: Xu et al. 2018 beside teachers of this library.
    "rl_students": Entry(
        options="benchmarks.rl_students:Options",
        summary="Who sets PPO's coefficients best while it learns: RL, evolution, a bandit, its meta-gradient, nobody?",
        minutes={"smoke": "1 min", "laptop": "1 h (estimated)", "paper": "a week (estimated)"},
    ),
    # One problem in 1 to 1,000 coordinates and over 10 to 1,000 steps: the project's own question.
    "rl_and_gradient": Entry(
        options="benchmarks.rl_and_gradient:Options",
        summary="Where does RL find what the exact gradient finds, and where is the exact gradient of no use?",
        minutes={"smoke": "1 min", "laptop": "2 h on one core", "paper": "weeks (estimated)"},
    ),
}
