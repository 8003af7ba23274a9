"""What the source says of classes and functions: signatures, fields with their types, members, remarks.

Quoted as it was written, so that a page is the same with every version of Python.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line of a class's body: `name: type = default  # remark`."""

    name: str
    type: str
    default: str
    remark: str
    value: ast.expr | None


@functools.cache
def parsed(thing: Any) -> tuple[ast.AST, dict[int, str]]:
    """The definition of a class or function, and its comments by line."""
    text = textwrap.dedent(inspect.getsource(thing))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return ast.parse(text).body[0], comments


def signature(function: Callable[..., Any], name: str) -> str:
    """`name(argument: type = default) -> type`, without self and cls, over several lines where it is long."""
    node, _ = parsed(inspect.unwrap(function))
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    arguments = list(_arguments(node.args))
    words = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    answer = "" if node.returns is None else f" -> {text_of(node.returns)}"
    text = f"{words}{name}({', '.join(arguments)}){answer}"
    if len(text) <= 110:
        return text
    return f"{words}{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){answer}"


def _arguments(node: ast.arguments) -> Iterator[str]:
    """Each as it is written in a call's signature."""
    positional = [*node.posonlyargs, *node.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.defaults)) + list(node.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        if argument.arg not in ("self", "cls"):
            yield _argument(argument, default)
        if node.posonlyargs and argument is node.posonlyargs[-1]:
            yield "/"
    if node.vararg is not None:
        yield f"*{_argument(node.vararg, None)}"
    elif node.kwonlyargs:
        yield "*"
    for argument, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
        yield _argument(argument, default)
    if node.kwarg is not None:
        yield f"**{_argument(node.kwarg, None)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    kind = "" if argument.annotation is None else f": {text_of(argument.annotation)}"
    if default is None:
        return f"{argument.arg}{kind}"
    return f"{argument.arg}{kind} = {ast.unparse(default)}" if kind else f"{argument.arg}={ast.unparse(default)}"


def lines_of(cls: type) -> Iterator[Line]:
    """The assignments in the body of a class that are no private ones."""
    node, comments = parsed(cls)
    assert isinstance(node, ast.ClassDef)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name, kind, value = item.target.id, text_of(item.annotation), item.value
        elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            name, kind, value = item.targets[0].id, "", item.value
        else:
            continue
        if not name.startswith("_"):
            default = "" if value is None else ast.unparse(value)
            yield Line(name, kind, default, comments.get(item.end_lineno or 0, ""), value)


def text_of(node: ast.expr) -> str:
    """Source of a type, names that were quoted without their quotes."""
    return ast.unparse(_Unquoted().visit(ast.parse(ast.unparse(node), mode="eval").body))


class _Unquoted(ast.NodeTransformer):
    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        is_literal = isinstance(node.value, ast.Name) and node.value.id == "Literal"
        return node if is_literal else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else node
