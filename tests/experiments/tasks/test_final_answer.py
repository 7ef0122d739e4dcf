from fractions import Fraction

import pytest

from experiments.tasks.answers import final_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First 5.\nThen 6.\n#### 72", 72),
        ("#### 1\n#### 2", 2),
        ("#### $1,234.50.", Fraction("1234.5")),
        ("#### −7", -7),
        ("#### 72 clips", 72),
        ("#### 18/day", 18),
        ("#### 3/2", Fraction(3, 2)),
        ("#### 9 + 9 = 18", 18),
        ("#### x = 5", 5),
        ("####72\nand 5 more", 72),
        ("####", None),
        ("#### none", None),
        ("#### 1/0", None),
        ("The answer is 18.", 18),
        ("The answer is: **$18**. I used 3 steps.", 18),
        ("Answer: 2.5 hours. Bye 7", Fraction(5, 2)),
        ("The answer is therefore 18", 18),
        ("To answer this we add 5. The total is 18 km", 18),
        ("He has 5 apples and 3 pears, so 8.", 8),
        (r"so \boxed{72} and 5", 72),
        (r"\boxed{1,234}", 1234),
        (r"\boxed{\$18}", 18),
        (r"\boxed{18\%}", 18),
        (r"\boxed{12\text{ apples}}", 12),
        (r"\boxed{\frac{3}{2}}", Fraction(3, 2)),
        (r"\boxed{2\frac{1}{2}}", Fraction(5, 2)),
        (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"\boxed{3 \times 4}", 12),
        (r"#### 1\,000", 1000),
        (r"\boxed{\frac{1}{0}}", None),
        (r"\boxed{\sqrt{2}}", None),
        (r"\boxed{9^{9^{9^{9}}}}", None),
        ("#### 9**9**9", None),
        ("#### 72!", 72),
        (r"\boxed{\boxed{5}} or \boxed{{{{6}}}}", 6),
        (r"it is 5, \boxed{7", None),
        ("#### " + "9" * 5000, None),
        ("", None),
        ("no number", None),
    ],
)
def test_final_answer(text, expected):
    assert final_answer(text) == expected
