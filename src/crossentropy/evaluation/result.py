"""What an evaluation comes to: a record of numbers that prints as a table and goes into JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import distributions
from .sums import rounded_ratio, rounded_sum

SUMS = ("loss", "weight", "nll", "brier")
COUNTS = ("rows", "counted", "undefined", "infinite_losses", "infinite_nlls")


class Calibration(NamedTuple):
    """How often predictions of each confidence are right; arrays of a number for each bin.

    A prediction's confidence is the largest probability of its row. A bin holds confidences above its lower edge up to
    its upper one, so that 1 belongs to the last, as in scikit-learn's ``calibration_curve``.
    """

    edges: np.ndarray  # one more than bins
    rows: np.ndarray  # how many
    confidence: np.ndarray  # its mean; NaN for an empty bin
    accuracy: np.ndarray  # the share of right predictions; NaN for an empty bin


class EvaluationResult(NamedTuple):
    """What an evaluation comes to. Means are NaN over no row; losses are in nats but for ``bits``.

    ``str()`` of it is a table, `as_dict` has it in Python's own numbers and lists, `to_json` as text.
    """

    rows: int  # all that came
    counted: int  # those that count: not ignored, nor of weight 0
    undefined: int  # of these those with a NaN or +inf in them, or nothing but -inf: wrong, and NaN in every mean
    loss: float  # as `cross_entropy` with reduction='mean' and the evaluation's options
    nll: float  # the mean of -log p_y
    perplexity: float  # e^nll
    bits: float  # nll / log 2
    brier: float  # the mean of sum_c (p_c - [c = y])^2: from 0 to 2
    accuracy: float
    top: Mapping[int, float]  # for each k how often the target is among the k largest
    ece: float  # expected calibration error: the mean distance of confidence and accuracy over the bins
    calibration: Calibration
    class_counts: np.ndarray  # k_c of the note's eq. 1: how often each class is the target
    predicted_counts: np.ndarray  # of the largest classes
    right_counts: np.ndarray  # how often both are the class
    p: np.ndarray  # p_c = k_c / N
    q: np.ndarray  # the note's p^_c, the predicted counts over their sum
    cross_entropy: float  # H(P, Q) of eq. 4, of these two: inf where a class that occurs was never predicted
    entropy: float  # H(P)
    confusion: np.ndarray | None  # [target, prediction], where it was kept

    def as_dict(self) -> dict[str, Any]:
        """All of it as numbers, lists and dicts of Python's own.

        Returns
        -------
        dict
        """
        return {name: _plain(value) for name, value in self._asdict().items()}

    def to_json(self, indent: int | None = None) -> str:
        """All of it as JSON, which has no NaN and no infinity: null stands for either.

        Parameters
        ----------
        indent : int, optional
            As ``json.dumps`` takes it.

        Returns
        -------
        str
        """
        return json.dumps(_finite(self.as_dict()), indent=indent, allow_nan=False)

    def lines(self) -> list[tuple[str, str]]:
        """The scores by name, as text.

        Returns
        -------
        list of (str, str)
        """
        left_out = self.rows - self.counted
        rows = f"{self.counted}" + (f", and {left_out} that do not count" if left_out else "")
        found = [("rows", rows), ("classes", str(len(self.p)))]
        if self.undefined:
            found.append(("undefined rows (NaN, inf)", str(self.undefined)))
        found.append(("loss, nats", f"{self.loss:.6f}"))
        if self.nll != self.loss and not (math.isnan(self.nll) and math.isnan(self.loss)):
            found.append(("-log p of the targets, nats", f"{self.nll:.6f}"))
        found += [("bits", f"{self.bits:.6f}"), ("perplexity", f"{self.perplexity:.6g}")]
        found.append(("accuracy", f"{self.accuracy:.6f}"))
        found += [(f"top-{k} accuracy", f"{share:.6f}") for k, share in self.top.items() if k > 1]
        found += [("Brier score", f"{self.brier:.6f}"), ("calibration error (ECE)", f"{self.ece:.6f}")]
        found.append(("H(P), nats, of the targets' shares", f"{self.entropy:.6f}"))
        found.append(("H(P, Q), nats, with the predictions' shares", f"{self.cross_entropy:.6f}"))
        return found

    def __str__(self) -> str:
        found = self.lines()
        width = max(len(name) for name, _ in found)
        return "\n".join(f"{name:{width}}  {value}" for name, value in found)


def result_of(parts: dict[str, np.ndarray], top: tuple[int, ...], classes: int | None) -> EvaluationResult:
    """The result of an evaluation's totals."""
    count = dict(zip(COUNTS, map(int, parts["counts"]), strict=True))
    sums = dict(zip(SUMS, parts["sums"], strict=True))
    n, undefined = count["counted"], count["undefined"]

    def mean(name: str, by: Any, infinite: int = 0) -> float:
        if not n or undefined:
            return math.nan
        if infinite:
            return math.inf
        return rounded_ratio(sums[name], by)

    weighs = rounded_sum(sums["weight"]) > 0
    loss = mean("loss", sums["weight"], count["infinite_losses"]) if weighs else math.nan
    nll = mean("nll", n, count["infinite_nlls"])
    confidences = [rounded_sum(digits) for digits in parts["bin_confidence"]]
    sizes, right = parts["bin_rows"].copy(), parts["bin_right"]
    gaps = [abs(c - int(r)) for c, r in zip(confidences, right, strict=True)]
    with np.errstate(invalid="ignore"):
        edges = np.linspace(0, 1, len(sizes) + 1)
        calibration = Calibration(edges, sizes, np.array(confidences) / sizes, right / sizes)
    in_top = {k: int(hit) / n if n else math.nan for k, hit in zip(top, parts["in_top"], strict=True)}
    k_c, predicted = parts["targets"].copy(), parts["predicted"].copy()
    p, q = (_shares(counts) for counts in (k_c, predicted))
    return EvaluationResult(
        rows=count["rows"],
        counted=n,
        undefined=undefined,
        loss=loss,
        nll=nll,
        perplexity=_exp(nll),
        bits=nll / math.log(2),
        brier=mean("brier", n),
        accuracy=int(parts["right"].sum()) / n if n else math.nan,
        top=in_top,
        ece=math.fsum(gaps) / n if n and not undefined else math.nan,
        calibration=calibration,
        class_counts=k_c,
        predicted_counts=predicted,
        right_counts=parts["right"].copy(),
        p=p,
        q=q,
        cross_entropy=distributions.cross_entropy_of(k_c, q) if n and predicted.any() else math.nan,
        entropy=distributions.entropy(k_c) if n else math.nan,
        confusion=parts["pairs"].copy() if "pairs" in parts else None,
    )


def _shares(counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return counts / counts.sum()


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Calibration):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): each for k, each in value.items()}
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
