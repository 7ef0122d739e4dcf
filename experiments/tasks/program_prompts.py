"""What a model is asked: the message for each kind of programming problem, without chat template.

Each asks for the whole program in one fenced block, where extract_code finds it.

Above: program_files, livecodebench.
"""

from collections.abc import Sequence

_BLOCK = "Give the complete code in one ```python block. Use the standard library only."


def stdin_prompt(statement: str) -> str:
    """Asks for a program that reads standard input and writes standard output."""
    return (
        f"{statement.strip()}\n\n"
        "Write a Python 3 program that solves this problem. It reads the input from standard input"
        f" and writes the answer to standard output, and nothing else. {_BLOCK}"
    )


def starter_prompt(statement: str, starter_code: str) -> str:
    """Asks for a completed starter code, as of LeetCode."""
    return (
        f"{statement.strip()}\n\n"
        "Solve this problem in Python 3 by completing the code below, with the names and parameters"
        f" that it has. {_BLOCK}\n\n```python\n{starter_code.strip()}\n```"
    )


def docstring_prompt(unfinished: str) -> str:
    """Asks for a function of which signature and docstring are given, as in HumanEval."""
    return (
        "Complete this Python function so that it does what its docstring says. Repeat the imports"
        f" and the signature. {_BLOCK}\n\n```python\n{unfinished.strip()}\n```"
    )


def asserts_prompt(statement: str, asserts: Sequence[str]) -> str:
    """Asks for a function that passes some assertions, as in MBPP; they tell its name."""
    shown = "\n".join(line.strip() for line in asserts)
    return (
        f"{statement.strip()}\n\n"
        f"Write it in Python 3, so that this holds:\n\n```python\n{shown}\n```\n\n{_BLOCK}"
    )
