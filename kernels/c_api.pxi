# The C interface: its table as a capsule, from which programs in C and Cython take it (crossentropy.h).

import os

from cpython.pycapsule cimport PyCapsule_New

cdef extern from "c_api.h":
    char *CROSSENTROPY_CAPSULE
    const void *C_API "&c_api"
    void c_api_begin(const char *, int) noexcept
    void c_api_has_forked() noexcept


def _begin_c_api():
    """Calls from C go by the environment's ISA and threads, as far as this machine has them."""
    name = os.environ.get("CROSSENTROPY_ISA", "").encode()
    threads = os.environ.get("CROSSENTROPY_NUM_THREADS", "")
    if isa_select(name) == NULL:
        name = supported_isas()[0].encode()
    c_api_begin(name, min(int(threads), 1 << 16) if threads.isdecimal() else 0)


def _after_fork():
    c_api_has_forked()


_begin_c_api()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
c_api = PyCapsule_New(<void *>C_API, CROSSENTROPY_CAPSULE, NULL)
