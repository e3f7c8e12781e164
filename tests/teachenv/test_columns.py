"""Tables of samples meet: their columns are those of the pool, and what is no number is named by its column."""

import copy
import dataclasses
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import meta
from teachenv import MultiLabel, Task, TeachEnv, TeachVectorEnv
from teachenv.tasks.columns import columns_of, names_in

RNG = np.random.default_rng(0)
N, COLUMNS = 30, list("uvwx")
POOL, TEST, DEV = (pd.DataFrame(RNG.normal(size=(N, 4)).astype(np.float32), columns=COLUMNS) for _ in range(3))
Y = np.arange(N) % 2
SMALL = {"student": "mlp", "horizon": 2, "batch_size": 5, "dev_size": 8}
ONCE = {"folds": 3, "repeats": 1, "rounds": 1, "steps": 5, "student": {"name": "mlp", "hidden": [4]}}
TURNED = {
    "in another order": (lambda table: table[COLUMNS[::-1]], r"\['x', 'w', 'v', 'u'\].*one order: table\["),
    "with other names": (lambda table: table.rename(columns=str.upper), r"\['U', 'V', 'W', 'X'\].*the same ones"),
    "with one more": (lambda table: table.assign(y=1.0), r"\['u', 'v', 'w', 'x', 'y'\].*the same ones"),
}


def own(**parts) -> Task:
    return Task(**({"name": "own", "dataset": "own", "pool": (POOL, Y), "test": (TEST, Y)} | parts))


def begun(task: Task | None = None) -> TeachEnv:
    env = TeachEnv(task=own() if task is None else task, **SMALL)
    env.reset(seed=0)
    return env


def attributed(table: pd.DataFrame, training=None):
    if training is None:
        training = meta.OwnTraining(module=lambda: torch.nn.Linear(4, 2), data=(POOL, Y), steps=2, batch_size=5)
    return meta.attribute(training, (table, Y), together=True)


def attributed_of_environment(table: pd.DataFrame):
    env = TeachEnv(task=own(), **SMALL | {"loss": "data-weights"})
    env.reset(seed=0)
    return attributed(table, env)


def predicted_by_many(table: pd.DataFrame):
    many = TeachVectorEnv(2, task=own(), **SMALL)
    many.reset(seed=0)
    return many.predict(table)


MEET = {
    "test": lambda table: own(test=(table, Y)),
    "dev": lambda table: own(dev=(table, Y)),
    "named": lambda table: own(pool=({"a": POOL}, Y), test=({"a": table}, Y)),
    "a changed task": lambda table: dataclasses.replace(own(), test=(table, Y)),
    "predict": lambda table: begun().predict(table),
    "predict of many": predicted_by_many,
    "predict after a copy": lambda table: begun(pickle.loads(pickle.dumps(copy.copy(own())))).predict(table),
    "tests": attributed,
    "tests of an environment": attributed_of_environment,
    "trusted": lambda table: meta.label_issues((POOL, Y), trusted=(table, Y), **ONCE),
    "trusted of whole numbers": lambda table: meta.label_issues(
        (POOL.round().astype(int), Y), trusted=(table.round().astype(int), Y), **ONCE
    ),
    "trusted of a task": lambda table: meta.label_issues(own(), trusted=(table, Y), **ONCE),
}


@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("meet", MEET)
def test_tables_with_other_columns_are_refused(meet, turned):
    turn, message = TURNED[turned]
    with pytest.raises(ValueError, match=rf"columns of .* are {message}"):
        MEET[meet](turn(DEV))


@pytest.mark.parametrize("meet", MEET)
def test_tables_with_the_same_columns_meet_and_so_do_numbered_ones(meet):
    MEET[meet](DEV)
    MEET[meet](pd.DataFrame(DEV.to_numpy()))


def test_targets_have_columns_too():
    targets = pd.DataFrame({"tall": Y, "old": 1 - Y})
    own(pool=(POOL, targets), test=(TEST, targets), measure=MultiLabel())
    with pytest.raises(ValueError, match=r"test: columns of targets are \['old', 'tall'\], those of the pool"):
        own(pool=(POOL, targets), test=(TEST, targets[["old", "tall"]]), measure=MultiLabel())


def test_of_many_columns_those_from_the_first_other_one_are_shown():
    wide = pd.DataFrame(RNG.normal(size=(N, 500))).add_prefix("c")
    with pytest.raises(ValueError, match=r"\['d', 'c301'.*\], those of the pool \['c300'.*from column 300 on") as error:
        own(pool=(wide, Y), test=(wide.rename(columns={"c300": "d"}), Y))
    assert len(str(error.value)) < 400


def test_columns_are_no_part_of_what_a_task_is_known_by():
    texts = [env.problem.fingerprint for env in map(begun, (own(), own(pool=(POOL.to_numpy(), Y))))]
    assert texts[0] == texts[1]


class Table:
    """What a data frame of any library is to this one."""

    columns = COLUMNS

    def __array__(self, dtype=None, copy=None):
        return TEST.to_numpy()


def test_tables_of_any_library_have_columns_and_pandas_is_not_asked(monkeypatch):
    turned = POOL[COLUMNS[::-1]]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert columns_of({"a": Table(), "b": Y}, Y) == {"'a'": ("u", "v", "w", "x")}
    assert names_in(torch.zeros(2)) == names_in([1, 2]) == names_in(Y) == ()
    with pytest.raises(ValueError, match="columns of inputs"):
        own(test=(Table(), Y), pool=(turned, Y))


DAY = pd.Timestamp("2020-01-01")
NO_NUMBERS = {
    "dates": ({"c": DAY}, r"in column 'c'; expected numbers: leave out .* of dates"),
    "times of a zone": ({"c": DAY.tz_localize("UTC"), "d": DAY}, "in columns 'c', 'd'; expected numbers: leave out"),
    "missing": ({"c": pd.array([1, None] * 15, dtype="Int64")}, "sample 1, in column 'c'; .*fillna"),
    "missing objects": ({"c": np.array([None, 1] * 15, dtype=object)}, "in column 'c'; .*fillna"),
    "NaN": ({"c": np.nan, "d": 1.0, "e": np.inf}, "first in sample 0, in columns 'c', 'e'; .*fillna"),
    "texts": ({"c": ["a", "b"] * 15}, "in column 'c'; .*get_dummies"),
    "objects": ({"c": np.array([1, 2] * 15, dtype=object)}, "in column 'c'; .*np.asarray"),
}


@pytest.mark.parametrize("read", ["Task", "named", "label_issues", "predict"])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_number_is_named_by_its_column(kind, read):
    columns, message = NO_NUMBERS[kind]
    table, numbers = POOL.assign(**columns), POOL.assign(**dict.fromkeys(columns, 0.0))
    reads = {
        "Task": lambda: own(pool=(table, Y), test=(table, Y)),
        "named": lambda: own(pool=({"a": table}, Y), test=({"a": table}, Y)),
        "label_issues": lambda: meta.label_issues((table, Y), **ONCE),
        "predict": lambda: begun(own(pool=(numbers, Y), test=(numbers, Y))).predict(table),
    }
    with pytest.raises((TypeError, ValueError), match=message) as error:
        reads[read]()
    assert len(str(error.value)) < 500


def test_remedies_are_ones():
    dated, missing = POOL.assign(c=DAY), POOL.assign(c=pd.array([1, None] * 15, dtype="Int64"))
    objects = POOL.assign(c=np.array([1, 2] * 15, dtype=object))
    tables = (
        dated.assign(c=(dated["c"] - dated["c"].min()).dt.days),
        missing.fillna(0),
        missing.fillna(missing.median()),
        np.asarray(objects, dtype=np.float32),
    )
    for table in tables:
        assert torch.isfinite(own(pool=(table, Y), test=(table, Y)).pool[0]).all()


def test_nullable_columns_without_missing_values_are_numbers():
    table = POOL.assign(c=pd.array([1, 2] * 15, dtype="Int64"), d=pd.array([True, False] * 15, dtype="boolean"))
    task = own(pool=(table, Y), test=(table, Y))
    assert task.pool[0].is_floating_point()
    np.testing.assert_array_equal(task.pool[0][:2, 4:], [[1, 1], [2, 0]])


def test_predictions_of_a_data_frame_are_those_of_its_numbers():
    env = begun()
    assert torch.equal(env.predict(DEV), env.predict(DEV.to_numpy()))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_of_what_is_not_finite_are_refused(value):
    inputs = DEV.to_numpy(copy=True)
    inputs[3, 1] = value
    with pytest.raises(ValueError, match=r"samples of task 'own' to predict: inputs contain NaN .*in sample 3"):
        begun().predict(inputs)
