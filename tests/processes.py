"""Small processes that tests differentiate, and the unrolled autograd that they are compared with."""

import re
from collections import namedtuple

import torch

from meta import Descent
from teachenv import optimizers
from teachenv.optimizers import SGD, Adam, RMSprop, make_optimizer
from teachenv.optimizers.groups import Group, ParameterGroups
from teachenv.trees import tensors_of, with_tensors

T, N = 7, 3
Pair = namedtuple("Pair", "position speed")


def actions_of(steps=T, size=N, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(steps, size, generator=rng, dtype=torch.float64)


class Pendulum:
    """A process that is no training: a nested state, an integer in it, and a step that depends on t."""

    def step(self, state, action, t):
        position, speed = state["body"]
        force = torch.sin(position) * (1 + 0.1 * t) + action.tanh().sum() * position.cos()
        speed = 0.9 * speed - 0.1 * force
        return {"body": Pair(position + 0.3 * speed, speed), "count": state["count"] + 1}

    def objective(self, state):
        return (state["body"].position ** 2).sum() + state["body"].speed.prod()


def pendulum_state():
    return {
        "body": Pair(torch.tensor([0.3, -0.8]).double(), torch.tensor([1.0, 0.5]).double()),
        "count": torch.tensor(0),
    }


def unrolled(process, state, actions, steps_per_action=1):
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in tensors_of(state)]
    leaf = actions.clone().requires_grad_()
    current = with_tensors(state, leaves)
    for t in range(len(actions) * steps_per_action):
        current = process.step(current, leaf[t // steps_per_action], t)
    objective = process.objective(current)
    grads = torch.autograd.grad(objective, [leaf, *(x for x in leaves if x.requires_grad)])
    return objective.detach(), grads[0], grads[1:]


def quadratic(parameters, action, t):
    """A loss with curvature and a mixed derivative."""
    w, b = parameters["w"], parameters["b"]
    return (
        (torch.tanh(w @ action[: w.shape[1]]) - 0.1 * t).square().sum() + (b * action).square().sum() + (w**4).sum() / 9
    )


def descent(optimizer, rate=0.05):
    return Descent(quadratic, lambda p: (p["w"] ** 2).sum() + p["b"].sum(), optimizer, rate)


def start():
    rng = torch.Generator().manual_seed(1)
    return {"w": torch.randn(4, N, generator=rng).double(), "b": torch.randn(N, generator=rng).double()}


class Unrolled:
    """A descent with every step in the graph."""

    def __init__(self, optimizer, rate):
        self.optimizer, self.rate = optimizer, rate

    def step(self, state, action, t):
        parameters, slots = state
        loss = quadratic(parameters, action, t)
        grads = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        rate = self.rate(t) if callable(self.rate) else self.rate
        return self.optimizer.update(parameters, dict(zip(parameters, grads, strict=True)), slots, rate, t)

    def objective(self, state):
        return (state[0]["w"] ** 2).sum() + state[0]["b"].sum()


# A small ε bends the objective more than finite differences bear.
EPSILON = {
    name: {"epsilon": 1e-3} if "epsilon" in entry.options else {} for name, entry in optimizers.OPTIMIZERS.items()
}
GROUPS = ParameterGroups(
    (Group(frozenset("b"), Adam(epsilon=1e-3, weight_decay=0.02), 0.5), Group(frozenset("w"), SGD(0.9, 0.01), 1.5))
)
OPTIMIZERS = [
    *(make_optimizer(name, options, weight_decay=0.02) for name, options in EPSILON.items()),
    SGD(0.9, 0.01),
    SGD(0.9, 0.01, nesterov=True),
    RMSprop(0.9, 1e-3, momentum=0.8),
    GROUPS,
]


def readable(value: object) -> str:
    """The id of a test's parameter, the same in every process: a function's is without its address."""
    return re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", str(value))
