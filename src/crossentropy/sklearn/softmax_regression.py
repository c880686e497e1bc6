"""Softmax regression as scikit-learn has its estimators: L-BFGS in `fit`, mini-batches in `partial_fit`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import cross_entropy, cross_entropy_and_grad, log_softmax, softmax
from ..training import Model, backpropagate, batches, linear

_DTYPES = [np.float64, np.float32]


class _Data(NamedTuple):
    """Observations to learn from: features, their classes by number, and what each counts (None: one)."""

    x: Any
    y: np.ndarray
    weights: np.ndarray | None

    def taken(self, chosen: np.ndarray) -> _Data:
        return _Data(self.x[chosen], self.y[chosen], None if self.weights is None else self.weights[chosen])


class SoftmaxRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Multinomial logistic regression on this package's loss and gradient.

    `fit` minimises mean cross-entropy + alpha/2 ||W||^2 by L-BFGS: the minimum is that of scikit-learn's
    `LogisticRegression` with ``C = 1 / (alpha * n)``, for n observations, or n the sum of their weights. `partial_fit`
    learns from a stream, a step for each mini-batch.

    Parameters
    ----------
    alpha : float, default 1e-4
        Strength of the penalty on the coefficients; the intercepts have none.
    fit_intercept : bool, default True
        Whether there are intercepts.
    max_iter : int, default 1000
        The most iterations of L-BFGS in `fit`.
    tol : float, default 1e-4
        `fit` ends where no entry of the gradient is larger; with early stopping, where the loss on the validation set
        has not fallen by ``tol`` for ``n_iter_no_change`` iterations either.
    class_weight : dict or 'balanced', optional
        What each class counts, 1 where a dict does not name it; 'balanced' gives every class the same sum of weights.
    early_stopping : bool, default False
        Whether `fit` sets a share of the observations aside and keeps the coefficients that were best on them.
    validation_fraction : float in (0, 1), default 0.1
        That share, drawn in every class alike.
    n_iter_no_change : int, default 5
        How many iterations may pass without a better one.
    batch_size : int, default 64
        Observations of a step of `partial_fit`.
    learning_rate : float, default 0.2
        Of `partial_fit`: AdaGrad's, which divides each coefficient's step by the root of the sum of its squared
        gradients, so that features of any scale may be learned.
    random_state : int, RandomState or None
        Draws the validation set, and the order of the observations in `partial_fit`.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The labels, in order.
    coef_ : ndarray, shape (K, D), or (1, D) of two classes
        Of `decision_function`.
    intercept_ : ndarray, shape (K,) or (1,)
        Likewise; zeros without ``fit_intercept``.
    n_iter_ : int
        Iterations of L-BFGS, or calls of `partial_fit`.
    n_features_in_ : int
        D.
    feature_names_in_ : ndarray
        The columns' names, where X had them.
    validation_scores_ : list of float
        With early stopping: minus the loss on the validation set, after each iteration.

    Raises
    ------
    ValueError, TypeError
        By `fit` and `partial_fit`, as scikit-learn's estimators have it: for parameters out of their range, and for
        data that do not fit.

    Notes
    -----
    The cost c(b) of the note's algorithm 1, in nats, with the penalty.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> crossentropy.sklearn.SoftmaxRegression().fit(x, y).score(x, y)
    0.98
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # where scikit-learn looks for it
        "alpha": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        alpha: float = 1e-4,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-4,
        class_weight: dict[Any, float] | str | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        batch_size: int = 64,
        learning_rate: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # ------------------------------------------------------------------ learning

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn from all observations at once; what was learned before is forgotten.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (N, D)
            Features, finite. float32 is computed with as such.
        y : array_like, shape (N,)
            Labels of two classes or more: numbers, strings, booleans.
        sample_weight : array_like, shape (N,), optional
            What each observation counts, at least 0.

        Returns
        -------
        SoftmaxRegression
            Itself.

        Raises
        ------
        TypeError, ValueError
            For features, labels, weights or parameters that will not do, as other estimators of scikit-learn say it.
        """
        self.classes_, data = self._observations(X, y, sample_weight, None)
        held_out = None
        if self.early_stopping:
            data, held_out = self._split(data)
        self._descend(data, held_out)
        self._squares: Model | None = None
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn from a part of a stream: one pass over it, in mini-batches, on from where the coefficients are.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like, shape (K,)
            All labels that the stream may have; the first call needs them.

        Returns
        -------
        SoftmaxRegression
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`; for classes that are missing at first, or others later; for ``class_weight='balanced'``, which
            needs all labels at once.
        """
        first = not hasattr(self, "classes_")
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once, and partial_fit has a part of them: "
                "pass a dict of weights"
            )
        known = None if classes is None else np.unique(np.asarray(classes))
        if first and known is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if not first and known is not None and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes {classes!r} is not the same as on the last call to partial_fit: {self.classes_}")
        known, data = self._observations(X, y, sample_weight, self.classes_ if known is None else known, first)
        if first:
            self.classes_, self.n_iter_ = known, 0
            model = _zeros(data.x.shape[1], len(known))
            self._take(model, data.x.dtype)
        model = Model(self.coef_.T.astype(np.float64), self.intercept_.astype(np.float64))
        sums = getattr(self, "_squares", None) or Model(*map(np.zeros_like, model))
        rng = np.random.default_rng(check_random_state(self.random_state).randint(1 << 31))
        for chosen in batches(data.x.shape[0], self.batch_size, rng):
            part = data.taken(chosen)
            if part.weights is not None and not part.weights.any():
                continue
            _, slope = _cost(part, model, self.alpha)
            for parameter, squares, g in zip(model, sums, slope, strict=True):
                squares += g * g
                step = np.divide(g, np.sqrt(squares), out=np.zeros_like(g), where=squares > 0)
                parameter -= self.learning_rate * step
            if not self.fit_intercept:
                model.bias[...] = 0
        self._take(model, self.coef_.dtype)
        self._squares = sums
        self.n_iter_ += 1
        return self

    def _observations(
        self, X: Any, y: Any, sample_weight: Any, classes: np.ndarray | None, reset: bool = True
    ) -> tuple[np.ndarray, _Data]:
        """What there is to learn from, checked; the classes are those given, or those of the labels."""
        x, y = validate_data(self, X, y, accept_sparse="csr", dtype=_DTYPES, reset=reset)
        check_classification_targets(y)
        if classes is None:
            classes, numbers = np.unique(y, return_inverse=True)
            if len(classes) < 2:
                raise ValueError(f"y must have at least two classes, got one class: {classes.tolist()[0]!r}")
        else:
            numbers = np.searchsorted(classes, y).clip(max=len(classes) - 1)
            if len(strange := y[classes[numbers] != y]):
                raise ValueError(f"y has the label {strange.tolist()[0]!r}, which is not among the classes {classes}")
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        if self.class_weight is not None:
            of_class = self._class_weights(classes, numbers, weights)
            weights = of_class[numbers] if weights is None else weights * of_class[numbers]
        if weights is not None and not weights.any():
            raise ValueError("sample_weight must have an entry above 0: there is nothing to learn from")
        return classes, _Data(x, numbers, weights)

    def _class_weights(self, classes: np.ndarray, numbers: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        if self.class_weight == "balanced":
            counts = np.bincount(numbers, weights, len(classes))
            return counts.sum() / (len(classes) * np.where(counts > 0, counts, 1))
        named = self.class_weight if isinstance(self.class_weight, dict) else {}
        if unknown := set(named) - set(classes.tolist()):
            raise ValueError(f"class_weight names {sorted(unknown, key=repr)}, not among the classes {classes}")
        of_class = np.array([named.get(label, 1.0) for label in classes.tolist()], np.float64)
        if not (np.isfinite(of_class) & (of_class >= 0)).all():
            raise ValueError(f"class_weight must be finite and at least 0, got {named}")
        return of_class

    def _split(self, data: _Data) -> tuple[_Data, _Data]:
        """What is learned from, and what is set aside: of every class a share, where there are enough of each."""
        every = np.bincount(data.y).min() >= 2 and len(data.y) * self.validation_fraction >= len(self.classes_)
        learned, held = train_test_split(
            np.arange(len(data.y)),
            test_size=self.validation_fraction,
            stratify=data.y if every else None,
            random_state=self.random_state,
        )
        parts = data.taken(learned), data.taken(held)
        for part, name in zip(parts, ("training", "validation"), strict=True):
            if part.weights is not None and not part.weights.any():
                raise ValueError(f"sample_weight leaves nothing of any class in the {name} set: change random_state")
        return parts

    def _descend(self, data: _Data, held_out: _Data | None) -> None:
        """L-BFGS; with a validation set, until that gets no better."""
        features, dtype = data.x.shape[1], data.x.dtype
        start = _zeros(features, len(self.classes_))
        columns = len(start.bias)

        def model(theta: np.ndarray) -> Model:
            bias = theta[features * columns :] if self.fit_intercept else np.zeros(columns)
            return Model(theta[: features * columns].reshape(features, columns), bias)

        def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _cost(data, model(theta), self.alpha)
            parts = slope if self.fit_intercept else slope[:1]
            return value, np.concatenate([part.ravel() for part in parts])

        def held_out_loss(theta: np.ndarray) -> float | None:
            return None if held_out is None else _cost_alone(held_out, model(theta))

        theta = np.concatenate([part.ravel() for part in (start if self.fit_intercept else start[:1])])
        watch = _Watch(held_out_loss, theta, self.tol, self.n_iter_no_change)
        options = {"maxiter": self.max_iter, "maxfun": 100 * self.max_iter, "maxls": 50, "gtol": self.tol}
        options["ftol"] = 64 * np.finfo(np.float64).eps
        try:
            found = minimize(cost, theta, jac=True, method="L-BFGS-B", callback=watch, options=options)
        except _Stopped:
            theta = watch.best
        else:
            theta = found.x if held_out is None else watch.best
            if found.status and (steepest := np.abs(found.jac).max()) > self.tol:
                warnings.warn(
                    f"fit ended after {found.nit} iterations of max_iter = {self.max_iter} with an entry of the "
                    f"gradient of {steepest:.2g}, above tol = {self.tol}: raise max_iter, or scale the features",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        self.n_iter_ = watch.iterations
        if held_out is not None:
            self.validation_scores_ = watch.scores
        self._take(model(theta), dtype)

    def _take(self, model: Model, dtype: Any) -> None:
        self.coef_ = np.ascontiguousarray(model.weights.T).astype(dtype)
        self.intercept_ = model.bias.astype(dtype)

    # ------------------------------------------------------------------ what was learned

    def decision_function(self, X: Any) -> np.ndarray:
        """The logits.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (N, D)

        Returns
        -------
        ndarray, shape (N, K), or (N,) of two classes
            For two: the second one's logit less the first one's.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            For features that will not do.
        """
        check_is_fitted(self)
        x = validate_data(self, X, accept_sparse="csr", dtype=_DTYPES, reset=False)
        z = linear(x, Model(self.coef_.T, self.intercept_))
        return z[:, 0] if len(self.classes_) == 2 else z

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each observation, shape (N,); X and errors as of `decision_function`."""
        z = self.decision_function(X)
        return self.classes_[(z > 0).astype(np.intp) if z.ndim == 1 else z.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, shape (N, K); X and errors as of `decision_function`."""
        return softmax(two_columns(self.decision_function(X)))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Its logarithm, also where that is too small for a float; X and errors as of `decision_function`."""
        return log_softmax(two_columns(self.decision_function(X)))


def two_columns(z: np.ndarray) -> np.ndarray:
    """Logits of two classes, of which one column was given, as two: the first is 0."""
    return z if z.ndim == 2 else np.stack((np.zeros_like(z), z), axis=1)


def _zeros(features: int, classes: int) -> Model:
    """Where learning starts: two classes have one column."""
    columns = 1 if classes == 2 else classes
    return Model(np.zeros((features, columns)), np.zeros(columns))


def _logits(x: Any, model: Model) -> np.ndarray:
    """Those of all classes, in the features' dtype."""
    z = np.asarray(linear(x, Model(*(part.astype(x.dtype) for part in model))))
    return two_columns(z[:, 0]) if z.shape[1] == 1 else z


def _cost(data: _Data, model: Model, alpha: float) -> tuple[float, Model]:
    """Mean cross-entropy + alpha/2 ||W||^2, and its gradient, in float64."""
    z = _logits(data.x, model)
    loss, g = cross_entropy_and_grad(z, data.y, sample_weight=data.weights, out=z)
    slope = backpropagate(data.x, g[:, 1:] if len(model.bias) == 1 else g)
    weights = model.weights
    return float(loss) + alpha / 2 * np.vdot(weights, weights), Model(slope.weights + alpha * weights, slope.bias)


def _cost_alone(data: _Data, model: Model) -> float:
    return float(cross_entropy(_logits(data.x, model), data.y, sample_weight=data.weights))


class _Stopped(Exception):
    """Leaves L-BFGS, whose own way of being stopped is younger than the SciPy that may be there."""


class _Watch:
    """Called after each iteration with the coefficients: counts, and with a validation set keeps the best."""

    def __init__(
        self, loss: Callable[[np.ndarray], float | None], start: np.ndarray, tol: float, patience: int
    ) -> None:
        self.loss, self.tol, self.patience = loss, tol, patience
        self.iterations = self.idle = 0
        self.scores: list[float] = []
        self.best, self.least, self.mark = start, np.inf, np.inf

    def __call__(self, theta: np.ndarray) -> None:
        """Stops the descent when `patience` iterations in a row are not better by `tol` than the best before."""
        self.iterations += 1
        loss = self.loss(theta)
        if loss is None:
            return
        self.scores.append(-loss)
        if loss < self.least:
            self.least, self.best = loss, theta.copy()
        self.idle = 0 if loss < self.mark - self.tol else self.idle + 1
        self.mark = min(self.mark, loss)
        if self.idle >= self.patience:
            raise _Stopped
