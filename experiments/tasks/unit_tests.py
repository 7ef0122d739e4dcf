"""Reads test programs: what they need of the program under test, and whether it can be kept apart.

A test program is trusted, as the data set is. It runs in a process of its own, in which the
functions under test are stand-ins: arguments go to the program's process and values come back, both
as plain data. `inside_reason` says where that cannot work.

Above: programs, program_files.
"""

import ast
import builtins
import importlib
import symtable
import sys
from collections.abc import Collection, Iterator


def free_names(text: str) -> list[str]:
    """Lists the global names that a program reads and neither binds nor finds among builtins.

    Args:
      text: of a trusted program.

    Raises:
      SyntaxError: if it cannot be parsed.
    """
    module = symtable.symtable(text, "<test>", "exec")
    bound = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
    bound |= {s.get_name() for s in module.get_symbols() if s.is_namespace()}
    bound |= {name for scope in _scopes(module) for name in _declared_globals(scope)}
    read = [
        symbol.get_name()
        for scope in _scopes(module)
        for symbol in scope.get_symbols()
        if symbol.is_referenced() and (scope is module or symbol.is_global())
    ]
    found = dict.fromkeys(read)  # in order, once
    known = bound | set(dir(builtins)) | {"__file__"} | _star_imports(ast.parse(text))
    return [name for name in found if name not in known]


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _declared_globals(table: symtable.SymbolTable) -> list[str]:
    return [s.get_name() for s in table.get_symbols() if s.is_declared_global() and s.is_assigned()]


def _star_imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            module = node.module or ""
            if not node.level and module.partition(".")[0] in sys.stdlib_module_names:
                names |= set(dir(importlib.import_module(module)))
    return names


def with_imports(text: str, functions: Collection[str]) -> str:
    """Imports the modules of the standard library that a test program uses by name alone.

    The programs of some data sets bring these imports, for the tests too.
    """
    names = [
        name
        for name in free_names(text)
        if name in sys.stdlib_module_names and name not in functions
    ]
    return "".join(f"import {name}\n" for name in names) + text


def inside_reason(text: str, functions: Collection[str]) -> str:
    """Says why a test program has to run in the process of the program under test.

    Args:
      text: the test program.
      functions: the functions of the program under test that it calls; no classes.

    Returns:
      The reason in a few words; empty if only plain values have to cross.
    """
    others = [name for name in free_names(text) if name not in functions]
    if others:
        return f"the test uses {', '.join(others)} of the program"
    tree = ast.parse(text)
    stand_ins = set(functions) | _parameters_for(tree, functions)
    in_try = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    callables = _CALLABLE | {n.name for n in ast.walk(tree) if isinstance(n, _DEFINITIONS)}
    classes = {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    values = _assigned_from(tree, stand_ins)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if _is_name(node.value, stand_ins):
                return f"the test uses the attribute {node.attr} of a function"
            of_value = _is_name(node.value, values) or _is_call(node.value, stand_ins)
            if of_value and node.attr not in _PLAIN_ATTRIBUTES:
                return f"the test uses the attribute {node.attr} of a value"
        if (
            isinstance(node, ast.Expr)
            and _is_call(node.value, stand_ins)
            and id(node) not in in_try
        ):
            return "the test drops a returned value, so an argument may be changed in place"
        if isinstance(node, ast.Call) and _is_name(node.func, stand_ins):
            for value in [*node.args, *(keyword.value for keyword in node.keywords)]:
                if isinstance(value, ast.Lambda) or _is_name(value, callables):
                    return "the test passes a function"
                if _is_call(value, classes):
                    return "the test passes an object of its own class"
    return ""


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_CALLABLE = {name for name in dir(builtins) if callable(getattr(builtins, name))}


_PLAIN_ATTRIBUTES = {
    name
    for kind in (str, bytes, int, float, complex, list, tuple, set, dict, range, type(None))
    for name in dir(kind)
}


def _parameters_for(tree: ast.Module, functions: Collection[str]) -> set[str]:
    """Names the parameters of the test's functions that stand for functions under test."""
    passed = {
        (node.func.id, position)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        for position, value in enumerate(node.args)
        if _is_name(value, functions)
    }
    return {
        argument.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for position, argument in enumerate(node.args.args)
        if (node.name, position) in passed
    }


def _assigned_from(tree: ast.Module, functions: Collection[str]) -> set[str]:
    """Names the variables that hold what a function under test returned."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_call(node.value, functions)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _is_name(node: ast.AST, names: Collection[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _is_call(node: ast.AST, names: Collection[str]) -> bool:
    return isinstance(node, ast.Call) and _is_name(node.func, names)
