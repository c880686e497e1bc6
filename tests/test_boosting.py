"""crossentropy.boosting: the trees of XGBoost's and LightGBM's own softmax objectives, by each of their interfaces."""

import copy
import json
import pickle

import numpy as np
import pytest

import crossentropy
from crossentropy import boosting

datasets = pytest.importorskip("sklearn.datasets", reason="the libraries' estimators need scikit-learn")
xgb = pytest.importorskip("xgboost", reason="needs XGBoost (the extra boosting)")
lgb = pytest.importorskip("lightgbm", reason="needs LightGBM (the extra boosting)")

ROUNDS = 6
LEAST_GAIN = 0.1  # of a split: which one of several is best is not decided by rounding
OF_XGBOOST = {
    "num_class": 10,
    "max_depth": 4,
    "gamma": LEAST_GAIN,
    "base_score": 0.5,
    "nthread": 1,
    "disable_default_eval_metric": True,
}
OF_LIGHTGBM = {
    "num_class": 10,
    "num_leaves": 8,
    "min_gain_to_split": LEAST_GAIN,
    "boost_from_average": False,
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
    "metric": "None",
}
# What an estimator says of an objective that is not its library's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Cannot compute class probabilities"),
    pytest.mark.filterwarnings("ignore:The argument 'eval_set':FutureWarning"),
]


@pytest.fixture(scope="module")
def digits():
    x, y = datasets.load_digits(return_X_y=True)
    return x[::2], y[::2]


@pytest.fixture(params=[False, True], ids=["no weights", "weights"])
def weights(request, digits):
    return np.random.default_rng(0).uniform(0.5, 2, len(digits[1])) if request.param else None


def same_trees(own, ours, leaf):
    """Trees with the same splits, and the same numbers in the leaves within the rounding of their sums."""
    assert [tree.keys() for tree in own] == [tree.keys() for tree in ours]
    for a, b in zip(own, ours, strict=True):
        for key in a:
            if key == leaf:
                np.testing.assert_allclose(a[key], b[key], rtol=2e-5, atol=1e-6)
            elif key in ("split", "split_feature", "split_condition", "threshold"):
                assert a[key] == b[key]
            elif key in ("children", "left_child", "right_child"):
                below = (a[key], b[key]) if isinstance(a[key], list) else ([a[key]], [b[key]])
                same_trees(*below, leaf)


def trees_of_xgboost(booster):
    return [json.loads(tree) for tree in booster.get_dump(dump_format="json")]


def trees_of_lightgbm(booster):
    return [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]


def test_xgboost_grows_the_trees_of_its_own_objective(digits, weights):
    x, y = digits
    data = xgb.DMatrix(x, y, weight=weights)
    losses, own_losses = {}, {}
    own = xgb.train(
        OF_XGBOOST | {"objective": "multi:softprob", "eval_metric": "mlogloss"},
        data,
        ROUNDS,
        evals=[(data, "data")],
        evals_result=own_losses,
        verbose_eval=False,
    )
    ours = xgb.train(
        OF_XGBOOST,
        data,
        ROUNDS,
        obj=boosting.xgboost_objective(),
        custom_metric=boosting.xgboost_metric(),
        evals=[(data, "data")],
        evals_result=losses,
        verbose_eval=False,
    )
    same_trees(trees_of_xgboost(own), trees_of_xgboost(ours), "leaf")
    p = crossentropy.softmax(ours.predict(data, output_margin=True))
    np.testing.assert_allclose(p, own.predict(data), rtol=1e-5)
    assert losses["data"].keys() == {"cross_entropy"}
    np.testing.assert_allclose(losses["data"]["cross_entropy"], own_losses["data"]["mlogloss"], rtol=1e-5)


def test_lightgbm_grows_the_trees_of_its_own_objective(digits, weights):
    x, y = digits
    losses = {}
    grown = []
    for objective, metric in (("multiclass", "multi_logloss"), (boosting.lightgbm_objective(), "None")):
        data = lgb.Dataset(x, y, weight=weights)
        grown.append(
            lgb.train(
                OF_LIGHTGBM | {"objective": objective, "metric": metric},
                data,
                ROUNDS,
                valid_sets=[data],
                feval=boosting.lightgbm_metric() if metric == "None" else None,
                callbacks=[lgb.record_evaluation(losses.setdefault(metric, {}))],
            )
        )
    own, ours = grown
    same_trees(trees_of_lightgbm(own), trees_of_lightgbm(ours), "leaf_value")
    np.testing.assert_allclose(crossentropy.softmax(ours.predict(x)), own.predict(x), rtol=1e-5)
    found, expected = losses["None"]["training"]["cross_entropy"], losses["multi_logloss"]["training"]["multi_logloss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_estimators_of_both_libraries(digits, weights):
    x, y = digits
    settings = {"n_estimators": 3, "n_jobs": 1}
    own = xgb.XGBClassifier(base_score=0.5, **settings).fit(x, y, sample_weight=weights)
    ours = xgb.XGBClassifier(
        objective=boosting.xgboost_objective(), eval_metric=boosting.xgboost_metric(), base_score=0.5, **settings
    ).fit(x, y, sample_weight=weights, eval_set=[(x, y)], verbose=False)
    np.testing.assert_allclose(ours.predict_proba(x), own.predict_proba(x), rtol=1e-5)
    assert ours.evals_result()["validation_0"]["cross_entropy"][-1] == pytest.approx(
        crossentropy.cross_entropy(np.log(own.predict_proba(x)), y), rel=1e-5
    )
    settings |= {"verbose": -1}
    own = lgb.LGBMClassifier(boost_from_average=False, **settings).fit(x, y, sample_weight=weights)
    ours = lgb.LGBMClassifier(objective=boosting.lightgbm_objective(), **settings)
    ours.fit(x, y, sample_weight=weights, eval_set=[(x, y)], eval_metric=boosting.lightgbm_metric())
    np.testing.assert_allclose(crossentropy.softmax(ours.predict(x)), own.predict_proba(x), rtol=1e-5)
    assert len(ours.evals_result_["training"]["cross_entropy"]) == 3


def test_two_classes_with_one_score(digits):
    x, y = digits
    x, y = x[y < 2], y[y < 2]
    data = xgb.DMatrix(x, y)
    own = xgb.train({"objective": "binary:logistic", "base_score": 0.5, "gamma": LEAST_GAIN}, data, ROUNDS)
    ours = xgb.train({"base_score": 0, "gamma": LEAST_GAIN}, data, ROUNDS, obj=boosting.xgboost_objective())
    same_trees(trees_of_xgboost(own), trees_of_xgboost(ours), "leaf")
    settings = {"boost_from_average": False, "verbose": -1, "deterministic": True, "min_gain_to_split": LEAST_GAIN}
    own, ours = (
        lgb.train({"objective": objective, **settings}, lgb.Dataset(x, y), ROUNDS)
        for objective in ("binary", boosting.lightgbm_objective())
    )
    same_trees(trees_of_lightgbm(own), trees_of_lightgbm(ours), "leaf_value")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("objective", [boosting.xgboost_objective, boosting.lightgbm_objective])
@pytest.mark.parametrize("hessian", boosting.HESSIANS)
def test_it_is_the_function_s_gradient_and_hessian(objective, hessian, order, rng):
    x = np.array(rng.standard_normal((30, 4)), order=order)
    y, v = rng.integers(0, 4, 30), rng.uniform(0.5, 2, 30)
    options = {"class_weight": [1.0, 2.0, 0.5, 1.0], "label_smoothing": 0.1, "z_loss": 0.01, "ignore_index": 2}
    grad, hess = objective(hessian=hessian, **options)(y.astype(np.float32), x, v)
    expected = crossentropy.cross_entropy_grad_hess(
        x.astype(np.float32), y, hessian=hessian, sample_weight=v, reduction="sum", **options
    )
    np.testing.assert_array_equal(grad, expected.grad)
    np.testing.assert_array_equal(hess, expected.hess)
    assert grad.dtype == hess.dtype == np.float32
    assert grad.flags[f"{order}_CONTIGUOUS"]
    assert hess.flags[f"{order}_CONTIGUOUS"]
    loss = boosting.xgboost_metric(**options)(y, x, sample_weight=v)
    assert loss == crossentropy.cross_entropy(x, y, sample_weight=v, **options)


def test_copies_and_pickles():
    for made in (boosting.xgboost_objective(z_loss=0.1), boosting.lightgbm_metric()):
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert repr(other) == repr(made)
            assert other.options == made.options


@pytest.mark.parametrize(
    ("labels", "error", "told"),
    [
        ([0, 1.5], ValueError, r"labels must be whole numbers.*got labels\[1\] = 1.5"),
        ([0, np.nan], ValueError, r"labels must be whole numbers.*got labels\[1\] = nan"),
        ([0, np.inf], ValueError, r"labels must be whole numbers.*got labels\[1\] = inf"),
        ([0.0, 3.0], IndexError, r"labels\[1\] = 3 is not in \[0, 3\)"),
        ([0.0, -1.0], IndexError, r"labels\[1\] = -1 is not in \[0, 3\)"),
        ([0.0, 2.0**32], IndexError, r"labels\[1\] = 4294967296 is not in \[0, 3\)"),  # whole, but no int32
        ([0.0], ValueError, r"labels must have shape \(2,\)"),
        (None, ValueError, "labels are missing"),
    ],
)
def test_labels_that_are_no_classes(labels, error, told):
    scores = np.zeros((2, 3))
    labels = None if labels is None else np.array(labels, np.float32)
    for made in (boosting.xgboost_objective(), boosting.lightgbm_objective(), boosting.lightgbm_metric()):
        with pytest.raises(error, match=told):
            made(labels, scores)


def test_misuse():
    with pytest.raises(ValueError, match=r"hessian must be one of 'diagonal', .*got 'gauss_newton_product'"):
        boosting.xgboost_objective(hessian="gauss_newton_product")
    with pytest.raises(TypeError, match="unexpected keyword argument 'label_smooth'; did you mean 'label_smoothing'"):
        boosting.lightgbm_objective(label_smooth=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 2"):
        boosting.lightgbm_metric(label_smoothing=2)
    with pytest.raises(ValueError, match=r"scores must have shape .*got \(1, 1, 1\)"):
        boosting.xgboost_objective()(np.zeros(1), np.zeros((1, 1, 1)))
