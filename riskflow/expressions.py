"""Expressions: `amount > 1000 and channel == "online"` as one function over columns, for the rules of a policy.

Known: numbers, names, "words", `+ - * /`, comparisons (chained too, and `in ("a", "b")`), `and or not`,
`is_missing(x)`. Each row is decided by its own values. A comparison with a value that is not known is false, `!=` and
`not in` too; `not` turns the answer it is given, so `not amount > 5` holds where the amount is not known.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskflow.columns import Column, Text
from riskflow.declare import CATEGORY, FLAG, NUMBER, TEXT, FieldType
from riskflow.errors import DeclarationError

TRUTH, WORD = "yes or no", "word"  # what a part of an expression may be, besides NUMBER, CATEGORY and TEXT
LONGEST = 2_000

Values = Any  # an array of one value for each row, a Text, or one constant
Rows = Mapping[str, Column]
_ARITHMETIC: dict[type[ast.operator], Callable[[Values, Values], Values]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[Values, Values], Values]] = {
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
    ast.Eq: np.equal, ast.NotEq: np.not_equal,
}  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """A compiled condition; `names` are the columns it needs."""

    source: str
    names: tuple[str, ...]
    _of: Callable[[Rows], Values]

    def __call__(self, columns: Rows, rows: int) -> NDArray[np.bool_]:
        """One answer for each row."""
        with np.errstate(all="ignore"):
            return np.array(np.broadcast_to(self._of(columns), (rows,)), np.bool_)


@dataclass(frozen=True)
class _Part:
    """A piece of an expression: what it is, how to work it out, and which values it may have (categories)."""

    what: str
    of: Callable[[Rows], Values]
    values: tuple[str, ...] = ()
    word: str = ""  # of a WORD


def compile_expression(source: str, types: Mapping[str, FieldType], who: str) -> Expression:
    """Compiles a condition over the named columns; raises DeclarationError saying what is wrong and the fix."""
    compiler = _Compiler(source, types, who)
    try:
        part = compiler.truth(compiler.tree)
    except RecursionError:
        raise compiler.error("is nested too deeply", "Split it into several rules") from None
    return Expression(source, tuple(dict.fromkeys(compiler.names)), part.of)


class _Compiler:
    def __init__(self, source: str, types: Mapping[str, FieldType], who: str) -> None:
        self.source, self.types, self.who = source, types, who
        self.names: list[str] = []
        if len(source) > LONGEST:
            raise self.error(f"has {len(source)} characters", f"Split it: at most {LONGEST}")
        try:
            self.tree = ast.parse(source.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.error(
                f"cannot be read ({error})", 'Write for example: amount > 1000 and channel == "online"'
            ) from None

    def error(self, found: str, fix: str) -> DeclarationError:
        return DeclarationError(f"{self.who}, {self.source!r}", found, fix)

    def truth(self, node: ast.expr) -> _Part:
        """A part that is yes or no; a flag counts as one."""
        part = self.part(node)
        if part.what == TRUTH:
            return part
        if part.what == FLAG:
            return _Part(TRUTH, lambda rows: _is_one(part.of(rows)))
        raise self.error(f"{ast.unparse(node)!r} is a {part.what}", "Compare it with something")

    def number(self, node: ast.expr) -> _Part:
        part = self.part(node)
        if part.what not in (NUMBER, FLAG):
            raise self.error(f"{ast.unparse(node)!r} is a {part.what}, not a number", "Calculate with numbers only")
        return part

    def part(self, node: ast.expr) -> _Part:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise self.error(f"{ast.unparse(node)!r} is not known here", "Use comparisons, and, or, not, + - * /")
        found: _Part = method(node)
        return found

    def _name(self, node: ast.Name) -> _Part:
        name = node.id
        if name not in self.types:
            near = difflib.get_close_matches(name, self.types, 3, 0.4)
            raise self.error(f"{name!r} is not known", f"Nearest: {', '.join(near) or 'nothing like it'}")
        self.names.append(name)
        kind = self.types[name]
        return _Part(kind.kind, lambda rows: rows[name], kind.values)

    def _constant(self, node: ast.Constant) -> _Part:
        value = node.value
        if isinstance(value, str):
            return _Part(WORD, lambda rows: value, word=value)
        if isinstance(value, bool):
            return _Part(TRUTH, lambda rows: value)
        if isinstance(value, int | float) and abs(value) < 1e300:
            number = float(value)
            return _Part(NUMBER, lambda rows: number)
        raise self.error(f"{value!r} is not a number or a word", "Write it as a plain number")

    def _binop(self, node: ast.BinOp) -> _Part:
        function = _ARITHMETIC.get(type(node.op))
        if function is None:
            raise self.error(f"{ast.unparse(node)!r} is not known here", "Use + - * /")
        left, right = self.number(node.left), self.number(node.right)
        return _Part(NUMBER, lambda rows: function(left.of(rows), right.of(rows)))

    def _unaryop(self, node: ast.UnaryOp) -> _Part:
        if isinstance(node.op, ast.Not):
            truth = self.truth(node.operand)
            return _Part(TRUTH, lambda rows: np.logical_not(truth.of(rows)))
        part = self.number(node.operand)
        if isinstance(node.op, ast.USub):
            return _Part(NUMBER, lambda rows: np.negative(part.of(rows)))
        raise self.error(f"{ast.unparse(node)!r} is not known here", "Use - or not")

    def _boolop(self, node: ast.BoolOp) -> _Part:
        parts = [self.truth(v) for v in node.values]
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return _Part(TRUTH, lambda rows: _reduced(join, [p.of(rows) for p in parts]))

    def _compare(self, node: ast.Compare) -> _Part:
        operands = [node.left, *node.comparators]
        pairs = [self._pair(*p) for p in zip(operands, node.ops, operands[1:], strict=False)]
        return _Part(TRUTH, lambda rows: _reduced(np.logical_and, [p(rows) for p in pairs]))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Callable[[Rows], Values]:
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, op, right)
        function = _COMPARISONS.get(type(op))
        if function is None:
            raise self.error("compares with `is`", "Use == or !=")
        a, b = self.part(left), self.part(right)
        if a.what == WORD:
            a, b = b, a
        if b.what == WORD:
            self._only_equality(op, left)
            return self._words(a, [b.word], isinstance(op, ast.NotEq))
        return self._numbers(a, b, function, ast.unparse(left), ast.unparse(right))

    def _numbers(
        self, a: _Part, b: _Part, function: Callable[[Values, Values], Values], left: str, right: str
    ) -> Callable[[Rows], Values]:
        for part, text in ((a, left), (b, right)):
            if part.what not in (NUMBER, FLAG):
                raise self.error(f"{text!r} is a {part.what}, compared as a number", "Compare numbers, or use a word")
        return lambda rows: _compared(function, a.of(rows), b.of(rows))

    def _membership(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Callable[[Rows], Values]:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise self.error(
                f"{ast.unparse(right)!r} is not a list", 'Write for example: channel in ("chip", "online")'
            )
        words = [self.part(e).word for e in right.elts if self.part(e).what == WORD]
        if not words or len(words) != len(right.elts):
            raise self.error(f"{ast.unparse(right)!r} holds something else than words", "List words only")
        return self._words(self.part(left), words, isinstance(op, ast.NotIn))

    def _only_equality(self, op: ast.cmpop, left: ast.expr) -> None:
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise self.error(f"{ast.unparse(left)!r} is ordered against a word", "Words are compared by == and !=")

    def _words(self, part: _Part, words: list[str], negate: bool) -> Callable[[Rows], Values]:
        if part.what == TEXT:
            hashes = Text.of_strings(words).hashes()
            return lambda rows: _text_among(rows, part, hashes, negate)
        if part.what != CATEGORY:
            raise self.error(f"a {part.what} is compared with the word {words[0]!r}", "Compare it with a number")
        codes = np.array([self._code(part, w) for w in words], np.int32)
        return lambda rows: _codes_among(part.of(rows), codes, negate)

    def _code(self, part: _Part, word: str) -> int:
        if word not in part.values:
            raise self.error(f"{word!r} is none of its values", f"It may be: {', '.join(part.values)}")
        return part.values.index(word)

    def _call(self, node: ast.Call) -> _Part:
        if not isinstance(node.func, ast.Name) or node.func.id != "is_missing" or len(node.args) != 1 or node.keywords:
            raise self.error(f"{ast.unparse(node)!r} is not known here", "The only function is is_missing(name)")
        part = self.part(node.args[0])
        if part.what in (WORD, TRUTH):
            raise self.error(f"{ast.unparse(node)!r} asks about a {part.what}", "Name a column")
        return _Part(TRUTH, lambda rows: _missing(part.of(rows)))


def _reduced(join: Any, parts: list[Values]) -> Values:
    out = parts[0]
    for part in parts[1:]:
        out = join(out, part)
    return out


def _compared(function: Callable[[Values, Values], Values], a: Values, b: Values) -> Values:
    answer = function(a, b)
    return answer & (a == a) & (b == b) if function is np.not_equal else answer


def _is_one(flag: Values) -> Values:
    return (flag == flag) & (flag != 0)


def _codes_among(codes: Values, wanted: NDArray[np.int32], negate: bool) -> Values:
    among = _reduced(np.logical_or, [codes == code for code in wanted])
    return ~among & (codes >= 0) if negate else among


def _text_among(rows: Rows, part: _Part, wanted: NDArray[np.int64], negate: bool) -> Values:
    column = part.of(rows)
    among = np.isin(column.hashes(), wanted)
    return ~among & ~column.missing() if negate else among


def _missing(values: Values) -> Values:
    if isinstance(values, Text):
        return values.missing()
    return values < 0 if getattr(values, "dtype", np.dtype(float)).kind == "i" else np.isnan(values)
