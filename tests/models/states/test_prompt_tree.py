"""Completions behind one prompt: the tree by hand, and the numbers of single sequences."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from palign.functional.logprobs import completion_logps
from palign.models.completions import TokenizedItems, policy_logps
from palign.models.states.prompt_tree import plant, takes_trees
from tests.worlds.causal_models import small_model


def as_batch(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    batch = {name: torch.zeros(len(rows), longest, dtype=torch.long)
             for name in ("input_ids", "attention_mask", "completion_mask")}  # fmt: skip
    for number, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        batch["input_ids"][number, :end] = torch.tensor([*prompt, *answer])
        batch["attention_mask"][number, :end] = 1
        batch["completion_mask"][number, len(prompt) : end] = 1
    return batch


PAIR = [([5, 6, 7, 8, 9, 10], [20, 21, 22]), ([5, 6, 7, 8, 9, 10], [30]), ([5, 6, 11, 12, 13], [23, 24]),
        ([5, 6, 7, 8, 9, 10], [25, 26, 27])]  # fmt: skip


def test_a_tree_by_hand():
    trees = plant(**as_batch([([5, 6], [7, 8]), ([5, 6], [9])]))
    assert trees.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert trees.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert trees.is_visible[0, 0].long().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert trees.position.tolist() == [1, 2, 1]  # 7 follows 6, 8 follows 7, 9 follows 6
    assert trees.targets.tolist() == [7, 8, 9]
    assert trees.item.tolist() == [0, 0, 1]


def test_no_tree_where_no_prompt_is_shared_or_none_is_there():
    assert plant(**as_batch([([5, 6], [7, 8]), ([5, 7], [9])])) is None
    batch = as_batch([([5, 6], [7, 8]), ([5, 6], [9, 9])])
    assert plant(batch["input_ids"], batch["attention_mask"], batch["attention_mask"]) is None
    batch["completion_mask"][0, 3] = 0  # a completion that is not the end of its row
    assert plant(**batch) is None


def test_a_tree_is_no_longer_than_two_prompts_and_two_completions():
    trees = plant(**as_batch([([5] * 10, [n, n, n]) for n in range(10, 24)]))
    assert trees.input_ids.shape == (3, 25)  # 10 + 5 · 3 of at most 26; fourteen completions in three trees
    assert sorted(set(trees.item.tolist())) == list(range(14))


@pytest.mark.parametrize("kind", ["llama", "eager", "gpt2", "mistral", "bloom", "mamba"])
def test_log_probabilities_are_those_of_single_sequences(kind):
    model = small_model(kind).requires_grad_(False)
    batch = as_batch([row for row in PAIR if len(row[0]) == 6] if kind == "mistral" else PAIR)
    found = policy_logps(model, **batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = completion_logps(logits, batch["input_ids"], batch["completion_mask"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "length", "takes"),
    [("llama", 9, True), ("eager", 9, True), ("gpt2", 9, True), ("mistral", 8, True), ("mistral", 9, False),
     ("bloom", 9, False), ("mamba", 9, False)],
)  # fmt: skip
def test_who_reads_trees(kind, length, takes):
    assert takes_trees(small_model(kind).base_model, length) is takes


def test_gradients_are_those_of_single_sequences():
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(small_model("llama"), lora).eval()
    batch, weights = as_batch(PAIR), torch.tensor([1.0, -1.0, 0.5, 2.0])
    gradients = []
    for parts in ([slice(0, 4)], [slice(n, n + 1) for n in range(4)]):
        model.zero_grad()
        for part in parts:
            one = {name: tensor[part] for name, tensor in batch.items()}
            (weights[part] * policy_logps(model, **one)).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_items_of_one_prompt_stand_together_in_batches():
    rows = [([1, 2], [3]), ([4, 5, 6], [7, 8]), ([1, 2], [9, 9, 9]), ([4, 5, 6], [3]), ([1, 3], [2])]
    ids = [token for prompt, answer in rows for token in (*prompt, *answer)]
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    items = TokenizedItems(
        np.array(ids, dtype=np.int32), np.cumsum(lengths), np.array([len(prompt) for prompt, _ in rows]), 0
    )
    assert items.prompt_numbers.tolist() == [0, 1, 0, 1, 2]
    assert [part.tolist() for part in items.batches_by_length(batch_size=2)] == [[2, 0], [1, 3], [4]]
