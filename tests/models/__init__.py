"""Small models of the protocol's rules, searched exhaustively (docs/design/models.md).

A module a model; `search` is the breadth-first search. They import nothing of the product: each
restates the rules of docs/rules.md, so that a rule can be tried out, or dropped, before code is.
"""
