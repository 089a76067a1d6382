"""The words of a statement. The parser is lenient: it skips over words, and adds some that it misses.

The words of the tree must therefore be those of the author. So nothing of an accepted query is ignored, and nothing is added to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.language import ANY_JOIN, CONSTRUCTS, LANGUAGE, UNCLEAR, outside_language, position_of, unclear_order
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.characters import token_position

_SAME = {"==": "=", "!=": "<>", "!": "NOT", "REGEXP": "RLIKE", "MINUS": "EXCEPT", "TEMP": "TEMPORARY", "SUBSTR": "SUBSTRING"}
"""Words with other spellings."""
_SET_OPERATORS = ("UNION", "INTERSECT", "EXCEPT")
_WORDS = {word for form in LANGUAGE.values() for words in (form.words, *form.parts.values()) for word in words} | {",", "AS", ""}
_BEFORE_AS = _WORDS - {")", "END", "NULL", "CURRENT_DATE", "CURRENT_TIMESTAMP"}
_AFTER_AS = _WORDS - {"(", "SELECT", "WITH"}
"""Words that cannot stand before and after AS, which the parser skips over."""


def check_words(tree: exp.Expr, words: Iterable[str], text: str, tokens: Sequence[Token]) -> None:
    """Refuse a statement whose words are not those of its tree.

    Args:
        tree: The tree of the statement.
        words: The words of the tree.
        text: The statement.
        tokens: Its tokens, as the parser received them.
    """
    difference = Counter(words)
    difference.subtract(word for word, _ in _words_of(tokens))
    joins, commas = difference.pop(ANY_JOIN, 0), -difference[","]
    if 0 < commas <= joins:
        difference.subtract({",": -commas, "JOIN": commas, "CROSS": min(commas, difference["CROSS"])})
    different = {word: count for word, count in difference.items() if count}
    if different:
        raise _misread(tree, different, text, tokens)


def _words_of(tokens: Sequence[Token]) -> Iterator[tuple[str, Token]]:
    """The author's words, except those without meaning: AS, ASC, NULLS FIRST, and DISTINCT after a set operator."""
    before = ""
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        kind, word = token.token_type, token.text.upper()
        word = _SAME.get(word, word)
        if kind is TokenType.IDENTIFIER:
            yield token.text.upper(), token
            word = "`"
        elif kind is TokenType.STRING or kind is TokenType.NUMBER:
            value, _, unit = token.text.partition(" ") if before == "INTERVAL" else (token.text, "", "")
            yield f"'0.{value}" if before == "0." else f"'{value}", token
            if unit:
                yield unit.upper(), token
            word = "'"
        elif word == "AS":
            if before in _BEFORE_AS:
                raise Refusal("Unparsable", f"{token.text!r} does not fit here", token_position(token))
        elif before == "AS" and word.partition(" ")[0] in _AFTER_AS:
            raise Refusal("Unparsable", f"{token.text!r} cannot follow AS; write a name, or `{token.text}`", token_position(token))
        elif word == "." and after is not None and after.token_type is TokenType.NUMBER:
            word = "0."
        elif word == "VIEW" and before == "LATERAL":  # the tree has parentheses around its columns
            yield from ((part, token) for part in ("VIEW", "(", ")"))
        elif not (word == "ASC" or word == "NULLS" or before == "NULLS" or (word == "DISTINCT" and before in _SET_OPERATORS)):
            for part in word.split(" "):
                yield part, token
        before = word


def _misread(tree: exp.Expr, different: Mapping[str, int], text: str, tokens: Sequence[Token]) -> Refusal:
    """The refusal of a text that the parser does not read word by word."""
    if different.get("(", 0) > 0 and different.get(")", 0) > 0:
        for node in tree.find_all(exp.Paren):
            if node.parent is not None and type(node.this) in UNCLEAR.get(type(node.parent), ()) and not _is_written(node, text):
                return unclear_order(node.parent, node.this)
    extra = next((token for word, token in _words_of(tokens) if different.get(word, 0) < 0), None)
    position = position_of(tree) if extra is None else token_position(extra)
    for word in different:
        if word in CONSTRUCTS:
            return outside_language("ExpressionNotAllowed", CONSTRUCTS[word], position)
    if extra is not None:
        return Refusal("Unparsable", f"{extra.text[:40]!r} does not fit here, or something before it is missing", position)
    return Refusal("Unparsable", f"{next(iter(different)).lstrip(chr(39))} is missing", position)


def _is_written(node: exp.Paren, text: str) -> bool:
    """Whether the author wrote the parentheses ``node``, and not the parser."""
    meta = next((child._meta for child in node.walk(bfs=False) if child._meta), None)
    return meta is None or text[: meta["start"]].rstrip().endswith("(")
