# %% [markdown]
# # An RL teacher
#
# An RL teacher sees observations and rewards only: no gradient, no knowledge of the student. Any algorithm for continuous
# actions will do. This tutorial trains DDPG, as *Learning to Teach with Dynamic Loss Functions* compares with, on the
# training of small networks, and measures honestly whether it has learned anything in half a minute.

# %%
import agents
import gymnasium as gym
import matplotlib.pyplot as plt
import meta
import numpy as np
import teachenv  # noqa: F401 (registers the environments)
from stable_baselines3 import PPO

# %% [markdown]
# ## What it acts on
#
# A step is small here: the loss `"class-weights"` has one coordinate for each of the ten classes, the weight of its
# samples in cross-entropy. The pool's labels are 40 % wrong. One environment step is one student step; sixteen students
# are trained in one batched computation.

# %%
options = {
    "loss": "class-weights",
    "label_noise": 0.4,
    "label_noise_kind": "symmetric",
    "learning_rate": 0.2,
}
students = gym.make_vec("TeachDigits-v0", num_envs=16, **options)
print("action", students.single_action_space)
print("observation", students.unwrapped.OBSERVATION_FIELDS)

# %% [markdown]
# ## DDPG
#
# `agents.DDPG` is Stable-Baselines3's, with an actor that starts at the zero action (the untaught student) and small
# noise. Out of the box DDPG runs to the edge of the box, where students are ruined: of 256 students 71 % of the test
# answers were wrong in the [benchmarks](../benchmarks.md). `action_penalty` keeps it near what works.
#
# After every two training runs of the sixteen students we measure J with the noise off, on 32 students with other splits.


# %%
def objective(teacher, seed=500):
    """J at the end of 32 fresh training runs."""
    fresh = gym.make_vec("TeachDigits-v0", num_envs=32, **options)
    observation, _ = fresh.reset(seed=seed)
    for _ in range(60):
        if teacher is None:
            action = np.zeros(fresh.action_space.shape, np.float32)
        else:
            action, _ = teacher.predict(observation, deterministic=True)
        observation, *_, info = fresh.step(action)
    return info["final_info"]["objective"]


teacher = agents.DDPG(
    "AttentionPolicy",
    students,
    learning_rate=1e-3,
    action_penalty=10,
    noise=0.1,
    seed=0,
)
steps, curve = [0], [objective(teacher).mean()]
for _ in range(6):
    teacher.learn(total_timesteps=2 * 16 * 60, reset_num_timesteps=False)
    steps.append(teacher.num_timesteps)
    curve.append(objective(teacher).mean())
untaught = objective(None)

figure, axis = plt.subplots(
    figsize=(6, 3.4), num="J of fresh students against student steps spent on DDPG"
)
axis.plot(steps, curve, color="#D55E00", marker="o", label="DDPG")
axis.axhline(untaught.mean(), color="#999999", linestyle="--", label="no teacher")
axis.set(xlabel="student steps spent on the teacher", ylabel="J of fresh students")
axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
print(f"no teacher {untaught.mean():.3f}, DDPG at the end {curve[-1]:.3f}")

# %% [markdown]
# ## Is the difference real?
#
# The same 32 splits and seeds were used with and without the teacher, so that the difference can be taken pair by pair:

# %%
difference = objective(teacher) - untaught
interval = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
print(
    f"J with DDPG minus J without: {difference.mean():+.4f} ± {interval:.4f} (95 %, 32 pairs, one teacher)"
)

# %% [markdown]
# That is one teacher and a short training run. How RL fares over ten seeds, tuned, with a budget eight times as large, and what
# gradient teachers do with the same budget, stands in [Benchmarks](../benchmarks.md).
#
# ## Another algorithm
#
# Stable-Baselines3's own classes take the students through `meta.GymVecEnv`. `save` and `load` are as you know them.

# %%
ppo = PPO("MlpPolicy", meta.GymVecEnv(students), n_steps=60, batch_size=240, seed=0)
ppo.learn(total_timesteps=16 * 60)
teacher.save("ddpg_teacher")
again = agents.DDPG.load("ddpg_teacher")
observation, _ = students.reset(seed=0)
same = np.array_equal(
    teacher.predict(observation, deterministic=True)[0],
    again.predict(observation, deterministic=True)[0],
)
print("the loaded teacher acts as the saved one:", same)

# %% [markdown]
# ## Where to go from here
#
# - [Write an RL teacher](../how-to/rl_teacher.md): a loop without Stable-Baselines3, and samples instead of classes.
# - [A gradient teacher](gradient_teacher.md) learns from the derivative of J instead.
