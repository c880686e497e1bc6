"""How the functions of this folder are compiled."""

from numba import njit

OPTIONS = {"nogil": True, "error_model": "numpy"}  # numpy: a division by 0 gives inf or NaN, as in C, and no exception
INNER = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # only compiled code calls these


def inner(function):
    """A function that kernels call."""
    return njit(**INNER)(function)


def merged(function):
    """A function whose body becomes part of its caller before that is compiled, which saves LLVM one compilation."""
    return njit(inline="always")(function)
