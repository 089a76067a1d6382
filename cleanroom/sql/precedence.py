"""Precedence of the outermost operator of a rendered expression, lowest first."""

OR, AND, PREDICATE, SUM, PRODUCT, SIGN, ATOM = range(7)
