# %% [markdown]
# # A gradient teacher
#
# A training run is a function: from the actions of a teacher to J, what the student is worth on dev in the end. teachenv
# differentiates it exactly, by reverse mode through all the student's steps. This tutorial looks at that gradient, checks
# it, and lets a teacher follow it until it has found out that labels are wrong, and how.

# %%
import gymnasium as gym
import matplotlib.pyplot as plt
import meta
import numpy as np
import teachenv  # noqa: F401 (registers the environments)

# %% [markdown]
# ## The gradient of an episode
#
# `meta.ActionGradient` is a wrapper. With the step that ends an episode it hands out dJ/da for every action a of the
# episode. We check one coordinate against the difference quotient, in double precision.

# %%
env = meta.ActionGradient(gym.make("TeachDigits-v0", horizon=20, dtype="float64"))


def episode(actions):
    env.reset(seed=0)
    for action in actions:
        *_, info = env.step(action)
    return info


actions = np.zeros((20, *env.action_space.shape))
gradient = episode(actions)["action_gradient"]
largest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
up, down = actions.copy(), actions.copy()
up[largest], down[largest] = 1e-5, -1e-5
quotient = (episode(up)["objective"] - episode(down)["objective"]) / 2e-5
print(
    f"shape {gradient.shape}; largest entry: by reverse mode {gradient[largest]:.9f}, by differences {quotient:.9f}"
)

# %% [markdown]
# ## A task where a teacher can help
#
# The digits, but 40 % of the labels of each class are moved to the next class, on train and dev alike: nobody has a clean
# label. The loss is the bilinear one of L2T-DLF (Wu et al. 2018), −Σ_k Φ[y, k] log p_k: with Φ the identity it is
# cross-entropy. The teacher's action is Φ minus the identity, a 10 × 10 matrix.

# %%
noisy = {
    "label_noise": 0.4,
    "label_noise_kind": "pair",
    "learning_rate": 0.2,
    "lr_schedule": "linear",
}
noisy |= {"loss": "bilinear", "loss_kwargs": {"scale": 1.0}}
students = gym.make_vec("TeachDigits-v0", num_envs=16, **noisy)
teacher = meta.RMD("AttentionPolicy", students, learning_rate=0.05, seed=0)

# %% [markdown]
# `learn` has Stable-Baselines3's interface. An update trains sixteen students of sixty steps, each on another split of
# the pool, and follows the mean gradient. After every five updates we measure J of sixteen students that the teacher has not
# trained on.


# %%
def taught(teacher, num_envs, seed, **more):
    """Trains fresh students and returns the environment, with the mean action."""
    fresh = gym.make_vec("TeachDigits-v0", num_envs=num_envs, **noisy, **more)
    observation, info = fresh.reset(seed=seed)
    mean = np.zeros(fresh.unwrapped.single_action_space.shape)
    for _ in range(60):
        action, _ = teacher.predict(observation, deterministic=True)
        observation, *_, info = fresh.step(action)
        mean += action.mean(0) / 60
    return fresh, info["final_info"]["objective"].mean(), mean


updates, objectives = [0], [taught(teacher, 16, seed=500)[1]]
for _ in range(5):
    teacher.learn(total_timesteps=5 * 16 * 60, reset_num_timesteps=False)
    updates.append(updates[-1] + 5)
    objectives.append(taught(teacher, 16, seed=500)[1])

figure, axis = plt.subplots(
    figsize=(6, 3.2), num="J of fresh students against updates of the teacher"
)
axis.plot(updates, objectives, color="#0072B2", marker="o")
axis.set(xlabel="updates of the teacher", ylabel="J of fresh students")
print("J before and after:", f"{objectives[0]:.3f}", f"{objectives[-1]:.3f}")

# %% [markdown]
# ## What it has learned
#
# Rows are labels, columns the classes that they credit. The diagonal below the main one says: a label c often stands on
# a sample of class c − 1. That is the noise that we put in, and nobody told the teacher.

# %%
fresh, _, mean = taught(teacher, 64, seed=1000, train_on="pool")
figure, axis = plt.subplots(
    figsize=(4.6, 3.8),
    num="Mean of the taught coefficients less those of cross-entropy",
)
matrix = mean.reshape(10, 10)
image = axis.imshow(
    matrix, cmap="RdBu_r", vmin=-np.abs(matrix).max(), vmax=np.abs(matrix).max()
)
axis.set(xlabel="class", ylabel="label", xticks=range(10), yticks=range(10))
figure.colorbar(image, label="Φ − I")


class Neutral:
    """Takes the zero action: cross-entropy."""

    def predict(self, observation, deterministic=True):
        return np.zeros((len(observation), 100), np.float32), None


plain, _, _ = taught(Neutral(), 64, seed=1000, train_on="pool")
for name, env in (("cross-entropy", plain), ("taught", fresh)):
    errors = 100 * env.unwrapped.evaluate_final("test")["test_error"]
    print(
        f"{name:14} test error {errors.mean():.1f} ± {1.96 * errors.std() / 8:.1f} %  (64 students)"
    )

# %% [markdown]
# Neither side was tuned here, and this is one teacher. With all methods tuned over equal grids, ten teachers and fixed
# losses that suit noise better the distance is smaller, and it stays: see [Benchmarks](../benchmarks.md).
#
# ## Where to go from here
#
# - [Differentiating a training run](../hypergradients.md): methods, memory, and processes of your own.
# - [A learned loss in your loop](../how-to/learned_loss.md) takes the loss out of the teacher.
