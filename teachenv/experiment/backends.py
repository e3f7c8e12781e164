"""The backends that run independent jobs, by name.

Jobs share nothing: each is a function with its arguments, and hands back a value. A backend takes jobs and hands back
their values as they end, whichever ends first::

    with make_backend("processes", workers=2) as backend:
        for seed in range(8):
            backend.submit(Job(f"rmd, seed {seed}", train, {"method": "rmd", "seed": seed}))
        for job, value in backend.completed():
            print(job.label, value.reason if isinstance(value, Failure) else value)

Values do not depend on the backend, because every job has the same number of torch threads wherever it runs. Functions
and arguments travel by cloudpickle, so a script may define them itself, and needs no `if __name__ == "__main__":`.
"""

from __future__ import annotations

from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.experiment.inline import Inline
from teachenv.experiment.jobs import Backend
from teachenv.experiment.processes import Processes

BACKENDS = ("inline", "processes", "ray")


def make_backend(name: str, workers: int | None = None, address: str | None = None) -> Backend:
    """Makes the backend of a name: what runs jobs.

    Args:
        name: `"inline"` (this process, one job after another), `"processes"` (others on this machine) or `"ray"`.
        workers: jobs at a time; None: one for each core that this process may use, or what a Ray cluster has room for.
        address: the Ray cluster to join: `"auto"` (the one that this machine is part of) or `"host:port"`. None: one of
            this machine's own, which ends with the backend.

    Raises:
        ValueError: there is no such backend, it has no address, or `workers` is less than one.
        ModuleNotFoundError: ray is not installed.
        ConnectionError: no Ray cluster answers at the address.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if address is not None and not isinstance(address, str):
        raise ValueError(f"address must be None or a text, found {checks.shown(address)}")
    if workers is not None:
        workers = checks.integer("workers", workers, least=1)
    if address is not None and name != "ray":
        raise ValueError(f"found address={address!r} with backend={name!r}, expected backend='ray' or no address")
    if name == "inline":
        return Inline()
    if name == "processes":
        return Processes(workers)
    # Imported when it is asked for: Ray is an extra.
    from teachenv.experiment.ray import Ray

    return Ray(workers, address)
