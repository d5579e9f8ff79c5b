"""The linear head, fitted exactly on embeddings of all training examples: what makes new labels work from few examples."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from core.events import Example
from core.head import LinearHead

_SCALE: Final = 10.0
"""Embeddings have length 1; stretched tenfold, scikit-learn's default regularisation suits them (docs/decisions/0005)."""


def fit_head(
    embeddings: NDArray[np.float32], targets: Sequence[str], labels: Sequence[str], *, weights: Sequence[float]
) -> LinearHead:
    """Multinomial logistic regression.

    Args:
        embeddings: shape (examples, size), rows of length 1.
        targets: a label for each row.
        labels: the rows of the head, in order; a label without an example gets a row that never wins.
        weights: how much each row counts.
    """
    row_of = {label: row for row, label in enumerate(labels)}
    rows = np.array([row_of[target] for target in targets])
    present = np.unique(rows)
    weight = np.zeros((len(labels), embeddings.shape[1]), dtype=np.float32)
    bias = np.full(len(labels), -20.0, dtype=np.float32)
    if len(present) == 1:
        bias[present] = 0.0
        return LinearHead(weight, bias)
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit(embeddings * _SCALE, rows, sample_weight=np.asarray(weights))
    coefficients, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(present) == 2:  # scikit-learn keeps one row for two classes
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weight[present] = coefficients * _SCALE
    bias[present] = intercept
    return LinearHead(weight, bias)


def fit_head_of(examples: Sequence[Example], embeddings: NDArray[np.float32], labels: Sequence[str]) -> LinearHead:
    """The head of some examples, each by its weight, from their embeddings of shape (examples, size)."""
    targets = [str(example.target) for example in examples]
    return fit_head(embeddings, targets, labels, weights=[example.weight for example in examples])
