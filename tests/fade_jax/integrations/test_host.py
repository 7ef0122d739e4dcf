"""HostAdvantage against float64 loops over the rows of each prompt."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fade_jax
from fade_jax import transforms
from fade_jax.integrations.host import HostAdvantage
from fade_jax.transforms import AdvantageTransformation
from tests.fade_jax import reference


def by_index(rewards, index, fn):
    """Applies a reference to the rows of each label, in a loop."""
    advantages = np.zeros(len(rewards))
    for label in set(index):
        rows = [i for i, other in enumerate(index) if other == label]
        advantages[rows] = fn(np.asarray([rewards[i] for i in rows], np.float64))
    return advantages


def shuffled_batch(seed, sizes=(4, 1, 3, 5)):
    """Binary rewards of groups of these sizes in a random order, told apart by strings."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.repeat([f"prompt {g}" for g in range(len(sizes))], sizes))
    return rng.integers(0, 2, len(index)).astype(np.float32), index


CASES = {
    "grpo": (transforms.grpo(ddof=1, eps=1e-6), lambda r: reference.grpo(r) if len(r) > 1 else 0),
    "rloo": (transforms.rloo(), lambda r: reference.rloo(r) if len(r) > 1 else 0),
    "power": (transforms.power(2.0), partial(reference.power, alpha=2.0)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_host_advantage_groups_by_index(name, seed):
    transformation, expected = CASES[name]
    rewards, index = shuffled_batch(seed)
    found = HostAdvantage(transformation)(rewards, index)
    np.testing.assert_allclose(found, by_index(rewards, index, expected), 1e-4, 1e-6)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_host_advantage_order_of_rows(data):
    rewards, index = shuffled_batch(data.draw(st.integers(0, 1000)))
    order = np.array(data.draw(st.permutations(range(len(rewards)))))
    advantage = SHARED
    plain, permuted = advantage(rewards, index), advantage(rewards[order], index[order])
    np.testing.assert_allclose(permuted, plain[order], 1e-5, 1e-6)


SHARED = HostAdvantage(transforms.dr_grpo())


def test_host_advantage_where_leaves_rows_out():
    rewards = np.array([1, 0, np.nan, 1, 0, 0], np.float32)
    index, where = [7, 7, 7, 3, 3, 3], [True, True, False, True, True, False]
    found = HostAdvantage(transforms.rloo())(rewards, index, where=where)
    np.testing.assert_allclose(found, [1, -1, 0, 1, -1, 0])


def test_host_advantage_token_mask():
    token_rewards = np.zeros((4, 3))
    token_rewards[[0, 3], [1, 0]] = 1.0
    token_rewards[1, 2] = np.nan  # padding
    mask = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
    advantage = HostAdvantage(transforms.rloo())
    # Rewards 1, 0, 0, 1 in the groups (0, 2) and (1, 3).
    expected = np.array([1, -1, -1, 1])[:, None] * mask
    found = advantage(token_rewards, ["a", "b", "a", "b"], mask=mask)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected)
    found = advantage([1, 0, 0, 1], ["a", "b", "a", "b"], mask=mask)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected)


def test_host_advantage_statistics_of_rows():
    rewards, index = shuffled_batch(1)
    lengths = 2 + 3 * rewards
    found = HostAdvantage(transforms.opo())(rewards, index, lengths=lengths)
    expected = by_index(rewards, index, reference.opo)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


def test_host_advantage_statistic_per_group():
    prompt_ids = [2, 0, 2, 0]
    advantage = HostAdvantage(
        transforms.focal_by_prompt(num_prompts=3, alpha=2.0), per_group=["prompt"]
    )
    advantage([1, 0, 1, 1], prompt_ids, prompt=np.array(prompt_ids))
    state = advantage.state_dict()
    samples = next(value for name, value in state.items() if name.endswith("samples"))
    np.testing.assert_array_equal(samples, [2, 0, 2])


RATE, TARGET = 0.3, 1.0


def fade():
    return HostAdvantage(transforms.fade(rate=RATE, target_entropy=TARGET))


def test_host_advantage_fade_state_follows_the_batches():
    advantage = fade()
    p, entropy = 0.5, None
    for seed, seen in enumerate([0.9, 0.6, 0.7]):
        rewards, index = shuffled_batch(seed)
        p += RATE * (rewards.mean() - p)
        entropy = seen if entropy is None else entropy + RATE * (seen - entropy)
        alpha = np.clip(3 * (1 - p) / (2 * p), 1, 3)
        delta = np.clip(1 + entropy - TARGET, 0.3, 1)
        expected = by_index(rewards, index, lambda r, a=alpha, d=delta: reference.fade(r, a, d))
        np.testing.assert_allclose(advantage(rewards, index, entropy=seen), expected, 1e-4, 1e-5)
    np.testing.assert_allclose(optax.tree_utils.tree_get(advantage.state, "alpha"), alpha, 1e-5)


def test_host_advantage_evaluation_moves_no_state():
    advantage = fade()
    rewards, index = shuffled_batch(0)
    advantage(rewards, index, entropy=0.9)
    before = advantage.state_dict()
    advantage(1 - rewards, index, entropy=0.1, training=False)
    assert before == advantage.state_dict()


@pytest.mark.parametrize("through", ["json", "arrays"])
def test_host_advantage_resumes(through):
    first = fade()
    rewards, index = shuffled_batch(0)
    first(rewards, index, entropy=0.9)
    saved = first.state_dict()
    if through == "json":
        saved = json.loads(json.dumps(saved))
    else:
        saved = {name: np.asarray(value) for name, value in saved.items()}
    second = fade()
    second.load_state_dict(saved)
    rewards, index = shuffled_batch(1)
    np.testing.assert_array_equal(
        second(rewards, index, entropy=0.7), first(rewards, index, entropy=0.7)
    )
    assert first.state_dict() == second.state_dict()


def test_host_advantage_traces_once_per_padded_shape():
    traced = []

    def update(rewards, state, *_, where, **statistics):
        traced.append(rewards.shape)
        return fade_jax.dr_grpo(rewards, where=where), state + 1

    advantage = HostAdvantage(AdvantageTransformation(lambda: np.float32(0), update))
    for sizes in [(4, 4, 4), (3, 4, 1, 2), (4, 4, 4, 4), (3, 3, 3)]:
        advantage(*shuffled_batch(0, sizes))
    assert traced == [(4, 4)]
    advantage(*shuffled_batch(0, (5, 1)))
    assert traced == [(4, 4), (2, 8)]
    assert advantage.state == 5


def test_host_advantage_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    rewards, index = shuffled_batch(0)
    expected = HostAdvantage(transforms.power(2.0))(rewards, index)
    advantage = HostAdvantage(transforms.power(2.0))
    numbers = torch.tensor([int(label[-1]) for label in index])
    for dtype, result in [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.int64, torch.float32),
    ]:
        found = advantage(torch.tensor(rewards, dtype=dtype), numbers)
        assert (type(found), found.dtype) == (torch.Tensor, result)
        np.testing.assert_allclose(found.float().numpy(), expected, 1e-2, 1e-6)
    mask = torch.ones(len(index), 3, dtype=torch.bool)
    found = advantage(torch.tensor(rewards, requires_grad=True), numbers, mask=mask)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), np.repeat(expected[:, None], 3, 1), 1e-5)


def torch_loop(torch, path, steps):
    """A policy gradient on a table of logits, from its checkpoint if there is one."""
    advantage = fade()
    logits = torch.zeros(3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    start = 0
    if path.exists():
        saved = torch.load(path)
        advantage.load_state_dict(saved["advantage"])
        logits.data.copy_(saved["logits"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    for step in range(start, steps):
        prompts = torch.arange(3).repeat(5)
        policy = torch.distributions.Categorical(logits=logits[prompts])
        torch.manual_seed(step)
        actions = policy.sample()
        rewards = (actions == prompts).float()
        advantages = advantage(rewards, prompts, entropy=policy.entropy().mean())
        optimizer.zero_grad()
        (-advantages * policy.log_prob(actions)).mean().backward()
        optimizer.step()
        saved = {"advantage": advantage.state_dict(), "logits": logits, "step": step + 1}
        torch.save(saved | {"optimizer": optimizer.state_dict()}, path)
    return logits.detach(), advantage.state_dict()


def test_host_advantage_in_a_torch_loop(tmp_path):
    torch = pytest.importorskip("torch")
    logits, state = torch_loop(torch, tmp_path / "whole.pt", 12)
    torch_loop(torch, tmp_path / "parts.pt", 5)
    resumed, resumed_state = torch_loop(torch, tmp_path / "parts.pt", 12)
    assert torch.equal(logits, resumed)
    assert state == resumed_state
    assert torch.softmax(logits, -1).diagonal().mean() > 0.3  # learns: 1/4 at the start


def test_host_advantage_imports_no_torch():
    code = (
        "import sys; from fade_jax import transforms; "
        "from fade_jax.integrations.host import HostAdvantage; "
        "HostAdvantage(transforms.rloo())([1, 0], [0, 0]); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_host_advantage_bad_input():
    with pytest.raises(ValueError, match="transformation must be an AdvantageTransformation"):
        HostAdvantage(fade_jax.fade)
    advantage = fade()
    with pytest.raises(ValueError, match="index must have one label for each of 2 rows, got 3"):
        advantage([1, 0], [0, 0, 0], entropy=1.0)
    with pytest.raises(ValueError, match=r"need a mask of shape \(2, 3\), got none"):
        advantage(np.ones((2, 3)), [0, 0], entropy=1.0)
    with pytest.raises(ValueError, match=r"mask must be \[2, T\], got shape \(3, 2\)"):
        advantage([1, 0], [0, 0], mask=np.ones((3, 2)), entropy=1.0)
    with pytest.raises(ValueError, match=r"entropy must be a scalar or \[2\].* got shape \(3,\)"):
        advantage([1, 0], [0, 0], entropy=np.ones(3))
    with pytest.raises(ValueError, match=r"where must be \(2,\), got shape \(1,\)"):
        advantage([1, 0], [0, 0], where=[True], entropy=1.0)
    with pytest.raises(ValueError, match="'entropy' is missing"):
        advantage([1, 0], [0, 0])
    with pytest.raises(ValueError, match=r"state_dict must have \['1/alpha', .*got \['alpha'\]"):
        advantage.load_state_dict({"alpha": 1.0})
    saved = advantage.state_dict() | {"1/alpha": np.ones(2)}
    with pytest.raises(ValueError, match=r"1/alpha of state_dict must have shape \(\), got \(2,\)"):
        advantage.load_state_dict(saved)
