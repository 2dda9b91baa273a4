"""`palign.functional.evidence.components.evidence_of_rows` on tensors."""

import torch
from torch import Tensor

from palign.functional.evidence.components import evidence_of_rows

__all__ = ["row_evidence"]


def row_evidence(item_indices: Tensor, ranks: Tensor, annotator_index: Tensor) -> Tensor:
    """(rows,) float64 in (0, 1]: what one row counts for beside the person's other rows that share its items.

    Args:
        item_indices: (rows, max_items) int64; what stands at padding is not read.
        ranks: (rows, max_items) integers, 0 is best, equal ranks tie, −1 is padding.
        annotator_index: (rows,) int64.
    """
    arrays = (part.cpu().numpy() for part in (item_indices, ranks, annotator_index))
    return torch.from_numpy(evidence_of_rows(*arrays))
