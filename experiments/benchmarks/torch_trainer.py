"""A whole RL step by TRL's own GRPOTrainer. Imports only torch, transformers, TRL."""

import random
import tempfile

import datasets
import tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from experiments.benchmarks.works import Work
from experiments.perf.worker import Once, Stepper


def first_is_even(completion_ids, **_) -> list[float]:
    """The reward: whether the first token of a completion is even."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Token ids written as numbers; the end is a token that the model cannot sample."""
    words = {str(i): i for i in range(vocabulary)} | {"end": vocabulary}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="end", pad_token="0")


class _Boundaries(TrainerCallback):
    def __init__(self):
        self.stepper: Stepper | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        """Rollouts of a step begin after this."""
        self.stepper.boundary()


def trainer_stepper(work: Work, model) -> tuple[Once, dict]:
    """`work.steps` steps of the trainer as a function, and what to report of it."""
    rng = random.Random(0)

    def prompt():
        ids = (rng.randrange(1, work.shape.vocabulary) for _ in range(work.prompt))
        return {"prompt": " ".join(map(str, ids))}

    prompts = [prompt() for _ in range(work.prompts * 64)]
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="fade_jax_trl_"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # as fast as can be
        per_device_train_batch_size=work.sequences,
        gradient_accumulation_steps=1,
        num_generations=work.group,
        max_completion_length=work.completion,
        max_steps=10**6,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        beta=0.0,
        temperature=1.0,
        logging_steps=10**6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    boundaries = _Boundaries()
    trainer = GRPOTrainer(
        model=model,
        args=settings,
        reward_funcs=first_is_even,
        train_dataset=datasets.Dataset.from_list(prompts),
        processing_class=number_tokenizer(work.shape.vocabulary),
        callbacks=[boundaries],
    )
    boundaries.stepper = Stepper(trainer.train)

    def once():
        for _ in range(work.steps):
            boundaries.stepper.step()

    return once, {"trainer": "GRPOTrainer"}
