"""Values as JSON that keeps their types, for calls into and out of a sandbox; never pickles.

Imports the standard library alone: `server` takes it along into the sandbox.
"""

import decimal
import fractions
from typing import Any

_DEPTH = 100
_TAGGED = {"tuple": tuple, "set": set, "frozenset": frozenset, "iter": iter}
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))


class NotPlainError(TypeError):
    """A value is of no plain type, or nested too deeply."""


def encode(value, depth: int = 0):
    """Turns a value of plain types into JSON that keeps the types; `decode` is its inverse.

    None, bool, str, list, float and int up to 64 bits are themselves. A subclass is sent as its
    plain type. Iterators are sent as what they yield.

    Raises:
      NotPlainError: for a value of any other type.
    """
    if depth > _DEPTH:
        raise NotPlainError(f"nested deeper than {_DEPTH}")

    def inner(values):
        return [encode(item, depth + 1) for item in values]

    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 63 else {"int": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list):
        return inner(value)
    for tag, kind in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {tag: inner(value)}
    if isinstance(value, dict):
        return {"dict": [inner(pair) for pair in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, range):
        return {"range": inner((value.start, value.stop, value.step))}
    if isinstance(value, decimal.Decimal):
        return {"Decimal": str(value)}
    if isinstance(value, fractions.Fraction):
        return {"Fraction": inner((value.numerator, value.denominator))}
    if hasattr(value, "__next__") or isinstance(value, _VIEWS):
        return {"iter": inner(value)}
    raise NotPlainError(f"a value of type {type(value).__name__} is not plain")


def decode(value) -> Any:
    """Turns JSON of `encode` back into the value, whoever wrote it.

    It takes time in proportion to the text, but for fractions of thousands of digits.

    Raises:
      NotPlainError: for anything that `encode` does not write.
    """
    try:
        return _decode(value)
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise NotPlainError(str(error)[:200] or type(error).__name__) from None


def _decode(value) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag in _TAGGED:
        if not isinstance(content, list):
            raise NotPlainError(f"{tag} without a list")
        return _TAGGED[tag](_decode(content))
    if tag == "dict":
        return {_decode(key): _decode(item) for key, item in content}
    if tag == "int":
        return int(content, 16)
    if tag == "complex":
        return complex(*content)
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "range":
        return range(*_decode(content))
    if tag == "Decimal":
        return decimal.Decimal(content)
    if tag == "Fraction":
        numerator, denominator = _decode(content)
        return fractions.Fraction(numerator, denominator)
    raise NotPlainError(f"there is no type {tag}")
