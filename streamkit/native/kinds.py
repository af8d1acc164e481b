"""Kinds of fields that the scanner knows, by number: for it and for who tells it. Without numba."""

INT, FLOAT, TEXT, BOOL = 0, 1, 2, 3
