import os

from teachenv import machine
from teachenv.experiment.jobs import Job
from teachenv.experiment.processes import Processes
from teachenv.machine import PROCESSES, available_memory, spare_memory


def test_processes_of_an_experiment_share_what_is_free(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda tensors: 1200)
    monkeypatch.delenv(PROCESSES, raising=False)
    assert spare_memory() == 600
    monkeypatch.setenv(PROCESSES, "3")
    assert spare_memory() == 200


def test_a_process_of_an_experiment_knows_how_many_there_are(monkeypatch):
    monkeypatch.setenv(PROCESSES, "9")
    with Processes(2) as backend:
        backend.submit(Job("read", os.getenv, {"key": PROCESSES}))
        assert [value for _, value in backend.completed()] == ["2"]


def test_memory_that_is_free_is_a_positive_number_of_bytes():
    assert 2**20 < available_memory() < 2**50
