"""The words of a statement. The parser is lenient: it skips over words, and adds some that it misses.

The words of the tree must therefore be those of the author. So nothing of an accepted query is ignored, and nothing is added to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.language import ANY_JOIN, CONSTRUCTS, LANGUAGE, SAME, UNCLEAR, outside_language, position_of, unclear_order
from cleanroom.sql.text.tokens import token_position

_SET_OPERATORS = ("UNION", "INTERSECT", "EXCEPT")
_WORDS = {word for form in LANGUAGE.values() for words in (form.words, *form.parts.values()) for word in words} | {",", "AS", ""}
_BEFORE_AS = _WORDS - {")", "END", "NULL", "CURRENT_DATE", "CURRENT_TIMESTAMP"}
_AFTER_AS = _WORDS - {"(", "SELECT", "WITH"}
"""Words that cannot stand before and after AS, which the parser skips over."""


def check_words(tree: exp.Expr, words: Iterable[str], text: str, tokens: Sequence[Token]) -> None:
    """Refuse the statement ``text`` if the words of its tree are not those of its tokens, as the parser received them."""
    of_tree, written = Counter(words), Counter(_words_of(tokens))
    if of_tree == written:
        return
    of_tree.subtract(written)
    joins, commas = of_tree.pop(ANY_JOIN, 0), -of_tree[","]
    if 0 < commas <= joins:
        of_tree.subtract({",": -commas, "JOIN": commas, "CROSS": min(commas, of_tree["CROSS"])})
    different = {word: count for word, count in of_tree.items() if count}
    if different:
        raise _misread(tree, different, text, tokens)


def _words_of(tokens: Sequence[Token]) -> list[str]:
    """The author's words, except those without meaning: AS, ASC, NULLS FIRST, and DISTINCT after a set operator."""
    words, before, after = list[str](), "", iter(tokens[1:])
    for token in tokens:
        kind, word, following = token.token_type, token.text.upper(), next(after, None)
        if kind is TokenType.VAR and before != "AS" and before != "NULLS" and word != "ASC" and word != "NULLS":
            words.append(SAME.get(word, word))
        elif kind is TokenType.IDENTIFIER:
            words.append(SAME.get(word, word))
            word = "`"
        elif kind is TokenType.STRING or kind is TokenType.NUMBER:
            value, _, unit = token.text.partition(" ") if before == "INTERVAL" else (token.text, "", "")
            words += [f"'0.{value}" if before == "0." else f"'{value}", *unit.upper().split()]
            word = "'"
        elif word == "AS":
            if before in _BEFORE_AS:
                raise Refusal("Unparsable", f"{token.text!r} does not fit here", token_position(token))
        elif before == "AS" and word.partition(" ")[0] in _AFTER_AS:
            raise Refusal("Unparsable", f"{token.text!r} cannot follow AS; write a name, or `{token.text}`", token_position(token))
        elif word == "." and following is not None and following.token_type is TokenType.NUMBER and following.start == token.end + 1:
            word = "0."
        elif word == "VIEW" and before == "LATERAL":  # the tree has parentheses around its columns
            words += ["VIEW", "(", ")"]
        elif not (word == "ASC" or word == "NULLS" or before == "NULLS" or (word == "DISTINCT" and before in _SET_OPERATORS)):
            word = SAME.get(word, word)
            words += word.split(" ")
            if words[-4:] == ["IS", "NOT", "DISTINCT", "FROM"]:
                words[-4:] = ["<=>"]
        before = word
    return words


def _misread(tree: exp.Expr, different: Mapping[str, int], text: str, tokens: Sequence[Token]) -> Refusal:
    """The refusal of a text that the parser does not read word by word."""
    if different.get("(", 0) > 0 and different.get(")", 0) > 0:
        for node in tree.find_all(exp.Paren):
            if node.parent is not None and type(node.this) in UNCLEAR.get(type(node.parent), ()) and not _is_written(node, text):
                return unclear_order(node.parent, node.this)
    skipped = {word.lstrip("'") for word, count in different.items() if count < 0}
    extras = [token for token in tokens if SAME.get(word := token.text.upper(), word) in skipped or token.text in skipped]
    often = Counter(token.text for token in extras)
    extra = min(extras, key=lambda token: often[token.text], default=None)
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
