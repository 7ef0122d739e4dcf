"""Live, against TRL itself: `make trl`."""

import json
from types import SimpleNamespace

import numpy as np
import optax
import pytest

from fade_jax import transforms
from tests.fade_jax import reference

pytestmark = pytest.mark.trl
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

import datasets  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from experiments.audit.trl_estimators import make_model, make_tokenizer  # noqa: E402
from fade_jax.integrations.trl import use_transformation  # noqa: E402

torch.set_num_threads(1)
PROMPTS, GENERATIONS, STEPS = 3, 4, 4
RATE, TARGET = 0.3, 2.3


def even_length(completions, **_):
    """A reward that the random policy sometimes gets."""
    return [float(len(text.split()) % 2 == 0) for text in completions]


def make_trainer(folder, rewards=even_length, **settings):
    args = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=PROMPTS * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=4,
        max_steps=STEPS,
        save_steps=2,
        logging_steps=1,
        disable_tqdm=True,
        learning_rate=1e-2,
        temperature=0.9,
        use_cpu=True,
        report_to="none",
        **settings,
    )
    return GRPOTrainer(
        model=make_model(num_layers=2),
        reward_funcs=rewards,
        args=args,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a b", "c", "d e f"] * 8}),
        eval_dataset=datasets.Dataset.from_dict({"prompt": ["a", "b", "c"]}),
        processing_class=make_tokenizer(),
    )


def watch(trainer):
    """The rewards, advantages and exact entropy of each batch that TRL trains or evaluates on."""
    batches = []
    calculate, generate = trainer._calculate_rewards, trainer._generate_and_score_completions

    def calculate_rewards(*args):
        found = calculate(*args)
        batches.append(SimpleNamespace(rewards=found[:, 0].numpy().copy()))
        return found

    def generate_and_score(inputs):
        result = generate(inputs)
        batch = batches[-1]
        batch.training = trainer.model.training
        batch.advantages = result["advantages"].numpy().copy()
        batch.entropy = entropy_by_hand(trainer, result)
        return result

    trainer._calculate_rewards = calculate_rewards
    trainer._generate_and_score_completions = generate_and_score
    return batches


@torch.no_grad()
def entropy_by_hand(trainer, batch):
    """The mean token entropy by the definition, row by row without padding."""
    total, tokens = 0.0, 0
    for prompt, prompt_mask, completion, mask in zip(
        batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"]
    ):
        prompt, completion = prompt[prompt_mask.bool()], completion[mask.bool()]
        ids = torch.cat([prompt, completion])[None]
        hidden = trainer.model.model(ids).last_hidden_state[0]
        logits = trainer.model.lm_head(hidden) / trainer.temperature
        log_probs = torch.log_softmax(logits.double(), dim=-1)[len(prompt) - 1 : -1]
        total -= (log_probs.exp() * log_probs).sum().item()
        tokens += len(completion)
    return total / tokens


def read(advantage, name):
    return float(optax.tree_utils.tree_get(advantage.state, name))


def fade():
    return transforms.fade(rate=RATE, target_entropy=TARGET)


def expect_fade(batches):
    """Asserts FADE's advantages of every batch, and returns the last α and δ of training."""
    p, entropy, last = 0.5, None, None
    for batch in batches:
        next_p = p + RATE * (batch.rewards.mean() - p)
        seen = batch.entropy
        next_entropy = seen if entropy is None else entropy + RATE * (seen - entropy)
        alpha = np.clip(3 * (1 - next_p) / (2 * next_p), 1, 3)
        delta = np.clip(1 + next_entropy - TARGET, 0.3, 1)
        groups = batch.rewards.reshape(-1, GENERATIONS).astype(np.float64)
        expected = np.ravel([reference.fade(group, alpha, delta) for group in groups])
        np.testing.assert_allclose(batch.advantages, expected, 1e-3, 1e-5)
        if batch.training:
            p, entropy, last = next_p, next_entropy, (alpha, delta)
    return last


def test_use_transformation_trains_and_resumes(tmp_path):
    trainer = make_trainer(tmp_path / "whole", eval_strategy="steps", eval_steps=1)
    before = [x.detach().clone() for x in trainer.model.parameters()]
    advantage = use_transformation(trainer, fade())
    batches = watch(trainer)
    trainer.train()
    trained = [batch for batch in batches if batch.training]
    assert len(trained) == STEPS
    assert len(batches) > STEPS
    assert any(0 < batch.rewards.mean() < 1 for batch in trained)
    alpha, delta = expect_fade(batches)
    assert 0.3 < delta < 1
    assert (read(advantage, "alpha"), read(advantage, "delta")) == pytest.approx(
        (alpha, delta), rel=1e-4
    )
    assert any(not torch.equal(b, a) for b, a in zip(before, trainer.model.parameters()))
    logged = [entry["fade_jax/alpha"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == STEPS
    assert logged[-1] == pytest.approx(alpha, rel=1e-4)

    # A run that is stopped at the checkpoint of step 2, and another that goes on from there.
    saved = json.loads((tmp_path / "whole/checkpoint-2/trainer_state.json").read_text())
    assert "AdvantageState" in saved["stateful_callbacks"]
    resumed = make_trainer(tmp_path / "resumed", eval_strategy="steps", eval_steps=1)
    again = use_transformation(resumed, fade())
    seen = watch(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    seen = [batch for batch in seen if batch.training]
    assert len(seen) == STEPS - 2
    for batch, same in zip(seen, trained[2:]):
        np.testing.assert_array_equal(batch.rewards, same.rewards)
        np.testing.assert_allclose(batch.advantages, same.advantages, 1e-5, 1e-6)
    expected = advantage.state_dict()
    for name, value in again.state_dict().items():
        np.testing.assert_allclose(value, expected[name], 1e-5, err_msg=name)


def test_use_transformation_restores_exactly(tmp_path):
    trainer = make_trainer(tmp_path)
    advantage = use_transformation(trainer, fade())
    states = []

    def keep(*_, **__):
        states.append(advantage.state_dict())

    trainer.callback_handler.callbacks[-1].on_save = keep
    trainer.train()
    for flag in (False, True):
        other = make_trainer(tmp_path, restore_callback_states_from_checkpoint=flag)
        restored = use_transformation(other, fade())
        started = []
        generate = other._generate_and_score_completions

        def first(inputs, restored=restored, started=started, generate=generate):
            started.append(restored.state_dict())
            return generate(inputs)

        other._generate_and_score_completions = first
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert started[0] == states[0]


def test_use_transformation_unscorable(tmp_path):
    def sometimes(completions, **_):
        return [None if i % 4 == 0 else float(i % 2) for i in range(len(completions))]

    trainer = make_trainer(tmp_path, rewards=sometimes)
    use_transformation(trainer, transforms.rloo(), entropy=False)
    batches = watch(trainer)
    trainer.model.train()
    trainer._generate_and_score_completions([{"prompt": "a b"}] * PROMPTS * GENERATIONS)
    # Rewards None, 1, 0, 1: each against the mean of the two others that count.
    np.testing.assert_allclose(batches[0].advantages, [0, 0.5, -1, 0.5] * PROMPTS, atol=1e-6)
    assert list(trainer._logs["advantages"]) == pytest.approx(batches[0].advantages.tolist())


def test_use_transformation_bad_input(tmp_path):
    with pytest.raises(ValueError, match="trainer must be a GRPOTrainer, got str"):
        use_transformation("trainer", fade())
    trainer = make_trainer(tmp_path, multi_objective_aggregation="normalize_then_sum")
    with pytest.raises(ValueError, match="multi_objective_aggregation must be 'sum_then_normalize"):
        use_transformation(trainer, fade())
