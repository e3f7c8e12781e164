import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import teachenv  # noqa: F401 - registers the environments
from teachenv.randomness import Purpose, all_seeded, generator, torch_seed


def draw(seed, purpose, step=0):
    with torch_seed(seed, purpose, step):
        return torch.rand(4).tolist()


@pytest.mark.parametrize("take", [draw, lambda *key: generator(*key).random(4).tolist()], ids=["torch", "numpy"])
def test_draws_are_a_function_of_seed_purpose_and_step(take):
    keys = [(s, p, t) for s in (0, 1, 2**61) for p in Purpose for t in (0, 1, 5)]
    streams = [take(*key) for key in keys]
    assert streams == [take(*key) for key in keys]
    assert len({tuple(s) for s in streams}) == len(keys)


def test_torch_seed_restores_the_global_generator_even_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="probability tensor"), torch_seed(0, Purpose.DROPOUT):
        torch.multinomial(torch.rand(3) - 1, 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seeded", [torch_seed, all_seeded])
def test_threads_draw_what_they_draw_alone(seeded):
    def drawn(seed):
        draws = []
        for step in range(200):
            with seeded(seed, Purpose.DROPOUT, step):
                draws.append([torch.rand(3).tolist(), np.random.rand() if seeded is all_seeded else 0])  # noqa: NPY002
        return draws

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(drawn, range(4))) == list(map(drawn, range(4)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_is_forked_while_a_thread_draws_can_draw():
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with torch_seed(0, Purpose.DROPOUT):
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(5)
    threading.Timer(0.2, leave.set).start()
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # ends the child if it waits for a thread that it does not have
        with torch_seed(0, Purpose.DROPOUT):
            os._exit(0)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def with_dropout():
    return nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 10))


@pytest.mark.parametrize("student", ["mlp", with_dropout])
@pytest.mark.parametrize("vector", [False, True])
def test_construction_and_an_episode_leave_the_global_generators_alone(student, vector):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - it is what is tested
    settings = {"student": student, "horizon": 3, "dev_size": 20, "batch_size": 4, "label_noise": 0.3}
    env = (gym.make_vec if vector else gym.make)("TeachDigits-v0", **settings)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.unwrapped.evaluate("test")
    numpy_after = np.random.get_state()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert all(np.array_equal(a, b) for a, b in zip(numpy_before, numpy_after, strict=True))
