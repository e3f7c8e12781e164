"""The teacher's networks: formula, start, invariances."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from meta.teachers.bandit import ArmsPolicy
from meta.teachers.policies import (
    Attention,
    AttentionPolicy,
    ConstantPolicy,
    FreePolicy,
    MlpPolicy,
    PerSample,
    RandomPolicy,
    SamplePolicy,
    perceptron,
)
from teachenv.errors import UnknownOption
from teachenv.joint import BATCH_FIELDS
from teachenv.samples import LabelledSamples

STATES = spaces.Box(0, 1, (13,), np.float32)
ACTIONS = spaces.Box(-1, 1, (100,), np.float32)


def build(policy, actions=ACTIONS, **options):
    torch.manual_seed(0)
    return policy(STATES, actions, lambda _: 1e-3, **options)


def test_attention_is_the_papers_formula_inside_tanh():
    torch.manual_seed(0)
    network = Attention(13, 7).double()
    network.keys.weight.data *= 100
    states = torch.rand(5, 13, dtype=torch.float64)
    w, v = network.keys.weight, network.query.weight
    assert (w.shape, v.shape) == ((7, 10), (10, 13))
    assert sum(p.numel() for p in network.parameters()) == w.numel() + v.numel()  # no bias
    weights = torch.exp(states @ v.T)
    wanted = torch.tanh((weights / weights.sum(1, keepdim=True)) @ w.T)
    torch.testing.assert_close(network(states), wanted, rtol=1e-12, atol=0)


def test_attention_does_not_care_for_the_order_of_its_keys():
    torch.manual_seed(0)
    one, other = Attention(13, 7), Attention(13, 7)
    order = torch.randperm(10)
    other.keys.weight.data, other.query.weight.data = one.keys.weight[:, order], one.query.weight[order]
    states = torch.rand(5, 13)
    torch.testing.assert_close(one(states), other(states))


def test_a_static_teacher_takes_one_action_and_still_learns():
    torch.manual_seed(0)
    network = Attention(13, 7, static=True)
    actions = network(torch.rand(5, 13))
    # Close, not equal: a processor may sum the rows of a batch in other orders.
    torch.testing.assert_close(actions, actions[:1].expand(5, -1), rtol=1e-6, atol=1e-9)
    actions.sum().backward()
    assert all((parameter.grad != 0).all() for parameter in network.parameters())
    assert torch.equal(
        build(AttentionPolicy, static=True)(torch.rand(1, 13)), build(AttentionPolicy, static=True)(torch.zeros(1, 13))
    )


def test_attentions_keys_differ_at_first_and_every_parameter_has_a_gradient():
    torch.manual_seed(0)
    network = Attention(13, 7)
    keys = network.keys.weight.T
    assert torch.cdist(keys, keys).fill_diagonal_(1.0).min() > 1e-3
    (network(torch.rand(5, 13)) * torch.randn(5, 7)).sum().backward()
    for parameter in network.parameters():
        assert (parameter.grad != 0).all()


@pytest.mark.parametrize("make", [Attention, lambda *a, **k: perceptron(*a, [400, 300], **k)])
def test_networks_start_near_zero_and_stay_in_the_box(make):
    torch.manual_seed(0)
    states = torch.rand(50, 13)
    start = make(13, 100)(states)
    assert 0 < start.abs().max() < 0.05
    wild = make(13, 100, initial_scale=1e3)(states)
    assert wild.abs().max() <= 1.0
    assert wild.abs().max() > 0.9


@pytest.mark.parametrize("policy", [AttentionPolicy, MlpPolicy])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_have_the_environments_shape_and_type(policy, dtype):
    made = build(policy, spaces.Box(-1, 1, (100,), dtype))
    one, _ = made.predict(STATES.sample())
    many, _ = made.predict(np.stack([STATES.sample()] * 4))
    assert (one.shape, many.shape, one.dtype) == ((100,), (4, 100), dtype)
    assert all(p.dtype == torch.from_numpy(np.zeros(1, dtype)).dtype for p in made.parameters())


def test_options_reach_the_networks():
    assert build(AttentionPolicy, keys=4).actor.query.out_features == 4
    assert build(AttentionPolicy, initial_scale=0.5).actor.keys.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert build(MlpPolicy, net_arch=[8]).actor[0].out_features == 8
    with pytest.raises(TypeError, match="unexpected keyword"):
        build(AttentionPolicy, kees=4)


def test_samples_share_one_network_and_their_order_does_not_matter():
    torch.manual_seed(0)
    network = PerSample(3 + 4 * 6, 6, [8], features=4, initial_scale=1.0)
    whole, own = torch.rand(5, 3), torch.rand(5, 4, 6)
    order = torch.randperm(6)
    weights = network(torch.cat([whole, own.flatten(1)], 1))
    assert weights.shape == (5, 6)
    assert weights.std(1).min() > 1e-3
    torch.testing.assert_close(network(torch.cat([whole, own[..., order].flatten(1)], 1)), weights[:, order])
    # A sample's weight depends on its own numbers, and on the whole.
    changed = own.clone()
    changed[:, :, 2] += 1
    moved = network(torch.cat([whole, changed.flatten(1)], 1)) != weights
    assert moved.sum(0).tolist() == [0, 0, 5, 0, 0, 0]
    assert (network(torch.cat([whole + 1, own.flatten(1)], 1)) != weights).all()


@pytest.mark.parametrize(
    ("name", "options", "fields"),
    [
        ("TeachDistill-v0", {}, BATCH_FIELDS),
        ("TeachDigits-v0", {"loss": "sample-weights", "observe_samples": True}, LabelledSamples.fields),
    ],
)
def test_the_samples_numbers_are_those_that_the_environment_shows(name, options, fields):
    env = gym.make(name, horizon=2, batch_size=6, dev_size=40, **options).unwrapped
    names = env.interface.observation_fields
    policy = SamplePolicy(env.observation_space, env.action_space, lambda _: 1e-3)
    shared = policy.actor.shared
    assert policy.actor.features == len(fields)
    assert names[shared::6] == tuple(f"{field}_0" for field in fields)
    assert not names[shared - 1].endswith("_5")


def test_an_environment_that_shows_no_samples_is_refused():
    env = gym.make("TeachDigits-v0", loss="sample-weights", horizon=2, batch_size=2, dev_size=40)
    with pytest.raises(ValueError, match="observe_samples=True"):
        SamplePolicy(env.observation_space, env.action_space, lambda _: 1e-3)


def test_the_free_policy_learns_each_coordinate_of_one_action():
    policy = build(FreePolicy)
    states = np.stack([STATES.sample()] * 3)
    np.testing.assert_array_equal(policy.predict(states)[0], np.zeros((3, 100)))
    wanted = torch.linspace(-0.9, 0.9, 100)
    before = (policy(torch.as_tensor(states))[0] - wanted).abs()
    for _ in range(200):
        policy.optimizer.zero_grad()
        (policy(torch.as_tensor(states)) - wanted).square().sum().backward()
        policy.optimizer.step()
    assert policy(torch.as_tensor(states)).detach().std(0).max() == 0  # whatever the state
    assert ((policy(torch.as_tensor(states))[0] - wanted).abs() < before.clamp(min=0.15)).all()


def test_the_free_policy_has_an_action_for_each_segment_of_a_training():
    policy = build(FreePolicy, segments=3)
    states = np.stack([STATES.sample()] * 12)
    states[:, 0] = np.arange(12, dtype=np.float32) / 12
    with torch.no_grad():
        policy.actor.action += torch.arange(3.0)[:, None]
    first = policy.predict(states)[0][:, 0]
    np.testing.assert_allclose(first, np.tanh(np.repeat([0.0, 1.0, 2.0], 4)), rtol=1e-6)
    (gradient,) = torch.autograd.grad(policy(torch.as_tensor(states[:4])).sum(), policy.actor.action)
    assert (gradient[0] == 4).all()
    assert not gradient[1:].any()


def test_the_constant_policy_takes_one_action():
    states = np.stack([STATES.sample()] * 3)
    np.testing.assert_array_equal(build(ConstantPolicy).predict(states)[0], np.zeros((3, 100)))
    np.testing.assert_array_equal(build(ConstantPolicy, action=0.25).predict(states)[0], np.full((3, 100), 0.25))
    wanted = np.linspace(-0.75, 0.5, 100)
    np.testing.assert_allclose(build(ConstantPolicy, action=wanted).predict(states)[0][1], wanted, atol=1e-7)
    with pytest.raises(ValueError, match=r"action must be a number or 100 numbers.*found shape \(3,\)"):
        build(ConstantPolicy, action=[1.0, 0.0, 1.0])


@pytest.mark.parametrize("policy", [ArmsPolicy, ConstantPolicy, FreePolicy, MlpPolicy, RandomPolicy])
def test_an_option_that_a_policy_does_not_have_is_refused(policy):
    with pytest.raises(UnknownOption, match=f"policy_kwargs of {policy.__name__} got an unexpected .*'acton'"):
        build(policy, acton=1)


def test_the_random_policy_is_uniform_in_the_box_and_reproducible():
    states = np.stack([STATES.sample()] * 50)
    one, other, third = build(RandomPolicy), build(RandomPolicy), build(RandomPolicy, seed=1)
    first = one.predict(states)[0]
    np.testing.assert_array_equal(other.predict(states)[0], first)
    assert not np.array_equal(one.predict(states)[0], first)
    assert not np.array_equal(third.predict(states)[0], first)
    assert np.abs(first).max() <= 1
    counts = np.histogram(first, bins=4, range=(-1, 1))[0] / first.size
    np.testing.assert_allclose(counts, 0.25, atol=0.03)
