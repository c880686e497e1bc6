"""The options of a loss, each described once: name, type, default, rule, what bad input is told, documentation.

A line of these classes is an option. Signatures, docstrings, checks, what backends get, the conformance suite's crossed
options, the fuzzer's draws and the PyTorch drop-in's arguments are made from it. CONTRIBUTING.md says what else an
option needs: its formula in reference/loss.py, and its use in each backend.
"""

import collections
import inspect
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple, SupportsIndex, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike

REDUCTIONS = ("none", "sum", "mean")


# ---------------------------------------------------------------------- rules: what a value must be, or is told


def real(value: Any, name: str) -> float:
    """One real number as a float."""
    if type(value) is float:
        return value
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}") from None
    except OverflowError:
        raise ValueError(
            f"{name} must be within the range of float64, got an integer of {value.bit_length()} bits"
        ) from None


def integer(value: Any, name: str) -> int:
    """One integer as an int."""
    if type(value) is int:
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


class Limits(NamedTuple):
    """What a real number must lie between, and the words for that; open: the end itself will not do."""

    least: float
    most: float
    told: str
    open_below: bool = False
    open_above: bool = False

    def condition(self, name: str) -> str:
        """The same as a condition in Python, of the number of that name; `inf` is infinity."""
        below, above = ("<" if is_open else "<=" for is_open in (self.open_below, self.open_above))
        return f"{float(self.least)!r} {below} {name} {above} {float(self.most)!r}"


NOT_NEGATIVE = Limits(0, math.inf, "finite and not negative", open_above=True)
POSITIVE = Limits(0, math.inf, "finite and positive", open_below=True, open_above=True)


def _number(limits: Limits) -> Callable[[Any, str], float]:
    """The rule of a real number within limits."""
    least, most, told, open_below, open_above = limits

    def rule(value: Any, name: str) -> float:
        number = real(value, name)
        above = number > least if open_below else number >= least
        below = number < most if open_above else number <= most
        if not (above and below):
            raise ValueError(f"{name} must be {told}, got {value!r}")
        return number

    return rule


def _number_or_none(limits: Limits) -> Callable[[Any, str], float]:
    """That rule, where None is 0."""
    rule = _number(limits)
    return lambda value, name: 0.0 if value is None else rule(value, name)


def _divisor(limits: Limits) -> Callable[[Any, str], float]:
    """That rule, with the way out for a count of 0."""
    rule = _number(limits)

    def of_count(value: Any, name: str) -> float:
        if real(value, name) == 0:
            way = "pass max(count, 1), with the count of all ranks or batches together, the same in each"
            raise ValueError(f"{name} must be {limits.told}, got {value!r}; {way}")
        return rule(value, name)

    return of_count


def _reduction(value: Any, name: str) -> str:
    if not isinstance(value, str) or value not in REDUCTIONS:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, REDUCTIONS))}, got {value!r}")
    return value


# ---------------------------------------------------------------------- the table


class Entries(NamedTuple):
    """What holds of each number of an option that is an array, the words for that, and whether it may be a mask."""

    hold: Callable[[Any], Any]
    told: str
    may_be_mask: bool


WEIGHTS = Entries(lambda numbers: (numbers >= 0) & (numbers < math.inf), "finite and not negative", True)
ADDED = Entries(lambda numbers: numbers < math.inf, "finite or -inf", False)


class Option(NamedTuple):
    """What there is to know of an option.

    ``rule(value, name)`` is the value as the package works with it, or the error that names the option, the rule and
    the value. An option ``of`` the 'row' changes what a row yields, and goes to backends; one of the 'call' does not.
    A real number lies within ``limits``, which ``rule`` is made from (`_real`), and its check in compiled code.
    One with a shape (``over``) is an array: a number for each class, or row, of which ``entries`` holds. One that
    ``needs_index`` goes with index targets alone; one that is ``of_logits`` makes other logits of those given. A value
    is ``inert`` where it changes nothing in a call whose every target is a class. ``samples`` are the values, beside
    the default, that the conformance suite crosses with every other option; the fuzzer draws from these and ``draws``,
    and what must be refused from ``bad``.
    """

    default: Any
    kind: str
    text: str
    rule: Callable[[Any, str], Any] | None = None
    of: Literal["row", "call"] = "row"
    over: Literal["", "classes", "rows"] = ""
    entries: Entries = WEIGHTS
    limits: Limits | None = None
    needs_index: bool = False
    of_logits: bool = False
    inert: Callable[[Any], bool] = lambda value: False
    samples: tuple[Any, ...] = ()
    draws: tuple[Any, ...] = ()
    bad: tuple[Any, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether it is a real number that backends get: it crosses to them by its name alone."""
        return self.of == "row" and isinstance(self.default, float)


def _real(default: float | None, kind: str, text: str, limits: Limits, of_limits: Any = _number, **more: Any) -> Option:
    """An option that is a real number within limits; ``of_limits`` makes its rule."""
    return Option(default, kind, text, of_limits(limits), limits=limits, **more)


class AxisOption(TypedDict, total=False):
    """Where the classes are; logits that are products have them last."""

    axis: Annotated[
        SupportsIndex,
        Option(
            -1,
            "int, default -1",
            "The class axis of ``logits``. Its other axes are the rows; no transposed copy is made.",
            integer,
            of="call",
        ),
    ]


class TargetOptions(TypedDict, total=False):
    """Which rows, classes and targets count, and how much: what frameworks have, too, under names of theirs."""

    class_weight: Annotated[
        ArrayLike | None,
        Option(None, "array_like, shape (C,), optional", "w_c >= 0, finite; or a mask.", over="classes"),
    ]
    sample_weight: Annotated[
        ArrayLike | None,
        Option(
            None,
            "array_like of the rows' shape, optional",
            "v_n >= 0, finite; or a mask (False is 0, True 1). A row of weight 0 does not count, whatever it holds:\n"
            "its loss and gradient are 0.",
            over="rows",
        ),
    ]
    where: Annotated[
        ArrayLike | None,
        Option(
            None,
            "array_like of bool, of the rows' shape, optional",
            "Rows where it is False do not count, whatever they hold: as with a ``sample_weight`` of 0.",
            of="call",
            over="rows",
        ),
    ]
    ignore_index: Annotated[
        SupportsIndex | None,
        Option(
            None,
            "int, optional",
            "Rows with this target do not count, whatever they hold: loss and gradient 0. Index targets only.",
            integer,
            needs_index=True,
            inert=lambda value: type(value) is int and value < 0,
        ),
    ]
    label_smoothing: Annotated[
        float,
        _real(
            0.0,
            "float in [0, 1], default 0",
            "epsilon: targets become (1 - epsilon) of themselves plus epsilon / C.",
            Limits(0, 1, "in [0, 1]"),
            samples=(0.1, 1.0),
            draws=(0.37, 1e-9),
            bad=(-0.1, 1.1, math.nan, "1"),
        ),
    ]


class ExtraOptions(TypedDict, total=False):
    """What a row's loss has beyond that of frameworks: their drop-ins take these by the same names."""

    z_loss: Annotated[
        float,
        _real(
            0.0,
            "float >= 0, default 0",
            "lambda: adds lambda logsumexp(z)^2 to each row.",
            NOT_NEGATIVE,
            samples=(0.01,),
            draws=(1e-4, 1.0),
            bad=(-1.0, math.inf, math.nan, None),
        ),
    ]
    logit_scale: Annotated[
        float,
        _real(
            1.0,
            "float > 0, default 1",
            "a: logits are multiplied by it, first of all (1 / temperature).",
            POSITIVE,
            of_logits=True,
            samples=(0.7,),
            draws=(0.125, 3.0),
            bad=(0.0, -1.0, math.inf, math.nan, None, "1"),
        ),
    ]
    softcap: Annotated[
        float | None,
        _real(
            0.0,
            "float > 0, or 0 or None for none, default 0",
            "c: logits go through c tanh(z / c), after ``logit_scale``; an infinite one becomes c or -c (Gemma 2).",
            NOT_NEGATIVE._replace(told="finite and positive, or 0 or None for none"),
            _number_or_none,
            of_logits=True,
            inert=lambda value: value is None,
            samples=(5.0,),
            draws=(1.5, 30.0),
            bad=(-1.0, math.inf, math.nan, "1"),
        ),
    ]
    margin: Annotated[
        float,
        _real(
            0.0,
            "float, default 0",
            "m: the target's logit is lowered by it, last of all (additive margin; CosFace's s (cos - m) is\n"
            "``logit_scale=s, margin=s * m``). Index targets only.",
            Limits(-math.inf, math.inf, "finite", open_below=True, open_above=True),
            needs_index=True,
            of_logits=True,
            samples=(0.6,),
            draws=(-2.5, 10.0),
            bad=(math.inf, math.nan, None, "1"),
        ),
    ]
    focal: Annotated[
        float,
        _real(
            0.0,
            "float >= 0, default 0",
            "gamma: a row's loss, but for its z-loss, is multiplied by (1 - p_y)^gamma. Index targets only.",
            NOT_NEGATIVE,
            needs_index=True,
            samples=(2.0,),
            draws=(0.5, 1.0, 5.0),
            bad=(-1.0, math.inf, math.nan, None),
        ),
    ]


class PriorOption(TypedDict, total=False):
    """What is added to the logits of every row: an array, so that drop-ins take it in a place of its own."""

    class_prior: Annotated[
        ArrayLike | None,
        Option(
            None,
            "array_like, shape (C,), optional",
            "b_c, finite or -inf: added to the logits, after ``softcap`` (logit adjustment). A class of -inf is\n"
            "masked: it has probability and gradient 0.",
            over="classes",
            entries=ADDED,
            of_logits=True,
        ),
    ]


class ReductionOptions(TypedDict, total=False):
    """From the rows' losses to what a call returns."""

    reduction: Annotated[
        Literal["mean", "sum", "none"],
        Option(
            "mean",
            "{'mean', 'sum', 'none'}",
            "'mean' divides the sum by sum_n v_n w_{y_n} over the rows that are not ignored (index targets), or by "
            "sum_n v_n\n(probability targets).",
            _reduction,
            of="call",
            bad=("average", None, 0),
        ),
    ]
    normalizer: Annotated[
        float | None,
        _real(
            None,
            "float > 0, optional",
            "Divisor in place of that one, for gradient accumulation or data parallelism; with 'mean' only. The same\n"
            "in each call, also in one whose own rows do not count: its loss and gradient are 0.",
            POSITIVE,
            _divisor,
            of="call",
            bad=(0, -1.0, math.nan, math.inf),
        ),
    ]
    empty: Annotated[
        float,
        Option(
            math.nan,
            "float, default nan",
            "The mean over no row (all ignored, or the weights sum to 0); the gradient is 0 then.",
            real,
            of="call",
            bad=("nan", None, True),
        ),
    ]


class LinearOptions(TargetOptions, PriorOption, ExtraOptions, ReductionOptions, total=False):
    """The options of a loss of hidden states: ``**options: Unpack[LinearOptions]``."""


class PerRowOptions(AxisOption, TargetOptions, PriorOption, ExtraOptions, total=False):
    """Those of what is returned for each row, which nothing reduces: ``**options: Unpack[PerRowOptions]``."""


class LossOptions(AxisOption, LinearOptions, total=False):
    """The options of every loss of logits: ``**options: Unpack[LossOptions]``."""


def _described(options: type) -> dict[str, Option]:
    return {name: hint.__metadata__[0] for name, hint in options.__annotations__.items()}


OPTIONS = _described(LossOptions)
LINEAR = tuple(_described(LinearOptions))
PER_ROW = tuple(_described(PerRowOptions))
EXTRAS = tuple(_described(ExtraOptions))
DEFAULTS = {name: option.default for name, option in OPTIONS.items()}
_OF_ROW = [name for name, option in OPTIONS.items() if option.of == "row"]
ARRAYS = tuple(name for name in _OF_ROW if OPTIONS[name].over)
NUMERIC = tuple(name for name in _OF_ROW if OPTIONS[name].numeric)
TRANSFORMS = tuple(name for name in NUMERIC if OPTIONS[name].of_logits)
NEED_INDEX = tuple(name for name, option in OPTIONS.items() if option.needs_index)

# The options as backends get them: arrays are contiguous float64, (C,) or (N,), or None; ignore_index is None where no
# target can equal it; numbers are floats. ``probabilities`` says which kind the targets are; ``all_classes`` is how
# many classes the rows have of which x has a block (crossentropy/blocks.py), 0 where it has them whole.
_record: Any = collections.namedtuple  # whose fields a type checker can't know here
_FIELDS = {name: DEFAULTS[name] for name in _OF_ROW} | {"probabilities": False, "all_classes": 0}
RowOptions = _record("RowOptions", list(_FIELDS), defaults=list(_FIELDS.values()))


# ---------------------------------------------------------------------- what callers pass


def unknown(function: str, name: str, names: Any) -> TypeError:
    """The error for an option that there is not: it names the nearest of those that there are."""
    import difflib  # a call that is right does without

    near = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; its options are {', '.join(names)}"
    return TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def passed(
    function: str, options: Mapping[str, Any], more: tuple[str, ...] = (), known: Collection[str] = DEFAULTS
) -> dict[str, Any]:
    """The options that are not at their default; a TypeError for one not ``known``, nor among ``more`` keywords."""
    left = {}
    for name, value in options.items():
        if name not in known:
            raise unknown(function, name, (*known, *more))
        default = DEFAULTS[name]
        alike = type(value) is type(default) or (type(value) is int and type(default) is float)
        if not alike or (value != default and (value == value or default == default)):
            left[name] = value
    return left


def is_plain(left: dict[str, Any]) -> bool:
    """Whether a call with these options, if its every target is a class, is one without any."""
    for name, value in left.items():  # noqa: SIM110 -- a generator would cost more than the loop
        if not OPTIONS[name].inert(value):
            return False
    return True


_REDUCTION = ("reduction", "normalizer", "empty")
_REDUCTION_BY_DEFAULT = DEFAULTS["reduction"], DEFAULTS["normalizer"], DEFAULTS["empty"]


def reduction_of(left: dict[str, Any]) -> tuple[str, float | None, float]:
    """(reduction, normalizer, empty) of a call, checked alone and together."""
    if left.keys().isdisjoint(_REDUCTION):
        return _REDUCTION_BY_DEFAULT
    reduction = _checked("reduction", left)
    if "normalizer" in left and reduction != "mean":
        raise ValueError(f"normalizer goes with reduction='mean', got reduction={reduction!r}")
    return reduction, _checked("normalizer", left), _checked("empty", left)


def _checked(name: str, left: dict[str, Any]) -> Any:
    return OPTIONS[name].rule(left[name], name) if name in left else DEFAULTS[name]  # type: ignore[misc]


def numeric_of(left: dict[str, Any]) -> dict[str, float]:
    """The numeric options of a row, checked."""
    return {name: OPTIONS[name].rule(left[name], name) for name in NUMERIC if name in left}  # type: ignore[misc]


# ---------------------------------------------------------------------- what readers see

_RAISES = """TypeError
        logits or targets of a dtype that is not supported; masked arrays and matrices; index targets given as floats;
        an option that there is not.
    ValueError
        Shapes that don't fit; no classes; weights, numbers, reduction or out outside their rules.
    IndexError
        A target outside [0, C) that is not ignored: the first, with its value."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _documentation(names: Any) -> str:
    entries = []
    for name in names:
        text = OPTIONS[name].text.replace("\n", "\n        ")
        entries.append(f"{name} : {OPTIONS[name].kind}\n        {text}")
    return "\n    ".join(entries)


def takes_options(function: _Function, names: Any = tuple(OPTIONS)) -> _Function:
    """A public function, or a class, with ``**options``: its signature and docstring show each of them."""
    called = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    signature = inspect.signature(called)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    before = [p for p in own if p.kind is not p.KEYWORD_ONLY]
    options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name]) for name in names]
    after = [p for p in own if p.kind is p.KEYWORD_ONLY]
    setattr(called, "__signature__", signature.replace(parameters=[*before, *options, *after]))  # noqa: B010
    if function.__doc__:  # python -OO has none
        function.__doc__ = function.__doc__.replace("{options}", _documentation(names)).replace("{raises}", _RAISES)
    return function
