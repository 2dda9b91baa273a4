"""What there is to say about a mixture: did it find the types there are, what it began from, how K was chosen."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from palign.functional.partitions import adjusted_rand_index, type_accuracy
from palign.models.files.mixture import MixtureRecord

__all__ = ["check_notes", "choice_note", "compare_types", "drawn_beta_note", "reference_note"]


def compare_types(record: MixtureRecord, truth: np.ndarray | None) -> dict[str, float]:
    """`types/ari` and `types/accuracy` (after the best matching) of the likeliest types with the declared ones.

    Args:
        record: of the mixture.
        truth: (n_annotators,) declared types in the order of `record.annotators`; None gives an empty dict.
    """
    if truth is None:
        return {}
    declared = torch.from_numpy(np.unique(truth, return_inverse=True)[1])
    types = torch.from_numpy(record.responsibilities.argmax(1))
    return {
        "types/ari": float(adjusted_rand_index(types, declared)),
        "types/accuracy": float(type_accuracy(types, declared)),
    }


def choice_note(record: MixtureRecord) -> list[str]:
    """How K was chosen, as a sentence for the report; none where it was given."""
    rows = record.details.get("choice_of_k") or []
    if not rows:
        return []
    parts = [f"K = {int(row['n_types'])}: {row['log_likelihood']:.3f}" for row in rows]
    return [
        f"K = {record.n_types} was chosen on annotators held out of training, by the log-likelihood of a row (nats) "
        f"under the linear head: {'; '.join(parts)}. The smallest K that is not clearly worse than the best is taken."
    ]


def reference_note(record: MixtureRecord) -> list[str]:
    """What the types and baselines began from: a warm start, and how likely the answers are to it."""
    of_reference = record.details.get("reference") or {}
    warm, per_token = of_reference.get("warm_start"), of_reference.get("nats_per_token") or {}
    notes = []
    if warm:
        plural = "" if warm["epochs"] == 1 else "s"
        what = "answers that were judged" if warm["answers"] == "all" else "answers that were put first"
        notes.append(
            f"The reference is the base after a warm start: {warm['epochs']:g} epoch{plural} of supervised LoRA over "
            f"the {warm['n_answers']:,} different {what}, merged into its weights. Types and baselines begin from it."
        )
    if "best" in per_token:
        notes.append(f"The reference gives the answers that people put first {per_token['best']:.2f} nats a token.")
    return notes


def drawn_beta_note(row_betas: Tensor, *, beta: float, spread: float) -> str:
    """What the baseline `drawn_beta` is; its rewards on held-out rows are those of `beta`."""
    low, high = row_betas.min(), row_betas.max()
    return (
        "drawn_beta is one DPO for all that reads no names: the β of each row was drawn once by the seed, ln β normal "
        f"about ln {beta:g} with standard deviation {spread:g} ({low:.3g} to {high:.3g} over the {len(row_betas):,} "
        f"rows trained on). Held-out rows are judged with β = {beta:g}, as those of the others are."
    )


def check_notes(record: MixtureRecord) -> list[str]:
    """The checks of the mixture, those that ask for a look first."""
    order = {"stop": 0, "look": 1, "ok": 2}
    checks: list[dict[str, Any]] = sorted(
        record.details.get("checks", []), key=lambda check: order.get(check["verdict"], 3)
    )
    return [f"{check['name'].replace('_', ' ')} ({check['verdict']}): {check['message']}" for check in checks]
