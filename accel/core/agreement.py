"""How well two engines agree on the same inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: cosine at which fp32 arithmetic counts as the same computation ("exact class")
EXACT = 0.99999


def agreement(mine: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Compares outputs whose first axis is the batch.

    Returns:
        cosine: the lowest over the batch (1 where both rows are zero); max_abs: the largest absolute difference;
        finite: whether every number of `mine` is finite. A difference in shape counts as no agreement (cosine 0).
    """
    import numpy as np

    if mine.shape != reference.shape:
        return {"cosine": 0.0, "max_abs": None, "finite": bool(np.isfinite(mine).all())}
    if not np.isfinite(mine).all():
        return {"cosine": 0.0, "max_abs": None, "finite": False}
    rows = mine.reshape(len(mine), -1)
    others = reference.reshape(len(reference), -1)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    both_zero = norms == 0
    cosines = np.einsum("ij,ij->i", rows, others) / np.where(both_zero, 1.0, norms)
    same = np.abs(rows - others).max(axis=1) == 0 if rows.size else np.ones(len(rows), bool)
    cosines = np.where(both_zero, same.astype(float), cosines)
    return {
        "cosine": float(min(1.0, cosines.min())) if len(cosines) else 1.0,
        "max_abs": float(np.abs(mine - reference).max()) if mine.size else 0.0,
        "finite": True,
    }
