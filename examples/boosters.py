"""XGBoost and LightGBM with this package's objective: smoothed labels, which neither has, and the same model without.

    python examples/boosters.py

Digits of 8 x 8 pixels that come with scikit-learn.
"""

import lightgbm as lgb
import xgboost as xgb
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import crossentropy
from crossentropy.boosting import lightgbm_objective, xgboost_metric, xgboost_objective

ROUNDS = 20


def main() -> None:
    """Train, compare with the libraries' own objectives, and report on digits that were not trained on."""
    x, held_out, y, truth = train_test_split(*load_digits(return_X_y=True), random_state=0)
    data, test = xgb.DMatrix(x, y), xgb.DMatrix(held_out, truth)
    settings = {"num_class": 10, "max_depth": 3, "objective": "multi:softprob", "base_score": 0.5, "nthread": 2}
    own = xgb.train(settings, data, ROUNDS).predict(test)
    ours = xgb.train(settings, data, ROUNDS, obj=xgboost_objective()).predict(test)
    print(f"XGBoost: the probabilities differ by at most {abs(own - ours).max():.1e}")

    settings["disable_default_eval_metric"] = True
    reported: dict = {}
    xgb.train(
        settings,
        data,
        ROUNDS,
        obj=xgboost_objective(label_smoothing=0.05),
        custom_metric=xgboost_metric(),
        evals=[(test, "held_out")],
        evals_result=reported,
        verbose_eval=False,
    )
    print(f"         smoothed labels, held out: loss {reported['held_out']['cross_entropy'][-1]:.4f}")

    settings = {"num_class": 10, "num_leaves": 8, "boost_from_average": False, "num_threads": 2, "verbose": -1}
    own = lgb.train(settings | {"objective": "multiclass"}, lgb.Dataset(x, y), ROUNDS).predict(held_out)
    booster = lgb.train(settings | {"objective": lightgbm_objective()}, lgb.Dataset(x, y), ROUNDS)
    scores = booster.predict(held_out)  # no probabilities: the objective is not LightGBM's
    ours = crossentropy.softmax(scores)
    print(f"LightGBM: the probabilities differ by at most {abs(own - ours).max():.1e}")
    print(f"          held out: {(ours.argmax(axis=1) == truth).mean():.1%} right")


if __name__ == "__main__":
    main()
