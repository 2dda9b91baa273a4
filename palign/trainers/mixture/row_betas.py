"""One DPO whose rows differ in β: preferences differ in strength from row to row, and nobody's name is read.

MixDPO (Imai et al., arXiv 2601.06180) lets the β of DPO vary over examples by a distribution, log-normal for one. It
learns that distribution and averages over draws of it. Here the distribution is stated beforehand, and each row keeps
one draw: a baseline of what varying strength does without knowing who voted.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palign.trainers.mixture_dpo_config import MixtureDPOConfig, TypesFrom

__all__ = ["check_row_betas", "drawn_betas", "row_betas_key", "row_betas_record"]


def drawn_betas(n_rows: int, *, beta: float, spread: float, seed: int) -> Tensor:
    """(n_rows,) float64: ln β is normal about ln `beta` with standard deviation `spread`, drawn once by the seed."""
    normal = np.random.default_rng(seed).standard_normal(n_rows)
    return torch.from_numpy(beta * np.exp(spread * normal))


def check_row_betas(row_betas: Any, n_rows: int, args: MixtureDPOConfig) -> Tensor | None:
    """The β of each row as a tensor on the trainer's device; None where all rows share `args.beta`.

    Raises:
        ValueError: there is not one positive, finite number for each row; or there may be several types, whose E-step
            has one β.
    """
    if row_betas is None:
        return None
    betas = torch.as_tensor(row_betas, dtype=torch.float32)
    if betas.shape != (n_rows,) or not bool((betas.isfinite() & (betas > 0)).all()):
        raise ValueError(
            f"row_betas has shape {tuple(betas.shape)} and values from {_extreme(betas, 'min')} to "
            f"{_extreme(betas, 'max')}; give one positive, finite number for each of the {n_rows} rows."
        )
    if args.n_types != 1 or args.types_from != TypesFrom.EM:
        raise ValueError(
            f"row_betas are for one adapter, and n_types is {args.n_types!r} with types_from {args.types_from!r}; set "
            "n_types=1 and types_from='em', or leave row_betas out."
        )
    return betas.to(args.device)


def row_betas_record(row_betas: Tensor | None) -> dict[str, Any]:
    """What mixture.json says of them; nothing where all rows share one β."""
    if row_betas is None:
        return {}
    least, median, greatest = np.quantile(row_betas.cpu().numpy(), (0.0, 0.5, 1.0)).tolist()
    return {"row_betas": {"least": least, "median": median, "greatest": greatest}}


def row_betas_key(row_betas: Tensor | None) -> str | None:
    """By which run.json tells two runs apart, 16 hex digits; None where all rows share one β."""
    return None if row_betas is None else hashlib.sha256(row_betas.cpu().numpy().tobytes()).hexdigest()[:16]


def _extreme(betas: Tensor, name: str) -> str:
    return f"{float(getattr(betas, name)()):g}" if betas.numel() else "nothing"
