"""From an author's text to one syntax tree: what a reader sees is what the parser sees.

* :mod:`~cleanroom.sql.text.tokens` refuses invisible characters and text that would exhaust the parser.
* :mod:`~cleanroom.sql.text.marking` marks functions and casts, so that the parser does not rewrite them.
* :mod:`~cleanroom.sql.text.parsing` calls the parser.
* :mod:`~cleanroom.sql.text.language` refuses nodes of the tree that are not in the language of queries.
* :mod:`~cleanroom.sql.text.words` compares the words of the tree with those of the author.
"""
