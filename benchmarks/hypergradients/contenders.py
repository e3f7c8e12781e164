"""Ways to differentiate a training that are compared: functions of a problem to its gradient, (T, classes)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import meta
from benchmarks.hypergradients.problems import MOMENTUM, Problem
from teachenv.optimizers import SGD

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
    """The gradient by PyTorch alone, with the whole training in one graph."""
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


def ours(**options: Any) -> Contender:
    """The gradient by `meta.hypergradient` with the given options."""

    def differentiate(problem: Problem) -> torch.Tensor:
        module = problem.module

        def loss(parameters: dict[str, torch.Tensor], action: torch.Tensor, t: int) -> torch.Tensor:
            return problem.loss(functional_call(module, parameters, (problem.batch(t)[0],)), action, t)

        def objective(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
            return problem.objective(lambda x: functional_call(module, parameters, (x,)))

        process = meta.Descent(loss, objective, SGD(MOMENTUM), problem.student.learning_rate)
        begin = process.begin(dict(module.named_parameters()))
        return meta.hypergradient(process, begin, problem.actions, **options).actions

    return differentiate


CONTENDERS: dict[str, Contender] = {
    "unrolled": unrolled,
    "higher": by_higher,
    "torchopt": by_torchopt,
    "rmd:all": ours(memory="all"),
    "rmd:states": ours(memory="states"),
    "rmd:reversible": ours(memory="reversible"),
    "rmd:sqrt": ours(memory="sqrt"),
    "rmd:log": ours(memory="log"),
    "rmd:disk": ours(memory="disk"),
    "finite-difference:states": ours(method="finite-difference", memory="states"),
    "finite-difference:sqrt": ours(method="finite-difference", memory="sqrt"),
}
PEERS = ("unrolled", "higher", "torchopt")
