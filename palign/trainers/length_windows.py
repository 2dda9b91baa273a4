"""The order in which rows are trained on: shuffled, and yet rows of about one length in a batch.

A batch is padded to its longest row. transformers' `LengthGroupedSampler` sorts fifty batches at once and goes from
long to short; here few are sorted, and come in a drawn order, so that length hardly goes with time.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

__all__ = ["LengthWindows"]

WINDOW = 8  # batches that are sorted by length together


class LengthWindows(Sampler[int]):
    """Every row once in an epoch; the order follows from seed and epoch alone.

    Args:
        lengths: (n_rows,) of each row, in whatever unit.
        batch_size: rows that all processes take in an optimizer step together.
        seed: of the order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """What `accelerate` calls as an epoch begins, an interrupted one too."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        for start in range(0, len(order), WINDOW * self.batch_size):
            window = order[start : start + WINDOW * self.batch_size]
            window = window[np.argsort(-self.lengths[window], kind="stable")]
            n_full = len(window) // self.batch_size  # what is left over must stay the last
            batches = window[: n_full * self.batch_size].reshape(n_full, self.batch_size)
            yield from rng.permutation(batches).flatten().tolist()
            yield from window[n_full * self.batch_size :].tolist()
