"""Live, against verl itself: `make verl`. Its batches, advantages, losses and checkpoints on a CPU.

verl's rollouts need vLLM or SGLang and a GPU: here a table of logits is the policy, and a trainer
of verl's class without workers saves and loads.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optax
import pytest

from fade_jax import transforms
from tests.fade_jax import reference

pytestmark = pytest.mark.verl
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.trainer.ppo import core_algos  # noqa: E402
from verl.trainer.ppo.ray_trainer import RayPPOTrainer, compute_advantage  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import PPOTrainer  # noqa: E402

from fade_jax.integrations import verl as bridge  # noqa: E402

PROMPTS, GROUP, TOKENS, VOCABULARY = 3, 4, 3, 5
RATE, TARGET = 0.3, 1.4


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(
        core_algos, "ADV_ESTIMATOR_REGISTRY", dict(core_algos.ADV_ESTIMATOR_REGISTRY)
    )


def fade():
    return transforms.fade(rate=RATE, target_entropy=TARGET)


class Workers:
    """A policy, a table of logits, where verl has groups of workers."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.randn(PROMPTS, TOKENS, VOCABULARY, generator=generator)
        self.logits.requires_grad_()
        self.optimizer = torch.optim.SGD([self.logits], lr=2.0)

    def save_checkpoint(self, path, *_, **__):
        torch.save(self.logits.detach(), path)

    def load_checkpoint(self, local_path, **_):
        self.logits.data.copy_(torch.load(local_path))


class Tiny:
    """One of verl's trainers without its workers, tokenizer and data; checkpoints are its own."""

    def __init__(self, folder, **settings):
        folder.mkdir(exist_ok=True)
        self.config = OmegaConf.create(
            {
                "trainer": {
                    "default_local_dir": str(folder),
                    "default_hdfs_dir": None,
                    "resume_mode": "auto",
                    "del_local_ckpt_after_load": False,
                    **settings,
                },
                "actor_rollout_ref": {"actor": {"checkpoint": {}, "loss_agg_mode": "token-mean"}},
                "algorithm": {"adv_estimator": "fade", "gamma": 1.0},
            }
        )
        self.use_critic = False
        self.global_steps = 0
        self.actor_rollout_wg = Workers()
        self.train_dataloader = StatefulDataLoader(list(range(100)), batch_size=1)

    def policy_of(self, batch):
        log_probs = torch.log_softmax(self.actor_rollout_wg.logits.detach(), -1)[batch.batch["row"]]
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        taken = log_probs.gather(-1, batch.batch["responses"][..., None])[..., 0]
        return DataProto.from_dict({"old_log_probs": taken, "entropys": entropy})


class Old(Tiny, RayPPOTrainer):
    def _compute_old_log_prob(self, batch):
        return self.policy_of(batch), 0.0

    def with_old_log_probs(self, batch):
        return batch.union(self._compute_old_log_prob(batch)[0])


class New(Tiny, PPOTrainer):
    trainer_mode = "sync"
    checkpoint_callback = SimpleNamespace(on_save=lambda **_: None)

    def on_step_end(self): ...

    def on_sample_end(self): ...

    def _compute_old_log_prob(self, batch, metrics):
        batch = batch.union(self.policy_of(batch))
        entropy = core_algos.agg_loss(
            batch.batch["entropys"], batch.batch["response_mask"], "token-mean"
        )
        metrics["actor/entropy"] = entropy.item()
        return batch

    def with_old_log_probs(self, batch):
        return self._compute_old_log_prob(batch, metrics={})


TRAINERS = pytest.mark.parametrize("trainer_class", [Old, New])


def connected(trainer_class, estimator):
    """A class of its own, since `connect` replaces methods."""
    subclass = type("Connected", (trainer_class,), {})
    bridge.connect(subclass, estimator)
    return subclass


def sample(trainer, step):
    """A batch as verl's: rows in any order, uids, rewards at the last token of each response."""
    generator = torch.Generator().manual_seed(step)
    row = torch.arange(PROMPTS).repeat(GROUP)  # rows of one prompt are not adjacent
    probs = torch.softmax(trainer.actor_rollout_wg.logits.detach(), -1)[row]
    responses = torch.multinomial(probs.reshape(-1, VOCABULARY), 1, generator=generator)
    responses = responses.reshape(len(row), TOKENS)
    lengths = torch.randint(1, TOKENS + 1, (len(row),), generator=generator)
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    rewards = torch.zeros(mask.shape)
    rewards[torch.arange(len(row)), lengths - 1] = (responses[:, 0] % 2 == 0).float()
    return DataProto.from_dict(
        tensors={
            "row": row,
            "responses": responses,
            "response_mask": mask,
            "token_level_rewards": rewards,
        },
        non_tensors={"uid": np.array([f"uid-{i}" for i in row.tolist()], dtype=object)},
    )


def train(trainer, steps):
    """The steps of verl's fit: log-probabilities, advantages, loss, update, checkpoint."""
    batches = []
    trainer._load_checkpoint()
    while trainer.global_steps < steps:
        trainer.global_steps += 1
        batch = sample(trainer, trainer.global_steps)
        batch = trainer.with_old_log_probs(batch)
        batch = compute_advantage(
            batch,
            adv_estimator=trainer.config.algorithm.adv_estimator,
            config=trainer.config.algorithm,
        )
        workers, mask = trainer.actor_rollout_wg, batch.batch["response_mask"]
        log_probs = torch.log_softmax(workers.logits, -1)[batch.batch["row"]]
        taken = log_probs.gather(-1, batch.batch["responses"][..., None])[..., 0]
        ratio = torch.exp(taken - batch.batch["old_log_probs"])
        loss = core_algos.agg_loss(-ratio * batch.batch["advantages"], mask, "token-mean")
        workers.optimizer.zero_grad()
        loss.backward()
        workers.optimizer.step()
        trainer._save_checkpoint()
        batches.append(batch)
    return batches


def read(estimator, name):
    return float(optax.tree_utils.tree_get(estimator.advantage.state, name))


@TRAINERS
def test_register_trains_and_resumes(tmp_path, trainer_class):
    estimator = bridge.register("fade", fade())
    trainer = connected(trainer_class, estimator)(tmp_path / "whole")
    before = trainer.actor_rollout_wg.logits.detach().clone()
    batches = train(trainer, 4)
    assert not torch.equal(before, trainer.actor_rollout_wg.logits)

    p, entropy = 0.5, None
    for batch in batches:
        mask = batch.batch["response_mask"]
        rewards = batch.batch["token_level_rewards"].sum(-1).numpy().astype(np.float64)
        seen = float((batch.batch["entropys"] * mask).sum() / mask.sum())
        p += RATE * (rewards.mean() - p)
        entropy = seen if entropy is None else entropy + RATE * (seen - entropy)
        alpha = np.clip(3 * (1 - p) / (2 * p), 1, 3)
        delta = np.clip(1 + entropy - TARGET, 0.3, 1)
        expected = np.zeros(len(rewards))
        for prompt in range(PROMPTS):
            rows = batch.batch["row"].numpy() == prompt
            expected[rows] = reference.fade(rewards[rows], alpha, delta)
        expected = expected[:, None] * mask.numpy()
        np.testing.assert_allclose(batch.batch["advantages"], expected, 1e-3, 1e-5)
    assert 0.3 < delta < 1
    assert (read(estimator, "alpha"), read(estimator, "delta")) == pytest.approx(
        (alpha, delta), rel=1e-4
    )

    # Stopped after two steps, and gone on with in a process of its own registry.
    core_algos.ADV_ESTIMATOR_REGISTRY.pop("fade")
    first = bridge.register("fade", fade())
    train(connected(trainer_class, first)(tmp_path / "parts"), 2)
    core_algos.ADV_ESTIMATOR_REGISTRY.pop("fade")
    second = bridge.register("fade", fade())
    resumed = train(connected(trainer_class, second)(tmp_path / "parts"), 4)
    assert len(resumed) == 2
    for batch, same in zip(resumed, batches[2:]):
        assert torch.equal(batch.batch["advantages"], same.batch["advantages"])
    assert second.advantage.state_dict() == estimator.advantage.state_dict()


@TRAINERS
def test_connect_resume_path(tmp_path, trainer_class):
    estimator = bridge.register("fade", fade())
    subclass = connected(trainer_class, estimator)
    train(subclass(tmp_path / "first"), 2)
    saved = estimator.advantage.state_dict()
    train(subclass(tmp_path / "other"), 1)
    trainer = subclass(
        tmp_path / "second",
        resume_mode="resume_path",
        resume_from_path=str(tmp_path / "first/global_step_2"),
    )
    trainer._load_checkpoint()
    assert estimator.advantage.state_dict() == saved


def test_connect_entropy_serves_one_batch(tmp_path):
    estimator = bridge.register("fade", fade())
    trainer = connected(New, estimator)(tmp_path)
    estimator.observe(entropy=1.2)
    estimator(torch.eye(2), torch.ones(2, 2), ["a", "a"])
    assert read(estimator, "delta") == pytest.approx(1 + 1.2 - TARGET)
    with pytest.raises(ValueError, match="'entropy' is missing"):
        estimator(torch.eye(2), torch.ones(2, 2), ["a", "a"])
    trainer.config.actor_rollout_ref.actor.loss_agg_mode = "seq-mean-token-sum"
    with pytest.raises(ValueError, match=r"actor.loss_agg_mode must be one of .*token-sum"):
        trainer.with_old_log_probs(sample(trainer, 1))


def test_register_in_an_external_module(tmp_path):
    (tmp_path / "my_estimators.py").write_text(
        "from verl.trainer.ppo.v1.trainer_base import PPOTrainer\n"
        "from fade_jax import transforms\n"
        "from fade_jax.integrations.verl import connect, register\n"
        "connect(PPOTrainer, register('fade', transforms.fade()))\n"
    )
    code = (
        "import verl\n"
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn\n"
        "print(type(get_adv_estimator_fn('fade')).__name__)"
    )
    environment = {
        **os.environ,
        "VERL_USE_EXTERNAL_MODULES": "my_estimators",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip().splitlines()[-1] == "RegisteredEstimator", done.stderr


def test_register_taken_name():
    with pytest.raises(ValueError, match="rloo has already been registered"):
        bridge.register("rloo", transforms.rloo())
    with pytest.raises(ValueError, match="transformation must be an AdvantageTransformation"):
        bridge.register("power", lambda rewards: rewards)


def test_register_agrees_with_verl():
    bridge.register("fade_jax_rloo", transforms.rloo())
    rng = np.random.default_rng(0)
    rewards, mask = torch.tensor(rng.random((7, 3)), dtype=torch.float32), torch.ones(7, 3)
    index = np.array(["a", "b", "a", "b", "b", "a", "b"], dtype=object)
    mine, theirs = (
        core_algos.get_adv_estimator_fn(name)(
            token_level_rewards=rewards, response_mask=mask, index=index, config=None
        )[0]
        for name in ("fade_jax_rloo", "rloo")
    )
    np.testing.assert_allclose(mine, theirs, 1e-5, 1e-6)
