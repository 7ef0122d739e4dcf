"""Rewards by name and import path, alone and weighted, against sums by hand."""

import math
from contextlib import closing

import pytest

from experiments.tasks.rewards import check_rewards, joined, open_row_checker, score_number
from experiments.tasks.verdict import Verdict

USER = "tests.experiments.tasks.user_rewards"
ROW = {"question": "What is 2 + 3?", "answer": "5"}


def verify(rewards, texts, solved_at=1.0, timeout_seconds=5.0):
    checker = open_row_checker(check_rewards(rewards), "answer", solved_at, 1, timeout_seconds)
    with closing(checker):
        return checker.verify(texts, [ROW] * len(texts))


def test_open_row_checker_weighs_rewards():
    texts = [r"\boxed{5}", r"\boxed{6}", "5"]
    found = verify((("math", 3.0), (f"{USER}.brief", 1.0)), texts, solved_at=0.76)
    lengths = [9, 9, 1]
    math_rewards, brief = [1, 0, 0], [1 - n / 10 for n in lengths]
    expected = [0.75 * m + 0.25 * b for m, b in zip(math_rewards, brief)]
    assert [v.reward for v in found] == pytest.approx(expected)
    assert [v.kind for v in found] == ["right", "wrong", "no answer"]
    assert [dict(v.parts) for v in found] == [
        {"math": m, f"{USER}.brief": pytest.approx(b)} for m, b in zip(math_rewards, brief)
    ]
    assert found[0].detail == "math: answer: 5"
    assert all(v.seconds >= 0 for v in found)


def test_open_row_checker_of_one_reward_has_no_parts():
    (found,) = verify({"math": 7}, [r"\boxed{5}"])
    assert found[:3] == (1.0, "right", "answer: 5")
    assert found.parts == ()


@pytest.mark.parametrize(
    ("name", "text", "reward", "kind"),
    [
        ("brief", "12345", 0.5, "wrong"),
        ("same", "5", 1.0, "right"),
        ("same", "6", 0.0, "wrong"),
        ("verdict", "x", 0.25, "wrong"),
        ("unknown", "x", math.nan, "unknown"),
        ("prints", "x", 1.0, "right"),
    ],
)
def test_open_row_checker_calls_a_users_function(name, text, reward, kind):
    (found,) = verify({f"{USER}.{name}": 1.0}, [text])
    assert found.reward == pytest.approx(reward, nan_ok=True)
    assert found.kind == kind
    assert found.detail == ("asked What is 2 + 3?" if name == "verdict" else "")


@pytest.mark.parametrize(("name", "kind"), [("hangs", "timeout"), ("sleeps", "unknown")])
def test_open_row_checker_ends_a_users_function_that_hangs(name, kind):
    found = verify({f"{USER}.{name}": 1.0}, ["x", "hang", "x"], timeout_seconds=0.5)
    assert [v.kind for v in found] == ["right", kind, "right"]
    assert found[1].reward == 0 or kind == "unknown"


def test_open_row_checker_scores_a_users_function_that_raises_zero():
    found = verify({f"{USER}.raises_sometimes": 1.0}, ["x", "", "xx"])
    assert [(v.reward, v.kind) for v in found] == [(1, "right"), (0, "error"), (0.5, "wrong")]
    assert found[1].detail.startswith("ZeroDivisionError: ")


@pytest.mark.parametrize("name", ["raises", "nothing"])
def test_open_row_checker_stops_if_a_users_function_always_raises(name):
    with pytest.raises(RuntimeError, match="none of 2 completions could be checked"):
        verify({f"{USER}.{name}": 1.0}, ["x", "y"])


@pytest.mark.parametrize(("name", "value"), [("too_large", "2"), ("negative", "-0.5")])
def test_open_row_checker_refuses_rewards_out_of_range(name, value):
    """Also where a weighted mean would be in range."""
    for rewards in ({f"{USER}.{name}": 1.0}, {f"{USER}.{name}": 1, "math": 9}):
        with pytest.raises(
            ValueError, match=rf"reward .*{name} must lie in \[0, 1\], got {value}$"
        ):
            verify(rewards, [r"\boxed{5}"])


def test_joined_by_hand():
    names = (("a", 0.5), ("b", 0.5))
    right, wrong = Verdict(1.0, "right", "good", 1.0), Verdict(0.0, "timeout", "", 2.0)
    nan = Verdict(math.nan, "unknown")
    assert joined(names, (right, wrong), 1.0) == Verdict(
        0.5, "timeout", "a: good", 3.0, (("a", 1.0), ("b", 0.0))
    )
    assert joined(names, (right, wrong), 0.5).kind == "right"
    assert joined(names, (right, nan), 0.5).kind == "unknown"
    assert joined((("a", 1 / 3),) * 3, (right,) * 3, 1.0).kind == "right"  # rounding


def test_check_rewards_scales_weights():
    assert check_rewards({"math": 3, "text": 1}) == {"math": 0.75, "text": 0.25}
    assert check_rewards([("math", 3), ["text", 1.0]]) == {"math": 0.75, "text": 0.25}


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({}, "rewards must name at least one reward, got none"),
        ((), "rewards must name at least one reward, got none"),
        (3, r"rewards must be pairs \(name, weight\), got 3"),
        ("math", r"rewards must be pairs \(name, weight\), got 'math'"),
        ((("math", 1, 2),), r"rewards must be pairs"),
        ((("math", 1), ("math", 2)), "rewards must name each reward once, got 'math' twice"),
        (((3, 1),), "rewards must be named by texts, got 3"),
        ({"math": 0}, r"rewards\['math'\] must be a weight > 0, got 0"),
        ({"math": -1.0}, r"rewards\['math'\] must be a weight > 0, got -1.0"),
        ({"math": math.nan}, r"rewards\['math'\] must be a weight > 0, got nan"),
        ({"math": math.inf}, r"rewards\['math'\] must be finite, got inf"),
        ({"math": True}, r"rewards\['math'\] must be a weight > 0, got True"),
        ({"math": "1"}, r"rewards\['math'\] must be a weight > 0, got '1'"),
        ({"maths": 1}, r"rewards\['maths'\]: it must be one of number, integer, math, text or"),
        ({"no_such.module": 1}, r"rewards\['no_such.module'\].*No module named 'no_such'"),
        ({f"{USER}.missing": 1}, r"rewards\['.*missing'\].*has no attribute 'missing'"),
        ({f"{USER}.NOT_A_FUNCTION": 1}, r"must be a function, got int"),
        ({f"{USER}.of_one": 1}, r"rewards\['.*of_one'\] must take \(completion, row\): too many"),
        ({f"{USER}.of_three": 1}, r"must take \(completion, row\): missing a required argument"),
        ({"": 1}, r"rewards\[''\]: it must be one of"),
    ],
)
def test_check_rewards_refuses(rewards, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_rewards(rewards)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("completion", "answer", "kind"),
    [
        ("so 3 + 4 = 7", 7, "right"), ("#### 1,000", "1000", "right"), ("it is 3.333", 10 / 3, "right"),
        ("it is 3.3", 10 / 3, "wrong"), ("none", 3, "no answer"),
    ],
)  # fmt: skip
def test_score_number(completion, answer, kind):
    assert score_number(completion, answer).kind == kind
