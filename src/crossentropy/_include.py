"""Where the header of the C interface lies, for those who compile with it."""

from pathlib import Path


def get_include() -> str:
    """The folder of ``crossentropy.h``, the C interface, as an argument for a compiler's include path.

    Returns
    -------
    str

    Notes
    -----
    ``cimport crossentropy`` in Cython needs the same folder. :doc:`/howto/c_callers` shows both.

    Examples
    --------
    >>> import os
    >>> os.listdir(crossentropy.get_include())
    ['crossentropy.h']
    """
    return str(Path(__file__).parent / "include")
