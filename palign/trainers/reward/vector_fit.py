"""A PAL reward on ready vectors, without a trainer of transformers: one process, one stage, seconds."""

from typing import Any

import numpy as np
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from palign.models.pal import PALRewardModel
from palign.trainers.figure_lines import FigureLines
from palign.trainers.reward.head_training import HeadTraining, Rows
from palign.trainers.reward.options import VectorRewardConfig
from palign.trainers.reward.prototype_count import PrototypeChoice

__all__ = ["VectorFit"]


class VectorFit(HeadTraining):
    """What `PALRewardTrainer` does with rows of vectors, to the bit; it has no callbacks and writes no checkpoints.

    Args:
        model: made for vectors; fitted in place.
        args: the options of the fit.
        train_dataset, eval_dataset: `Preferences`, or rows as `Preferences.from_rows` takes them.
        embeddings: (n, hidden) that rows name.
        choice: what people held out chose, as for `PALRewardTrainer`.

    Raises:
        ValueError: rows and model do not fit.
    """

    def __init__(
        self,
        model: PALRewardModel,
        args: VectorRewardConfig,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        *,
        embeddings: np.ndarray,
        choice: PrototypeChoice | None = None,
    ):
        self.model, self.args = model, args
        self.hold(model, args, train_dataset, eval_dataset, embeddings=embeddings, choice=choice)
        self.prepare(model, args.device)
        set_seed(args.seed)

    def train(self, resume_from_checkpoint: Any = None) -> None:
        """Fit head and people, then place everybody.

        Args:
            resume_from_checkpoint: there is none; the fit begins at the beginning.
        """
        data = self._states(self.train_rows).as_comparisons()
        self._step, self._n_steps, self._lines = 0, self.n_epochs(data), FigureLines()
        name, is_shown = self.args.run_name or type(self).__name__, not self.args.disable_tqdm
        if not is_shown:
            print(f"{name}: {self._n_steps:,} steps", flush=True)
        with tqdm(total=self._n_steps, dynamic_ncols=True, disable=not is_shown) as self._bar:
            self._bar.set_description(name)
            self._fit_head(self.model, data)
        self._place_people(self.model, data)

    def epoch_ended(self, loss: float) -> None:
        """Go on with the bar, and say the loss now and then."""
        self._step += 1
        self._bar.update()
        line = self._lines.line({"loss": loss}, self._step, self._n_steps)
        if line and self._bar.disable:
            print(line, flush=True)
        elif line:
            self._bar.write(line)
