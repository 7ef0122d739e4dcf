import base64
import collections
import io
import json
import os
import pickle
import zlib

import pytest

from experiments.tasks.livecodebench import (
    load_plain_pickle,
    read_hidden_tests,
    read_livecodebench,
)
from experiments.tasks.programs import CallTests, StdinTests, check, program_of
from tests.experiments.tasks.boxes import boxes_fixture  # noqa: F401

STDIN = [{"input": "3\n1 2 3\n", "output": "6\n", "testtype": "stdin"}]
HIDDEN = [{"input": "1\n-5\n", "output": "-5\n", "testtype": "stdin"}]
FUNCTIONAL = [{"input": "[3, 1, 2]\n2", "output": "[[1, 2], 3]", "testtype": "functional"}]
STARTER = "class Solution:\n    def smallest(self, nums: List[int], k: int) -> List:\n        "


def packed(tests, protocol=4):
    text = json.dumps(tests)
    return base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()


def row(**changes):
    return {
        "question_title": "Sum",
        "question_content": "Print the sum. The absolute error may be 10^{-6}.",
        "platform": "atcoder",
        "question_id": "abc300_a",
        "contest_id": "abc300",
        "contest_date": "2024-03-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(STDIN),
        "private_test_cases": packed(HIDDEN),
        "metadata": "{}",
        **changes,
    }


def functional(**changes):
    return row(
        question_id="3001",
        contest_date="2024-05-01T00:00:00",
        starter_code=STARTER,
        public_test_cases=json.dumps(FUNCTIONAL),
        private_test_cases=packed(FUNCTIONAL * 2),
        metadata=json.dumps({"func_name": "smallest"}),
        **changes,
    )


def write(tmp_path, *rows):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return path


def test_read_livecodebench_of_both_kinds(tmp_path, boxes):
    first, second = read_livecodebench(write(tmp_path, row(), functional()))
    assert first.tests == StdinTests((("3\n1 2 3\n", "6\n"), ("1\n-5\n", "-5\n")), 1e-6)
    assert second.tests == CallTests(
        "Solution().smallest", ((([3, 1, 2], 2), [[1, 2], 3]),) * 3
    )  # fmt: skip
    assert first.metadata == {
        "title": "Sum", "platform": "atcoder", "difficulty": "easy", "date": "2024-03-01"
    }  # fmt: skip
    assert first.limits.seconds == second.limits.seconds == 6
    assert "standard input" in first.prompt
    assert STARTER.strip() in second.prompt
    assert check("input()\nprint(sum(map(int, input().split())))", first, boxes).kind == "right"
    # The imports of LeetCode are there: List, nsmallest.
    code = "from __future__ import annotations\n" + STARTER + "return nsmallest(k, nums), max(nums)"
    program = program_of(f"```python\n{code}\n```", second)
    assert check(program, second, boxes).kind == "right"
    assert check(program.replace("max", "min"), second, boxes).kind == "wrong"


def test_read_livecodebench_by_date(tmp_path):
    path = write(tmp_path, row(), functional())
    for first, last, ids in [
        ("2024-03-01", "2024-03-01", ["abc300_a"]),
        ("2024-03-02", "", ["3001"]),
        ("", "2024-04-30", ["abc300_a"]),
        ("2025-01-01", "", []),
    ]:
        problems = read_livecodebench(path, first_date=first, last_date=last)
        assert [problem.id for problem in problems] == [f"LiveCodeBench/{name}" for name in ids]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_load_plain_pickle_of_plain_values(protocol):
    value = [
        "text", "é\n\u2028" * 300, 1, -1, 300, 70000, 2**100, 1.5, None, True, False,
        {"a": [1, {"b": []}], "c": "text"}, [[]] * 3,
    ]  # fmt: skip
    assert load_plain_pickle(pickle.dumps(value, protocol)) == value


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class PersistentPickler(pickle.Pickler):
    def persistent_id(self, obj):
        return "id" if obj == "secret" else None


def persistent():
    file = io.BytesIO()
    PersistentPickler(file).dump(["secret"])
    return file.getvalue()


HOSTILE = {
    "os.system": pickle.dumps(Calls(os.system, "touch /tmp/hostile-pickle")),
    "eval": pickle.dumps(Calls(eval, "1 + 1")),
    "os.system, protocol 0": pickle.dumps(Calls(os.system, "touch /tmp/hostile-pickle"), 0),
    "within a list": pickle.dumps([1, "a", Calls(exit)]),
    "by hand": b"cos\nsystem\n(S'touch /tmp/hostile-pickle'\ntR.",
    "instance": b"(S'touch /tmp/hostile-pickle'\nios\nsystem\n.",
    "a class": pickle.dumps(collections.OrderedDict),
    "an object": pickle.dumps(collections.OrderedDict(a=1)),
    "extension": b"\x80\x02\x82\x01.",
    "persistent": persistent(),
    "a set": pickle.dumps({1, 2}),
    "bytes": pickle.dumps(b"abc"),
    "a tuple": pickle.dumps((1, 2)),
    "buffers": b"\x80\x05\x97.",
    "a huge memo": b"\x80\x04]r\xff\xff\xff\x7f.",
    "a huge memo, protocol 0": b"]p2147483647\n.",
    "a huge length": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab.",
    "a huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fK\x01.",
    "cut off": pickle.dumps("a" * 1000)[:500],
    "empty": b"",
    "no stop": b"\x80\x04K\x01",
    "an empty stack": b".",
    "an unknown protocol": b"\x80\xff.",
    "an unknown operation": b"\xff.",
    "two many digits": b"I" + b"9" * 5000 + b"\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_load_plain_pickle_refuses_hostile_pickles(name, tmp_path):
    with pytest.raises(ValueError) as caught:
        load_plain_pickle(HOSTILE[name])
    assert not os.path.exists("/tmp/hostile-pickle")
    assert "\n" not in str(caught.value)
    text = base64.b64encode(zlib.compress(HOSTILE[name])).decode()
    path = write(tmp_path, row(private_test_cases=text))
    with pytest.raises(ValueError, match=r"test\.jsonl, line 1: private_test_cases must be tests"):
        read_livecodebench(path)


def test_read_hidden_tests_accepts_json_and_bounds_sizes():
    assert read_hidden_tests(json.dumps(HIDDEN), 10) == HIDDEN
    assert read_hidden_tests(packed(HIDDEN), 1000) == HIDDEN
    assert read_hidden_tests(packed(HIDDEN, 0), 1000) == HIDDEN
    bomb = base64.b64encode(zlib.compress(pickle.dumps("[" + " " * 10**7 + "]"))).decode()
    assert read_hidden_tests(bomb, 1 << 24) == []
    with pytest.raises(ValueError, match="it is of more than 1000000 bytes when decompressed"):
        read_hidden_tests(bomb, 10**6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"private_test_cases": "!!"}, "private_test_cases must be tests .* it is no compressed base64"),
        ({"private_test_cases": "YWJj"}, "it is no compressed base64"),
        ({"private_test_cases": packed(HIDDEN)[:-8]}, "compressed"),
        ({"private_test_cases": packed({"a": 1})}, "it must hold a list, got"),
        ({"private_test_cases": packed([1])}, "private_test_cases, case 1 must be an object, got '1'"),
        ({"private_test_cases": packed([{"input": "1", "output": 2, "testtype": "stdin"}])}, "case 1: output must be a text, got '2'"),
        ({"private_test_cases": packed([{"input": "1", "output": "2"}])}, "testtype must be a text"),
        ({"private_test_cases": packed([{"input": "1", "output": "2", "testtype": "x"}])}, "testtype must be stdin or functional in all, got stdin, x"),
        ({"public_test_cases": "["}, "public_test_cases must be tests"),
        ({"public_test_cases": "[" * 100000}, "public_test_cases must be tests"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "must not both be empty"),
        ({"contest_date": None}, "contest_date must be a text that is not empty, got 'None'"),
        ({"public_test_cases": json.dumps(FUNCTIONAL), "private_test_cases": "[]"}, "metadata must have a func_name"),
        ({"public_test_cases": json.dumps(FUNCTIONAL), "private_test_cases": "[]", "metadata": '{"func_name": "a b"}'}, "metadata must have a func_name"),
        ({"public_test_cases": json.dumps([FUNCTIONAL[0] | {"input": "[1"}]), "private_test_cases": "[]"}, "case 1: input must be JSON"),
    ],
)  # fmt: skip
def test_read_livecodebench_names_file_line_field_and_value(changes, message, tmp_path):
    with pytest.raises(ValueError, match=rf"test\.jsonl, line 1.*{message}") as caught:
        read_livecodebench(write(tmp_path, row(**changes)))
    assert "\n" not in str(caught.value)
