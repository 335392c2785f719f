"""What will go wrong on this machine, and the exact line that prevents it.

Each family is a module of plain functions from a view (values, gathered by `survey`) to findings, listed in a tuple.
A rule's name is stable; docs/check.md explains each.
"""
