"""Methods of data attribution: functions of a training run to values (tests, samples), positive where a sample harms.

Peers have the configuration that their authors recommend, but for one thing: gradients are projected to 512 dimensions,
as in dattri's benchmark, since traker's default of 2,048 is for a GPU, and more than digits has samples.
Of dampings, the best by the score itself counts, as in dattri's benchmark.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import meta
from benchmarks.attribution.settings import ENSEMBLE, Setting
from teachenv import TeachEnv
from teachenv.tasks.splits import Split

_PROJECTED, _BATCH = 512, 1000
_OTHER_SEEDS = 30_000


@dataclass(frozen=True)
class Trained:
    """What a method may start from.

    Attributes:
        setting: the training's setting.
        env: its environment.
        seed: its seed.
        tests: inputs and targets of the tests.
        checkpoints: parameters along the training, `ENSEMBLE` of them, the last at its end.
        rates: the learning rate at each.
        halves: parameters at the end of training runs on random halves of the samples.
    """

    setting: Setting
    env: TeachEnv
    seed: int
    tests: Split
    checkpoints: Sequence[Mapping[str, torch.Tensor]]
    rates: Sequence[float]
    halves: Sequence[Mapping[str, torch.Tensor]]

    def module(self) -> nn.Module:
        """The trained network, in evaluation mode, a new one."""
        module: nn.Module = self.env.dynamics.student.build()
        module.load_state_dict(self.checkpoints[-1])
        return module.eval()

    def loaders(self) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Training samples and tests, in order."""
        pool, tests = TensorDataset(*self.env.task.pool), TensorDataset(*self.tests)
        return DataLoader(pool, batch_size=_BATCH), DataLoader(tests, batch_size=_BATCH)


@dataclass(frozen=True)
class Method:
    """A method of data attribution.

    Attributes:
        values: one array (tests, samples), or several of which the best counts.
        trainings: how many training runs it needs beforehand, in the time of plain training.
    """

    values: Callable[[Trained], Sequence[np.ndarray]]
    trainings: int


def _ours(trained: Trained, *, averaged: bool) -> Sequence[np.ndarray]:
    """The exact derivative of the training's end, or its mean over training runs of other seeds."""
    first = _OTHER_SEEDS + 1000 * trained.seed
    seeds = range(first, first + trained.setting.averaged) if averaged else [trained.seed]
    return [meta.attribute(trained.env, trained.tests, seeds=list(seeds)).values]


def _dattri_task(trained: Trained, checkpoints: Sequence[Mapping[str, torch.Tensor]], margin: bool = False) -> Any:
    """What dattri knows of the training: the loss of samples that come as a batch, or each without one."""
    from dattri.task import AttributionTask

    module = trained.module()
    batch_dims = trained.env.task.pool[0].dim()

    def loss(params: Any, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, targets = pair
        if inputs.dim() < batch_dims:
            inputs, targets = inputs.unsqueeze(0), targets.unsqueeze(0)
        log_likelihood = -cross_entropy(functional_call(module, params, (inputs,)), targets)
        return log_likelihood - torch.log(1 - torch.exp(log_likelihood)) if margin else -log_likelihood

    return AttributionTask(loss_func=loss, model=module, checkpoints=[dict(state) for state in checkpoints])


def _tracin(trained: Trained) -> Sequence[np.ndarray]:
    """TracInCP (Pruthi et al. 2020, eq. 1): products of gradients at ten checkpoints, times their learning rates."""
    from dattri.algorithm.tracin import TracInAttributor

    task = _dattri_task(trained, trained.checkpoints)
    attributor = TracInAttributor(task, weight_list=torch.tensor(trained.rates), normalized_grad=False)
    attributor.projector_kwargs = None  # exact products; its default projects to 512 dimensions
    return [-attributor.attribute(*trained.loaders()).T.numpy()]


def _influence(trained: Trained) -> Sequence[np.ndarray]:
    """Influence functions by conjugate gradients (Koh and Liang 2017), as in dattri's benchmark, at some dampings."""
    from dattri.algorithm.influence_function import IFAttributorCG

    task, pool = _dattri_task(trained, trained.checkpoints[-1:]), trained.env.task.pool
    values = []
    for damping in (1.0, 0.1, 0.01):
        attributor = IFAttributorCG(task, max_iter=10, regularization=damping)
        attributor.cache(DataLoader(TensorDataset(*pool), batch_size=len(pool[0])))
        with torch.no_grad():
            values.append(-attributor.attribute(*trained.loaders()).detach().T.numpy())
    return values


def _dattri_trak(trained: Trained) -> Sequence[np.ndarray]:
    """TRAK (Park et al. 2023) over networks of random halves, by dattri."""
    from dattri.algorithm.trak import TRAKAttributor

    task, module = _dattri_task(trained, trained.halves, margin=True), trained.module()

    def probability(params: Any, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        outputs = functional_call(module, params, (pair[0].unsqueeze(0),))
        return torch.exp(-cross_entropy(outputs, pair[1].unsqueeze(0)))

    attributor = TRAKAttributor(task, probability, projector_kwargs={"proj_dim": _PROJECTED})
    train, tests = trained.loaders()
    attributor.cache(train)
    with torch.no_grad():
        return [-attributor.attribute(tests).detach().T.numpy()]


def _traker(trained: Trained) -> Sequence[np.ndarray]:
    """TRAK over networks of random halves, by its authors' package."""
    from trak import TRAKer

    (train, tests), count = trained.loaders(), len(trained.tests[0])
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            model=trained.module(),
            task="image_classification",
            train_set_size=len(trained.env.task.pool[0]),
            save_dir=folder,
            device="cpu",
            proj_dim=_PROJECTED,
            use_half_precision=False,
            logging_level=logging.ERROR,
        )
        for number, state in enumerate(trained.halves):
            traker.load_checkpoint(dict(state), model_id=number)
            for batch in train:
                traker.featurize(batch=batch, num_samples=len(batch[0]))
        traker.finalize_features()
        for number, state in enumerate(trained.halves):
            traker.start_scoring_checkpoint("tests", dict(state), model_id=number, num_targets=count)
            for batch in tests:
                traker.score(batch=batch, num_samples=len(batch[0]))
        return [-np.array(traker.finalize_scores("tests")).T]


def _ekfac(trained: Trained) -> Sequence[np.ndarray]:
    """Influence functions with EK-FAC (Grosse et al. 2023), with kronfluence's default damping and its heuristic."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> torch.Tensor:
            outputs, targets = model(batch[0]), batch[1]
            if sample:
                with torch.no_grad():
                    targets = torch.multinomial(outputs.softmax(-1), 1).flatten()
            return cross_entropy(outputs, targets, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
            return cross_entropy(model(batch[0]), batch[1], reduction="sum")

    task = Classification()
    pool, tests = (TensorDataset(*split) for split in (trained.env.task.pool, trained.tests))
    sizes = {"per_device_query_batch_size": _BATCH, "per_device_train_batch_size": _BATCH}
    values = []
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "tests", prepare_model(trained.module(), task), task, cpu=True, disable_tqdm=True, output_dir=folder
        )
        analyzer.fit_all_factors("factors", pool, _BATCH, factor_args=FactorArguments(strategy="ekfac"))
        for damping in (1e-8, None):
            analyzer.compute_pairwise_scores(
                f"scores-{damping}", "factors", tests, pool, score_args=ScoreArguments(damping), **sizes
            )
            scores = analyzer.load_pairwise_scores(f"scores-{damping}")
            values.append(-scores["all_modules"].numpy())
    return values


METHODS: dict[str, Method] = {
    "attribute": Method(functools.partial(_ours, averaged=False), 0),
    "attribute:averaged": Method(functools.partial(_ours, averaged=True), 0),
    "dattri:tracin": Method(_tracin, 1),
    "dattri:if-cg": Method(_influence, 1),
    "dattri:trak": Method(_dattri_trak, ENSEMBLE),
    "traker": Method(_traker, ENSEMBLE),
    "kronfluence:ekfac": Method(_ekfac, 1),
}
