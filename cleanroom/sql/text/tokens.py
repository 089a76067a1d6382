"""Tokens of a query, as Spark's lexer reads them, and the place up to which the checks have read them.

Reference: https://github.com/apache/spark/blob/master/sql/api/src/main/antlr4/org/apache/spark/sql/catalyst/parser/SqlBaseLexer.g4
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cleanroom.documents.dataset_rules import RESERVED_PREFIX
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.remedies import CONSTRUCTS, outside_language
from cleanroom.sql.verdict import Position

T = TypeVar("T")
MAX_TEXT = 256 * 1024
"""Characters of one segment."""
MAX_TOKENS = 30_000
"""Tokens of one segment."""
MAX_DEPTH = 64
"""Nesting of parentheses and CASE, which bounds the recursion of the checks."""

QUOTED, TEXT, NUMBER, END = "`", "'", "0", ""
"""Kinds of tokens; a word or a sign is its own kind, in upper case."""
SET_OPERATORS = ("UNION", "INTERSECT", "EXCEPT")
RESERVED = {
    "SELECT", "FROM", "WHERE", "GROUP", "HAVING", "QUALIFY", "ORDER", "LIMIT", "BY", *SET_OPERATORS, "JOIN", "INNER", "CROSS", "NATURAL",
    "LATERAL", "ON", "USING", "AND", "OR", "NOT", "IN", "IS", "LIKE", "ILIKE", "RLIKE", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "AS",
    "WITH", "DISTINCT", "ALL", "DIV", "NULL", "TRUE", "FALSE",
}  # fmt: skip
"""Words that are names only in backticks."""
_NO_ALIAS = RESERVED | CONSTRUCTS.keys() | {"END", "FILTER", "OVER", "LEFT", "RIGHT", "FULL", "OUTER", "SEMI", "ANTI", "NULLS"}
_ENDS = {
    ",", ")", ";", "JOIN", "INNER", "CROSS", "LEFT", "RIGHT", "FULL", "SEMI", "ANTI", "LATERAL", "WHERE", "GROUP", "ASC", "DESC",
    "NULLS", "HAVING", "QUALIFY", "ORDER", "LIMIT", *SET_OPERATORS, END,
}  # fmt: skip
"""Kinds of tokens that follow a condition, or a key of GROUP BY or ORDER BY."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_TOKEN = re.compile(
    r"""
      (?: [ \t\r\n]+ | --(?:\\\n|[^\r\n])* )+
    | ( [A-Za-z_][A-Za-z0-9_]* )
    | ( `[^`]+`(?!`) )
    | ( '[^'\\]*(?:(?:\\.|'')[^'\\]*)*' | "[^"\\]*(?:(?:\\.|"")[^"\\]*)*" )
    | ( (?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\w* )
    | ( <=> | <> | != | == | <= | >= | \|\| | -> | => | :: | \|> | (?!/\*)[-+*/%=<>(),.;!&|^~?:\[\]{}@\#$\\] )
    | ( /\*(?!\+) )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_COMMENT = re.compile(r"/\*|\*/")
_SAME = {"==": "=", "!=": "<>", "!": "NOT", "REGEXP": "RLIKE", "MINUS": "EXCEPT", "TEMP": "TEMPORARY"}
"""Words and signs with another spelling."""
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "%": "\\%", "_": "\\_"}
_ESCAPED = re.compile(r"\\(.)|''|\"\"", re.DOTALL)


def strip_invisible(text: str) -> str:
    """``text`` without control, bidirectional, zero-width and other invisible characters. Tabs and newlines become spaces."""
    return _INVISIBLE.sub("", text.replace("\t", " ").replace("\r", " ").replace("\n", " "))


def split_statements(text: str) -> list[str]:
    """Split a file into its ``;``-separated statements, each as written. Empty ones are omitted.

    Raises:
        Refusal: The text has characters or tokens that are not allowed.
    """
    tokens = Tokens(text)
    ends = [*(index for index, kind in enumerate(tokens.kinds) if kind == ";"), len(tokens.starts)]
    parts = zip([0, *(end + 1 for end in ends)], ends, strict=False)
    return [text[tokens.starts[first] : tokens.ends[end - 1]] for first, end in parts if first < end]


class Tokens:
    """The tokens of a text, checked. No token is invisible, looks like another one, or has a reserved name.

    Attributes:
        kinds: Kind of each token, followed by some :data:`END`.
        values: Text of each token; a name without its backticks.
        closing: For each opening parenthesis, the index of the closing one.
        at: Index of the next token that the checks read.
    """

    def __init__(self, text: str, *, rewritten: bool = False) -> None:
        """Read ``text``. A text that the gate has ``rewritten`` may use reserved names."""
        self.text, self.at = text, 0
        self.kinds: list[str] = []
        self.values: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.closing: dict[int, int] = {}
        self._check_characters()
        self._scan()
        if len(self.kinds) > MAX_TOKENS:
            raise Refusal("QueryTooLarge", f"the segment has {len(self.kinds)} tokens; the limit is {MAX_TOKENS}")
        if not rewritten and "__" in text:
            self._check_names()
        self._match_parentheses()
        self.kinds += [END] * 8
        self.values += [""] * 8

    def _check_characters(self) -> None:
        text = self.text
        if len(text) > MAX_TEXT:
            raise Refusal("QueryTooLarge", f"the segment has {len(text)} characters; the limit is {MAX_TEXT}")
        if found := _INVISIBLE.search(text):
            where = _position(text, found.start())
            raise Refusal(
                "InvisibleCharacter", f"the text contains the invisible or control character U+{ord(found.group()):04X}; remove it", where
            )
        if "${" in text:
            where = _position(text, text.index("${"))
            raise Refusal("ParameterNotAllowed", "${…} is a variable that Spark would substitute; remove it", where)

    def _scan(self) -> None:
        text, match, same, at, size = self.text, _TOKEN.match, _SAME.get, 0, len(self.text)
        kinds, values, starts, ends = self.kinds.append, self.values.append, self.starts.append, self.ends.append
        while at < size:
            found = match(text, at)
            if found is None:
                raise self._unreadable(at)
            start, at = at, found.end()
            group = found.lastindex
            if group is None:
                continue
            if group == 6:
                at = self._after_comment(start)
                continue
            value = found.group(group)
            if group == 1 or group == 5:
                kind = value.upper()
                kind = same(kind, kind)
            elif group == 2:
                kind, value = QUOTED, value[1:-1]
                if not value.isascii():
                    raise self._unreadable(start)
            else:
                kind = TEXT if group == 3 else NUMBER
            kinds(kind)
            values(value)
            starts(start)
            ends(at)

    def _after_comment(self, at: int) -> int:
        """Offset after the comment at ``at``, which may contain others."""
        depth = 0
        for found in _COMMENT.finditer(self.text, at):
            depth += 1 if found.group() == "/*" else -1
            if not depth:
                return found.end()
        raise self._unreadable(at)

    def _unreadable(self, at: int) -> Refusal:
        text, where = self.text, _position(self.text, at)
        if text.startswith("/*+", at):
            return Refusal("HintNotAllowed", "a hint (/*+ … */) is not allowed; leave it out", where)
        if text[at] in "'\"`/" and (text[at] != "`" or text.find("`", at + 1) < 0 or text[at + 1 : at + 2] == "`"):
            return Refusal("Unparsable", "a text in quotes, a name in backticks or a comment is not closed", where)
        name = text[at : text.find("`", at + 1) + 1] if text[at] == "`" else text[at]
        if name.isascii():
            return Refusal("NameNotAllowed", f"{name[:60]}: a name contains no backtick", where)
        return Refusal("NonAsciiName", f"{strip_invisible(name)!r}: names must be ASCII, so that they cannot look alike", where)

    def _check_names(self) -> None:
        for index, kind in enumerate(self.kinds):
            if kind != TEXT and self.values[index].lower().startswith(RESERVED_PREFIX):
                name = repr(self.values[index])
                raise Refusal("ReservedName", f"{name}: names that begin with {RESERVED_PREFIX} are reserved", self.position(index))

    def _match_parentheses(self) -> None:
        opened: list[int] = []
        cases = 0
        for index, kind in enumerate(self.kinds):
            if kind == "(":
                opened.append(index)
            elif kind == ")":
                if not opened:
                    raise Refusal("Unparsable", "a parenthesis is closed that is not open", self.position(index))
                self.closing[opened.pop()] = index
            elif kind == "CASE":
                cases += 1
            elif kind == "END" and cases:
                cases -= 1
            if len(opened) + cases > MAX_DEPTH:
                raise Refusal("QueryTooComplex", f"expressions are nested more than {MAX_DEPTH} deep", self.position(index))
        if opened:
            raise Refusal("Unparsable", "a parenthesis is not closed", self.position(opened[-1]))

    # -- reading ------------------------------------------------------------------------------------------------------

    def accept(self, *kinds: str) -> bool:
        """Read the tokens ``kinds`` if they are next, and return whether they are."""
        at = self.at
        for kind in kinds:
            if self.kinds[at] != kind:
                return False
            at += 1
        self.at = at
        return True

    def expect(self, *kinds: str) -> None:
        """Read the tokens ``kinds``."""
        for kind in kinds:
            if self.kinds[self.at] != kind:
                raise self.unexpected(expected=kind)
            self.at += 1

    def listed(self, read: Callable[[], T]) -> list[T]:
        """Read items with commas between them."""
        items = [read()]
        while self.accept(","):
            items.append(read())
        return items

    def is_name(self, index: int) -> bool:
        """Whether a token is a name: in backticks, or a word that is not reserved."""
        kind = self.kinds[index]
        return kind == QUOTED or (kind.isidentifier() and kind not in RESERVED)

    def is_alias(self, index: int) -> bool:
        """Whether a token may be an alias: a name that begins nothing else."""
        return self.is_name(index) and self.kinds[index] not in _NO_ALIAS

    def continues(self, index: int) -> bool:
        """Whether the expression before a token goes on with it. Otherwise a list or a clause ends there."""
        return self.kinds[index] not in _ENDS

    def name(self) -> str:
        """Read a name."""
        if not self.is_name(self.at):
            raise self.unexpected()
        self.at += 1
        return self.values[self.at - 1]

    def alias(self) -> str:
        """Read an alias, with or without AS; empty if something else follows."""
        after_as = self.accept("AS")
        if self.is_alias(self.at):
            self.at += 1
            return self.values[self.at - 1]
        if after_as and self.is_name(self.at):
            return self.name()
        if after_as and self.kinds[self.at].isidentifier():
            word = self.values[self.at]
            raise Refusal("Unparsable", f"{word!r} cannot follow AS; write a name, or `{word}`", self.position())
        if after_as:
            raise self.unexpected()
        return ""

    def string(self) -> str:
        """Read a text in quotes, and return the characters that it stands for."""
        self.at += 1
        raw = self.values[self.at - 1]
        inside, quote = raw[1:-1], raw[0]
        return _ESCAPED.sub(self._unescaped, inside) if "\\" in inside or quote in inside else inside

    def _unescaped(self, found: re.Match[str]) -> str:
        character = found.group(1)
        if character is None:
            return found.group()[0] if found.group()[0] == self.values[self.at - 1][0] else found.group()
        if character not in _ESCAPES:
            message = f"a backslash before {strip_invisible(character)!r} is not in the language of queries; write \\\\ for a backslash"
            raise Refusal("LiteralNotAllowed", message, self.position(self.at - 1))
        return _ESCAPES[character]

    def places(self, end: int, *stops: str) -> Iterator[int]:
        """Indexes of the tokens ``stops`` from here to ``end``, outside of parentheses."""
        index = self.at
        while index < end:
            kind = self.kinds[index]
            if kind in stops:
                yield index
            index = self.closing[index] + 1 if kind == "(" else index + 1

    def begins_query(self, at: int) -> bool:
        """Whether a query begins at index ``at``: a SELECT, or a set operation whose first part is in parentheses."""
        kind = self.kinds[at]
        if kind == "(":
            return self.kinds[self.closing[at] + 1] in SET_OPERATORS and self.begins_query(at + 1)
        return kind in ("SELECT", "WITH", "FROM")

    # -- refusals -----------------------------------------------------------------------------------------------------

    def position(self, index: int | None = None) -> Position:
        """Position of a token, by default of the next one."""
        index = self.at if index is None else index
        return _position(self.text, self.starts[index] if index < len(self.starts) else len(self.text))

    @contextmanager
    def located(self, index: int) -> Iterator[None]:
        """Add the position of the token ``index`` to a refusal that has none."""
        try:
            yield
        except Refusal as refusal:
            refusal.position = refusal.position or self.position(index)
            raise

    def construct(self, *around: int) -> Refusal | None:
        """The refusal of a construct outside of the language that the tokens ``around`` name, if there is one."""
        for index in around:
            kind = self.kinds[index] if 0 <= index < len(self.kinds) else END
            if kind in CONSTRUCTS:
                return outside_language(CONSTRUCTS[kind], self.position(index))
        return None

    def unexpected(self, index: int | None = None, expected: str = END) -> Refusal:
        """The refusal of a text whose next token does not fit, where another one is ``expected``."""
        at = self.at if index is None else index
        if (refusal := self.construct(at, at + 1, at - 1, at - 2)) is not None:
            return refusal
        kind, word = self.kinds[at], self.values[at]
        hint = "something before it is missing" if expected in (END, ")", ",") else f"{expected} is missing"
        if kind == END:
            return Refusal("Unparsable", f"the text ends too early, or {hint}", self.position(at))
        if kind == TEXT and at and self.kinds[at - 1] == TEXT:
            return outside_language("ExpressionNotAllowed: a text after a text; write ||", self.position(at))
        what = f"{strip_invisible(word)[:60]!r}{' is a keyword and' if kind in RESERVED else ''}"
        message = f"the text is not valid Spark SQL: {what} does not fit here, or {hint}"
        return Refusal("Unparsable", message, self.position(at))


def _position(text: str, offset: int) -> Position:
    """Position of the character at ``offset``."""
    return Position(line=text.count("\n", 0, offset) + 1, column=offset - text.rfind("\n", 0, offset))
