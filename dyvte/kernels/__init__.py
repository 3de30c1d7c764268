"""Products, attention and row operations of a decoder step on a CPU, in C++.

``build`` makes the library from ``src/`` (or finds it made), ``ops`` calls it with tensors. What
there is no compiler for, ``torch`` computes: nothing outside ``ops`` knows the library.
"""
