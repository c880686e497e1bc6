"""Linear losses beside the matrix products that they need: ``crossentropy bench --linear``.

A figure is a time in rounds in which everyone takes a turn, each in a process of its own, so that its peak memory is
its own; it is given as a multiple of the products alone, by the better of NumPy's library and PyTorch's in the same
rounds.

``cases.py``, ``records.py``, ``contenders.py``, ``worker.py`` (the process of a contender), ``contest.py``, and
``tables.py`` for README: each imports only those before it.
"""
