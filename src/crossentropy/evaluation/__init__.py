"""An evaluation of logits that come in parts: in any order, from any number of machines, with the same bits.

    evaluation = crossentropy.Evaluation(ignore_index=-100)
    for logits, targets in batches:
        evaluation.update(logits, targets)
    print(evaluation.compute())

What it holds are counts and exact sums (sums.py): integers, which are added. So parts of an evaluation can be made
anywhere and merged in any order, and what comes of them is what one call would have found, to the last bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex, Unpack

import numpy as np
from numpy.typing import ArrayLike

from .. import _check, _device
from .._backends import registry
from .._options import OPTIONS, PER_ROW, PerRowOptions, integer, passed, takes_options
from .result import COUNTS, SUMS, Calibration, EvaluationResult, result_of
from .rows import RowsRead, read_rows
from .sums import DIGITS, carry, exact_sums

__all__ = ["Calibration", "Evaluation", "EvaluationResult"]

OF_EVALUATION = tuple(name for name in PER_ROW if OPTIONS[name].over != "rows")  # those come with the rows
FEW = 4  # times as many classes as rows make an array of classes costlier than to look rows up in it
CONFUSION_CLASSES = 128  # up to which pairs of classes are counted by default: 128 kB


@functools.partial(takes_options, names=OF_EVALUATION)
class Evaluation:
    """Loss, perplexity, accuracies, calibration, Brier score and counts of classes, of logits that come in parts.

    Parameters
    ----------
    {options}
    top : int or iterable of int, default ``(1, 5)``
        Each k >= 1 for which to count how often the target is among the k largest logits.
    bins : int, default 15
        Of the calibration: intervals of equal width between the probabilities 0 and 1.
    confusion : bool, optional
        Whether to count each pair of target and largest class, in C x C integers. By default up to 128 classes.

    Attributes
    ----------
    totals : ndarray of int64
        All that has been counted and added up. The sum of two evaluations' totals is the totals of both together, so
        that ``comm.Allreduce(MPI.IN_PLACE, evaluation.totals)`` merges all ranks. It has its length from the first
        `update` on, to which a rank without rows passes logits of shape (0, C).

    Raises
    ------
    TypeError, ValueError
        For an option that there is not, or a value outside its rule.

    Notes
    -----
    Each row is read once, by as many threads as `config` allows. An update takes a few megabytes beside its arguments,
    whatever their size, and so takes logits of any length from a ``numpy.memmap``.

    Losses and entropies are in nats: eq. 4 to 6 of the note; the calibration error is that of Guo et al. 2017.

    Sums are exact: any partition of the rows, in any order, gives the same bits. An evaluation pickles, in 11 kB and 24
    bytes a class (and the pairs of ``confusion``).

    Options that weight or change a target (class weights, smoothing, margin, focal), and ``sample_weight``, are for
    ``loss`` alone, as in `row_statistics`: all else counts every row alike that counts at all.

    Examples
    --------
    >>> logits, targets = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]), np.array([2, 0])
    >>> evaluation = crossentropy.Evaluation(top=(1, 2))
    >>> first = evaluation.update(logits[:1], targets[:1]).compute()
    >>> both = evaluation.update(logits[1:], targets[1:]).compute()
    >>> first.accuracy, both.accuracy, both.top[2]
    (0.0, 0.5, 1.0)
    """

    def __init__(
        self,
        *,
        top: SupportsIndex | Iterable[SupportsIndex] = (1, 5),
        bins: SupportsIndex = 15,
        confusion: bool | None = None,
        **options: Unpack[PerRowOptions],
    ) -> None:
        for name in ("sample_weight", "where"):
            if name in options:
                raise TypeError(f"{name} is of rows: pass it to update(), with them")
        self._options = passed("Evaluation", options, ("top", "bins", "confusion"), OF_EVALUATION)
        for name, value in self._options.items():
            if not OPTIONS[name].over and (rule := OPTIONS[name].rule) is not None:
                rule(value, name)
        self._top = tuple(sorted(set(_check.best_of(top, True, None))))
        self._bins = integer(bins, "bins")
        if self._bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins!r}")
        if confusion is not None and not isinstance(confusion, (bool, np.bool_)):
            raise TypeError(f"confusion must be True, False or None, got {confusion!r}")
        self._confusion = confusion
        self._fixed = len(COUNTS) + len(self._top) + 2 * self._bins + (len(SUMS) + self._bins) * DIGITS
        self.reset()

    def reset(self) -> Evaluation:
        """Forget every row.

        Returns
        -------
        Evaluation
            This one.
        """
        self._classes: int | None = None
        self._inner_edges = np.linspace(0, 1, self._bins + 1)[1:-1]
        self._totals = np.zeros(self._fixed, np.int64)
        return self

    @property
    def totals(self) -> np.ndarray:
        """All that has been counted and added up, as integers that may be added to those of others."""
        return self._totals

    def update(
        self,
        logits: ArrayLike,
        targets: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        where: ArrayLike | None = None,
    ) -> Evaluation:
        """Take in some more rows; after an error, none of them.

        Parameters
        ----------
        logits : array_like, shape (..., C, ...)
            As for `cross_entropy`, on the host; the same number of classes in each update.
        targets : array_like of int
            A class for each row, of the rows' shape.
        sample_weight : array_like of the rows' shape, optional
            v_n >= 0, finite, of the rows' losses. A row of weight 0 does not count at all.
        where : array_like of bool, of the rows' shape, optional
            Rows where it is False do not count.

        Returns
        -------
        Evaluation
            This one.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `cross_entropy`; and for another number of classes than before.
        """
        if _device.holds(logits):
            raise TypeError("logits of an Evaluation must lie on the host, got a CUDA array")
        return self._update(logits, targets, sample_weight, where, ())

    def _update(
        self,
        logits: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None,
        where: ArrayLike | None,
        parts: Sequence[np.ndarray],
    ) -> Evaluation:
        rows = {"sample_weight": sample_weight, "where": where}
        left = self._options | {name: value for name, value in rows.items() if value is not None}
        call = _check.loss(logits, targets, left)
        if call.options.probabilities:
            raise TypeError("targets of an Evaluation must be classes, integers of the rows' shape, got probabilities")
        classes = call.x.shape[-1]
        self._require(classes)
        backend, options = registry.current(), call.options
        index, weights = options.ignore_index, (options.class_weight, options.sample_weight)
        first_bad, _ = backend.scan_targets(call.targets, classes, index, *weights)
        if first_bad >= 0:
            where_it_is = _check.index_of(first_bad, call.rows_shape)
            raise _check.bad_target(where_it_is, call.targets[first_bad], classes)
        # Few rows leave an array of all classes alone: theirs wait until all have been read, when nothing can fail.
        few = FEW * call.targets.size < classes
        found, pending = np.zeros(self._fixed, np.int64) if few else self._none_of(classes), list[_Classes]()
        for part in read_rows(backend, call, parts):
            self._count(found, part, None if few else classes, pending)
        self._grow(classes)
        self._totals[: found.size] += found
        to = self._parts(self._totals, classes)
        for each in pending:
            each.tally(to)
        carry(to["sums"])
        carry(to["bin_confidence"])
        return self

    def update_beside(
        self,
        parts: Sequence[np.ndarray],
        targets: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        where: ArrayLike | None = None,
    ) -> Evaluation:
        """As `update`, of logits that lie in several arrays with different classes of the same rows, in their order.

        Parameters
        ----------
        parts : sequence of ndarray
            Of one dtype, the shape (..., c) with the classes last, and so ``axis=-1``. No copy of all is made.
        targets, sample_weight, where
            As for `update`.

        Returns
        -------
        Evaluation
            This one.
        """
        like = np.broadcast_to(np.zeros((), parts[0].dtype), (*parts[0].shape[:-1], sum(p.shape[-1] for p in parts)))
        return self._update(like, targets, sample_weight, where, parts)

    def merge_state(self, others: Evaluation | Iterable[Evaluation]) -> Evaluation:
        """Take in what other evaluations have seen.

        Parameters
        ----------
        others : Evaluation or iterable of Evaluation
            Of the same options; they stay as they are.

        Returns
        -------
        Evaluation
            This one.

        Raises
        ------
        ValueError
            For another number of classes, or another ``top``, ``bins`` or ``confusion``.
        """
        given = [others] if isinstance(others, Evaluation) else list(others)
        classes = self._classes
        for other in given:
            if not isinstance(other, Evaluation):
                raise TypeError(f"others must be Evaluations, got {type(other).__name__}")
            for name in ("_top", "_bins", "_confusion"):
                mine, its = getattr(self, name), getattr(other, name)
                if mine != its:
                    raise ValueError(f"others must have the same {name[1:]}, {mine}, got {its}")
            classes = other._classes if classes is None else classes
            if other._classes not in (None, classes):
                raise ValueError(f"others must have {classes} classes, got {other._classes}")
        if classes is not None:
            self._grow(classes)
        for other in given:
            self._totals[: other._totals.size] += other._totals
        self._carry(self._totals)
        return self

    def compute(self) -> EvaluationResult:
        """What the rows so far come to; NaN for means over no row.

        Returns
        -------
        EvaluationResult
        """
        return result_of(self._parts(self._totals, self._classes), self._top, self._classes)

    # ------------------------------------------------------------------ as torcheval's metrics are kept

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: plain numbers and one array, as ``numpy.savez`` writes them.

        Returns
        -------
        dict
        """
        confusion = -1 if self._confusion is None else int(self._confusion)
        return {
            "totals": self._totals.copy(),
            "classes": -1 if self._classes is None else self._classes,
            "top": self._top,
            "bins": self._bins,
            "confusion": confusion,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Evaluation:
        """Go on from a state that `state_dict` gave.

        Parameters
        ----------
        state : mapping
            Of an evaluation of the same ``top``, ``bins`` and ``confusion``.

        Returns
        -------
        Evaluation
            This one.

        Raises
        ------
        ValueError
            For a state of another kind.
        """
        mine = self.state_dict()
        for name in ("top", "bins", "confusion"):
            if name not in state or not np.array_equal(np.atleast_1d(state[name]), np.atleast_1d(mine[name])):
                got = np.asarray(state.get(name)).tolist()
                raise ValueError(f"state must have {name} = {mine[name]}, as this evaluation has, got {got}")
        classes = int(state["classes"])
        totals = np.array(state["totals"], np.int64)
        held = self.reset()._totals if classes < 0 else self._none_of(classes)
        if totals.shape != held.shape:
            raise ValueError(f"state must have totals of shape {held.shape}, got {totals.shape}")
        self._classes, self._totals = None if classes < 0 else classes, totals
        return self

    # ------------------------------------------------------------------ how totals lie

    def _require(self, classes: int) -> None:
        if self._classes not in (None, classes):
            raise ValueError(f"logits must have {self._classes} classes, as those before, got {classes}")

    def _keeps_pairs(self, classes: int) -> bool:
        return classes <= CONFUSION_CLASSES if self._confusion is None else bool(self._confusion)

    def _none_of(self, classes: int) -> np.ndarray:
        pairs = classes * classes if self._keeps_pairs(classes) else 0
        return np.zeros(self._fixed + 3 * classes + pairs, np.int64)

    def _grow(self, classes: int) -> None:
        if self._classes is None:
            grown = self._none_of(classes)
            grown[: self._totals.size] = self._totals
            self._classes, self._totals = classes, grown

    def _parts(self, totals: np.ndarray, classes: int | None) -> dict[str, np.ndarray]:
        """Views of the totals by name."""
        k = classes or 0
        shapes: dict[str, tuple[int, ...]] = {
            "counts": (len(COUNTS),),
            "in_top": (len(self._top),),
            "bin_rows": (self._bins,),
            "bin_right": (self._bins,),
            "sums": (len(SUMS), DIGITS),
            "bin_confidence": (self._bins, DIGITS),
            "targets": (k,),
            "predicted": (k,),
            "right": (k,),
        }
        if classes is not None and self._keeps_pairs(k):
            shapes["pairs"] = (k, k)
        parts, at = {}, 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            parts[name] = totals[at : at + size].reshape(shape)
            at += size
        return parts

    def _carry(self, totals: np.ndarray) -> None:
        parts = self._parts(totals, self._classes)
        carry(parts["sums"])
        carry(parts["bin_confidence"])

    # ------------------------------------------------------------------ from rows to totals

    def _count(self, found: np.ndarray, rows: RowsRead, classes: int | None, pending: list[_Classes]) -> None:
        """Add some rows to the totals; without ``classes`` theirs go to ``pending``."""
        to = self._parts(found, classes)
        counts, n = rows.counts, rows.loss.size
        if not counts.all():
            rows = RowsRead(*(a[counts] for a in rows))
        defined = rows.argmax >= 0
        finite_loss, finite_nll = np.isfinite(rows.loss), np.isfinite(rows.nll)
        counted, all_defined = rows.loss.size, bool(defined.all())
        to["counts"] += (
            n,
            counted,
            counted - np.count_nonzero(defined),
            np.count_nonzero(defined & ~finite_loss),
            np.count_nonzero(defined & ~finite_nll),
        )
        ranks = rows.rank if all_defined else np.where(defined, rows.rank, np.iinfo(np.int64).max)
        for place, k in enumerate(self._top):
            to["in_top"][place] += np.count_nonzero(ranks < k)
        right, targets = ranks == 0, rows.targets.astype(np.int64, copy=False)
        bins = np.searchsorted(self._inner_edges, rows.max_prob)
        # The sums of all rows, and after them those of each bin: in one go, which takes less than the five.
        values = np.concatenate([rows.loss, rows.weight, rows.nll, rows.brier, rows.max_prob])
        groups = np.concatenate([np.repeat(np.arange(len(SUMS)), counted), len(SUMS) + bins])
        keep = np.isfinite(values)
        if not keep.all():
            values, groups = values[keep], groups[keep]
        exact = exact_sums(values, groups, len(SUMS) + self._bins)
        to["sums"] += exact[: len(SUMS)]
        to["bin_confidence"] += exact[len(SUMS) :]
        predicted, of_predicted = rows.argmax, targets
        if not all_defined:
            bins, right, predicted, of_predicted = (a[defined] for a in (bins, right, predicted, targets))
        to["bin_rows"] += np.bincount(bins, minlength=self._bins)
        to["bin_right"] += np.bincount(bins[right], minlength=self._bins)
        of_rows = _Classes(targets, predicted, of_predicted, right)
        if classes is not None:
            of_rows.tally(to)
        else:
            pending.append(of_rows)


class _Classes(NamedTuple):
    """The classes of some rows: of targets, and of predictions with their targets and whether they are right."""

    targets: np.ndarray
    predicted: np.ndarray
    of_predicted: np.ndarray
    right: np.ndarray

    def tally(self, to: dict[str, np.ndarray]) -> None:
        """Count them."""
        _tally(to["targets"], self.targets)
        _tally(to["predicted"], self.predicted)
        _tally(to["right"], self.predicted[self.right])
        if "pairs" in to:
            _tally(to["pairs"].reshape(-1), self.of_predicted * len(to["targets"]) + self.predicted)


def _tally(counts: np.ndarray, of: np.ndarray) -> None:
    """Count each class; few rows leave most of many classes alone."""
    if FEW * of.size < counts.size:
        np.add.at(counts, of, 1)
    else:
        counts += np.bincount(of, minlength=counts.size)
