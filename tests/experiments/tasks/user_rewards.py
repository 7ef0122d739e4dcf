"""Rewards as a user may write them, named by their import path."""

import time

from experiments.tasks.verdict import Verdict

NOT_A_FUNCTION = 3


def brief(completion, row):
    """The shorter the better: 1 for nothing, 0 from 10 characters on."""
    return max(0.0, 1 - len(completion) / 10)


def same(completion, row):
    return completion == row["answer"]


def verdict(completion, row):
    return Verdict(0.25, "wrong", f"asked {row['question']}")


def raises(completion, row):
    raise KeyError("a bug")


def raises_sometimes(completion, row):
    return 1.0 / len(completion)


def too_large(completion, row):
    return 2.0


def negative(completion, row):
    return -0.5


def unknown(completion, row):
    return float("nan")


def nothing(completion, row):
    return None


def hangs(completion, row):
    while completion == "hang":
        pass
    return 1.0


def sleeps(completion, row):
    if completion == "hang":
        time.sleep(60)
    return 1.0


def prints(completion, row):
    print("a line for people")
    return 1.0


def of_one(completion):
    return 1.0


def of_three(completion, row, more):
    return 1.0
