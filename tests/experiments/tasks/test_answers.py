import json
import random
import re
import time
from fractions import Fraction

import math_verify
import pytest

from experiments.tasks.answers import (
    evaluate,
    final_answer,
    is_close,
    last_number,
    parse_number,
    read_answer,
    stated_answer,
)
from tests.experiments.tasks.real_data import ROOT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("72", 72), (" 72.\n", 72), ("-5", -5), ("−5", -5), ("– 5", -5), ("+5", 5), ("$18", 18),
        ("-$18", -18), ("$-18", -18), ("$1,234,567.50", Fraction("1234567.5")),
        ("1,234 apples", 1234), ("12 apples.", 12), ("50%", 50), ("9€", 9), (".5", Fraction(1, 2)),
        ("5.", 5), ("007", 7), ("3.60 (dollars)", Fraction(18, 5)), ("3 m²", 3), ("12,34", None),
        ("", None), (".", None), ("-", None), ("--5", None), ("-$-5", None), ("apples", None),
        ("3 or 4", None), ("5-3", None), ("1/2", None), ("12:30", None), ("1e9", 10**9),
        ("1e999", None), ("0x10", None), ("5x", None), ("0,125", None), ("1234,567", None),
        ("1'234'567", 1234567), ("9" * 40, int("9" * 40)), ("9" * 41, None), ("9" * 100000, None),
        ("nan", None), ("inf", None),
    ],
)  # fmt: skip
def test_parse_number(text, expected):
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 3 + 4 = 7 dollars", 7), ("They have $1,200.50.", Fraction("1200.5")), ("5-3", 2),
        ("so 1/2.", Fraction(1, 2)), ("it costs 1 000.", 1000), ("**8**", 8), ("x=3", 3),
        ("at 10:30", None), ("minus: -3", -3), ("(-3)", -3), ("it is 3.", 3), ("none", None),
        ("", None), ("1" * 100000, None),
    ],
)  # fmt: skip
def test_last_number(text, expected):
    assert last_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 7+2", 9), ("7 + 2 = 9", 9), ("7 + 2 = 10", None), ("9", 9), ("-(3 - 5)", 2),
        ("2*(3+4)/7", 2), ("10/4", Fraction(5, 2)), ("1/3", Fraction(1, 3)),
        ("0.1+0.2", Fraction(3, 10)), ("3 × 4 ÷ 6", 2), ("3x4", 12), ("(3) x (4)", 12),
        ("7 − 2", 5), ("$1,000 + $24", 1024), ("3 + 4.", 7), ("", None), ("=", None),
        ("7+2=", None), ("=9", None), ("1=1=1", None), ("5/0", None), ("5/(2-2)", None),
        ("5//2", None), ("2**3", None), ("9**9**9**9", None), ("2^3", None), ("5%3", None),
        ("2(3)", None), ("(1,2)", None), ("3 4", None), ("(3", None), ("1e9", None),
        ("1_000", None), ("05", None), ("2j", None), ("x+1", None), ("x = 3 + 4", None),
        ("__import__('os').getcwd()", None), ("3 # 4", None), ("3\n+4", None),
        ("3 + 4 apples", None), ("(" * 100 + "1" + ")" * 100, None), ("(" * 50 + "1" + ")" * 50, 1),
        ("-" * 199 + "1", -1), ("9" * 100 + "*" + "9" * 99, int("9" * 100) * int("9" * 99)),
        ("1" * 201, None), ("9" * 1000000, None),
    ],
)  # fmt: skip
def test_evaluate(text, expected):
    assert evaluate(text) == expected


def test_evaluate_equals_python_on_random_equations():
    """Python itself on exact fractions, as each number is wrapped in Fraction(...)."""
    rng = random.Random(0)

    def equation(depth):
        if depth == 0 or rng.random() < 0.2:
            return rng.choice(["3", "17", "0", "2.5", ".25", "100"])
        left, right = equation(depth - 1), equation(depth - 1)
        text = f"{left}{rng.choice(['+', '-', '*', '/', ' - '])}{right}"
        return rng.choice([text, f"({text})", f"-({text})"])

    undefined = 0
    for _ in range(2000):
        text = equation(3)
        wrapped = re.sub(r"\d*\.?\d+", lambda m: f"Fraction('{m[0]}')", text)
        try:
            expected = eval(wrapped, {"Fraction": Fraction})
        except ZeroDivisionError:
            expected, undefined = None, undefined + 1
        assert evaluate(text) == expected, text
    assert 50 < undefined < 1000


def test_is_close_allows_rounding_only():
    assert is_close(Fraction(10, 3), 3.333)
    assert is_close(Fraction(1, 10), 0.1)
    assert is_close(Fraction(72), 72.0)
    assert not is_close(Fraction(10, 3), 3.3)
    assert not is_close(Fraction(1001), 1000.0)
    assert not is_close(Fraction(-72), 72.0)
    assert not is_close(Fraction(1, 1000), 0.0)
    assert not is_close(Fraction(2, 1000), 0.001)
    assert is_close(Fraction(0), 0.0)
    assert not is_close(Fraction(10**30), 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First 5.\nThen 6.\n#### 72", 72), ("#### 1\n#### 2", 2),
        ("#### $1,234.50.", Fraction("1234.5")), ("#### −7", -7), ("#### 72 clips", 72),
        ("#### 18/day", 18), ("#### 3/2", Fraction(3, 2)), ("#### 9 + 9 = 18", 18),
        ("#### x = 5", 5), ("####72\nand 5 more", 72), ("####", None), ("#### none", None),
        ("#### 1/0", None), ("The answer is 18.", 18),
        ("The answer is: **$18**. I used 3 steps.", 18),
        ("Answer: 2.5 hours. Bye 7", Fraction(5, 2)), ("The answer is therefore 18", 18),
        ("To answer this we add 5. The total is 18 km", 18),
        ("He has 5 apples and 3 pears, so 8.", 8), (r"so \boxed{72} and 5", 72),
        (r"\boxed{1,234}", 1234), (r"\boxed{\$18}", 18), (r"\boxed{18\%}", 18),
        (r"\boxed{12\text{ apples}}", 12), (r"\boxed{\frac{3}{2}}", Fraction(3, 2)),
        (r"\boxed{2\frac{1}{2}}", Fraction(5, 2)), (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"\boxed{3 \times 4}", 12), (r"#### 1\,000", 1000), (r"\boxed{\frac{1}{0}}", None),
        (r"\boxed{\sqrt{2}}", None), (r"\boxed{9^{9^{9^{9}}}}", None), ("#### 9**9**9", None),
        ("#### 72!", 72), (r"\boxed {7}", 7), (r"\boxed{5!}", None), ("**Answer**: 5", 5),
        ("The answer is **72** apples.", 72), ("The answer is $\\frac{3}{2}$.", Fraction(3, 2)),
        ("The answer is 18 because 9 + 9 = 18", 18), ("#### 73 and 72", None),
        ("#### 18 dollars for 3 days", None), (r"\boxed{\boxed{5}} or \boxed{{{{6}}}}", 6),
        (r"it is 5, \boxed{7", None), ("#### " + "9" * 5000, None), ("", None), ("no number", None),
    ],
)  # fmt: skip
def test_final_answer_finds_the_last_marked_answer(text, expected):
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Separators, signs, exponents.
        ("1{,}000", 1000), (r"\$1{,}234.50", Fraction("1234.5")), ("1 000", 1000),
        ("1\u202f000 000", None), ("1'000", 1000), ("100 20", None), ("12,5", None),
        ("0,125", None), ("1e3", 1000), ("1.5e-3", Fraction("0.0015")), ("1e999999999", None),
        (r"1.5 \times 10^{-2}", Fraction("0.015")), ("10^6", 10**6), ("2^3^2", None), ("-$18", -18),
        ("$-18", -18), ("negative 5", -5), ("±5", None),
        # Fractions and mixed numbers.
        ("3/4", Fraction(3, 4)), ("2 1/2", Fraction(5, 2)), ("2½", Fraction(5, 2)),
        ("⅔", Fraction(2, 3)), (r"\frac12", Fraction(1, 2)), (r"\dfrac{1}{2}", Fraction(1, 2)),
        (r"-2\tfrac{1}{2}", Fraction(-5, 2)), (r"\frac{\frac{1}{2}}{3}", Fraction(1, 6)),
        (r"\frac{1,000}{4}", 250), (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        # Units and percent.
        ("50%", 50), (r"12.5\%", Fraction(25, 2)), ("50 percent", 50), ("3/4 cup", Fraction(3, 4)),
        ("5 km/h", 5), ("5 m^2", 5), (r"5\text{ cm}^2", 5), (r"5\,\mathrm{kg}", 5),
        (r"90^\circ", 90), (r"\text{72}", 72), ("5€", 5), ("5 million", 5_000_000), ("2 dozen", 2),
        ("a total of 18", 18), ("72 (48 + 24)", 72), ("60 (1 hour)", 60), ("72 (48 + 25)", None),
        ("2 (3)", None),
        # Equations.
        ("x = 5", 5), (r"x_{1} = 5", 5), ("5 = x", 5), ("= 5", 5), ("x = y", None), ("5 =", None),
        ("x ≈ 3.33", Fraction("3.33")), ("Total = about 18", 18),
        ("5 apples + 3 apples = 8 apples", 8), ("9 + 9 = 19", None), ("2x = 10", None),
        ("-x = 5", None), ("x - y = 5", None), ("x = 3 or x = 5", None),
        # More than a number, or none.
        ("3, 4", None), ("3 or 4", None), ("5 apples and 3 pears", None), ("(1, 2)", None),
        ("(100,200)", None), ("[0, 1]", None), (r"\{1, 2\}", None), ("x > 5", None),
        (r"x \le 5", None), ("10:30", None), ("10-15 days", None), ("1.2.3", None), ("5x", None),
        ("5i", None), (r"5\pi", None), (r"\sqrt{4}", None), ("sqrt(4)", None), ("log 5", None),
        ("half of 10", None), ("5 and a half", None), ("2 thirds", None), ("5 squared", None),
        ("f(3)", None), (r"x \mod 0", None), (r"\binom{9999999}{4999999}", None),
        (r"\frac{99999999!}{2}", None), ("5" + " " * 300, None),
    ],
)  # fmt: skip
def test_read_answer(text, expected):
    assert read_answer(text) == expected


@pytest.mark.parametrize(
    "latex",
    [
        "72", "-7", r"\frac{3}{4}", r"\frac34", r"-\frac{7}{3}", r"2\frac{1}{2}", "0.125", "1{,}000",
        "1,234,567", r"\$18", r"3 \cdot 4", r"3 \times 10^{4}", r"\frac{1+2}{4}", "x = 5", "2^{10}",
        r"12\text{ apples}", r"\text{72}", r"\frac{\frac{1}{2}}{3}", "(3 + 4) \\cdot 2",
    ],
)  # fmt: skip
def test_read_answer_equals_math_verify(latex):
    value = read_answer(latex)
    gold = math_verify.parse(f"${value}$", parsing_timeout=None)
    assert math_verify.verify(
        gold, math_verify.parse(f"${latex}$", parsing_timeout=None), timeout_seconds=None
    )


def test_final_answer_is_quick_on_any_text():
    """Random texts and mutations raise nothing; reading time does not grow with their disorder."""
    rng = random.Random(0)
    tokens = [
        "\\frac", "{", "}", "\\boxed{", "####", "answer is", "answer:", " ", "\n", "1", "1,000", "½",
        "\\overline{", "^", "^\\circ", "\\text{", "=", "x", "e", "(", ")", "million", "half", "-", "/",
        "**", "!", "\\,", "'", "$", "%", "0", "9" * 20, "apples", "٣", "²",
    ]  # fmt: skip
    texts = ["".join(rng.choices(tokens, k=rng.randint(1, 60))) for _ in range(3000)]
    texts += [token * 3000 for token in tokens] + ["answer:\n" * 9000, "answer:" + "\n" * 16384]
    slowest = 0.0
    for text in texts:
        start = time.process_time()
        final_answer(text)
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 0.5


def mutated(text, rng):
    """The text with up to five characters dropped, doubled, swapped or replaced."""
    letters = list(text)
    for _ in range(rng.randint(1, 5)):
        i = rng.randrange(len(letters) + 1)
        letters[i : i + 1] = rng.choice([[], letters[i : i + 1] * 2, [rng.choice("{}\\\n#. 1½$")]])
    return "".join(letters)


@pytest.mark.slow
def test_final_answer_of_100000_random_texts_and_10000_mutations():
    """No exception, and no text takes 50 ms."""
    rng = random.Random(1)
    pieces = [
        "\\frac", "{", "}", "\\boxed{", "####", "answer is", "answer:", " ", "\n", "1", "1,000", "½",
        "\\overline{", "^\\circ", "\\text{", "=", "x", "e", "(", ")", "million", "half", "-", "/", "**",
        "!", "\\,", "$", "%", "0", "9" * 20, "٣", "²", "\\sqrt{", ".", ",", "\\", "\0", "\ud800",
        "𝟘", "∞", "\u202f", "1e9", "\\begin{pmatrix}", "&", "\\\\",
    ]  # fmt: skip
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 40))) for _ in range(100_000)]
    solutions = [r"so $\boxed{\frac{3}{4}}$.", "It is 5.\n#### 1,250", "The answer is 2 1/2 hours."]
    for name, field in (("gsm8k/test.jsonl", "answer"), ("math_eval/math500.jsonl", "answer")):
        if (ROOT / name).is_file():
            lines = (ROOT / name).read_text().splitlines()
            solutions += [json.loads(line)[field] for line in lines]
    texts += [mutated(rng.choice(solutions), rng) for _ in range(10_000)]
    slowest = 0.0
    for text in texts:
        start = time.process_time()
        final_answer(text)
        stated_answer(text)
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 0.05
