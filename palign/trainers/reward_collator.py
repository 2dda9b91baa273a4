"""Rows of text → the batch that `PALRewardModel.forward` takes, each text of a batch once."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.rendering import render_completion, render_prompt

if TYPE_CHECKING:
    from palign.models.backbones import Backbone

__all__ = ["PairDataset", "RewardCollator"]


class PairDataset(Dataset):
    """Row numbers; the collator looks the rows up."""

    def __init__(self, rows: Preferences):
        self.n_rows = len(rows)

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, row: int) -> int:
        return row


class RewardCollator:
    """Row numbers → tensors.

    Keys: `input_ids`, `attention_mask` (n_texts, seq_len), `prompt_lengths` (n_texts,); `item_rows` (rows, max_items)
    into the texts, 0 at padding; `ranks` (rows, max_items), −1 at padding; `annotator_index` (rows,). Where the head
    reads prompts and the backbone is an encoder: `prompt_input_ids`, `prompt_attention_mask` (n_prompts, prompt_len)
    and `prompt_rows` (rows,).
    """

    def __init__(
        self, backbone: "Backbone | None", rows: Preferences, annotators: AnnotatorIndex, needs_prompts: bool = False
    ):
        self.backbone, self.rows = backbone, rows
        self.index = annotators.indices(rows.annotator_ids)
        self.reads_prompts_alone = needs_prompts and backbone is not None and not backbone.is_causal

    def __call__(self, numbers: list[int]) -> dict[str, Tensor]:
        rows, tokenizer = self.rows, self.backbone.tokenizer
        width = int(rows.n_items[numbers].max())
        items, inverse = np.unique(np.maximum(rows.item_indices[numbers, :width], 0), return_inverse=True)
        held = [rows.items[item] for item in items]
        prompts = [render_prompt(rows.prompts[prompt], tokenizer) for prompt, _ in held]
        completions = [render_completion(rows.prompts[prompt], completion, tokenizer) for prompt, completion in held]
        batch = self.backbone.encode(prompts, completions)
        batch |= {
            "item_rows": torch.from_numpy(inverse.reshape(len(numbers), width)),
            "ranks": torch.from_numpy(rows.ranks[numbers, :width].astype(np.int64)),
            "annotator_index": torch.from_numpy(self.index[numbers]),
        }
        if self.reads_prompts_alone:
            unique, prompt_rows = np.unique(rows.prompt_indices[numbers], return_inverse=True)
            alone = self.backbone.encode([render_prompt(rows.prompts[prompt], tokenizer) for prompt in unique])
            batch |= {
                "prompt_input_ids": alone["input_ids"],
                "prompt_attention_mask": alone["attention_mask"],
                "prompt_rows": torch.from_numpy(prompt_rows),
            }
        return batch
