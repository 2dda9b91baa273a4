"""Rows of different lengths in one batch: every completion once, every slot where it belongs."""

import numpy as np
import pytest
import torch

from palign.data.preferences import Preferences
from palign.models.completions import TokenizedItems
from palign.trainers.mixture.collator import MixtureCollator
from tests.worlds.colour import colour_tokenizer

SAID = [f" the {thing} is {colour}" for thing in ("boat", "door") for colour in ("red", "blue", "teal")]


@pytest.fixture(scope="module")
def collator() -> MixtureCollator:
    rows = Preferences.from_rows(
        [
            {"annotator_id": 1, "prompt": "boat?", "completions": [SAID[2], SAID[0], SAID[1]]},
            {"annotator_id": 2, "prompt": "boat?", "chosen": SAID[0], "rejected": SAID[2]},
            {"annotator_id": 3, "prompt": "door?", "completions": SAID[3:], "ratings": [4, 4, 1]},
            {"annotator_id": 1, "prompt": "door?", "chosen": SAID[0], "rejected": SAID[3]},  # the text, not the item
        ]
    )
    return MixtureCollator(rows, TokenizedItems.of(rows, colour_tokenizer()))


def texts(batch: dict[str, torch.Tensor]) -> list[tuple[str, str]]:
    """(prompt, completion) of each sequence, read back from its tokens."""
    tokenizer, found = colour_tokenizer(), []
    for ids, real, scored in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True):
        parts = ids[(real == 1) & (scored == 0)], ids[scored == 1]
        found.append(tuple(tokenizer.decode(part).removesuffix("<eos>").strip() for part in parts))
    return found


def test_every_slot_points_at_its_text(collator: MixtureCollator) -> None:
    batch = collator([2, 0, 1])
    said = texts(batch)
    assert len(said) == len(set(said)) == 6  # rows 0 and 1 share two
    assert batch["rows"].tolist() == [2, 0, 1] and batch["rows"].dtype == torch.int64
    expected = [
        [("door?", SAID[3]), ("door?", SAID[4]), ("door?", SAID[5])],
        [("boat?", SAID[2]), ("boat?", SAID[0]), ("boat?", SAID[1])],
        [("boat?", SAID[0]), ("boat?", SAID[2])],
    ]
    for slots, row in zip(batch["slots"].tolist(), expected, strict=True):
        assert [said[slot] for slot in slots[: len(row)]] == [(prompt, text.strip()) for prompt, text in row]
    assert batch["slots"][2, 2] == batch["slots"][2, 0]
    assert batch["ranks"].tolist() == [[0, 0, 1], [0, 1, 2], [0, 1, -1]]


def test_items_are_numbers_into_the_preferences(collator: MixtureCollator) -> None:
    batch = collator([3])
    assert batch["ranks"].tolist() == [[0, 1]] and batch["slots"].shape == (1, 2)  # no column of nothing but padding
    chosen = batch["items"][batch["slots"][0, 0]]
    prompt, text = collator.rows.items[int(chosen)]
    assert (collator.rows.prompts[prompt], text) == ("door?", SAID[0])
    assert texts(batch)[int(batch["slots"][0, 0])] == ("door?", SAID[0].strip())


def test_the_same_text_after_another_prompt_is_another_sequence(collator: MixtureCollator) -> None:
    said = texts(collator([1, 3]))
    assert said.count(("boat?", SAID[0].strip())) == said.count(("door?", SAID[0].strip())) == 1


def test_a_row_twice_in_a_batch_costs_one_pass(collator: MixtureCollator) -> None:
    batch = collator([1, 1, 1])
    assert len(batch["input_ids"]) == 2
    assert np.unique(batch["slots"], axis=0).tolist() == [batch["slots"][0].tolist()]


def test_padding_is_never_scored(collator: MixtureCollator) -> None:
    batch = collator([0, 1, 2, 3])
    assert not bool((batch["completion_mask"] & ~batch["attention_mask"].bool()).any())
    assert bool((batch["completion_mask"].sum(1) > 0).all())
