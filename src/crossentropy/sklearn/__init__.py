"""For scikit-learn: softmax regression as an estimator, its log loss in a fraction of the time, and a scorer.

    >>> from crossentropy.sklearn import SoftmaxRegression, log_loss, decision_log_loss, neg_log_loss_scorer

``docs/howto/scikit_learn.md`` is the guide.
"""

try:
    import sklearn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: crossentropy.sklearn needs it; pip install 'crossentropy[sklearn]'") from None
try:
    from sklearn.utils.validation import validate_data  # what the estimator is built on came with 1.6
except ImportError:
    raise ImportError(
        f"crossentropy.sklearn needs scikit-learn 1.6 or later, got {sklearn.__version__}; "
        "pip install 'crossentropy[sklearn]'"
    ) from None

from .log_loss import decision_log_loss, log_loss
from .scorer import neg_log_loss_scorer
from .softmax_regression import SoftmaxRegression

__all__ = ["SoftmaxRegression", "decision_log_loss", "log_loss", "neg_log_loss_scorer"]

del sklearn, validate_data
