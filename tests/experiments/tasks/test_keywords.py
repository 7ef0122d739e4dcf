import pytest

from experiments.tasks.base import check_at_least, check_fraction, check_keywords


def factory(tokenizer, nodes=3, degree=2):
    return tokenizer, nodes, degree


def test_unknown_keyword_is_named_with_those_allowed():
    check_keywords(factory, {"nodes": 1})
    with pytest.raises(ValueError, match=r"no field 'nods' \(got 4\); allowed: nodes, degree"):
        check_keywords(factory, {"nods": 4})
    with pytest.raises(ValueError, match="tokenizer"):
        check_keywords(factory, {"tokenizer": 4})


def test_bounds_name_the_field_and_its_value():
    check_at_least("length", 2, 2)
    with pytest.raises(ValueError, match="length must be at least 2, got 1"):
        check_at_least("length", 1, 2)
    check_fraction("held_out", 0.5)
    for value in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match=f"held_out .* got {value}"):
            check_fraction("held_out", value)
