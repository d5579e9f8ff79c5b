"""What a head would say of an example that it had not been fitted on: ridge regression, left out one at a time, exactly.

Confident learning asks for predictions out of sample (Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset
Labels", JAIR 2021, arXiv 1911.00068). Cross-validation makes them by several fits; for ridge regression one fit is enough,
as the residual without a row is its residual divided by 1 - leverage (Allen, "The Relationship between Variable Selection and
Data Augmentation and a Method for Prediction", Technometrics 1974).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_RIDGE: Final = 0.5
_SHARPNESS: Final = 15.0
"""Turns scores near 0 and 1 into probabilities; chosen on banking77's train set with ``_RIDGE`` (benchmarks/LOG.md)."""
_CONSTANT: Final = 0.5


def left_out_probabilities(
    embeddings: NDArray[np.float32], targets: NDArray[np.int64], weights: NDArray[np.float64], *, labels: int
) -> NDArray[np.float64]:
    """Probabilities of shape (examples, labels), each row's by a head fitted on all other rows.

    Args:
        embeddings: shape (examples, size), rows of length 1.
        targets: shape (examples,), label numbers.
        weights: shape (examples,), how much each row counts in the fit.
        labels: how many labels there are.
    """
    rows = np.concatenate([embeddings, np.full((len(embeddings), 1), _CONSTANT)], axis=1).astype(np.float64)
    wanted = np.eye(labels)[targets]
    inverse = np.linalg.inv((rows.T * weights) @ rows + _RIDGE * np.eye(rows.shape[1]))
    fitted = rows @ (inverse @ (rows.T @ (wanted * weights[:, None])))
    leverage = (np.einsum("ij,ij->i", rows @ inverse, rows) * weights)[:, None]
    scores = (fitted - leverage * wanted) / (1 - leverage)
    raised = np.exp(_SHARPNESS * (scores - scores.max(axis=1, keepdims=True)))
    found: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return found
