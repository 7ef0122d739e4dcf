import os

import pytest

from experiments.sandbox import Limits, Sandbox
from experiments.sandbox.hostile import Hostile, all_programs, read_programs
from experiments.sandbox.selftest import Witness, add_is_right, descendants, judge

PROGRAMS = all_programs()
ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture(name="witness", scope="module")
def witness_fixture():
    with Witness() as witness:
        yield witness


@pytest.fixture(name="no_walls", scope="module")
def no_walls_fixture():
    with Sandbox("unsafe") as sandbox:
        yield sandbox


@pytest.mark.parametrize("hostile", PROGRAMS, ids=lambda hostile: hostile.name)
def test_judge_finds_hostile_programs_contained(sandbox, witness, hostile):
    _, wrong = judge(sandbox, witness, hostile)
    assert not wrong


def test_all_programs_have_names_of_their_own():
    names = [program.name for program in PROGRAMS]
    assert len(set(names)) == len(names) >= 60
    assert sum(program.mode == "calls" for program in PROGRAMS) >= 20


# What each harmless program reaches where there are no walls: the witnesses must see it.
@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("print(open('@CANARY@').read())", "it read the canary"),
        ("open('@CANARY@').close()", "the canary was opened"),
        ("open('@CANARY@', 'a').close()", "the canary was opened"),
        ("print(open('@PROJECT@').read())", "it read the project"),
        ("import socket\nsocket.create_connection(('127.0.0.1', @TCP@))", "it reached"),
        ("import socket\nsocket.socket(2, 2).sendto(b'x', ('127.0.0.1', @UDP@))", "it reached"),
        ("import socket\nsocket.socket(1, 1).connect('\\x00@STREAM@')", "it reached"),
        ("import socket\nsocket.socket(1, 2).sendto(b'x', '\\x00@DATAGRAM@')", "it reached"),
        ("import socket\nsocket.socket(1, 1).connect('@SOCKET@')", "it reached"),
        ("print('ESCAPED')", "it says"),
    ],
)
def test_judge_complains_without_walls(no_walls, witness, program, complaint):
    _, wrong = judge(no_walls, witness, Hostile("", "", program, ("ok",)))
    assert any(complaint in line for line in wrong), wrong


def test_judge_complains_of_status_and_of_passing_calls(no_walls, witness):
    _, wrong = judge(no_walls, witness, Hostile("", "", "1 / 0", ("ok",)))
    assert any("status" in line for line in wrong)
    _, wrong = judge(no_walls, witness, Hostile("", "", ADD, ("ok",), "calls"))
    assert "it passed" in wrong


def test_add_is_right_passes_sums_alone(sandbox):
    passed, result = add_is_right(sandbox, ADD, Limits())
    assert passed
    assert result.status == "ok"
    passed, result = add_is_right(sandbox, "def add(a, b):\n    return a + b + 1\n", Limits())
    assert not passed
    assert result.status == "wrong"


def test_descendants_sees_children_of_children():
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        child = os.fork()
        os.close(write)
        os.read(read, 1)
        if child:
            os.waitpid(child, 0)
        os._exit(0)
    os.close(read)
    try:
        while len(found := descendants(os.getpid()) & (descendants(middle) | {middle})) < 2:
            pass
        assert middle in found
    finally:
        os.close(write)
        os.waitpid(middle, 0)
    assert not descendants(os.getpid()) & found


def test_read_programs_names_a_bad_line(tmp_path):
    (tmp_path / "bad.txt").write_text("=== good -> ok : x\npass\n===bad\n")
    with pytest.raises(ValueError, match=r"bad\.txt, line 3: not a header: '===bad'"):
        read_programs(tmp_path / "bad.txt")
