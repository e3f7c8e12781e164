# %% [markdown]
# # Distillation with influence
#
# In distillation a large network, the teacher, trains a small one, the student, by its outputs. Which samples of a batch
# help the student on data that it has not seen? `meta.influence` answers that for every sample of a batch, with one
# forward-mode pass. `meta.LGTM` (Ren et al. 2023) is a distillation whose teacher listens to it.

# %%
import matplotlib.pyplot as plt
import meta
import numpy as np
import torch
from meta.distillation import KD, FineTuning, ProKT
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

x, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(y))
x, y = torch.as_tensor(x[order] / 16, dtype=torch.float32), torch.as_tensor(y[order])
train, held_out, test = (
    meta.Batch(x[:600], y[:600]),
    meta.Batch(x[600:800], y[600:800]),
    meta.Batch(x[800:], y[800:]),
)


def network(width):
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))


def accuracy(model):
    with torch.no_grad():
        return float((model(test.inputs).argmax(1) == test.labels).float().mean())


# %% [markdown]
# ## The influence of a sample
#
# Let v be the gradient of the held-out loss. A gradient step on the loss ℓᵢ of sample i lowers the held-out loss by η Iᵢ,
# with Iᵢ = ⟨∇ℓᵢ, v⟩ and η the learning rate. We train a network for a few steps, give a fifth of a batch wrong labels, and look at the influence
# of right and wrong ones.


# %%
def losses(model, batch):
    return F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")


torch.manual_seed(0)
model = network(32)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(8):
    optimizer.zero_grad()
    losses(model, train).mean().backward()
    optimizer.step()

labels = train.labels.clone()
labels[:120] = (labels[:120] + 1 + torch.randint(9, (120,))) % 10
spoiled = meta.Batch(train.inputs, labels)
v = meta.held_out_gradient(model, losses, held_out)
influence = meta.influence(model, losses, spoiled, v)
print(
    f"harmful samples: {(influence[:120] < 0).float().mean():.0%} of the wrong labels, {(influence[120:] < 0).float().mean():.0%} of the right ones"
)

figure, axis = plt.subplots(
    figsize=(6, 3.2), num="Influence of samples with right and with wrong labels"
)
bins = np.linspace(float(influence.min()), float(influence.max()), 40)
axis.hist(influence[120:].numpy(), bins, color="#0072B2", label="right labels")
axis.hist(
    influence[:120].numpy(), bins, color="#D55E00", alpha=0.8, label="wrong labels"
)
axis.set(
    xlabel="influence (positive: a step on the sample helps)",
    ylabel="samples",
    yscale="log",
)
axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))

# %% [markdown]
# The prediction can be checked: take the step, and measure.

# %%
with torch.no_grad():
    before = float(losses(model, held_out).mean())
rate = 1e-3
mean_gradient = torch.autograd.grad(
    losses(model, spoiled).mean(), list(model.parameters())
)
with torch.no_grad():
    for parameter, gradient in zip(model.parameters(), mean_gradient, strict=True):
        parameter -= rate * gradient
    after = float(losses(model, held_out).mean())
print(
    f"held-out loss fell by {before - after:.3e}; predicted {rate * float(influence.mean()):.3e}"
)

# %% [markdown]
# ## Four ways to train a small student
#
# The student has four hidden units, the teacher 128. All methods have one trainer: `step(batch, feedback)`.
#
# - *Labels alone*: no teacher.
# - *KD*: a trained teacher that stays as it is.
# - *ProKT*: the teacher learns beside its student, and stays near it.
# - *LGTM*: ProKT whose teacher also follows the influence on held-out samples.

# %%
STEPS = 150
settings = meta.DistillationSettings(steps=STEPS, student_rate=2e-2, teacher_rate=1e-3)


def run(distiller):
    for rows, feedback in zip(
        torch.randint(600, (STEPS, 32)), torch.randint(200, (STEPS, 32)), strict=True
    ):
        distiller.step(train.at(rows), held_out.at(feedback))


def distil(method, seed):
    torch.manual_seed(seed)
    student, teacher = network(4), network(128)
    if method == "KD":
        run(FineTuning(teacher, settings))
    distillers = {
        "labels alone": lambda: FineTuning(student, settings),
        "KD": lambda: KD(teacher, student, settings),
        "ProKT": lambda: ProKT(teacher, student, settings),
        "LGTM": lambda: meta.LGTM(teacher, student, settings, mode="meta"),
    }
    run(distillers[method]())
    return accuracy(student)


methods = ("labels alone", "KD", "ProKT", "LGTM")
results = {
    method: 100 * np.array([distil(method, seed) for seed in range(3)])
    for method in methods
}
for method, accuracies in results.items():
    print(
        f"{method:13} test accuracy {accuracies.mean():.1f} ± {accuracies.std(ddof=1):.1f} %  (3 seeds)"
    )

figure, axis = plt.subplots(
    figsize=(6, 3.2), num="Test accuracy of small students, by method and seed"
)
for place, accuracies in enumerate(results.values()):
    axis.scatter([place] * len(accuracies), accuracies, color="#0072B2", alpha=0.6)
    axis.plot([place - 0.2, place + 0.2], [accuracies.mean()] * 2, color="#D55E00")
axis.set(xticks=range(len(methods)), xticklabels=methods, ylabel="test accuracy %")

# %% [markdown]
# Points are seeds, bars their means. Nothing was tuned, and LGTM saw the labels of 200 samples more than the others, its
# feedback. So the figure shows how the methods are called, and not which is best. [Distillation influence and LGTM](../lgtm.md) has
# eleven methods on MRPC, where none stands out, and MNIST with wrong labels, where LGTM does.
#
# ## Where to go from here
#
# - [Distil a network](../how-to/distillation.md): networks with dicts of inputs, and the environment `TeachDistill-v0`.
