"""JAX as a peer: the same training runs and gradients, compiled, by `jax.lax.scan`, optax and equinox.

The whole of a gradient, training and way back, is one compiled function of the network's weights, the pool, the order
of its samples and the actions. What it keeps between the two passes:

* `"all"`: what XLA keeps of every step, by a plain scan;
* `"states"`: the state before each step, which is taken again, by `jax.checkpoint` of the step;
* `"sqrt"`: some √T checkpoints, by equinox's checkpointed scan.

The networks are functions of the weights of the PyTorch modules, under their names. ResNet-8 is not written.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.hypergradients.problems import MOMENTUM, STUDENTS, Problem

Kept = Literal["all", "states", "sqrt"]


def gradient(problem: Problem, kept: Kept) -> torch.Tensor:
    """The gradient of a training run with respect to its actions, (T, classes).

    Raises:
        ImportError: JAX, equinox or optax is not installed.
        NotImplementedError: the network is not written in JAX.
    """
    compute = _compiled(problem.name, problem.student.batch, kept, torch.get_num_threads())
    parameters = {n: p.detach().numpy() for n, p in problem.module.named_parameters()}
    arrays = (t.numpy() for t in (problem.inputs, problem.targets, problem.order, problem.actions))
    # A copy: JAX's memory may not be written to.
    return torch.from_numpy(np.array(compute(parameters, *arrays)))


@functools.cache
def _compiled(name: str, batch: int, kept: Kept, threads: int) -> Callable[..., Any]:
    if name not in NETWORKS:
        raise NotImplementedError(f"the student {name} is not written in JAX; {', '.join(NETWORKS)} are")
    if threads == 1:  # read when JAX begins
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import equinox.internal as eqxi
    import jax
    import jax.numpy as jnp
    import optax

    network, student = NETWORKS[name], STUDENTS[name]
    optimizer = optax.sgd(student.learning_rate, MOMENTUM)

    def errors(parameters: Any, inputs: Any, targets: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(network(parameters, inputs), targets)

    def objective(actions: Any, parameters: Any, inputs: Any, targets: Any, order: Any) -> Any:
        def step(state: Any, at: tuple[Any, Any]) -> tuple[Any, None]:
            weights, velocity = state
            rows, action = at

            def loss(weights: Any) -> Any:
                return ((1 + action[targets[rows]]) * errors(weights, inputs[rows], targets[rows])).mean()

            updates, velocity = optimizer.update(jax.grad(loss)(weights), velocity)
            return (optax.apply_updates(weights, updates), velocity), None

        begin = parameters, optimizer.init(parameters)
        if kept == "sqrt":
            (final, _), _ = eqxi.scan(step, begin, (order, actions), kind="checkpointed")
        else:
            taken = jax.checkpoint(step) if kept == "states" else step
            (final, _), _ = jax.lax.scan(taken, begin, (order, actions))
        return errors(final, inputs[:batch], targets[:batch]).mean()

    differentiated = jax.jit(jax.grad(objective))

    def compute(parameters: Any, inputs: Any, targets: Any, order: Any, actions: Any) -> Any:
        arguments = (actions, parameters, inputs, targets, order)
        return differentiated(*jax.tree.map(jnp.asarray, arguments)).block_until_ready()

    return compute


def _linear(p: Any, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _mlp(p: Any, x: Any) -> Any:
    import jax.numpy as jnp

    return _linear(p, "3", jnp.tanh(_linear(p, "1", x.reshape(len(x), -1))))


def _lenet(p: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    for name in ("0", "3"):
        x = jax.lax.conv(x, p[f"{name}.weight"], (1, 1), "VALID") + p[f"{name}.bias"][:, None, None]
        # Windows do not overlap: a maximum over axes has a second derivative that compiles well.
        n, channels, height, width = x.shape
        x = jnp.tanh(x.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5)))
    return _linear(p, "9", jnp.tanh(_linear(p, "7", x.reshape(len(x), -1))))


def _lstm(p: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    for layer in ("l0", "l1"):
        projected = x @ p[f"lstm.weight_ih_{layer}"].T + p[f"lstm.bias_ih_{layer}"] + p[f"lstm.bias_hh_{layer}"]
        recurrent = p[f"lstm.weight_hh_{layer}"].T

        def cell(state: tuple[Any, Any], entering: Any, recurrent: Any = recurrent) -> tuple[Any, Any]:
            hidden, memory = state
            write, keep, new, read = jnp.split(entering + hidden @ recurrent, 4, -1)
            memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(write) * jnp.tanh(new)
            hidden = jax.nn.sigmoid(read) * jnp.tanh(memory)
            return (hidden, memory), hidden

        zero = jnp.zeros((len(x), recurrent.shape[0]), x.dtype)
        x = jax.lax.scan(cell, (zero, zero), projected.swapaxes(0, 1))[1].swapaxes(0, 1)
    return _linear(p, "head", x[:, -1])


def _transformer(p: Any, x: Any, heads: int = 4) -> Any:
    import jax
    import jax.numpy as jnp

    def normalized(name: str, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    batch, length, size = x.shape
    for layer in (f"encoder.layers.{i}" for i in range(2)):
        projected = x @ p[f"{layer}.self_attn.in_proj_weight"].T + p[f"{layer}.self_attn.in_proj_bias"]
        query, key, value = (
            part.reshape(batch, length, heads, -1).swapaxes(1, 2) for part in jnp.split(projected, 3, -1)
        )
        weights = jax.nn.softmax(query @ key.swapaxes(2, 3) / np.sqrt(size // heads).astype(np.float32), -1)
        mixed = (weights @ value).swapaxes(1, 2).reshape(batch, length, size)
        x = normalized(f"{layer}.norm1", x + _linear(p, f"{layer}.self_attn.out_proj", mixed))
        fed = _linear(p, f"{layer}.linear2", jax.nn.relu(_linear(p, f"{layer}.linear1", x)))
        x = normalized(f"{layer}.norm2", x + fed)
    return _linear(p, "head", x.mean(1))


NETWORKS: dict[str, Callable[[Any, Any], Any]] = {
    "mlp": _mlp,
    "lenet": _lenet,
    "lstm": _lstm,
    "transformer": _transformer,
}
"""By the student's name: (weights, inputs) to logits."""
