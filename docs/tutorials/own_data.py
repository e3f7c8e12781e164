# %% [markdown]
# # Your own data, network and loss
#
# In teachenv the training of a student network is an episode of a Gymnasium environment. This tutorial makes such an
# environment of your arrays and your PyTorch network, looks at one episode, adds a loss of your own that a teacher can
# steer, and compares students with and without a teacher on test data.
#
# The data stand for yours: scikit-learn's breast cancer table, 569 rows of 30 measurements, two classes.

# %%
import matplotlib.pyplot as plt
import meta
import numpy as np
import teachenv
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional as F

x, y = load_breast_cancer(return_X_y=True)
x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
order = np.random.default_rng(0).permutation(len(x))
x, y = x[order], y[order]

# %% [markdown]
# ## A task
#
# A `teachenv.Task` is data: a labelled *pool*, from which each episode draws its train and dev samples anew, and a *test*
# split, which no teacher ever sees.

# %%
task = teachenv.Task(
    "tumours",
    dataset="breast cancer",
    pool=(x[:300], y[:300]),
    test=(x[300:], y[300:]),
    num_outputs=2,
)


def student():
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))


options = {
    "task": task,
    "student": student,
    "horizon": 40,
    "batch_size": 16,
    "dev_size": 100,
    "learning_rate": 0.05,
}
env = teachenv.TeachEnv(**options)
print(env.action_space, env.observation_space, sep="\n")
print(env.unwrapped.OBSERVATION_FIELDS)

# %% [markdown]
# ## An episode
#
# An action sets the loss of the next student step. The zero action is *neutral*: it is plain cross-entropy. The reward
# is the increase of J, the dev accuracy smoothed so that it has a gradient; so the rewards of an episode add up to what
# the student gained on dev.

# %%
observation, info = env.reset(seed=0)
start, rewards, accuracies = info["objective"], [], [info["dev_accuracy"]]
terminated = False
while not terminated:
    observation, reward, terminated, truncated, info = env.step(
        np.zeros(env.action_space.shape, np.float32)
    )
    rewards.append(reward)
    accuracies.append(info["dev_accuracy"])
print(
    f"sum of rewards {sum(rewards):.6f}, J at the end minus J at the start {info['objective'] - start:.6f}"
)

figure, axis = plt.subplots(
    figsize=(6, 3.2), num="Accuracy on dev after each student step of one episode"
)
axis.plot(accuracies, color="#0072B2")
axis.set(xlabel="student step", ylabel="accuracy on dev", xlim=(0, 40))

# %% [markdown]
# ## A loss of your own
#
# A *loss family* maps an action in the box [−1, 1]ⁿ to a loss. Here one coordinate sets the γ of a focal loss, which
# gives samples that are already right less weight; another sets how much the first class counts.


# %%
class Focused(teachenv.LossFamily):
    """Focal loss with γ = max(0, 2 a₀), times 2^a₁ for the first class; the zero action is cross-entropy."""

    def action_size(self, num_outputs, batch_size):
        return 2

    def __call__(self, action, prediction, targets):
        losses = F.cross_entropy(prediction.outputs, targets, reduction="none")
        weight = (1 - torch.exp(-losses)).clamp(min=1e-6) ** (
            2 * action[0].clamp(min=0)
        )
        return (
            losses * weight * torch.where(targets == 0, 2.0 ** action[1], 1.0)
        ).mean()


students = teachenv.TeachVectorEnv(num_envs=16, loss=Focused(), **options)
teacher = meta.RMD("AttentionPolicy", students, learning_rate=0.03, seed=0)
teacher.learn(
    total_timesteps=15 * 16 * 40
)  # fifteen updates, each by sixteen training runs of forty steps

# %% [markdown]
# ## Is it better?
#
# Fresh students, trained on the whole pool, measured on test. The learning rate stayed as it was, and one seed of a
# teacher is no evidence; `teachenv.compare` does this properly ([Compare on your data](../how-to/compare.md)).


# %%
def test_errors(teacher):
    fresh = teachenv.TeachVectorEnv(
        num_envs=64, loss=Focused(), train_on="pool", **options
    )
    observation, _ = fresh.reset(seed=1000)
    for _ in range(40):
        if teacher is None:
            actions = np.zeros(fresh.action_space.shape, np.float32)
        else:
            actions, _ = teacher.predict(observation, deterministic=True)
        observation, *_ = fresh.step(actions)
    return fresh.evaluate_final("test")["test_error"]


for name, errors in (
    ("cross-entropy", test_errors(None)),
    ("taught", test_errors(teacher)),
):
    interval = 1.96 * errors.std(ddof=1) / np.sqrt(len(errors))
    print(
        f"{name:14} test error {100 * errors.mean():.2f} ± {100 * interval:.2f} %  (64 students)"
    )

# %% [markdown]
# ## Where to go from here
#
# - [Bring your own data and network](../how-to/own_data.md): images, texts, other measures than accuracy, a trusted dev
#   set.
# - [Write a gradient teacher](gradient_teacher.md) and [Write an RL teacher](rl_teacher.md).
