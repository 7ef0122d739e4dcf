import contextlib
import decimal
import fractions
import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.sandbox.values import NotPlainError, decode, encode

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.builds(range, *[st.integers(-(2**70), 2**70)] * 2, st.integers(1, 2**70)),
    lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner),
    max_leaves=5,
)
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(HASHABLE, inner),
    max_leaves=8,
)


def _typed(value):
    """A value with the types of all that is in it, so that 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return dict, [(_typed(key), _typed(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(_typed, value)))
    if isinstance(value, (list, tuple)):
        return type(value), [_typed(item) for item in value]
    return type(value), value


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_encode_round_trips_through_json(value):
    assert _typed(decode(json.loads(json.dumps(encode(value))))) == _typed(value)


def test_encode_keeps_numbers_that_are_no_numbers():
    values = decode(json.loads(json.dumps(encode([math.nan, math.inf, -math.inf, -0.0]))))
    assert math.isnan(values[0])
    assert values[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, values[3]) == -1
    assert decode(json.loads(json.dumps(encode(10**5000)))) == 10**5000


def test_encode_writes_known_text():
    assert json.dumps(encode((1, {2.5}, {"a": b"\xff"}, None, True))) == (
        '{"tuple": [1, {"set": [2.5]}, {"dict": [["a", {"bytes": "ff"}]]}, null, true]}'
    )
    assert encode(1 << 63) == {"int": "0x8000000000000000"}
    assert encode(fractions.Fraction(1, 3)) == {"Fraction": [1, 3]}
    assert encode(decimal.Decimal("1.50")) == {"Decimal": "1.50"}


def test_encode_sends_views_and_iterators_as_what_they_yield():
    for value in (
        {1: 2}.keys(),
        {2: 1}.values(),
        iter([1]),
        (x for x in [1]),
        itertools.repeat(1, 1),
    ):
        assert list(decode(encode(value))) == [1]
    assert list(decode(encode({1: 2}.items()))) == [(1, 2)]


def test_encode_sends_a_subclass_as_its_plain_type():
    class Everything(int):
        __eq__ = lambda *_: True  # noqa: E731
        __hash__ = int.__hash__

    class Text(str):
        def __str__(self):
            return "other"

    assert type(encode(Everything(3))) is int
    assert encode(Everything(3)) != 4
    assert encode(Text("x")) == "x"


@pytest.mark.parametrize("value", [object(), print, json, Exception(), memoryview(b"")])
def test_encode_refuses_other_types(value):
    with pytest.raises(NotPlainError, match="is not plain"):
        encode([value])


def test_encode_refuses_deep_and_cyclic_values():
    cycle = []
    cycle.append(cycle)
    with pytest.raises(NotPlainError, match="nested deeper than 100"):
        encode(cycle)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["tuple", "set", "dict", "int", "iter", "bytes", "range", "complex"])
            | st.sampled_from(["Decimal", "Fraction", "frozenset", "other"]),
            inner,
            max_size=2,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(JSON)
def test_decode_raises_nothing_else_for_hostile_json(value):
    with contextlib.suppress(NotPlainError):
        decode(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"tuple": [], "set": []},
        {"tuple": "ab"},
        {"set": [[1]]},
        {"range": [1, 2, 0]},
        {"Fraction": "1e999999999"},
        {"Fraction": [1, 0]},
        {"Decimal": "x"},
        {"int": 5},
        {"object": 1},
        {"dict": [1]},
    ],
)
def test_decode_refuses(value):
    with pytest.raises(NotPlainError):
        decode(value)


def test_decode_refuses_deep_values():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotPlainError):
        decode(deep)
