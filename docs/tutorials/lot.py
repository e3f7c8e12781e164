# %% [markdown]
# # Learning from Teaching in your training loop
#
# Learning from Teaching (LoT; Jin et al. 2024) regularises a model by how easy it is to imitate: one or several students
# learn from the model's outputs, and the model is penalised for what they fail to learn. The idea is that structure is
# easier to imitate than noise. `meta.LoT` adds it to a training loop of your own in two lines.
#
# Where does it help? Where a model overfits. So this tutorial makes it overfit: 200 handwritten digits, 40 % of their
# labels wrong, and a network that can memorise them.

# %%
import matplotlib.pyplot as plt
import meta
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

x, y = load_digits(return_X_y=True)
x, y = torch.as_tensor(x / 16, dtype=torch.float32), torch.as_tensor(y)
order = torch.as_tensor(np.random.default_rng(0).permutation(len(y)))
x, y = x[order], y[order]
generator = torch.Generator().manual_seed(0)
noisy = y[:200].clone()
chosen = torch.rand(200, generator=generator) < 0.4
noisy[chosen] = torch.randint(10, (int(chosen.sum()),), generator=generator)
print(
    f"{(noisy != y[:200]).float().mean():.0%} of the labels are wrong; {len(y) - 200} clean samples are the test"
)


def network(width=64):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


# %% [markdown]
# ## The loop
#
# This is a plain PyTorch loop. `lot(logits, inputs)` is the term to add to the loss; `lot.step(model)` trains the
# student. With `alpha=0` the loop is what it was without them, to the last bit.


# %%
def train(seed, alpha, epochs=60, weight_decay=0.0):
    torch.manual_seed(seed)
    model, student = network(), network()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay
    )
    data = torch.utils.data.TensorDataset(x[:200], noisy)
    loader = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True)
    lot = meta.LoT(
        student,
        torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9),
        alpha=alpha,
        data=loader,
    )
    curve = []
    for _ in range(epochs):
        for inputs, targets in loader:
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets) + lot(logits, inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lot.step(model)
        with torch.no_grad():
            curve.append(float((model(x[200:]).argmax(1) == y[200:]).float().mean()))
    return curve


settings = {
    "without students": {"alpha": 0.0},
    "weight decay 0.01": {"alpha": 0.0, "weight_decay": 0.01},
    "LoT, α = 1": {"alpha": 1.0},
    "LoT, α = 4": {"alpha": 4.0},
}
curves = {
    name: np.array([train(seed, **options) for seed in range(3)])
    for name, options in settings.items()
}
for name, runs in curves.items():
    print(
        f"{name:18} test accuracy {100 * runs[:, -1].mean():.1f} ± {100 * runs[:, -1].std(ddof=1):.1f} %"
    )

# %% [markdown]
# Three seeds each; ± is the standard deviation over them.

# %%
figure, axis = plt.subplots(
    figsize=(6.5, 3.8),
    num="Test accuracy against epochs, with and without Learning from Teaching",
)
for (name, runs), color in zip(
    curves.items(), ("#999999", "#D55E00", "#56B4E9", "#0072B2"), strict=True
):
    axis.plot(np.arange(1, 61), runs.mean(0), color=color, label=name)
    axis.fill_between(
        np.arange(1, 61), runs.min(0), runs.max(0), color=color, alpha=0.15, linewidth=0
    )
axis.set(xlabel="epoch", ylabel="test accuracy", xlim=(0, 60))
axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))

# %% [markdown]
# ## What to keep in mind
#
# - The student costs a forward and a backward pass of its own in each step.
# - Compare with weight decay and with early stopping: they are cheaper, and regularise too.
# - Where nothing overfits, LoT can only lose. [Learning from Teaching](../lot.md) has what was measured: it pays on few
#   images with wrong labels and on little text, and not in short training runs, in control or in games.
# - Validate α on held-out data. Here the test was looked at for the curves alone, and nothing was chosen by it.
