import dataclasses
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from teachenv import TeachEnv
from teachenv.errors import unknown_name
from teachenv.tasks import TASKS, ClassificationMeasure, Measure, Task, make_task
from teachenv.tasks.decisions import LikelihoodMeasure, SingleDecisions
from teachenv.tasks.measures import class_counts
from teachenv.tasks.synthetic import make_synthetic

logits = npst.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.floats(-5, 5))


def tiny(**changes) -> Task:
    fields = {
        "name": "tiny",
        "dataset": "tiny",
        "pool": (torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])),
        "test": (torch.ones(2, 2), torch.tensor([2, 0])),
        "num_outputs": 3,
    }
    return Task(**(fields | changes))


def targets_for(outputs: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(outputs)) % outputs.shape[1]


# --- names -----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones_and_suggests_the_closest():
    error = unknown_name("student", "mpl", ["mlp", "lenet", "resnet8"])
    assert str(error) == "unknown student 'mpl', did you mean 'mlp'? Expected one of 'lenet', 'mlp', 'resnet8'"
    assert str(unknown_name("student", "zzz", ["mlp"])) == "unknown student 'zzz': expected one of 'mlp'"
    many = [f"net{i}" for i in range(11)]
    assert str(unknown_name("student", "zzz", many, "HERE")) == "unknown student 'zzz': all 11 are in HERE"
    assert str(unknown_name("student", "net", many, "HERE")).endswith("? All 11 are in HERE")
    assert "did you mean 'mlp'" in str(unknown_name("student", "MLP", ["mlp"]))
    assert "unknown student 3:" in str(unknown_name("student", 3, ["mlp"]))


def test_make_task_names_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"unknown task 'digit'.*did you mean 'digits'\?"):
        make_task("digit")


@pytest.mark.parametrize("name", sorted(TASKS.keys() - {"image-folder"}))  # there any folder's name is a data set
def test_every_task_rejects_a_dataset_it_does_not_have(name, tmp_path):
    with pytest.raises(ValueError, match=rf"unknown dataset for task '{name}' 'imagenet'"):
        make_task(name, dataset="imagenet", data_root=tmp_path)


# --- Task ------------------------------------------------------------------------------------------------------------


def test_numpy_arrays_are_converted_and_class_indices_become_int64():
    task = tiny(
        pool=(np.zeros((3, 2), np.float32), np.array([0, 1, 2], np.int32)),
        test=(np.zeros((1, 2), np.float32), np.array([1], np.uint8)),
    )
    assert task.pool[0].dtype == torch.float32
    assert task.pool[1].dtype == task.test[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pool": (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))}, ValueError, "same number of samples"),
        ({"test": (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))}, ValueError, "test: no samples"),
        ({"test": (torch.zeros(2, 3), torch.tensor([0, 1]))}, ValueError, "in the pool but"),
        ({"test": (torch.zeros(2, 2).double(), torch.tensor([0, 1]))}, ValueError, "prepared in the same way"),
        ({"num_outputs": 2}, ValueError, r"lie in \[0, 2\], expected \[0, 2\)"),
        ({"num_outputs": 0}, ValueError, "num_outputs must be an integer of at least 1, found 0"),
        ({"test": (torch.zeros(2, 2), torch.tensor([0, -1]))}, ValueError, r"lie in \[-1, 0\]"),
        (
            {"test": (torch.tensor([[1.0, float("nan")]]), torch.tensor([0]))},
            ValueError,
            "test: inputs contain NaN or infinity, first in sample 0",
        ),
        ({"pool": (torch.zeros(1, 2, dtype=torch.complex64), torch.tensor([0]))}, TypeError, "inputs are .*complex64"),
        ({"pool": torch.zeros(2, 2)}, TypeError, "expected a pair"),
    ],
)
def test_parts_that_do_not_fit_are_errors(changes, error, message):
    with pytest.raises(error, match=message):
        tiny(**changes)


def test_to_casts_inputs_and_floating_targets_but_not_class_indices():
    task = tiny().to(torch.float64, "cpu")
    assert task.pool[0].dtype == task.test[0].dtype == torch.float64
    assert task.pool[1].dtype == torch.int64
    fields = {"pool": (torch.ones(2, 2), torch.ones(2, 1)), "test": (torch.ones(1, 2), torch.ones(1, 1))}
    regression = tiny(**fields, measure=LikelihoodMeasure(ClassificationMeasure(3), SingleDecisions()))
    assert regression.to(torch.float64).pool[1].dtype == torch.float64
    with pytest.raises(TypeError, match="floating-point dtype"):
        task.to(torch.int64)
    large = (torch.full((1, 2), 1e300, dtype=torch.float64), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"in torch.float32, test: inputs contain NaN or infinity"):
        tiny(pool=tiny().to(torch.float64).pool, test=large).to(torch.float32)


def test_label_noise_touches_the_labels_of_the_pool_only_and_is_part_of_the_name():
    task = make_task("digits")
    noisy = task.with_label_noise(0.4, "pair", seed=0)
    assert noisy.name == "digits-noisy-40"
    assert noisy.dataset == "digits"
    assert int((noisy.pool[1] != task.pool[1]).sum()) == 400
    assert torch.equal(noisy.pool[0], task.pool[0])
    assert torch.equal(noisy.test[1], task.test[1])
    assert task.with_label_noise(0.6, "symmetric", seed=0).name == "digits-symmetric-60"
    assert task.with_label_noise(0.125, "pair", seed=0).name == "digits-noisy-12.5"
    assert task.with_label_noise(0.0, "pair", seed=0) is task
    with pytest.raises(ValueError, match="did you mean 'pair'"):
        task.with_label_noise(0.0, "pairs", seed=0)


@given(size=st.integers(1, 6), seed=st.integers(0, 1000))
def test_a_subset_holds_different_samples_with_their_own_labels(size, seed):
    task = tiny()
    inputs, targets = task.subset_pool(size, seed).pool
    first_values = inputs[:, 0].tolist()
    assert len(set(first_values)) == size
    assert [int(value / 2) % 3 for value in first_values] == targets.tolist()


@pytest.mark.parametrize("size", [0, 7])
def test_a_subset_larger_than_the_pool_is_an_error(size):
    with pytest.raises(ValueError, match=f"pool size is {size}: expected 1 to 6"):
        tiny().subset_pool(size, 0)


# --- ClassificationMeasure -------------------------------------------------------------------------------------------


@given(outputs=logits, temperature=st.floats(0.1, 3))
def test_the_objective_is_the_mean_probability_of_the_right_class(outputs, temperature):
    z = torch.from_numpy(outputs)
    y = targets_for(z)
    weights = np.exp(outputs / temperature)
    expected = np.mean([row[c] / row.sum() for row, c in zip(weights, y.tolist(), strict=True)])
    assert float(ClassificationMeasure(4, temperature).objective(z, y)) == pytest.approx(expected, rel=1e-9)


def test_a_low_temperature_turns_the_objective_into_accuracy():
    z = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = targets_for(z)
    measure = ClassificationMeasure(5, 1e-4)
    assert float(measure.objective(z, y)) == pytest.approx(float(measure.score(z, y)), abs=1e-3)


def test_the_likelihood_is_minus_the_cross_entropy_and_the_rest_is_accuracy():
    rng = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(20, 3, generator=rng, dtype=torch.float64), torch.arange(20) % 3
    accuracy = ClassificationMeasure(3)
    likelihood = LikelihoodMeasure(accuracy, SingleDecisions())
    expected = torch.log_softmax(outputs, 1)[torch.arange(20), targets].mean()
    torch.testing.assert_close(likelihood.objective(outputs, targets), expected)
    for found, known in zip(likelihood.assess(outputs, targets), accuracy.assess(outputs, targets), strict=True):
        assert torch.equal(found, known)


def test_a_task_with_a_measure_of_its_own_takes_no_other_objective():
    task = make_task("digits", pool_size=100)
    own = dataclasses.replace(task, measure=ClassificationMeasure(10, 1.0))
    with pytest.raises(ValueError, match=r"objective='likelihood' has no effect .* a measure of its own"):
        TeachEnv(task=own, objective="likelihood", dev_size=20)


def test_the_objective_has_right_first_and_second_derivatives():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    measure, y = ClassificationMeasure(4, 0.5), torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.autograd.gradcheck(lambda outputs: measure.objective(outputs, y), z)
    assert torch.autograd.gradgradcheck(lambda outputs: measure.objective(outputs, y), z)


def test_precision_counts_only_samples_predicted_as_the_class():
    predictions = torch.tensor([0, 0, 0, 1, 3])
    y = torch.tensor([0, 0, 1, 1, 2])
    measure = ClassificationMeasure(4)
    assert measure.features(torch.eye(4)[predictions], y).tolist() == pytest.approx([2 / 3, 1.0, 0.0, 0.0])
    assert float(measure.score(torch.eye(4)[predictions], y)) == pytest.approx(3 / 5)
    assert measure.feature_names == ("dev_precision_0", "dev_precision_1", "dev_precision_2", "dev_precision_3")


@given(outputs=logits)
def test_features_and_score_agree_with_scikit_learn(outputs):
    from sklearn.metrics import accuracy_score, precision_score

    z = torch.from_numpy(outputs)
    y, predictions, measure = targets_for(z), z.argmax(1), ClassificationMeasure(4)
    precision = precision_score(y, predictions, labels=range(4), average=None, zero_division=0.0)
    assert measure.features(z, y).numpy() == pytest.approx(precision)
    assert float(measure.score(z, y)) == pytest.approx(accuracy_score(y, predictions))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_counts_do_not_stop_where_the_dtype_of_outputs_does(dtype):
    """One by one, float16 counts to 2,048 and bfloat16 to 256."""
    z = torch.zeros(10_000, 2, dtype=dtype)
    y = (torch.arange(10_000) >= 2_500).long()
    assert ClassificationMeasure(2).features(z, y).tolist() == [0.25, 0.0]
    assert float(ClassificationMeasure(2).score(z, y)) == 0.25


def test_classes_are_counted_beyond_what_float32_counts():
    many = torch.tensor([1]).expand(2**24 + 5)
    assert class_counts(many, 3).tolist() == [0, 2**24 + 5, 0]
    assert class_counts(torch.tensor([0, 2, 2, 0]), 3, torch.tensor([True, True, False, True])).tolist() == [2, 0, 1]


@pytest.mark.parametrize("method", ["objective", "score", "features"])
def test_a_batch_of_students_is_measured_as_each_of_them(method):
    z = torch.randn(7, 20, 4, generator=torch.Generator().manual_seed(0))
    y = torch.randint(4, (7, 20), generator=torch.Generator().manual_seed(1))
    measured = getattr(ClassificationMeasure(4), method)
    torch.testing.assert_close(
        torch.func.vmap(measured)(z, y), torch.stack([measured(a, b) for a, b in zip(z, y, strict=True)])
    )
    torch.testing.assert_close(
        torch.func.vmap(measured, in_dims=(0, None))(z, y[0]), torch.stack([measured(a, y[0]) for a in z])
    )


def test_measures_have_no_features_unless_they_say_so():
    class Half(Measure):
        def objective(self, outputs, targets):
            return outputs.mean() * 0 + 0.5

        score = objective

    assert Half().feature_names == ()
    assert Half().features(torch.ones(3, 2), torch.ones(3)).shape == (0,)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_outside_its_range_is_an_error(temperature):
    with pytest.raises(ValueError, match="finite number above 0"):
        ClassificationMeasure(3, temperature)


def test_a_single_class_is_an_error():
    with pytest.raises(ValueError, match="at least 2 classes"):
        ClassificationMeasure(1)


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_digits_cut_in_two():
    from sklearn.datasets import load_digits

    task = make_task("digits")
    assert (task.name, task.dataset, task.num_outputs) == ("digits", "digits", 10)
    assert task.pool[0].shape == (1000, 64)
    assert task.test[0].shape == (797, 64)
    assert task.pool[0].dtype == torch.float32
    assert (float(task.pool[0].min()), float(task.pool[0].max())) == (0.0, 1.0)

    def rows(inputs, targets):
        return sorted(map(tuple, np.column_stack([inputs, targets]).tolist()))

    everything = rows(torch.cat([task.pool[0], task.test[0]]) * 16, torch.cat([task.pool[1], task.test[1]]))
    assert everything == rows(*load_digits(return_X_y=True))


def test_digits_are_split_by_the_seed():
    first, again, other = (make_task("digits", split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.pool[0], again.pool[0])
    assert not torch.equal(first.pool[0], other.pool[0])
    first.pool[0].zero_()  # a task owns its tensors: writing to one must not reach the next
    assert torch.equal(make_task("digits").pool[0], again.pool[0])


def test_digits_need_a_test_split():
    assert len(make_task("digits", pool_size=1796).test[0]) == 1
    for size in (0, 1797):
        with pytest.raises(ValueError, match=f"pool_size is {size}: expected 1 to 1796"):
            make_task("digits", pool_size=size)


# --- synthetic -------------------------------------------------------------------------------------------------------


def test_synthetic_images_are_quick_balanced_and_repeatable():
    start = time.process_time()
    task = make_task("synthetic")
    assert time.process_time() - start < 10  # about one second; generous, since machines are shared
    assert (task.name, task.dataset) == ("synthetic", "synthetic")
    assert task.pool[0].shape == (5000, 3, 32, 32)
    assert task.test[0].shape == (1000, 3, 32, 32)
    assert task.pool[0].dtype == torch.float32
    assert task.pool[0].abs().max() <= 0.5
    assert torch.bincount(task.pool[1]).tolist() == [500] * 10
    assert task.augment is not None


def test_synthetic_images_come_from_the_seed_and_test_does_not_depend_on_the_pool():
    first, again, other = (make_synthetic(pool_size=50, test_size=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.pool[0], again.pool[0])
    assert not torch.equal(first.pool[0], other.pool[0])
    assert torch.equal(first.test[0], make_synthetic(pool_size=70, test_size=20, seed=0).test[0])
    assert not torch.isclose(first.pool[0][:20], first.test[0]).flatten(1).all(1).any()


def test_synthetic_classes_can_be_learned_but_not_by_a_linear_model():
    task = make_synthetic(pool_size=1200, test_size=600)
    angle = 2 * np.pi * torch.arange(3) / 3

    def ink_hue(images):  # of each image's most colourful pixels: the class's colour statistic
        a = torch.einsum("nchw,c->nhw", images, angle.cos()).flatten(1)
        b = torch.einsum("nchw,c->nhw", images, angle.sin()).flatten(1)
        strongest = (a**2 + b**2).topk(100, dim=1).indices
        return torch.atan2(b.gather(1, strongest).mean(1), a.gather(1, strongest).mean(1))

    def nearest(x, y, queries):
        distance = (queries[:, None] - x[None]).abs() % (2 * np.pi)
        distance = torch.minimum(distance, 2 * np.pi - distance)
        return y[distance.topk(25, largest=False).indices].mode(1).values

    by_hue = nearest(ink_hue(task.pool[0]), task.pool[1], ink_hue(task.test[0])) == task.test[1]
    assert 0.2 < float(by_hue.double().mean()) < 0.7  # chance is 0.1

    x, y = task.pool[0].flatten(1).double(), torch.eye(10, dtype=torch.float64)[task.pool[1]]
    weights = torch.linalg.solve(x.T @ x + 100 * torch.eye(3072), x.T @ y)
    linear = (task.test[0].flatten(1).double() @ weights).argmax(1) == task.test[1]
    assert float(linear.double().mean()) < 0.5


def test_cifar_tasks_accept_the_synthetic_images_and_say_so(tmp_path):
    ten = make_task("cifar10", dataset="synthetic", pool_size=40, data_root=tmp_path)
    assert (ten.name, ten.dataset, ten.num_outputs, len(ten.pool[0])) == ("synthetic", "synthetic", 10, 40)
    hundred = make_task("cifar100", dataset="synthetic", pool_size=300)
    assert (hundred.name, hundred.dataset, hundred.num_outputs) == ("synthetic-100", "synthetic", 100)
    assert torch.bincount(hundred.pool[1]).tolist() == [3] * 100


def test_synthetic_sizes_outside_their_range_are_errors():
    with pytest.raises(ValueError, match="10 or 100 classes"):
        make_synthetic(num_classes=20)
    with pytest.raises(ValueError, match="at least one sample"):
        make_task("synthetic", pool_size=0)


# --- wine ------------------------------------------------------------------------------------------------------------


def test_wines_are_all_of_scikit_learns_standardised_by_the_pool():
    from sklearn.datasets import load_wine

    task = make_task("wine")
    assert (task.name, task.dataset, task.num_outputs) == ("wine", "wine", 3)
    assert task.pool[0].shape == (128, 13)
    assert task.test[0].shape == (50, 13)
    assert task.pool[0].dtype == torch.float32
    torch.testing.assert_close(task.pool[0].mean(0), torch.zeros(13), rtol=0, atol=1e-5)
    torch.testing.assert_close(task.pool[0].std(0, correction=0), torch.ones(13))
    measurements, growers = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(178)
    pool = measurements[order[:128]]
    expected = (measurements[order] - pool.mean(0)) / pool.std(0)
    inputs = torch.cat([task.pool[0], task.test[0]]).numpy()
    np.testing.assert_allclose(inputs, expected, rtol=1e-5, atol=1e-5)
    assert torch.cat([task.pool[1], task.test[1]]).tolist() == growers[order].tolist()
    for size in (1, 178):
        with pytest.raises(ValueError, match=f"pool_size is {size}: expected 2 to 177"):
            make_task("wine", pool_size=size)
