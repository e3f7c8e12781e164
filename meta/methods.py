"""Teachers of this package as methods of a comparison; see `teachenv.experiment.methods`.

Options are those of the teacher's class, of the loss family (`scale`) or of the environment; a list is a grid, and the
lists of one method go side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from meta.influence.reweighting import L2RW, Reweighting
from meta.influence.teaching import InfluenceTeacher, InfluenceTeaching
from meta.saving.codecs import declare
from meta.saving.models import PlainModel
from meta.teachers.bandit import Bandit
from meta.teachers.data_teaching import SelfPacedTeacher
from meta.teachers.doremi import DoReMi
from meta.teachers.evolution import EvolutionStrategies
from meta.teachers.fixed import ConstantTeacher, RandomTeacher
from meta.teachers.gradient import RMD, FiniteDifference
from meta.teachers.meta_weight_net import MetaWeightNet
from teachenv.experiment.methods import Make, Method, candidates

# How L2RW and Meta-Weight-Net weigh samples.
_NORMALISED: dict[str, Any] = {"loss": "sample-weights", "normalise": True}


@declare
@dataclass(frozen=True)
class LinearDecay:
    """SB3's learning-rate schedule, from `rate` linearly to zero; a class, so that checkpoints hold it by value."""

    rate: float

    def __call__(self, remaining: float) -> float:
        """Returns the rate at a remaining progress, 1 at the beginning of learning and 0 at its end."""
        return self.rate * max(remaining, 0.0)  # SB3 takes whole rollouts, and may go beyond the end


def decaying(algorithm: Callable[..., Any], policy: str = "AttentionPolicy", **fixed: Any) -> Make:
    """Builds an algorithm whose learning rate decays linearly to zero.

    Args:
        algorithm: the class of the teacher, or a function that makes one.
        policy: the name of the teacher's policy; L2T-DLF's by default.
        **fixed: options that every teacher gets, whatever candidate is tried.
    """

    def make(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
        chosen = {**copy.deepcopy({**fixed, **options}), "learning_rate": LinearDecay(options["learning_rate"])}
        return algorithm(policy, env, seed=seed, **chosen)

    return make


def _options_of(teacher: type[PlainModel]) -> set[str]:
    """Returns the names of a teacher's options that a method leaves open."""
    return teacher.option_names() - {"policy", "env", "seed"}


def learning(
    algorithm: type[PlainModel], options: Mapping[str, Any], policy: str = "AttentionPolicy", **more: Any
) -> Method:
    """Makes a method of a teacher that learns.

    Args:
        algorithm: the class of the teacher.
        options: options of the teacher, of the loss family or of the environment, `learning_rate` among them; a list is
            a grid.
        policy: the name of the teacher's policy.
        **more: further fields of the `Method`.
    """
    settings = candidates(algorithm.__name__, options, teacher_options=_options_of(algorithm))
    return Method(settings, decaying(algorithm, policy), learns=True, **more)


def rmd(policy: str = "AttentionPolicy", **options: Any) -> Method:
    """Makes a method of `meta.RMD`, by default at a learning rate of 0.01.

    Args:
        policy: the name of the teacher's policy.
        **options: options of the teacher, of the loss family or of the environment; a list is a grid.

    Raises:
        TypeError: an option that there is not.
        ValueError: lists of different lengths.
    """
    return learning(RMD, {"learning_rate": 1e-2, **options}, policy)


def data_weights(**options: Any) -> Method:
    """Makes a method that learns one weight for each sample of the pool by descent on the weights (`meta.RMD`).

    The loss is `"data-weights"`, and the same weights hold for every step and every training run.

    Args:
        **options: options of the teacher, of the loss family or of the environment; a list is a grid.
    """
    return learning(RMD, {"learning_rate": 3e-2, "loss": "data-weights", **options}, "FreePolicy")


def finite_difference(policy: str = "AttentionPolicy", *, tuned_as: str | None = None, **options: Any) -> Method:
    """Makes a method of `meta.FiniteDifference`, with the defaults of `rmd`.

    Args:
        policy: the name of the teacher's policy.
        tuned_as: the method whose tuning it shares; None: it has its own.
        **options: options of the teacher, of the loss family or of the environment; a list is a grid.
    """
    return learning(FiniteDifference, {"learning_rate": 1e-2, **options}, policy, tuned_as=tuned_as)


def evolution_strategies(policy: str = "AttentionPolicy", **options: Any) -> Method:
    """Makes a method of `meta.EvolutionStrategies`, by default at a learning rate of 0.03; arguments as for `rmd`."""
    return learning(EvolutionStrategies, {"learning_rate": 0.03, **options}, policy)


def bandit(**options: Any) -> Method:
    """Makes a method of `meta.Bandit`, which tries constant actions (UCB1).

    Args:
        **options: options of the teacher, `arms` of its policy, and options of the loss family or of the environment; a
            list is a grid.
    """
    settings = candidates("bandit", options, teacher_options={*_options_of(Bandit), "arms"})
    return Method(settings, _bandit, learns=True)


def _bandit(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    options = dict(options)
    policy = {"arms": options.pop("arms")} if "arms" in options else {}
    return Bandit("ArmsPolicy", env, seed=seed, policy_kwargs=policy, **options)


def constant(action: Any, **options: Any) -> Method:
    """Makes a method of `meta.ConstantTeacher`: the same action always, from which nothing is learned.

    Args:
        action: a number for all coordinates, or a tuple of one for each; a list is a grid of such.
        **options: options of the loss family or of the environment; a list is a grid.
    """
    return Method(candidates("constant", {"action": action, **options}, teacher_options=("action",)), _constant)


def _constant(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return ConstantTeacher("ConstantPolicy", env, policy_kwargs=dict(options), seed=seed)


def doremi(**options: Any) -> Method:
    """Makes a method of `meta.DoReMi`: a mixture of domains on which no domain falls behind (Xie et al. 2023).

    The loss is `"domain-weights"`. It reads no dev set; students have the mixture that it learned on others.

    Args:
        **options: options of the teacher (`step_size`), of the loss family or of the environment; a list is a grid.
    """
    options = {"loss": "domain-weights", **options}
    return Method(candidates("doremi", options, teacher_options=_options_of(DoReMi)), _doremi, learns=True)


def _doremi(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return DoReMi("MixturePolicy", env, seed=seed, **options)


def random(**options: Any) -> Method:
    """Makes a method of `meta.RandomTeacher`: uniform actions, from which nothing is learned.

    Args:
        **options: options of the loss family or of the environment; a list is a grid.
    """
    return Method(candidates("random", options), _random)


def influence(**options: Any) -> Method:
    """Makes a method of `meta.InfluenceTeacher`, which weighs samples by their distillation influence.

    Args:
        **options: options of the loss family or of the environment; a list is a grid.
    """
    return Method(candidates("influence", options), _influence, wrapper=InfluenceTeaching)


def l2rw(**options: Any) -> Method:
    """Makes a method of `meta.L2RW`: in each step, weights by which the step lowers the dev loss (Ren et al. 2018).

    The loss is `"sample-weights"` with `normalise=True`. It needs no learning, but dev in every training run.

    Args:
        **options: options of the loss family (`base="focal"`) or of the environment; a list is a grid.
    """
    return Method(candidates("l2rw", {**_NORMALISED, **options}), _l2rw, wrapper=Reweighting)


def self_paced(until: float | list[float] = 1.0, warm_up: float | list[float] = 0.2, **options: Any) -> Method:
    """Makes a method of `meta.SelfPacedTeacher`: ever fewer of a minibatch's samples of large loss are dropped.

    The loss is `"sample-weights"` with `normalise=True` and `observe_samples=True`.

    Args:
        until: the progress at which nothing is dropped any more; 2.0: half is dropped at the end. A list is a grid.
        warm_up: the progress up to which all samples are kept; a list is a grid.
        **options: options of the loss family or of the environment; a list is a grid.
    """
    options = {**_NORMALISED, "observe_samples": True, "until": until, "warm_up": warm_up, **options}
    return Method(candidates("self_paced", options, teacher_options=("until", "warm_up")), _self_paced)


def _self_paced(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return SelfPacedTeacher("SelfPacedPolicy", env, policy_kwargs=dict(options), seed=seed)


def meta_weight_net(policy: str = "LossPolicy", **options: Any) -> Method:
    """Makes a method of `meta.MetaWeightNet`, at a constant learning rate of 1e-3 (Shu et al. 2019).

    The loss is `"sample-weights"` with `normalise=True` and `observe_samples=True`. Students are taught by what it
    learned on others, from their first step on; in the paper it learns along with the one student.

    Args:
        policy: the name of the teacher's policy.
        **options: options of the teacher, of the loss family or of the environment; a list is a grid.
    """
    options = {**_NORMALISED, "observe_samples": True, **options}
    settings = candidates("meta_weight_net", options, teacher_options=_options_of(MetaWeightNet))
    return Method(settings, partial(_meta_weight_net, policy), learns=True)


def _meta_weight_net(policy: str, env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return MetaWeightNet(policy, env, seed=seed, **options)


def _l2rw(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return L2RW("L2RWPolicy", env, seed=seed, **options)


def _random(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return RandomTeacher("RandomPolicy", env, policy_kwargs={"seed": seed}, seed=seed)


def _influence(env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    return InfluenceTeacher("InfluencePolicy", env, seed=seed, **options)


_GRADIENT: dict[str, Any] = {"scale": [0.5, 0.5, 1.0, 1.0], "learning_rate": [0.01, 0.03, 0.01, 0.03]}

GRIDS: dict[str, Method] = {
    "random": random(scale=[0.1, 0.25, 0.5, 1.0]),
    "rmd": rmd(**_GRADIENT),
    # The same gradient to three digits, hence the same best candidate.
    "finite-difference": finite_difference(tuned_as="rmd", **_GRADIENT),
    "evolution-strategies": evolution_strategies(
        scale=0.5, learning_rate=[0.03, 0.03, 0.06, 0.06], sigma=[0.05, 0.2, 0.05, 0.2]
    ),
}
"""Teachers of bilinear losses with the candidates that they were tuned over on digits, four each."""
