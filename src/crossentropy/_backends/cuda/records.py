"""Records of reals on a device: kept in memory, in arrays, and exchanged between threads.

Each function is written out, a term for each field, because Numba has no loop over fields that makes a record.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from .elements import device
from .intrinsics import cluster_store, load, store

EVERYONE = 0xFFFFFFFF  # of a warp


class Record(NamedTuple):
    """What can be done with a NamedTuple whose fields are all reals of one type. ``i`` counts records in an array."""

    size: int  # bytes of one in memory
    load: Callable  # (address): the record there
    store: Callable  # (address, p): put one there
    take: Callable  # (array, i): the record of an array of reals
    put: Callable  # (array, i, p): put one into it
    from_lane: Callable  # (p, step): the record of the lane whose number differs by that bit
    # (array, i, block, p, barrier): put one into the shared array of that block of the cluster, by that barrier
    into_cluster: Callable


@functools.cache
def record_of(fields, real, real_size) -> Record:
    """The functions for ``fields``, a NamedTuple, of such reals."""

    def each(term, between=", "):
        return between.join(term.format(k=k, name=name) for k, name in enumerate(fields._fields))

    count = len(fields._fields)
    source = f"""
def load_record(at): return fields({each("load(at + {k} * size, real)")})
def store_record(at, p): {each("store(at + {k} * size, p.{name})", "; ")}
def take(array, i): return fields({each("array[unsigned(count * i + {k})]")})
def put(array, i, p): {each("array[unsigned(count * i + {k})] = p.{name}", "; ")}
def from_lane(p, step): return fields({each("cuda.shfl_xor_sync(EVERYONE, p.{name}, step)")})
def into_cluster(array, i, block, p, barrier):
    {each("cluster_store(array, count * i + {k}, block, p.{name}, barrier)", "; ")}
"""
    names = {"fields": fields, "real": real, "size": real_size, "count": count, "EVERYONE": EVERYONE}
    names |= {"unsigned": np.uint32}  # an index that may be negative counts from the end, by instructions of its own
    names |= {"cuda": cuda, "load": load, "store": store, "cluster_store": cluster_store}
    exec(source, names)
    made = ("load_record", "store_record", "take", "put", "from_lane", "into_cluster")
    return Record(count * real_size, *(device(names[name]) for name in made))
