"""PyTorch's own functions replaced by the drop-in's for a program that is not to be edited, and given back.

A replacement is the one name in `torch.nn.functional` that programs and PyTorch's modules look up when they are called.
`torch.log_softmax` and `Tensor.log_softmax` stay: they are operators, which the compiler, TorchScript and PyTorch's own
compositions know by identity.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter

import torch
from torch.nn import functional as F
from torch.overrides import has_torch_function

from . import calls, private

# What may be replaced, with the modules whose forward looks it up.
_NAMES = {"cross_entropy": "torch.nn.CrossEntropyLoss", "log_softmax": "torch.nn.LogSoftmax"}
_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError)

_log = logging.getLogger("crossentropy.torch")
_lock = threading.RLock()
_in_force: list[Patch] = []
_own = {}  # what stood in torch.nn.functional under a name, while it is replaced
_inside = threading.local()  # whether this thread is in a function of ours, and whether that has come back to PyTorch's


def patch(*names: str) -> Patch:
    """Replace `torch.nn.functional.cross_entropy` and ``log_softmax`` by this module's, until it is undone.

    Parameters
    ----------
    *names : {'cross_entropy', 'log_softmax'}
        What to replace; both by default. `torch.nn.CrossEntropyLoss` and `torch.nn.LogSoftmax`, also those that are
        there already, go with them: their forward looks the function up.

    Returns
    -------
    Patch
        What was done, and the calls since: as text by ``repr``, as numbers by ``calls`` and ``fallbacks``. ``undo()``
        gives PyTorch its functions back, as the end of a ``with`` block does.

    Raises
    ------
    ValueError
        For another name.

    Notes
    -----
    It holds for the whole process, from any thread; patches may be nested, and undone in any order: the functions are
    back with the last one. Results are those of `cross_entropy` and `log_softmax`; where these refuse what PyTorch
    takes, or hand it on (docs/torch.md), PyTorch's own function computes, which is counted, and logged once for each
    reason by the logger ``crossentropy.torch``. Errors are PyTorch's.

    Not replaced: names that were imported before (``from torch.nn.functional import cross_entropy``), and
    `torch.log_softmax` and `Tensor.log_softmax`. `torch.compile` takes the replacements, and compiles anew what it had
    compiled with others; such calls are not counted. `torch.jit.script` compiles PyTorch's own functions.

    Examples
    --------
    >>> import torch
    >>> loss, logits, targets = torch.nn.CrossEntropyLoss(), torch.zeros(2, 4), torch.tensor([0, 3])
    >>> with crossentropy.torch.patch() as patched:
    ...     found = loss(logits, targets)
    >>> found, patched.calls
    (tensor(1.3863), 1)
    """
    for name in names:
        if name not in _NAMES:
            raise ValueError(f"names must be of {', '.join(map(repr, _NAMES))}, got {name!r}")
    found = Patch(tuple(dict.fromkeys(names)) or tuple(_NAMES))
    found._apply()
    return found


class Patch:
    """What `patch` has replaced, and the calls since then.

    Attributes
    ----------
    names : tuple of str
        The functions of `torch.nn.functional` that it replaces.
    calls : int
        Calls that this package has computed.
    fallbacks : Counter
        Calls that PyTorch's own function has computed, by their reason.

    Examples
    --------
    >>> import torch
    >>> patched = crossentropy.torch.patch("log_softmax")
    >>> _ = torch.nn.functional.log_softmax(torch.zeros(2, 4), -1)
    >>> patched.undo()
    >>> patched.names, patched.calls
    (('log_softmax',), 1)
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.calls = 0
        self.fallbacks: Counter[str] = Counter()
        self._depth = 0

    def __repr__(self) -> str:
        names = ", ".join(f"torch.nn.functional.{name} ({_NAMES[name]})" for name in self.names)
        with _lock:
            state = "in force" if self in _in_force else "undone"
            reasons = "".join(f"; {reason}: {count}" for reason, count in self.fallbacks.items())
            counts = f"{self.calls} calls by crossentropy, {self.fallbacks.total()} by PyTorch{reasons}"
        return f"<crossentropy.torch.patch of {names}: {state}; {counts}>"

    def __enter__(self) -> Patch:
        with _lock:
            self._depth += 1
            self._apply()
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            self._depth -= 1
            if self._depth <= 0:
                self.undo()

    def undo(self) -> None:
        """Give PyTorch its functions back, those that no other patch still holds; nothing where that is done."""
        with _lock:
            if self not in _in_force:
                return
            _in_force.remove(self)
            self._depth = 0
            for name in self.names:
                if not any(name in other.names for other in _in_force):
                    _give_back(name)
        _log.info("%s", repr(self))

    def _apply(self) -> None:
        with _lock:
            if self in _in_force:
                return
            for name in self.names:
                if name not in _own:
                    _own[name] = getattr(F, name)
                    setattr(F, name, _replacement(name, _own[name]))
            _in_force.append(self)
        _log.info("%s", repr(self))


def _give_back(name: str) -> None:
    own = _own.pop(name)
    if getattr(F, name) is _replacement(name, own):
        setattr(F, name, own)
    else:  # what replaced it in turn may call it: it passes calls on from now on
        _log.warning("torch.nn.functional.%s was replaced by another program since, and is left as it is", name)


@functools.cache  # so that it is the same object each time, to whatever keeps it
def _replacement(name: str, own):
    """The function that stands for PyTorch's own of this name."""
    from crossentropy import torch as drop_in  # which imports this module

    ours = getattr(drop_in, name)

    @functools.wraps(own)
    def replacement(*args, **kwargs):
        if torch.compiler.is_compiling():  # traced: what follows is for the eager call alone
            return ours(*args, **kwargs)
        if getattr(_inside, "on", False):
            _inside.came_back = True
            return own(*args, **kwargs)
        # An override gets what torch.nn.functional has under the name, and comes back with its own tensors.
        if name not in _own or has_torch_function((*args, *kwargs.values())):
            return own(*args, **kwargs)
        _inside.on, _inside.came_back = True, False
        try:
            found = ours(*args, **kwargs)
        except _REFUSALS as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        else:
            _count(name, _reason(args, kwargs) if _inside.came_back else None)
            return found
        finally:
            _inside.on = False
        found = own(*args, **kwargs)  # or PyTorch's own error
        _count(name, reason)
        return found

    # TorchScript compiles PyTorch's own function: torch.jit.script asks whether there is such an attribute, and
    # torch.compile, which takes the replacement, whether it is true.
    replacement.__script_if_tracing_wrapper = False
    replacement.__original_fn = own
    return replacement


def _reason(args, kwargs) -> str:
    """Why a call was handed to PyTorch's function."""
    input = args[0] if args else kwargs.get("input")
    if not isinstance(input, torch.Tensor):
        return f"input of {type(input).__name__}"
    if not (input.is_cpu or input.is_cuda or input.is_meta) or (input.is_cuda and calls.lacks_cuda()):
        return f"device {input.device.type}"
    if input.dtype not in calls.FLOATS:
        return f"dtype {input.dtype}"
    if private.are_transforms_active() or private.is_forward_mode():
        return "torch.func and forward-mode AD"
    return "arguments that the kernels are not for"


def _count(name: str, reason: str | None) -> None:
    """Count a call of this package's, or one of PyTorch's for a reason, in every patch that has replaced the name."""
    with _lock:
        for patched in _in_force:
            if name not in patched.names:
                continue
            if reason is None:
                patched.calls += 1
                continue
            if reason not in patched.fallbacks:
                _log.warning("torch.nn.functional.%s computes itself what is not for crossentropy: %s", name, reason)
            patched.fallbacks[reason] += 1
