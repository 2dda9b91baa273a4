"""Rows of text → the batch that `PALRewardModel.forward` takes, each text of a batch once."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.rendering import render_completion, render_prompt
from palign.data.turns import in_turns

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
    into the texts, the row's first at padding; `ranks` (rows, max_items), −1 at padding; `annotator_index` (rows,).
    Where the head reads prompts, and the backbone is an encoder or a prompt was cut to make room for its completion:
    `prompt_input_ids`, `prompt_attention_mask` (n_prompts, prompt_len) and `prompt_rows` (rows,).
    """

    def __init__(
        self,
        backbone: "Backbone | None",
        rows: Preferences,
        annotators: AnnotatorIndex,
        needs_prompts: bool = False,
        *,
        plain_prompts: bool = True,
    ):
        self.backbone, self.rows = backbone, rows if plain_prompts else in_turns(rows)
        self.index = annotators.indices(rows.annotator_ids)
        self.needs_prompts = needs_prompts

    def __call__(self, numbers: list[int]) -> dict[str, Tensor]:
        rows, tokenizer = self.rows, self.backbone.tokenizer
        indices = rows.item_indices[numbers]
        indices = indices[:, : int((indices >= 0).sum(1).max())]
        width = indices.shape[1]
        items, inverse = np.unique(np.where(indices < 0, indices[:, :1], indices), return_inverse=True)
        held = [rows.items[item] for item in items]
        prompts = [render_prompt(rows.prompts[prompt], tokenizer) for prompt, _ in held]
        completions = [render_completion(rows.prompts[prompt], completion, tokenizer) for prompt, completion in held]
        texts = self.backbone.tokenize(prompts, completions)
        batch = self.backbone.collate(texts)
        batch |= {
            "item_rows": torch.from_numpy(inverse.reshape(len(numbers), width)),
            "ranks": torch.from_numpy(rows.ranks[numbers, :width].astype(np.int64)),
            "annotator_index": torch.from_numpy(self.index[numbers]),
        }
        if self.needs_prompts and (not self.backbone.is_causal or any(text.prompt_was_cut for text in texts)):
            unique, prompt_rows = np.unique(rows.prompt_indices[numbers], return_inverse=True)
            alone = self.backbone.encode([render_prompt(rows.prompts[prompt], tokenizer) for prompt in unique])
            batch |= {
                "prompt_input_ids": alone["input_ids"],
                "prompt_attention_mask": alone["attention_mask"],
                "prompt_rows": torch.from_numpy(prompt_rows),
            }
        return batch
