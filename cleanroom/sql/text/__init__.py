"""The text of a query: its tokens, and what an author may write instead of what is not in the language.

What a reader sees is what the gate reads: no token is invisible, looks like another one, or is skipped.
"""
