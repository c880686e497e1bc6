"""Softmax regression in scikit-learn's pipelines and searches, with a scorer by the logits, on its bundled digits.

    python examples/scikit_learn.py

The penalty is searched for by cross-validation; then the best model learns a stream, batch by batch.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from crossentropy.sklearn import SoftmaxRegression, decision_log_loss, neg_log_loss_scorer


def main() -> None:
    """Search, report on digits that were held out, and learn them as a stream."""
    x, y = load_digits(return_X_y=True)
    x, held_out, y, truth = train_test_split(x, y, random_state=0)
    model = make_pipeline(MinMaxScaler(), SoftmaxRegression())
    scores = cross_val_score(model, x, y, scoring=neg_log_loss_scorer, cv=3)
    print(f"as it comes: log loss {-scores.mean():.4f} in cross-validation")

    penalties = {"softmaxregression__alpha": [1e-5, 1e-4, 1e-3]}
    search = GridSearchCV(model, penalties, scoring=neg_log_loss_scorer, cv=3).fit(x, y)
    print(f"alpha {search.best_params_['softmaxregression__alpha']:g}: log loss {-search.best_score_:.4f}")
    loss = decision_log_loss(truth, search.decision_function(held_out))
    print(f"held out: log loss {loss:.4f}, {(search.predict(held_out) == truth).mean():.1%} right")

    stream, scale = SoftmaxRegression(random_state=0), MinMaxScaler().fit(x)
    for part in np.array_split(np.arange(len(x)), 10):
        stream.partial_fit(scale.transform(x[part]), y[part], classes=np.arange(10))
    print(f"after one pass over a stream: {stream.score(scale.transform(held_out), truth):.1%} right")


if __name__ == "__main__":
    main()
