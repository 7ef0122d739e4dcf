"""Advantages of TRL, by its own trainers with a tiny model and given rewards."""

import tempfile
from importlib.metadata import version

import datasets  # pyright: ignore[reportMissingImports]
import tokenizers  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from transformers import (  # pyright: ignore[reportMissingImports]
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from trl.trainer.grpo_config import GRPOConfig  # pyright: ignore[reportMissingImports]
from trl.trainer.grpo_trainer import GRPOTrainer  # pyright: ignore[reportMissingImports]
from trl.trainer.rloo_config import RLOOConfig  # pyright: ignore[reportMissingImports]
from trl.trainer.rloo_trainer import RLOOTrainer  # pyright: ignore[reportMissingImports]

from experiments.audit.estimators import Estimator, Report, of_one_group

WORDS = ["<pad>", "<end>", *"abcdef"]

# (name, trainer, config, further settings, claim, whether it reads the whole batch)
_ESTIMATORS = [
    ("GRPO, scale_rewards=group", GRPOTrainer, GRPOConfig, {}, "2 arcsin √p", False),
    ("GRPO, scale_rewards=batch", GRPOTrainer, GRPOConfig, {"scale_rewards": "batch"}, "p", True),
    ("GRPO, scale_rewards=none", GRPOTrainer, GRPOConfig, {"scale_rewards": "none"}, "p", False),
    ("RLOO", RLOOTrainer, RLOOConfig, {}, "p", False),
    (
        "RLOO, normalize_advantages=True",
        RLOOTrainer,
        RLOOConfig,
        {"normalize_advantages": True},
        "p",
        True,
    ),
]


def report() -> Report:
    """Returns TRL's estimators; it has none of pass@k."""
    estimators = [_make(*row) for row in _ESTIMATORS]
    close = of_one_group(estimators[0], [0.5] * 7 + [0.501])
    statements = [
        (
            "scale_rewards=group ensures unit variance within a group; 7 rewards 0.5, one 0.501",
            f"variance {close.var(ddof=1):.3g}: 1e-4 is added to the deviation",
        )
    ]
    return Report("TRL", version("trl"), estimators, {}, statements)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of single letters."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<pad>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def make_model(num_layers: int = 1) -> LlamaForCausalLM:
    """Returns a Llama of width 16 with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def _make(name, trainer_class, config_class, settings, claim, whole_batch):
    given = {}

    def reward(completions, **_):
        return [float(reward) for reward in given["rewards"][: len(completions)]]

    trainer, folder = None, tempfile.TemporaryDirectory()

    def advantages(rewards, index, lengths):
        del lengths
        nonlocal trainer
        group_size = int((index == index[0]).sum())
        if trainer is None or trainer.num_generations != group_size:
            args = config_class(
                output_dir=folder.name,
                per_device_train_batch_size=group_size,
                num_generations=group_size,
                max_completion_length=1,
                beta=0.0,
                use_cpu=True,
                report_to="none",
                **settings,
            )
            trainer = trainer_class(
                model=make_model(),
                reward_funcs=reward,
                args=args,
                train_dataset=datasets.Dataset.from_dict({"prompt": ["a b"] * 2}),
                processing_class=make_tokenizer(),
            )
            trainer.model.train()
        given["rewards"] = rewards
        batch = trainer._generate_and_score_completions([{"prompt": "a b"} for _ in rewards])
        return batch["advantages"].numpy()

    return Estimator(name, claim, advantages, whole_batch=whole_batch)
