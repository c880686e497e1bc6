"""Evaluation: scikit-learn's scores, the same bits for any partition and order, rows that are out of the ordinary."""

import json
import math
import pickle
import sys

import numpy as np
import pytest

import crossentropy
from crossentropy import Evaluation
from crossentropy.evaluation.sums import exact_sums, rounded_sum


def _rows(n=500, classes=23, seed=0, dtype=np.float32):
    """Logits that are right in half of the rows, and their targets; a tenth is ignored (-100) and holds NaN."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = (3 * rng.standard_normal((n, classes))).astype(dtype)
    x[np.arange(n), y] += 5
    y[::10] = -100
    x[::10] = np.nan
    return x, y


def _same(a, b):
    return a.to_json() == b.to_json()


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e280])
def test_sums_are_exact(scale):
    rng = np.random.default_rng(1)
    values = np.exp(rng.normal(0, 8, 20_000)) * rng.choice([-1, 1], 20_000) * scale
    groups = rng.integers(0, 7, values.size)
    found = exact_sums(values, groups, 7)
    assert [rounded_sum(digits) for digits in found] == [math.fsum(values[groups == g]) for g in range(7)]
    assert rounded_sum(found.sum(axis=0)) == math.fsum(values)


def test_sums_from_the_least_to_the_largest_number():
    least, largest = 5e-324, sys.float_info.max
    assert rounded_sum(exact_sums(np.array([least, largest, 0.0, -largest, least]))[0]) == 2 * least
    assert rounded_sum(exact_sums(np.array([largest] * 3))[0]) == math.inf
    assert rounded_sum(exact_sums(np.array([-largest] * 3))[0]) == -math.inf


def test_scores_are_scikit_learns(backend):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    from sklearn.calibration import calibration_curve

    classes = 23 if backend != "reference" else 6
    x, y = _rows(classes=classes)
    found = Evaluation(ignore_index=-100, top=(1, 2, 5)).update(x, y).compute()
    counts = y >= 0
    z, t = x[counts].astype(np.float64), y[counts]
    p, every = crossentropy.softmax(z), np.arange(classes)
    assert (found.rows, found.counted, found.undefined) == (y.size, t.size, 0)
    assert found.loss == pytest.approx(metrics.log_loss(t, p, labels=every), rel=1e-6)
    assert found.nll == found.loss
    assert found.perplexity == pytest.approx(np.exp(found.loss))
    assert found.bits == pytest.approx(found.loss / np.log(2))
    for k in (1, 2, 5):
        assert found.top[k] == metrics.top_k_accuracy_score(t, z, k=k, labels=every)
    assert found.accuracy == found.top[1]
    brier = metrics.brier_score_loss(t, p, labels=every, scale_by_half=False)
    assert found.brier == pytest.approx(brier, rel=1e-6)
    assert (found.confusion == metrics.confusion_matrix(t, z.argmax(1), labels=every)).all()
    assert (found.class_counts == found.confusion.sum(1)).all()
    assert (found.predicted_counts == found.confusion.sum(0)).all()
    assert (found.right_counts == found.confusion.diagonal()).all()
    assert found.cross_entropy == crossentropy.distributions.cross_entropy_of(found.p, found.q)
    assert found.entropy == pytest.approx(crossentropy.distributions.entropy(found.p))
    right, confidence = z.argmax(1) == t, p.max(1)
    share, mean = calibration_curve(right, confidence, n_bins=15, strategy="uniform", pos_label=True)
    held = found.calibration.rows > 0
    np.testing.assert_allclose(found.calibration.accuracy[held], share)
    np.testing.assert_allclose(found.calibration.confidence[held], mean, rtol=1e-6)
    weights = found.calibration.rows[held] / t.size
    assert found.ece == pytest.approx((weights * np.abs(share - mean)).sum(), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [3, 65, 1000, 6000])
def test_brier_scores_by_every_way_of_the_kernels(kernels, dtype, classes):
    """A tile of few classes, few elements, lanes, a larger maximum in a later block; a sure row, ties at the top."""
    rng = np.random.default_rng(2)
    x = (2 * rng.standard_normal((40, classes))).astype(dtype)
    x[0, :], x[1, 1], x[2, -1] = 1, 40, 30
    x[3, :2] = x[3].max() + 1
    x[4] *= 100
    x[5, 1:] = -np.inf
    x[6] += dtype(300)
    y = rng.integers(0, classes, 40)
    y[1] = 1
    z = x.astype(np.longdouble)
    e = np.exp(z - z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    p[np.arange(40), y] -= 1
    expected = np.square(p).sum(1)
    for row in range(40):
        found = Evaluation().update(x[row : row + 1], y[row : row + 1]).compute().brier
        assert found == pytest.approx(float(expected[row]), rel=3e-6, abs=1e-30), row


@pytest.mark.parametrize("parts", [1, 2, 3, 64, 500])
def test_the_same_bits_in_any_partition_and_order(kernels, parts):
    x, y = _rows()
    whole = Evaluation(ignore_index=-100).update(x, y).compute()
    order = np.random.default_rng(parts).permutation(len(y))
    cut = np.sort(np.random.default_rng(parts).integers(0, len(y), parts - 1))  # uneven ones, also empty
    merged = Evaluation(ignore_index=-100)
    others = [Evaluation(ignore_index=-100).update(x[some], y[some]) for some in np.split(order, cut)]
    merged.merge_state(pickle.loads(pickle.dumps(each)) for each in reversed(others))
    assert _same(merged.compute(), whole)
    added = Evaluation(ignore_index=-100).update(x[:0], y[:0])
    for each in others:
        added.totals[:] += each.totals  # as MPI_SUM does
    assert _same(added.compute(), whole)


def test_blocks_of_classes_beside_each_other_have_the_bits_of_the_whole():
    x, y = _rows(classes=300)
    whole = Evaluation(ignore_index=-100).update(x, y).compute()
    parts = [x[:, :100], x[:, 100:101], x[:, 101:]]
    assert _same(Evaluation(ignore_index=-100).update_beside(parts, y).compute(), whole)


def test_any_number_of_threads_has_the_same_bits():
    x, y = _rows(n=600, classes=700)
    with crossentropy.config(threads=1):
        whole = Evaluation(ignore_index=-100).update(x, y).compute()
    assert _same(Evaluation(ignore_index=-100).update(x, y).compute(), whole)


def test_any_layout_has_the_same_bits():  # up to 64 classes, as everywhere
    x, y = _rows(n=600, classes=64)
    whole = Evaluation(ignore_index=-100).update(x, y).compute()
    assert _same(Evaluation(ignore_index=-100).update(np.asfortranarray(x), y).compute(), whole)
    images = np.moveaxis(x.reshape(6, 10, 10, 64), -1, 1)
    found = Evaluation(ignore_index=-100, axis=1).update(images, y.reshape(6, 10, 10)).compute()
    assert _same(found, whole)


OPTIONS = [
    {},
    {"label_smoothing": 0.1, "z_loss": 0.01},
    {"logit_scale": 0.7, "softcap": 5.0},
    {"margin": 0.6, "focal": 2.0},
    {"class_weight": np.linspace(0, 2, 23)},
    {"class_prior": np.where(np.arange(23) == 4, -np.inf, np.linspace(-1, 1, 23))},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "none")
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_that_of_cross_entropy(kernels, options, weighted):
    x, y = _rows(dtype=np.float64)
    y[y == 4] = 5  # which class_prior masks
    rows = {}
    if weighted:
        weight = np.random.default_rng(3).random(len(y)) * (np.arange(len(y)) % 7 > 0)
        rows = {"sample_weight": weight, "where": np.arange(len(y)) % 5 > 0}
    found = Evaluation(ignore_index=-100, **options).update(x, y, **rows).compute()
    expected = crossentropy.cross_entropy(x, y, ignore_index=-100, **options, **rows)
    assert found.loss == pytest.approx(expected, rel=1e-13)
    counts = (y >= 0) & ((weight > 0) & rows["where"] if weighted else True)
    plain = {name: options[name] for name in ("logit_scale", "softcap", "class_prior") if name in options}
    numbers = crossentropy.row_statistics(x[counts], y[counts], **plain, top=5)
    assert found.counted == counts.sum()
    assert found.nll == pytest.approx(-numbers.log_prob.mean(), rel=1e-12)
    assert found.top[5] == numbers.in_top[5].mean()
    z = x[counts] * plain.get("logit_scale", 1)
    z = 5 * np.tanh(z / 5) if "softcap" in plain else z
    p = crossentropy.softmax(z + plain.get("class_prior", 0))
    p[np.arange(len(p)), y[counts]] -= 1
    assert found.brier == pytest.approx(np.square(p).sum(1).mean(), rel=1e-12)


def test_a_confidence_of_exactly_1_belongs_to_the_last_bin():
    x = np.array([[800.0, 0.0], [0.0, 800.0]])
    found = Evaluation(bins=10).update(x, [0, 0]).compute()
    assert found.calibration.rows.tolist() == [0] * 9 + [2]
    assert (found.calibration.confidence[-1], found.calibration.accuracy[-1], found.ece) == (1.0, 0.5, 0.5)
    assert (found.brier, found.loss) == (1.0, 400.0)


@pytest.mark.parametrize("seen", [None, "nothing", "ignored"])
def test_over_no_row_means_are_nan(seen):
    evaluation = Evaluation(ignore_index=1)
    if seen == "nothing":
        evaluation.update(np.empty((0, 3)), np.empty(0, np.int64))
    elif seen == "ignored":
        evaluation.update(np.full((4, 3), np.nan), [1] * 4)
    found = evaluation.compute()
    assert (found.rows, found.counted) == (4 if seen == "ignored" else 0, 0)
    for name in ("loss", "nll", "perplexity", "bits", "brier", "accuracy", "ece", "cross_entropy", "entropy"):
        assert math.isnan(getattr(found, name)), name
    assert json.loads(found.to_json())["loss"] is None
    assert "nan" in str(found)


def test_undefined_rows_are_wrong_and_told():
    x = np.array([[2.0, 0.0, 1.0], [np.nan, 0.0, 1.0], [-np.inf] * 3, [np.inf, 0.0, 0.0]])
    found = Evaluation(top=(1, 3, 9)).update(x, [0, 0, 1, 2]).compute()
    assert (found.counted, found.undefined, found.accuracy) == (4, 3, 0.25)
    assert found.top == {1: 0.25, 3: 0.25, 9: 0.25}  # a target of the one defined row is among any number
    assert math.isnan(found.loss)
    assert math.isnan(found.brier)
    assert found.predicted_counts.tolist() == [1, 0, 0]
    assert found.class_counts.tolist() == [2, 1, 1]
    assert "undefined rows" in str(found)


def test_an_infinite_loss_is_infinite():
    found = Evaluation().update([[0.0, -np.inf], [0.0, 0.0]], [1, 0]).compute()
    assert (found.loss, found.perplexity, found.undefined) == (math.inf, math.inf, 0)
    assert found.brier == (2 + 0.5) / 2


def test_logits_whose_doubles_have_no_place_in_their_dtype(backend):
    x = np.array([[3e38, 0.0, -3e38], [-2.5e38, -2.5e38, -np.inf]], np.float32)
    assert Evaluation().update(x, [0, 0]).compute().brier == 0.25
    x = np.array([[1.7e308, 0.0], [-1.5e308, -1.5e308]])
    assert Evaluation().update(x, [0, 0]).compute().brier == 0.25


def test_after_an_error_nothing_has_changed():
    x, y = _rows()
    evaluation = Evaluation(ignore_index=-100).update(x, y)
    before = evaluation.totals.copy()
    bad = y.copy()
    bad[123] = 23
    for error, told, arguments in (
        (IndexError, r"targets\[123\] = 23 is not in \[0, 23\)", (x, bad)),
        (ValueError, "logits must have 23 classes, as those before, got 22", (x[:, :22], np.minimum(y, 21))),
        (TypeError, "targets of an Evaluation must be classes", (x, np.full(x.shape, 1 / 23))),
        (ValueError, "targets must have the shape of logits without the class axis", (x, y[1:])),
    ):
        with pytest.raises(error, match=told):
            (Evaluation() if error is TypeError else evaluation).update(*arguments)
    assert (evaluation.totals == before).all()


@pytest.mark.parametrize(
    ("error", "told", "options"),
    [
        (TypeError, "unexpected keyword argument 'smoothing'", {"smoothing": 0.1}),
        (TypeError, r"sample_weight is of rows: pass it to update\(\)", {"sample_weight": [1.0]}),
        (ValueError, r"label_smoothing must be in \[0, 1\], got 2", {"label_smoothing": 2}),
        (ValueError, "bins must be at least 1, got 0", {"bins": 0}),
        (ValueError, "top must be at least 1, got 0", {"top": (1, 0)}),
        (TypeError, "top must be an integer, or several, got 'all'", {"top": "all"}),
        (TypeError, "confusion must be True, False or None, got 3", {"confusion": 3}),
    ],
)
def test_bad_options_are_told_at_once(error, told, options):
    with pytest.raises(error, match=told):
        Evaluation(**options)


def test_merging_needs_the_same_kind():
    with pytest.raises(ValueError, match="others must have the same bins, 15, got 10"):
        Evaluation().merge_state(Evaluation(bins=10))
    three, four = (Evaluation().update(np.zeros((1, c)), [0]) for c in (3, 4))
    with pytest.raises(ValueError, match="others must have 3 classes, got 4"):
        three.merge_state([three, four])
    with pytest.raises(TypeError, match="others must be Evaluations, got int"):
        three.merge_state([1])


def test_a_state_goes_on_elsewhere(tmp_path):
    x, y = _rows()
    whole = Evaluation(ignore_index=-100).update(x, y).compute()
    np.savez(tmp_path / "state.npz", **Evaluation(ignore_index=-100).update(x[:200], y[:200]).state_dict())
    with np.load(tmp_path / "state.npz") as state:
        other = Evaluation(ignore_index=-100).load_state_dict(state)
    assert _same(other.update(x[200:], y[200:]).compute(), whole)
    with pytest.raises(ValueError, match="state must have bins = 10"):
        Evaluation(bins=10).load_state_dict(other.state_dict())
    assert other.reset().compute().rows == 0


def test_pairs_of_classes_are_counted_where_that_is_asked_for():
    x, y = np.zeros((2, 200)), np.array([3, 4])
    assert Evaluation().update(x, y).compute().confusion is None
    found = Evaluation(confusion=True).update(x, y).compute().confusion
    assert (found.shape, found[3, 0], found[4, 0], found.sum()) == ((200, 200), 1, 1, 2)
    assert Evaluation(confusion=False).update(x[:, :9], y).compute().confusion is None


def test_a_result_is_plain_numbers_in_json():
    x, y = _rows()
    found = Evaluation(ignore_index=-100).update(x, y).compute()
    held = json.loads(found.to_json())
    assert held["loss"] == found.loss
    assert held["top"] == {"1": found.top[1], "5": found.top[5]}
    assert held["calibration"]["rows"] == found.calibration.rows.tolist()
    assert held["calibration"]["accuracy"][0] is None  # of an empty bin
    assert held["confusion"] == found.confusion.tolist()
    assert f"{found.loss:.6f}" in str(found)
