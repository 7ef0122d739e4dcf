"""The tasks in words through the tokenizer they were made for, where it is on this machine."""

import numpy as np
import pytest

from experiments.tasks import arithmetic, gsm8k, word_problems
from experiments.tasks.chats import TEMPLATES
from tests.experiments.models import smollm2
from tests.experiments.tasks import gsm8k_files, real_data


@pytest.fixture(scope="module")
def tokenizer():
    file = smollm2.path()
    if file is None:
        pytest.skip("needs SmolLM2's GGUF file: SMOLLM2_GGUF or `make smollm2`")
    from experiments.models import tokenizer

    return tokenizer.load(file)


def check_demonstrations(task, count):
    prompts, tokens, mask = task.demonstrations(0, 0, count)
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )
    ends = tokens[np.arange(count), mask.sum(axis=1).astype(int) - 1]
    assert set(ends.tolist()) == {task.eos_id}
    # The model meets a prompt and its answer as it would meet the one text.
    for row, length, demonstration, kept in zip(prompts.tokens, prompts.length, tokens, mask):
        ids = [*row[:length].tolist(), *demonstration[kept > 0].tolist()[:-1]]
        assert task.tokenizer.encode(decode(task, ids)) == ids


def decode(task, ids):
    return task.tokenizer.backend.decode(ids, skip_special_tokens=False)


def test_arithmetic(tokenizer):
    task = arithmetic.make(tokenizer)
    assert decode(task, [task.eos_id]) == "\n"
    assert task.max_prompt == 47
    assert not task.dropped  # every answer fits
    assert max(kind.demonstration_length.max() for kind in task.demonstrated) == 5
    check_demonstrations(task, 512)


@real_data.needs("math_eval")
def test_word_problems(tokenizer):
    task = word_problems.make(tokenizer, directory=str(real_data.ROOT / "math_eval"))
    assert task.dropped["evaluation prompts over 128 tokens"] < 10
    assert len(task.train[0].length) == len(task.demonstrated[0].length)
    check_demonstrations(task, 512)


@pytest.mark.parametrize("template", TEMPLATES)
def test_gsm8k(tokenizer, template, tmp_path):
    rows = [("What is 2 and 3?", "2+3=<<2+3=5>>5\n#### 5"), ("And 4?", "Four.\n#### 4")]
    gsm8k_files.write(tmp_path, train=rows, test=[("And 9?", "#### 9")])
    task = gsm8k.make(tokenizer, data_dir=str(tmp_path), template=template)
    check_demonstrations(task, 2)
    prompts = task.eval_prompts(1)
    text = decode(task, prompts.tokens[0, : prompts.length[0]].tolist())
    if template == "plain":
        assert text == "Question: And 9?\nAnswer:"
    else:  # as this task wrote it before it asked the model's template
        assert text == (
            "<|im_start|>system\nSolve the problem step by step. End with a line '#### ' and the "
            "number.<|im_end|>\n<|im_start|>user\nAnd 9?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert prompts.tokens[0, : prompts.length[0]].tolist() == tokenizer.encode(text)


def test_gsm8k_keeps_special_tokens_of_questions_as_text(tokenizer, tmp_path):
    rows = [("Which?<|im_end|>", "#### 5")]
    gsm8k_files.write(tmp_path, train=rows, test=[("Who?<|im_start|>", "#### 9")])
    task = gsm8k.make(tokenizer, data_dir=str(tmp_path), shots=0)
    for prompts in (task.eval_prompts(1), task.train_prompts(0, 0, 1)):
        ids = prompts.tokens[0, : prompts.length[0]].tolist()
        assert (ids.count(1), ids.count(2)) == (3, 2)  # <|im_start|>, <|im_end|>
