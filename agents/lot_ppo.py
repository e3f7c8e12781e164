"""PPO regularised by how well students can imitate its policy (LoT for reinforcement learning; Jin et al. 2024).

Every gradient step of PPO has α Σ_i λ_i τ² KL(π_Si ‖ π_T) on its minibatch's observations added to its loss; then each
student takes one step along τ² KL(π_T ‖ π_Si) on the same minibatch, and N − 1 on observations of the last rollouts,
whose labels are the present policy's. Students never act, and their value networks are never trained.

N counts gradient steps, as in the paper. The released code sweeps N times over ten cached rollouts after each update
instead, which comes to 13.5 student steps for each of the policy's; and all ten entries of its cache are the same
buffer, overwritten in place. Here they are the last rollouts (`replay`).

Two further ways to train, to compare with, are the same loop. `labels=True`: the student also learns from the policy's
rewards, by PPO's clipped loss on the policy's own rollouts (deep mutual learning; a student that acted too would need
steps of the environment for itself). `student_steps=0`: the student stays as it is, a policy that was trained before
(self-distillation; "kickstarting", Schmitt et al. 2018).

How much α weighs depends on how large KL is, which in control is about a thousandth. `term_share` chooses α by
measuring: see the class.

With α = 0 the policy is SB3's PPO's to the last bit: students draw from a random stream of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import nn

from agents.distributions import factors_of, policy_distance
from agents.rollouts import LastRollouts
from meta.lot import LoT
from meta.saving.generators import Stream
from meta.saving.models import PlainModel
from teachenv import checks

# Rollouts over which sizes are measured where α is chosen by them.
_MEASURED = 10


class _AddTerm(torch.autograd.Function):
    """A tensor as it is, whose backward pass also brings a term of the loss its gradient, 1."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
        """Returns the tensor as it is, and keeps the term."""
        ctx.save_for_backward(term)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the gradient of the tensor as it came, and 1 for the term."""
        (term,) = ctx.saved_tensors
        return gradients[0], torch.ones_like(term)


class Rewarded(NamedTuple):
    """What a policy learns from on a minibatch.

    Attributes:
        actions: the actions, in the form that the policy's distribution takes them.
        advantages: the advantage of each action, (batch,).
        log_prob: the log probability of each action when it was taken, (batch,).
    """

    actions: torch.Tensor
    advantages: torch.Tensor
    log_prob: torch.Tensor


class LoTPPO(PlainModel, PPO):
    """SB3's PPO with LoT's regulariser.

    Logged beside PPO's: `train/student_kl` (τ² KL(π_T ‖ π_S) on the policy's minibatches, a mean over students),
    `train/alpha`, `train/term_share` (α · that KL, over the size of the policy's loss), `lot/teacher_steps` and
    `lot/student_steps` (of each student).

    Args:
        policy: the policy class or its alias, as for SB3's PPO.
        env: the environment to learn in, as for SB3's PPO.
        alpha: α ≥ 0, the weight of the students' distances in PPO's loss; the released code has 0.5, or 0.1 for some
            games. None: 0.5, or what `term_share` measures.
        term_share: how large LoT's term shall be as a part of the policy's loss, such as 0.05, in place of `alpha`. In
            the ten rollouts after `warm_up` α is 0, and two sizes are measured: the students' KL, and the mean over
            samples of |PPO's clipped gain| (the gains themselves cancel out, since advantages have the mean 0).
            From then on α is `term_share` times the second over the first, and stays so.
        student_steps: N, the number of steps of each student for each of the policy's; 0: students stay as they are:
            give them the weights of a trained policy
            (`model.students[0].load_state_dict(trained.policy.state_dict())`).
        temperature: τ.
        students: the number K of students; each weighs 1/K.
        student_policy: the policy class of the students, or its alias; None: the policy's own.
        student_policy_kwargs: options of the students' policy class; None: the policy's own.
        student_weight_decay: the weight decay of the students' Adam, whose learning rate is PPO's.
        replay: the number of last rollouts from which the students' own steps draw.
        warm_up: PPO updates (rollouts) at the beginning in which α is 0; 1 in the released code.
        labels: whether students also learn from the policy's rewards: PPO's clipped loss of its minibatches, with its
            entropy bonus and its clipping of gradients, + α · their KL. Neither paper nor code has it.
        **kwargs: further options of SB3's PPO.

    Raises:
        ValueError: numbers out of range, both of `alpha` and `term_share`, or `labels` with another N than 1 (rewards
            are those of present rollouts).

    Example:
        >>> from agents import LoTPPO
        >>> model = LoTPPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=1, student_steps=2, seed=0)
        >>> model = model.learn(128)
        >>> model.lot.teacher_steps, model.lot.updates
        (4, 8)
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Any,
        *,
        alpha: float | None = None,
        term_share: float | None = None,
        student_steps: int = 1,
        temperature: float = 1.0,
        students: int = 1,
        student_policy: str | type[ActorCriticPolicy] | None = None,
        student_policy_kwargs: dict[str, Any] | None = None,
        student_weight_decay: float = 1e-4,
        replay: int = 10,
        warm_up: int = 1,
        labels: bool = False,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        """Checks the options and builds policy and students."""
        self._check_options(kwargs)
        if _init_setup_model:
            self._check_env(env)
        students = checks.integer("students", students, 1)
        replay = checks.integer("replay", replay, 1)
        warm_up = checks.integer("warm_up", warm_up, 0)
        student_steps = checks.integer("student_steps", student_steps, 0)
        if term_share is not None:
            if alpha is not None:
                raise ValueError(
                    f"found alpha={alpha} and term_share={term_share}, expected one of them: the share chooses alpha"
                )
            term_share = checks.number("term_share", term_share, above=0)
        alpha = 0.0 if term_share is not None else checks.number("alpha", 0.5 if alpha is None else alpha, least=0)
        temperature = checks.number("temperature", temperature, above=0)
        student_weight_decay = checks.number("student_weight_decay", student_weight_decay, least=0)
        labels = checks.flag("labels", labels)
        if labels and student_steps != 1:
            raise ValueError(
                f"labels=True: found student_steps={student_steps}, expected 1; rewards are known of the minibatches "
                "that the policy is trained on, where each student takes one step"
            )
        self.alpha = alpha
        self.term_share = term_share
        self.student_steps = student_steps
        self.temperature = temperature
        self.num_students = students
        self.student_policy = student_policy
        self.student_policy_kwargs = student_policy_kwargs
        self.student_weight_decay = student_weight_decay
        self.replay = replay
        self.warm_up = warm_up
        self.labels = labels
        self.rollouts_seen = 0
        # Sums over rollouts: of the students' KL and of the size of the policy's loss while they are measured.
        self.measured = [0.0, 0.0]
        # Sums over rollouts: of LoT's term and of the size of the policy's loss while the term is there.
        self.spent = [0.0, 0.0]
        self.lot_state: dict[str, Any] | None = None
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        seed = 0 if self.seed is None else self.seed
        # Another draw of the initial weights than the policy's, from another stream than the one that goes on.
        with Stream(seed + 1_000_003)():
            self.students = nn.ModuleList([self._make_student() for _ in range(self.num_students)])
        self.last_rollouts = LastRollouts(self.replay, self.batch_size, self.device)
        temperature = self.temperature
        self.lot = LoT(
            list(self.students),
            [student.optimizer for student in self.students],  # type: ignore[misc]
            alpha=self.alpha,
            temperature=temperature,
            student_steps=self.student_steps,
            data=self.last_rollouts,
            metric=lambda trained, fixed: policy_distance(factors_of(trained), factors_of(fixed), temperature),
            labels=self._clipped_loss if self.labels else False,
            # A policy has one object for all its distributions.
            forward=lambda policy, observations: copy.copy(policy.get_distribution(observations)),
            seed=seed,
        )
        if self.lot_state is not None:  # of a file
            self.lot.stream.states = self.lot_state["stream"]
            self.lot.teacher_steps, self.lot.updates = self.lot_state["steps"]
            self.last_rollouts.rollouts.extend(self.lot_state["rollouts"])
            self.lot_state = None

    def _make_student(self) -> ActorCriticPolicy:
        chosen = self.policy_class if self.student_policy is None else self.student_policy
        policy_class = self._get_policy_from_name(chosen) if isinstance(chosen, str) else chosen
        options = dict(self.policy_kwargs if self.student_policy_kwargs is None else self.student_policy_kwargs)
        # SB3's policies give their Adam this ε where nothing is said of the optimiser.
        optimizer_kwargs = options.get("optimizer_kwargs") or ({} if "optimizer_class" in options else {"eps": 1e-5})
        options["optimizer_kwargs"] = {"weight_decay": self.student_weight_decay, **optimizer_kwargs}
        assert issubclass(policy_class, ActorCriticPolicy)
        student = policy_class(
            self.observation_space, self.action_space, self.lr_schedule, use_sde=self.use_sde, **options
        )
        student.set_training_mode(True)
        # A tenth to a third faster on the CPU in SB3's convolutions; the policy stays SB3's to the last bit.
        student.to(memory_format=torch.channels_last)
        if self.labels:
            student.optimizer.register_step_pre_hook(lambda *_: self._clip(student))
        return student.to(self.device)

    def _clip(self, student: nn.Module) -> None:
        nn.utils.clip_grad_norm_(student.parameters(), self.max_grad_norm)

    def _gains(self, log_prob: torch.Tensor, rewarded: Rewarded) -> torch.Tensor:
        """Computes the clipped gain of each sample, of which PPO maximises the mean."""
        advantages = rewarded.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio, clip = torch.exp(log_prob - rewarded.log_prob), self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        return torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip))

    def _clipped_loss(self, distribution: Distribution, rewarded: Rewarded) -> torch.Tensor:
        """Computes PPO's clipped loss of a student, without the part of the value network."""
        log_prob, entropy = distribution.log_prob(rewarded.actions), distribution.entropy()
        # Squashed Gaussians have no entropy in closed form.
        entropy = -log_prob if entropy is None else entropy
        return -self._gains(log_prob, rewarded).mean() - self.ent_coef * entropy.mean()

    def train(self) -> None:
        """Runs SB3's `train` with LoT's term in each minibatch's loss, and each student's steps after the policy's."""
        if self.student_steps > 1:
            self.last_rollouts.add(self.rollout_buffer.observations)
        self.lot.alpha = self.alpha if self.rollouts_seen >= self.warm_up else 0.0
        policy, lot, divergences, sizes = self.policy, self.lot, [], []
        evaluate, minibatches = policy.evaluate_actions, self.rollout_buffer.get
        present: list[RolloutBufferSamples] = []
        for student in self.students:
            self._update_learning_rate(student.optimizer)  # type: ignore[arg-type]

        def remembered(batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:
            for minibatch in minibatches(batch_size):
                present[:] = [minibatch]
                yield minibatch

        def evaluate_with_term(
            observations: Any, actions: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            values, log_prob, entropy = evaluate(observations, actions)
            rewarded = Rewarded(actions, present[0].advantages, present[0].old_log_prob)
            sizes.append(self._gains(log_prob.detach(), rewarded).abs().mean())
            term = lot(copy.copy(policy.action_dist), observations, rewarded)
            # SB3's loop takes three tensors and makes its loss of them: the term comes in by the gradient of one.
            if lot.alpha:
                log_prob = _AddTerm.apply(log_prob, term)
            return values, log_prob, entropy

        hook = policy.optimizer.register_step_post_hook(lambda *_: divergences.append(lot.step(policy)))
        policy.evaluate_actions = evaluate_with_term  # type: ignore[method-assign,assignment]
        self.rollout_buffer.get = remembered  # type: ignore[method-assign,assignment]
        try:
            super().train()
        finally:
            del policy.evaluate_actions, self.rollout_buffer.get
            hook.remove()
            lot.skip()  # of a minibatch at which target_kl stopped the update
        if divergences:
            kl, size = float(torch.stack(divergences).mean()), float(torch.stack(sizes).mean())
            self.logger.record("train/student_kl", kl)
            self.logger.record("train/term_share", lot.alpha * kl / max(size, 1e-12))
            self._count(kl, size)
        self.rollouts_seen += 1
        self.logger.record("train/alpha", lot.alpha)
        self.logger.record("lot/teacher_steps", lot.teacher_steps)
        self.logger.record("lot/student_steps", lot.updates)

    def _count(self, kl: float, size: float) -> None:
        """Adds a rollout's sizes to the sums; the last of those that are measured chooses α."""
        if self.lot.alpha:
            self.spent = [self.spent[0] + self.lot.alpha * kl, self.spent[1] + size]
        measured_until = self.warm_up + _MEASURED
        if self.term_share is None or not self.warm_up <= self.rollouts_seen < measured_until:
            return
        self.measured = [self.measured[0] + kl, self.measured[1] + size]
        if self.rollouts_seen == measured_until - 1:
            self.alpha = self.term_share * self.measured[1] / max(self.measured[0], 1e-12)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "students", "lot", "last_rollouts"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, tensors = super()._get_torch_save_params()
        of_students = [f"students.{i}{part}" for i in range(self.num_students) for part in ("", ".optimizer")]
        return [*names, *of_students], tensors

    def save(self, *args: Any, **kwargs: Any) -> None:
        """SB3's `save`, with the students, their random stream and the rollouts that they learn from."""
        self.lot_state = {
            "stream": self.lot.stream.states,
            "steps": (self.lot.teacher_steps, self.lot.updates),
            "rollouts": list(self.last_rollouts.rollouts),
        }
        try:
            super().save(*args, **kwargs)
        finally:
            self.lot_state = None
