"""Ways to differentiate a training run that are compared: functions of a problem to its gradient, (T, classes)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import meta
from benchmarks.hypergradients import jax_peer
from benchmarks.hypergradients.problems import MOMENTUM, STUDENTS, Problem
from meta.hypergradients.memory_policies import MemoryOption, memory_policy
from meta.hypergradients.planner import pace_of
from meta.hypergradients.process import double_backward_kernels
from meta.hypergradients.steps import Steps
from meta.hypergradients.sweep import Method
from teachenv.optimizers import SGD
from teachenv.state import StudentState

Contender = Callable[[Problem], torch.Tensor]


def plain(problem: Problem) -> torch.Tensor:
    """Trains without differentiating; returns the final objective."""
    module = copy.deepcopy(problem.module)
    optimizer = torch.optim.SGD(module.parameters(), lr=problem.student.learning_rate, momentum=MOMENTUM)
    for t in range(problem.steps):
        optimizer.zero_grad()
        loss = problem.loss(module(problem.batch(t)[0]), problem.actions[t], t)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return problem.objective(module)


def unrolled(problem: Problem) -> torch.Tensor:
    """The gradient by PyTorch alone, with the whole training run in one graph."""
    module, rate = problem.module, problem.student.learning_rate
    parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    actions = problem.actions.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        for t in range(problem.steps):
            loss = problem.loss(functional_call(module, parameters, (problem.batch(t)[0],)), actions[t], t)
            grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
            velocity = {n: MOMENTUM * velocity[n] + g for n, g in zip(parameters, grads, strict=True)}
            parameters = {n: p - rate * velocity[n] for n, p in parameters.items()}
        objective = problem.objective(lambda x: functional_call(module, parameters, (x,)))
        return torch.autograd.grad(objective, actions)[0]


def by_higher(problem: Problem) -> torch.Tensor:
    """The gradient by the package higher: patched modules and differentiable optimisers."""
    import higher

    module = copy.deepcopy(problem.module)
    optimizer = torch.optim.SGD(module.parameters(), lr=problem.student.learning_rate, momentum=MOMENTUM)
    actions = problem.actions.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH), higher.innerloop_ctx(module, optimizer) as (patched, differentiable):
        for t in range(problem.steps):
            differentiable.step(problem.loss(patched(problem.batch(t)[0]), actions[t], t))
        return torch.autograd.grad(problem.objective(patched), actions)[0]


def by_torchopt(problem: Problem) -> torch.Tensor:
    """The gradient by TorchOpt's differentiable SGD."""
    import torchopt

    module = copy.deepcopy(problem.module)
    optimizer = torchopt.MetaSGD(module, lr=problem.student.learning_rate, momentum=MOMENTUM)
    actions = problem.actions.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        for t in range(problem.steps):
            optimizer.step(problem.loss(module(problem.batch(t)[0]), actions[t], t))
        return torch.autograd.grad(problem.objective(module), actions)[0]


def by_jax(kept: jax_peer.Kept) -> Contender:
    """The gradient by JAX, which keeps so much of the training."""
    return partial(jax_peer.gradient, kept=kept)


@dataclass(frozen=True)
class Ours:
    """The gradient by `meta.hypergradient`.

    Attributes:
        memory: the memory policy.
        method: what differentiates.
    """

    memory: MemoryOption
    method: Method = "rmd"

    def __call__(self, problem: Problem) -> torch.Tensor:
        """The gradient alone."""
        return self.result(problem).actions

    def result(self, problem: Problem) -> meta.Hypergradient:
        """The gradient, and what it held."""
        process, begin = self._process(problem)
        return meta.hypergradient(process, begin, problem.actions, memory=self.memory, method=self.method)

    def predicted_seconds(self, problem: Problem) -> float:
        """What the planner of `memory="auto"` predicts of the time, from the pace of three steps."""
        process, begin = self._process(problem)
        steps = Steps(process, problem.actions, 1, self.method == "finite-difference")
        policy = memory_policy(self.memory)
        assert policy is not None
        with double_backward_kernels():
            return policy.predicted_seconds(steps.sizes(begin, 0), pace_of(steps, begin, 0))

    @staticmethod
    def _process(problem: Problem) -> tuple[meta.Descent, StudentState]:
        module = problem.module

        def loss(parameters: dict[str, torch.Tensor], action: torch.Tensor, t: int) -> torch.Tensor:
            return problem.loss(functional_call(module, parameters, (problem.batch(t)[0],)), action, t)

        def objective(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
            return problem.objective(lambda x: functional_call(module, parameters, (x,)))

        process = meta.Descent(loss, objective, SGD(MOMENTUM), problem.student.learning_rate)
        return process, process.begin(dict(module.named_parameters()))


def blockwise(problem: Problem) -> torch.Tensor:
    """The gradient by `meta.Training.of`, with the graph of one block of the network at a time."""
    model = copy.deepcopy(problem.module)

    def loss(model: nn.Module, t: int, actions: torch.Tensor) -> torch.Tensor:
        return problem.loss(model(problem.batch(t)[0]), actions[t], t)

    optimizer = torch.optim.SGD(model.parameters(), lr=problem.student.learning_rate, momentum=MOMENTUM)
    options = {"hyperparameters": {"actions": problem.actions}, "adjoint": "blockwise"}
    loop = meta.Training.of(model, optimizer, range(problem.steps), loss, problem.objective, **options)
    return loop.gradient(memory="states").hyperparameters["actions"]


CONTENDERS: dict[str, Contender] = {
    "unrolled": unrolled,
    "higher": by_higher,
    "torchopt": by_torchopt,
    "jax": by_jax("all"),
    "jax-states": by_jax("states"),
    "jax-sqrt": by_jax("sqrt"),
    "rmd:all": Ours("all"),
    "rmd:states": Ours("states"),
    "rmd:reversible": Ours("reversible"),
    "rmd:sqrt": Ours("sqrt"),
    "rmd:log": Ours("log"),
    "rmd:disk": Ours("disk"),
    "rmd:blockwise": blockwise,
    "finite-difference:states": Ours("states", "finite-difference"),
    "finite-difference:sqrt": Ours("sqrt", "finite-difference"),
}
PEERS = ("unrolled", "higher", "torchopt", "jax")


def takes(contender: str, student: str) -> bool:
    """Whether a contender can differentiate the training of a student, one of `STUDENTS`."""
    if contender.startswith("jax"):
        return student in jax_peer.NETWORKS
    return STUDENTS[student].blocks or contender != "rmd:blockwise"
