# %% [markdown]
# # Wrong labels and attribution
#
# Data sets have wrong labels. This tutorial finds them in two ways, and then asks of one mistake of a student which
# training samples caused it.
#
# 1. `meta.label_issues` needs nothing but the data: students judge samples that they were not trained on.
# 2. `meta.attribute` needs a few test samples whose labels are right: it differentiates a whole training run with respect to
#    the weight of each sample.
#
# The data are scikit-learn's handwritten digits, 8 × 8 pixels. We make a tenth of the labels wrong, so that we know
# which ones they are.

# %%
import gymnasium as gym
import matplotlib.pyplot as plt
import meta
import numpy as np
import teachenv  # noqa: F401 (registers the environments)
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

x, y = load_digits(return_X_y=True)
random = np.random.default_rng(0)
wrong = random.permutation(len(y))[:180]
labels = y.copy()
labels[wrong] = (y[wrong] + random.integers(1, 10, len(wrong))) % 10
is_wrong = labels != y
print(f"{is_wrong.sum()} of {len(y)} labels are wrong")

# %% [markdown]
# ## Which labels are wrong?
#
# A round cuts the samples into five folds and trains a student on four of them, which then judges the fifth. The next
# round trains on what the round before it found. Two repeats and three rounds are fewer than the defaults, and enough here.

# %%
issues = meta.label_issues((x, labels), repeats=2, rounds=3)
suspects = issues.suspects()
print(
    f"{len(suspects)} suspects, of which {is_wrong[suspects].sum()} have a wrong label"
)
print(f"area under the curve: {roc_auc_score(is_wrong, issues.scores):.4f}")

# %% [markdown]
# A suspect is a sample whose likely class is another one than its label. For most of them `likely` is the right answer:

# %%
print(
    f"likely class is the true one for {(issues.likely[suspects] == y[suspects]).mean():.1%} of the suspects"
)

figure, axes = plt.subplots(
    2,
    8,
    figsize=(9, 3),
    num="The sixteen most suspect digits, with given and likely labels",
)
for axis, sample in zip(axes.flat, suspects, strict=False):
    axis.imshow(x[sample].reshape(8, 8), cmap="gray_r")
    axis.set_title(
        f"given {labels[sample]}\nlikely {issues.likely[sample]}", fontsize=9
    )
    axis.axis("off")
figure.tight_layout()

# %% [markdown]
# ## Which samples caused an error?
#
# The loss family `"data-weights"` gives each sample of the pool (the labelled samples that students may learn from) a
# weight, by default 1. `meta.attribute` differentiates the loss of test samples after the *whole* training with respect
# to these weights. A positive value says: with less weight on this sample, the test's loss would have been lower.
#
# A fifth of the environment's labels is wrong (`label_noise=0.2`); `task.test` is clean.

# %%
env = gym.make(
    "TeachDigits-v0",
    loss="data-weights",
    train_on="pool",
    horizon=100,
    momentum=0.0,
    label_noise=0.2,
)
task = env.unwrapped.task
inputs, targets = task.test
together = meta.attribute(
    env, tests=(inputs[:100], targets[:100]), together=True, seeds=[0]
)

clean = gym.make("TeachDigits-v0").unwrapped.task
spoiled = np.asarray(task.pool[1] != clean.pool[1])
ranked = together.ranked()
print(
    f"wrong labels among the first 20: {spoiled[ranked[:20]].sum()}, among the first 100: {spoiled[ranked[:100]].sum()}"
)

# %% [markdown]
# The curve shows how many of the wrong labels one finds by looking at the most harmful samples first:

# %%
figure, axis = plt.subplots(
    figsize=(6, 3.5), num="Share of wrong labels found against samples looked at"
)
looked = np.arange(1, len(ranked) + 1)
axis.plot(
    looked,
    np.cumsum(spoiled[ranked]) / spoiled.sum(),
    color="#0072B2",
    label="by attribution",
)
axis.plot(
    looked,
    looked / len(looked),
    color="#999999",
    linestyle="--",
    label="in random order",
)
axis.set(
    xlabel="samples looked at",
    ylabel="share of wrong labels found",
    xlim=(0, len(looked)),
    ylim=(0, 1.02),
)
axis.legend(frameon=False, loc="lower right")

# %% [markdown]
# ## One test image
#
# Without `together=True` each test has its own row. Here is the test that the student gets most wrong, and the samples
# that raised and lowered its loss most.

# %%
one = meta.attribute(env, tests=(inputs[:20], targets[:20]), seeds=[0])
worst = int(np.argmax(one.losses))
order = one.ranked(worst)
figure, axes = plt.subplots(
    2,
    6,
    figsize=(9, 3.6),
    num="A test digit, and the training digits that harmed and helped it most",
)
for row, (samples, what) in enumerate(
    ((order[:5], "harmful"), (order[::-1][:5], "helpful"))
):
    axes[row, 0].imshow(np.asarray(inputs[worst]).reshape(8, 8), cmap="gray_r")
    axes[row, 0].set_title(f"test: {int(targets[worst])}", fontsize=9)
    for axis, sample in zip(axes[row, 1:], samples, strict=True):
        axis.imshow(np.asarray(task.pool[0][sample]).reshape(8, 8), cmap="gray_r")
        axis.set_title(f"{what}\nlabel {int(task.pool[1][sample])}", fontsize=9)
for axis in axes.flat:
    axis.axis("off")
figure.tight_layout()

# %% [markdown]
# ## Where to go from here
#
# - [Which samples helped](../attribution.md) has the definitions, how well the values predict retraining, and costs.
# - [Find wrong labels](../how-to/wrong_labels.md) does it for a CSV file and for a network of your own.
