"""Reading, checking and rewriting queries.

Each function reads one construct of the language from the tokens of the text, checks names, types and the owners' rules, and returns
the facts about it together with its rendering. The language is what these functions read; nothing else is accepted, and nothing that
the author wrote is copied or skipped. Operands get parentheses wherever SQL dialects disagree on precedence.

Modules, from the inside out: :mod:`~cleanroom.sql.checking.columns`, :mod:`~cleanroom.sql.checking.expressions`,
:mod:`~cleanroom.sql.checking.relations`, :mod:`~cleanroom.sql.checking.selects` and :mod:`~cleanroom.sql.checking.queries`. They share
no state except the :class:`~cleanroom.sql.context.Context` that they receive. Privacy rules are in :mod:`cleanroom.sql.privacy`.
"""
