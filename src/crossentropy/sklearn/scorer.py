"""A scorer for cross-validation and searches: minus the log loss, of the decision function where that is the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from .. import softmax
from .log_loss import decision_log_loss, log_loss

# Rows whose probabilities are compared with the softmax of their decision function.
_LOOKED_AT = 256


class _NegLogLoss(_BaseScorer):  # type: ignore[misc]  # scikit-learn has no types
    """A scorer, as `sklearn.metrics.make_scorer` makes them: minus the log loss of an estimator's probabilities.

    ``cross_val_score``, ``GridSearchCV`` and all else that takes ``scoring=`` takes it; ``scorer(estimator, X, y)`` is
    the score. Where ``decision_function`` is seen to be the logits of the probabilities, or there are no probabilities,
    the score is `decision_log_loss` of it, which clips nothing; else `log_loss` of ``predict_proba``. Labels are the
    estimator's ``classes_``: a fold may lack some.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = crossentropy.sklearn.SoftmaxRegression(alpha=0.01).fit(x, y)
    >>> round(crossentropy.sklearn.neg_log_loss_scorer(model, x, y), 3)
    -0.141
    """

    def __init__(self) -> None:
        super().__init__(decision_log_loss, -1, {}, "decision_function")

    def __repr__(self) -> str:
        return "crossentropy.sklearn.neg_log_loss_scorer"

    def __reduce__(self) -> Any:
        return _NegLogLoss, (), self.__dict__

    def _score(
        self, method_caller: Any, estimator: Any, X: Any, y_true: Any, *, sample_weight: ArrayLike | None = None
    ) -> float:
        options: dict[str, Any] = {"sample_weight": sample_weight, "labels": getattr(estimator, "classes_", None)}
        if _has_logits(estimator, X):
            return -decision_log_loss(y_true, estimator.decision_function(X), **options)
        return -log_loss(y_true, estimator.predict_proba(X), **options)


def _has_logits(estimator: Any, X: Any) -> bool:
    """Whether the decision function is seen to be the logits of the probabilities, or there are no probabilities.

    Rows of which the estimator is sure show nothing: there every decision function looks like the logits.
    """
    if not hasattr(estimator, "decision_function"):
        return False
    if not hasattr(estimator, "predict_proba"):
        return True
    count = _num_samples(X)
    some = _safe_indexing(X, np.unique(np.linspace(0, count - 1, min(_LOOKED_AT, count)).astype(np.intp)))
    z, p = np.asarray(estimator.decision_function(some), np.float64), estimator.predict_proba(some)
    if z.ndim == 1:
        z = np.stack((np.zeros_like(z), z), axis=1)
    if z.shape != p.shape or not np.allclose(softmax(z), p, rtol=1e-3, atol=1e-6):
        return False
    return bool((p.max(axis=1) < 0.999).any())


neg_log_loss_scorer = _NegLogLoss()
