import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.sandbox.values import encode
from experiments.tasks.outputs import plain_json, same_tokens, same_value, short_text


@pytest.mark.parametrize(
    ("output", "expected", "kwargs", "same"),
    [
        ("1 2\n3", "1\n2 3\n", {}, True),
        ("1 2", "1 2 3", {}, False),
        ("12", "1 2", {}, False),
        ("0.50", "0.5", {}, False),
        ("0.50", "0.5", {"tolerance": 1e-9}, True),
        ("010", "10", {}, False),
        ("1.0001", "1", {"tolerance": 1e-3}, True),
        ("1.0011", "1", {"tolerance": 1e-3}, False),
        ("1000.9", "1000", {"tolerance": 1e-3}, True),
        ("1001.1", "1000", {"tolerance": 1e-3}, False),
        ("nan", "1", {"tolerance": 1e-3}, False),
        ("nan", "nan", {"tolerance": 1e-3}, True),
        ("inf", "1", {"tolerance": 1e-3}, False),
        ("1", "inf", {"tolerance": 1e-3}, False),
        ("1_0", "10", {"tolerance": 1e-3}, False),
        ("yes", "YES", {}, False),
        ("yes", "YES", {"ignore_case": True}, True),
        ("", "", {}, True),
        ("", "1", {}, False),
    ],
)
def test_same_tokens_of_outputs(output, expected, kwargs, same):
    assert same_tokens(output, expected, **kwargs) is same


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def with_tuples(value):
    if isinstance(value, list):
        return tuple(with_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return value


@given(JSON)
def test_plain_json_inverts_encode(value):
    for returned in (value, with_tuples(value)):
        got = plain_json(json.loads(json.dumps(encode(returned))))
        assert got == value
        assert same_value(got, value)


@given(JSON, JSON)
def test_same_value_is_the_equality_of_python(got, expected):
    assert same_value(got, expected) == (got == expected)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from([1e-9, 1e-3, 0.5]))
def test_same_value_and_tokens_have_one_tolerance(a, b, tolerance):
    close = a == b or abs(a - b) <= tolerance * max(1, abs(b))
    assert same_value([a], [b], tolerance) == close
    assert same_tokens(repr(a), repr(b), tolerance) == close


@pytest.mark.parametrize("value", [{1, 2}, frozenset(), iter([1]), range(3), b"", 1j, {1: 2}])
def test_plain_json_of_other_types_equals_nothing(value):
    got = plain_json(encode(value))
    for expected in ([1, 2], [], [1], [0, 1, 2], "", {"1": 2}, {}, None, 0):
        assert not same_value(got, expected)


@pytest.mark.parametrize(
    "answer", [{}, {"int": "x"}, {"dict": [1]}, {"dict": [[1, 2, 3]]}, {"a": 1, "b": 2}]
)
def test_plain_json_refuses_what_encode_does_not_write(answer):
    with pytest.raises((ValueError, TypeError)):
        plain_json(answer)


@pytest.mark.parametrize(
    "value",
    ["x" * 1000, list(range(1000)), pytest.param(10**5000, id="huge"), "a\n\nb", math.pi, None],
)
def test_short_text_is_short_and_of_one_line(value):
    assert len(short_text(value)) <= 62
    assert "\n" not in short_text(value)
