"""Wrong programs made of right ones, by small changes of the syntax tree."""

import ast
import copy

_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


def mutants(code):
    """Yields the program with one change each: operators, constants, returned values, statements."""
    tree = ast.parse(code)
    for position, node in enumerate(ast.walk(tree)):
        for kind in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(changed)) if i == position)
            _change(target, kind)
            yield ast.unparse(ast.fix_missing_locations(changed))


def _changes(node):
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in _COMPARISONS:
            return ["comparison"]
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _OPERATORS:
            return ["operator"]
        case ast.BoolOp():
            return ["boolean"]
        case ast.Constant(value=bool() | int() | float() | str()):
            return ["constant"]
        case ast.Return(value=value) if value is not None:
            return ["none", "str", "list", "tuple"]
        case ast.FunctionDef() | ast.For() | ast.While() | ast.If() if len(node.body) > 1:
            return [f"remove {i}" for i in range(len(node.body))]
    return []


def _change(node, kind):
    match kind.split()[0]:
        case "comparison":
            node.ops[0] = _COMPARISONS[type(node.ops[0])]()
        case "operator":
            node.op = _OPERATORS[type(node.op)]()
        case "boolean":
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case "constant":
            value = node.value
            if isinstance(value, bool):
                node.value = not value
            else:
                node.value = value + ("x" if isinstance(value, str) else 1)
        case "none":
            node.value = ast.Constant(None)
        case "remove":
            del node.body[int(kind.split()[1])]
        case name:
            node.value = ast.Call(ast.Name(name, ast.Load()), [node.value], [])
