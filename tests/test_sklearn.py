"""crossentropy.sklearn: scikit-learn's own checks of an estimator, and its own results."""

import inspect
import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the extra sklearn")

import scipy.sparse
import sklearn
from sklearn import metrics
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import crossentropy
from crossentropy.sklearn import SoftmaxRegression, decision_log_loss, log_loss, neg_log_loss_scorer

IRIS = load_iris(return_X_y=True)


def two_classes():
    x, y = IRIS
    return x[50:], y[50:]


# ---------------------------------------------------------------------- the estimator


@pytest.mark.parametrize(
    "estimator",
    [
        SoftmaxRegression(),
        pytest.param(SoftmaxRegression(early_stopping=True, random_state=0), marks=pytest.mark.slow),
    ],
)
def test_scikit_learn_s_own_checks(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a check that is skipped, because SciPy is to be told first, warns
        known = {}
        if estimator.early_stopping:  # the draw of what is held out depends on the number of rows, as SGDClassifier's
            reason = "zero weights are rows when the validation set is drawn"
            known = {f"check_sample_weight_equivalence_on_{kind}_data": reason for kind in ("dense", "sparse")}
        found = check_estimator(estimator, expected_failed_checks=known, on_fail=None)
    assert len(found) > 50
    failed = {r["check_name"]: repr(r["exception"]) for r in found if r["status"] == "failed"}
    assert not failed
    skipped = {r["check_name"] for r in found if r["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}


@pytest.mark.parametrize("data", [IRIS, two_classes()], ids=["three classes", "two classes"])
@pytest.mark.parametrize(
    ("form", "options", "weighted"),
    [
        (np.asarray, {}, False),
        (np.asarray, {"fit_intercept": False}, True),
        (scipy.sparse.csr_matrix, {"class_weight": {1: 2.0, 2: 0.5}}, False),
        (scipy.sparse.csc_array, {"class_weight": "balanced"}, True),
        (np.asfortranarray, {"class_weight": "balanced"}, True),
    ],
)
def test_the_minimum_is_that_of_logistic_regression(data, form, options, weighted):
    x, y = data
    weights = np.random.default_rng(0).integers(0, 4, len(y)).astype(float) if weighted else None
    total = np.ones(len(y)) if weights is None else weights
    named = options.get("class_weight")
    if named == "balanced":
        counts = np.bincount(y, total)
        total = total * (counts.sum() / (np.count_nonzero(counts) * np.where(counts, counts, 1)))[y]
    elif named:
        total = total * np.array([named.get(label, 1.0) for label in y])
    mine = SoftmaxRegression(alpha=0.01, tol=1e-7, **options).fit(form(x), y, weights)
    theirs = LogisticRegression(
        C=1 / (0.01 * total.sum()), tol=1e-7, max_iter=5000, fit_intercept=options.get("fit_intercept", True)
    ).fit(x, y, total)
    assert mine.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(mine.coef_, theirs.coef_, atol=2e-4)
    np.testing.assert_allclose(mine.predict_proba(x), theirs.predict_proba(x), atol=1e-4)
    np.testing.assert_allclose(mine.decision_function(form(x)), theirs.decision_function(x), atol=2e-3)
    assert (mine.predict(x) == theirs.predict(x)).all()


def test_labels_of_any_kind_and_float32_features():
    x, y = IRIS
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    a = SoftmaxRegression(alpha=0.01, tol=1e-6).fit(x, y)
    b = SoftmaxRegression(alpha=0.01, tol=1e-6).fit(x.astype(np.float32), names)
    assert b.coef_.dtype == b.predict_proba(x.astype(np.float32)).dtype == np.float32
    assert (b.predict(x.astype(np.float32)) == np.array(names)).mean() > 0.95
    np.testing.assert_allclose(a.coef_, b.coef_, atol=0.01)
    flags = SoftmaxRegression().fit(x, y == 1)
    assert flags.classes_.dtype == bool
    assert flags.predict(x).dtype == bool


@pytest.mark.parametrize("data", [IRIS, two_classes()], ids=["three classes", "two classes"])
def test_log_probabilities_where_probabilities_vanish(data):
    x, y = data
    model = SoftmaxRegression().fit(x, y)
    model.coef_ = model.coef_ * 1000
    found = model.predict_log_proba(x)
    assert np.isfinite(found).all()
    assert found.min() < -1000
    np.testing.assert_array_equal(np.exp(found), model.predict_proba(x))


def test_early_stopping_keeps_the_best():
    x, y = load_digits(return_X_y=True)
    model = SoftmaxRegression(alpha=0, early_stopping=True, random_state=3, n_iter_no_change=4, tol=1e-3).fit(x, y)
    assert len(model.validation_scores_) == model.n_iter_ < 200
    assert (np.argmax(model.validation_scores_) < model.n_iter_ - 1) or model.validation_scores_[-1] == max(
        model.validation_scores_
    )
    held = model._split(model._observations(x, y, None, None)[1])[1]
    assert -decision_log_loss(held.y, model.decision_function(held.x)) == pytest.approx(max(model.validation_scores_))
    assert clone(model).fit(x, y).n_iter_ == model.n_iter_
    assert pickle.loads(pickle.dumps(model)).score(x, y) == model.score(x, y) > 0.95


def test_too_few_iterations_are_told():
    x, y = IRIS
    with pytest.warns(ConvergenceWarning, match="max_iter = 3") as told:
        assert SoftmaxRegression(max_iter=3).fit(x, y).n_iter_ == 3
    assert told[0].filename == __file__


def test_a_stream_is_learned_in_parts():
    x, y = load_digits(return_X_y=True)
    names = np.array([f"digit {label}" for label in range(10)])[y]
    model = SoftmaxRegression(alpha=0, random_state=0)
    order = np.random.default_rng(0).permutation(len(y))
    learned, held = order[:1400], order[1400:]
    for epoch in range(5):
        for part in np.array_split(learned, 5):
            model.partial_fit(x[part], names[part], classes=np.unique(names) if epoch == 0 else None)
    assert model.n_iter_ == 25
    whole = SoftmaxRegression(alpha=0.1).fit(x[learned], names[learned])
    assert model.score(x[held], names[held]) > whole.score(x[held], names[held]) - 0.03 > 0.9
    again = pickle.loads(pickle.dumps(model)).partial_fit(x[:100], names[:100])
    np.testing.assert_array_equal(again.coef_, model.partial_fit(x[:100], names[:100]).coef_)


def test_a_part_goes_on_from_a_fit_and_weights_count():
    x, y = two_classes()
    model = SoftmaxRegression(random_state=0).fit(x, y)
    before = model.coef_.copy()
    nothing = clone(model).partial_fit(x, y, classes=[1, 2], sample_weight=(y == 1) * 1.0)
    assert (nothing.predict(x) == 1).all()
    assert model.partial_fit(x, y).coef_.shape == before.shape
    assert 0 < np.abs(model.coef_ - before).max() < 5
    flat = SoftmaxRegression(fit_intercept=False).partial_fit(x, y, [1, 2])
    assert not flat.intercept_.any()


REFUSED = [
    (lambda m, x, y: m.fit(x, np.zeros(len(x))), "one class"),
    (lambda m, x, y: m.fit(x, y + 0.5), "Unknown label type"),
    (lambda m, x, y: m.set_params(class_weight={5: 1.0}).fit(x, y), r"class_weight names \[5\]"),
    (lambda m, x, y: m.set_params(class_weight={1: -1.0}).fit(x, y), "class_weight must be finite"),
    (lambda m, x, y: m.fit(x, y, np.zeros(len(x))), "at least one non-zero|entry above 0"),
    (lambda m, x, y: m.fit(x, y, -np.ones(len(x))), "Negative values"),
    (lambda m, x, y: m.set_params(alpha=-1).fit(x, y), "'alpha' parameter"),
    (lambda m, x, y: m.partial_fit(x, y), "classes must be passed"),
    (lambda m, x, y: m.partial_fit(x, y, [0, 1]), "label 2, which is not among the classes"),
    (lambda m, x, y: m.partial_fit(x, y, [0, 1, 2]).partial_fit(x, y, [0, 1, 3]), "not the same as on the last"),
    (
        lambda m, x, y: m.set_params(class_weight="balanced").partial_fit(x, y, [0, 1, 2]),
        "needs all labels at once",
    ),
    (lambda m, x, y: m.predict_proba(x), "not fitted"),
]


def test_what_will_not_do_is_told():
    x, y = IRIS
    for call, says in REFUSED:
        with pytest.raises((ValueError, NotFittedError), match=says):
            call(SoftmaxRegression(), x, y)


# ---------------------------------------------------------------------- log_loss


def outcome(function, *args, **options):
    """What a call gives: its value, or its error, and its warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            value = function(*args, **options)
        except Exception as error:
            value = type(error), str(error)
    return value, [(w.category, str(w.message)) for w in told]


def draw(rows, classes, dtype=np.float64):
    rng = np.random.default_rng(rows * classes)
    return rng.dirichlet(np.full(classes, 0.1), rows).astype(dtype), np.arange(rows) % classes


def inputs():
    """Labels, probabilities and options, by name: plain ones, and every kind that scikit-learn warns of or refuses."""
    p, y = draw(60, 3)
    q, two = draw(60, 2)
    names, rng = np.array(["b", "a", "c"])[y], np.random.default_rng(1)
    weights = rng.integers(0, 5, 60)
    bad = {name: p.copy() for name in ("above", "negative", "nan", "inf", "sum", "nearly")}
    bad["above"][3], bad["negative"][3], bad["nan"][3, 1], bad["inf"][3, 1] = (
        [1.5, 0, 0],
        [-0.5, 0.5, 1],
        np.nan,
        np.inf,
    )
    bad["sum"][7] *= 0.9
    bad["nearly"][7] *= 1 + 1.4e-8
    zero = np.where(p == p.max(axis=1, keepdims=True), 1.0, -0.0)
    yield from {
        "integers": (y, p),
        "many": (*draw(20_000, 4)[::-1],),
        "a class that is late": (np.where(np.arange(6000) < 5000, np.arange(6000) % 2, 2), draw(6000, 3)[0]),
        "a class between others that is not there": (np.arange(6000) % 3 // 2 * 2, draw(6000, 2)[0]),
        "sum": (y, p, {"normalize": False}),
        "weights": (y, p, {"sample_weight": weights}),
        "weights, sum": (y, p, {"sample_weight": weights * 0.5, "normalize": False}),
        "labels": (y, p, {"labels": [0, 1, 2]}),
        "labels that are not there": (y[y < 2], p[y < 2], {"labels": [0, 1, 2]}),
        "labels in another order": (y, p, {"labels": [2, 1, 0]}),
        "labels that lack one": (y, p, {"labels": [0, 1]}),
        "labels that are too many": (y, p, {"labels": [0, 1, 2, 3]}),
        "one label": (y, p, {"labels": [0]}),
        "negative labels": (y * 7 - 9, p),
        "labels far apart": (y * 10**12, p),
        "uint8": (y.astype(np.uint8), p),
        "whole floats": (y.astype(float), p),
        "floats": (y + 0.5, p),
        "nan labels": (np.where(y == 1, np.nan, y), p),
        "booleans": (two == 1, q),
        "booleans and labels": (two == 1, q, {"labels": [0, 1]}),
        "strings": (names, p),
        "objects": (names.astype(object), p),
        "strings and labels": (names, p, {"labels": ["a", "b", "c"]}),
        "strings and numbers": (names, p, {"labels": [0, 1, 2]}),
        "a list": (y.tolist(), p.tolist()),
        "indicators": (np.eye(3)[y].astype(int), p),
        "positive class": (two, q[:, 1]),
        "one column": (two, q[:, 1:]),
        "one column of three": (y, p[:, 0]),
        "float32": (y, p.astype(np.float32)),
        "float32, one column": (two, q[:, 1].astype(np.float32)),
        "float16": (two, q.astype(np.float16)),
        "another order of bytes": (y, p.astype(">f8")),
        "integers as probabilities": (y, np.eye(3, dtype=int)[y]),
        "columns": (y, np.asfortranarray(p)),
        "every second row": (y[::2], p[::2]),
        "zeros, negative too": (y, zero),
        "a single row": (y[:1], p[:1], {"labels": [0, 1, 2]}),
        "no rows": (y[:0], p[:0]),
        "one class alone": (y * 0, p),
        "too few classes": (two, p),
        "lengths": (y[:-1], p),
        "length of the weights": (y, p, {"sample_weight": weights[:-1]}),
        "weights of 0": (y, p, {"sample_weight": np.zeros(60)}),
        "negative weights": (y, p, {"sample_weight": np.arange(60) - 5.0}),
        "nan weights": (y, p, {"sample_weight": np.full(60, np.nan)}),
        "normalize": (y, p, {"normalize": "yes"}),
        **{name: (y, value) for name, value in bad.items()},
    }.items()


def test_log_loss_is_scikit_learn_s():
    """Values, errors and warnings, of every kind of input."""
    wrong = {}
    for name, (y, p, *options) in inputs():
        given = options[0] if options else {}
        mine, theirs = (outcome(f, y, p, **given) for f in (log_loss, metrics.log_loss))
        rtol = 1e-6 if np.asarray(p).dtype == np.float32 else 1e-13
        if isinstance(mine[0], float) and isinstance(theirs[0], float):
            same = mine[1] == theirs[1] and np.isclose(mine[0], theirs[0], rtol=rtol, atol=0)
        else:
            same = mine == theirs
        if not same:
            wrong[name] = mine, theirs
    assert not wrong


def test_log_loss_of_a_frame_and_its_signature():
    pandas = pytest.importorskip("pandas", reason="frames")
    p, y = draw(60, 3)
    labels = pandas.Series(y, index=np.arange(60) * 2).map({0: "x", 1: "y", 2: "z"})
    for of in (labels, labels.astype("category"), pandas.Series(y)):
        assert log_loss(of, p) == pytest.approx(metrics.log_loss(of, p), rel=1e-13)
        assert log_loss(of, pandas.DataFrame(p)) == pytest.approx(metrics.log_loss(of, p), rel=1e-13)
    assert list(inspect.signature(log_loss).parameters) == list(inspect.signature(metrics.log_loss).parameters)
    for options in ({"y_pred": p}, {"y_pred": p, "y_proba": p}, {}):
        assert outcome(log_loss, y, **options) == outcome(metrics.log_loss, y, **options)


def test_what_is_plain_is_not_handed_over(monkeypatch):
    monkeypatch.delattr(metrics, "log_loss")
    p, y = draw(60, 3)
    for labels in (y, y.astype(np.uint8), y.astype(float), np.array(["b", "a", "c"], object)[y]):
        assert log_loss(labels, p) > 0
    assert log_loss(y, p.astype(np.float32), sample_weight=np.ones(60), labels=[0, 1, 2], normalize=False) > 0
    assert log_loss(y == 1, p[:, 1]) > 0


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_log_loss_of_a_decision_function(classes):
    rng = np.random.default_rng(classes)
    z, y = rng.normal(size=(50, classes)) * 3, np.arange(50) % classes
    weights = rng.integers(0, 3, 50)
    names = np.array(list("gfedcba"))[y]
    p = crossentropy.softmax(z)
    assert decision_log_loss(y, z) == pytest.approx(metrics.log_loss(y, p), rel=1e-12)
    assert decision_log_loss(names, z) == pytest.approx(metrics.log_loss(names, p), rel=1e-12)
    given = {"sample_weight": weights, "normalize": False}
    assert decision_log_loss(y.tolist(), z, **given) == pytest.approx(metrics.log_loss(y, p, **given), rel=1e-12)
    few = {"labels": np.arange(classes)}
    assert decision_log_loss(y[:1], z[:1], **few) == pytest.approx(metrics.log_loss(y[:1], p[:1], **few), rel=1e-12)
    if classes == 2:
        for column in (z[:, 1] - z[:, 0], (z[:, 1] - z[:, 0])[:, None]):
            assert decision_log_loss(y, column) == pytest.approx(decision_log_loss(y, z), rel=1e-12)
    sure = 100.0 * np.eye(classes)[y]
    assert decision_log_loss(y, sure) == pytest.approx((classes - 1) * np.exp(-100), rel=1e-12)


MISFITS = [
    ([0, 1], np.zeros((2, 3)), {}, "a column for each of the classes"),
    ([0, 1, 2], np.zeros(3), {}, "a column for each of the classes"),
    ([0, 1], np.zeros((3, 2)), {}, "a label for each of the 3 rows"),
    ([0, 1], np.zeros((2, 2)), {"labels": [1, 0]}, "in increasing order"),
    ([0, 5], np.zeros((2, 2)), {"labels": [0, 1]}, "label 5, which is not among labels"),
    ([0, 1], np.array([[0, np.nan], [0, 0]]), {}, "no NaN"),
    ([0, 1], np.zeros((2, 2)), {"sample_weight": [0, 0]}, "an entry above 0"),
    ([0, 1], np.zeros((2, 2)), {"sample_weight": [1]}, "sample_weight"),
    ([0, 1], np.zeros((2, 2, 2)), {}, "must have shape"),
    ([], np.zeros((0, 2)), {}, "must have shape"),
]


def test_decisions_that_do_not_fit_are_told():
    for y, z, options, says in MISFITS:
        with pytest.raises(ValueError, match=says):
            decision_log_loss(y, z, **options)


# ---------------------------------------------------------------------- the scorer


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(C=0.1, max_iter=1000),
        SoftmaxRegression(alpha=0.01),
        make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()),
        GaussianNB(),  # no decision function
        AdaBoostClassifier(n_estimators=5, random_state=0),  # one that is not the logits
        make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)),  # one class against all others
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("data", [IRIS, two_classes()], ids=["three classes", "two classes"])
def test_the_scorer_is_the_log_loss_of_the_probabilities(estimator, data):
    found = cross_val_score(estimator, *data, scoring=neg_log_loss_scorer, cv=3)
    np.testing.assert_allclose(found, cross_val_score(estimator, *data, scoring="neg_log_loss", cv=3), rtol=1e-6)


def test_the_scorer_is_not_misled_by_rows_that_are_sure():
    """Of a decision that is none of the logits, but in a few rows."""
    x, y = IRIS
    model = SGDClassifier(loss="log_loss", random_state=0).fit(x, y)
    for rows in (slice(None), slice(0, 40)):
        given = {"labels": model.classes_}
        theirs = -metrics.log_loss(y[rows], model.predict_proba(x[rows]), **given)
        assert neg_log_loss_scorer(model, x[rows], y[rows]) == pytest.approx(theirs, rel=1e-12)


def test_the_scorer_in_searches_beside_others_and_pickled():
    x, y = IRIS
    search = GridSearchCV(SoftmaxRegression(), {"alpha": [0.01, 1.0]}, scoring=neg_log_loss_scorer, cv=3)
    assert search.fit(x, y).best_params_["alpha"] < 1
    both = {"mine": pickle.loads(pickle.dumps(neg_log_loss_scorer)), "theirs": "neg_log_loss", "accuracy": "accuracy"}
    found = cross_validate(LogisticRegression(C=0.1, max_iter=1000), x, y, scoring=both, cv=3)
    np.testing.assert_allclose(found["test_mine"], found["test_theirs"], rtol=1e-8)
    machine = RidgeClassifier().fit(x, y)
    assert neg_log_loss_scorer(machine, x, y) == -decision_log_loss(y, machine.decision_function(x))
    model = SoftmaxRegression().fit(x, y)
    assert neg_log_loss_scorer(model, x[:5], y[:5]) == -decision_log_loss(
        y[:5], model.decision_function(x[:5]), labels=model.classes_
    )


def test_sample_weights_are_routed_to_the_scorer():
    x, y = IRIS
    weights = np.random.default_rng(0).integers(1, 5, len(y)).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = pickle.loads(pickle.dumps(neg_log_loss_scorer)).set_score_request(sample_weight=True)
        theirs = metrics.get_scorer("neg_log_loss").set_score_request(sample_weight=True)
        model = LogisticRegression(C=0.1, max_iter=1000).set_fit_request(sample_weight=True)
        a, b = (
            cross_val_score(model, x, y, scoring=s, cv=3, params={"sample_weight": weights}) for s in (scorer, theirs)
        )
    np.testing.assert_allclose(a, b, rtol=1e-8)
