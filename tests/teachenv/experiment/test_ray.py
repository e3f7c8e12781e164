"""Jobs on a Ray cluster of two nodes: the second has no folder in common with the driver but what it is sent."""

import os
import threading
import time

import pytest
import torch

from teachenv.experiment import Failure, Job, Kept, Shared, make_backend
from teachenv.files import whole_file
from teachenv.machine import PROCESSES

ray = pytest.importorskip("ray")


def test_an_address_at_which_no_cluster_answers_is_refused():
    with pytest.raises(
        ConnectionError, match=r"^found no Ray cluster at address='127\.0\.0\.1:1': .*; start it by `ray"
    ):
        make_backend("ray", address="127.0.0.1:1")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    # Without what serves a person, or grows and shrinks the cluster.
    lean = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "object_store_memory": 100_000_000}
    # Ray's workers are nice to others, and would hardly begin where other tests keep all cores busy.
    head = {**lean, "no_monitor": True, "_system_config": {"worker_niceness": 0}}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(**lean, resources={"far": 1})
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def backend(cluster):
    with make_backend("ray", address=cluster.address) as made:
        yield made


def values(backend, jobs):
    for job in jobs:
        backend.submit(job)
    return {job.label: value for job, value in backend.completed()}


def learn(seed, data, start, folder):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, generator=generator, requires_grad=True)
    ((data @ weights) ** 2).sum().backward()
    data += 0  # is not the store's own, which cannot be written to
    with whole_file(folder / "curves" / "loss") as path:
        path.write_text(f"{seed} {(start / 'weights').read_text()}")
    return weights.grad.tolist(), torch.get_num_threads()


def refuse():
    try:
        raise KeyError("width")
    except KeyError as error:
        raise ValueError("expected a width; add one") from error


def test_values_and_folders_are_those_of_other_backends(backend, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "weights").write_text("4")
    data = Shared(torch.ones(5, 3).numpy())
    results = {}
    for name, chosen in (("inline", make_backend("inline")), ("ray", backend)):
        jobs = [
            Job(
                str(number),
                lambda data, **arguments: learn(data=torch.from_numpy(data), **arguments),
                {"seed": number, "data": data, "start": Kept(tmp_path / "kept")},
                tmp_path / name / str(number),
                # On the other node, but for the first.
                {"far": 1} if name == "ray" and number else {},
            )
            for number in range(3)
        ]
        found = values(chosen, [*jobs, Job("refused", refuse)])
        failure = found.pop("refused")
        assert isinstance(failure, Failure)
        files = {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*")}
        written = {str(place): path.read_text() for place, path in files.items() if path.is_file()}
        results[name] = (found, str(failure), type(failure.error), repr(failure.error.__cause__), written)
    assert results["ray"] == results["inline"]
    assert results["ray"][-1] == {f"{number}/curves/loss": f"{number} 4" for number in range(3)}


def test_what_no_machine_has_is_refused_and_the_others_go_on(backend):
    def end():
        raise SystemExit(3)

    found = values(backend, [Job("large", end, resources={"num_gpus": 64}), Job("ends", end), Job("fine", lambda: 1)])
    assert found["fine"] == 1
    assert found["large"].reason == (
        "no machine of the cluster has num_gpus=64; ask for less, or add one that has by `ray start`"
    )
    assert found["ends"].reason == "SystemExit: 3"


def test_a_job_whose_node_is_lost_goes_on_elsewhere_from_its_checkpoint(backend, cluster, tmp_path):
    def count(place, lost, folder):
        checkpoint = folder / "step"
        start = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for step in range(start, 6):
            with whole_file(checkpoint) as path:
                path.write_text(str(step + 1))
            # The driver's node waits until the other one is lost, whose worker may outlive it for a moment.
            while step == 2 and (folder != place or not lost.exists()):
                time.sleep(0.05)
        return start, folder == place

    lost = tmp_path / "lost"
    places = [tmp_path / str(number) for number in range(2)]
    for place in places:
        backend.submit(Job(place.name, count, {"place": place, "lost": lost}, place))

    def lose():
        last = time.monotonic() + 60
        try:
            while not all((place / "step").exists() and (place / "step").read_text() == "3" for place in places):
                assert time.monotonic() < last
                time.sleep(0.05)
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        finally:
            lost.touch()

    thread = threading.Thread(target=lose)
    thread.start()
    found = {job.label: value for job, value in backend.completed()}
    thread.join()
    assert sorted(found.values()) == [(0, True), (3, True)]
    assert [(place / "step").read_text() for place in places] == ["6", "6"]


def test_jobs_of_one_machine_know_how_many_share_its_memory(backend):
    jobs = [Job(str(each), os.getenv, {"key": PROCESSES}, resources={"num_cpus": each}) for each in (0.5, 1.0)]
    assert values(backend, jobs) == {"0.5": "2", "1.0": "1"}
