"""Rows → token ids as TRL's DPOTrainer has them; truncation, missing prompts, batches, log-probabilities."""

import logging
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from palign.data.preferences import Preferences
from palign.functional.logprobs import completion_logps
from palign.models.completions import TokenizedItems, policy_logps
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer

WORDS = ["the cat likes tea", "a dog runs home", "what is the sky", "blue and wide", "I do not know", "tea or sun"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINKING = TEMPLATE.replace("<assistant>", "<assistant>(thinks)")


def tokenizer_with(**changes: object) -> PreTrainedTokenizerFast:
    tokenizer = make_tiny_tokenizer(WORDS * 3, vocab_size=320)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def plain_rows() -> list[dict]:
    return [
        {"annotator_id": "a", "prompt": "the cat", "chosen": " likes tea", "rejected": " likes the sun, I know<eos>"},
        {"annotator_id": "b", "prompt": "what is", "chosen": " blue", "rejected": "wide and blue"},
        {"annotator_id": "b", "prompt": "the cat ", "chosen": "runs", "rejected": "do not"},
    ]


def conversational_rows() -> list[dict]:
    def said(text: str) -> list[dict]:
        return [{"role": "assistant", "content": text}]

    return [
        {"annotator_id": i, "prompt": [{"role": "user", "content": p}], "chosen": said(c), "rejected": said(r)}
        for i, (p, c, r) in enumerate([("the cat", "likes tea", "a dog"), ("what is", "the sky", "blue and wide")])
    ]


def trl_ids(rows: list[dict], tokenizer: PreTrainedTokenizerFast, folder: Path) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, completion ids) as TRL's own trainer prepares them, chosen before rejected of each row."""
    arguments = DPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        max_length=None,
    )
    kept = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    trainer = DPOTrainer(
        make_tiny_lm(tokenizer, hidden_size=16, n_layers=1), make_tiny_lm(tokenizer, hidden_size=16, n_layers=1),
        args=arguments, train_dataset=Dataset.from_list(kept),
        processing_class=tokenizer,
    )  # fmt: skip
    return [(row["prompt_ids"], row[name]) for row in trainer.train_dataset for name in ("chosen_ids", "rejected_ids")]


def split(items: TokenizedItems) -> list[tuple[list[int], list[int]]]:
    starts = items.prompt_lengths
    return [(items.tokens(i)[: starts[i]].tolist(), items.tokens(i)[starts[i] :].tolist()) for i in range(len(items))]


@pytest.mark.parametrize("kind", ["plain", "conversational"])
def test_ids_are_trls_token_for_token(tmp_path: Path, kind: str) -> None:
    tokenizer = tokenizer_with(chat_template=TEMPLATE)
    rows = plain_rows()[:2] if kind == "plain" else conversational_rows()
    prefs = Preferences.from_rows(rows)
    found = split(TokenizedItems.of(prefs, tokenizer))
    in_row_order = [found[number] for number in prefs.item_indices.reshape(-1)]
    assert in_row_order == trl_ids(rows, tokenizer, tmp_path)
    assert all(tail[-1] == tokenizer.eos_token_id for _, tail in found)


def test_where_the_joint_ids_begin_otherwise_the_two_are_tokenised_apart() -> None:
    """`the cat ` + `runs`: jointly the blank goes to `runs`, so that a cut by length would lose a token's part."""
    tokenizer = tokenizer_with()
    apart = tokenizer("the cat ")["input_ids"], tokenizer("runs<eos>")["input_ids"]
    joint = tokenizer("the cat runs<eos>")["input_ids"]
    assert joint[: len(apart[0])] != apart[0]
    assert split(TokenizedItems.of(Preferences.from_rows(plain_rows()[2:]), tokenizer))[0] == apart


def test_a_template_that_opens_the_answer_with_words_of_its_own() -> None:
    tokenizer = tokenizer_with(chat_template=THINKING)
    head, tail = split(TokenizedItems.of(Preferences.from_rows(conversational_rows()), tokenizer))[0]
    written = [tokenizer.decode(ids).replace(" ", "") for ids in (head, tail)]
    assert written == ["<user>thecat<eos><assistant>(thinks)", "likestea<eos>"]


def test_text_without_a_prompt_follows_bos() -> None:
    rows = [{"annotator_id": "a", "chosen": "the cat", "rejected": "a dog"}]
    tokenizer = tokenizer_with()
    head, tail = split(TokenizedItems.of(Preferences.from_rows(rows), tokenizer))[0]
    assert (head, tail) == ([tokenizer.bos_token_id], tokenizer("the cat<eos>")["input_ids"])
    with pytest.raises(ValueError, match="no prompt.*no bos token.*Set tokenizer.bos_token"):
        TokenizedItems.of(Preferences.from_rows(rows), tokenizer_with(bos_token=None))


def test_truncation_keeps_the_start_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    prefs, tokenizer = Preferences.from_rows(plain_rows()), tokenizer_with()
    whole = TokenizedItems.of(prefs, tokenizer, max_length=None)
    limit = int(whole.prompt_lengths.max()) + 1
    with caplog.at_level(logging.WARNING):
        cut = TokenizedItems.of(prefs, tokenizer, max_length=limit)
    assert [cut.tokens(i).tolist() for i in range(6)] == [whole.tokens(i)[:limit].tolist() for i in range(6)]
    n_cut = sum(len(whole.tokens(i)) > limit for i in range(6))
    assert [f"{n_cut} of 6 completions" in record.message for record in caplog.records] == [True]
    with pytest.raises(
        ValueError, match=r"Row \d .*prompt alone has \d+ tokens and max_length is 2. Raise max_length"
    ):
        TokenizedItems.of(prefs, tokenizer, max_length=2)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        TokenizedItems.of(prefs, tokenizer, max_length=1)


def test_messages() -> None:
    with pytest.raises(ValueError, match="needs rows of texts"):
        TokenizedItems.of(Preferences.from_arrays(["a"], np.array([0]), np.array([1])), tokenizer_with())
    with pytest.raises(ValueError, match="Set tokenizer.eos_token"):
        TokenizedItems.of(Preferences.from_rows(plain_rows()), tokenizer_with(eos_token=None))
    with pytest.raises(ValueError, match="chat template"):
        TokenizedItems.of(Preferences.from_rows(conversational_rows()), tokenizer_with())


def test_collate_pads_on_the_right() -> None:
    items = TokenizedItems(np.array([5, 6, 7, 8, 9], dtype=np.int32), np.array([3, 5]), np.array([1, 1]), pad_id=0)
    batch = items.collate([1, 0, 1])
    assert batch["input_ids"].tolist() == [[8, 9, 0], [5, 6, 7], [8, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0]]
    assert batch["completion_mask"].tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 0]]


def test_batches_by_length() -> None:
    ends = np.cumsum([3, 9, 4, 9, 2])
    items = TokenizedItems(np.zeros(27, dtype=np.int32), ends, np.ones(5, dtype=np.int64), pad_id=0)
    assert [b.tolist() for b in items.batches_by_length(batch_size=2)] == [[1, 3], [2, 0], [4]]
    assert [b.tolist() for b in items.batches_by_length(np.array([4, 2, 1]), 5)] == [[1, 2, 4]]
    assert [b.tolist() for b in items.batches_by_length(None, 5, max_tokens=12)] == [[1], [3], [2, 0, 4]]
    with pytest.raises(ValueError, match="batch_size is 0"):
        list(items.batches_by_length(None, 0))


@cache
def tiny() -> tuple[torch.nn.Module, TokenizedItems]:
    tokenizer = tokenizer_with()
    return make_tiny_lm(tokenizer, hidden_size=32, n_layers=2), TokenizedItems.of(
        Preferences.from_rows(plain_rows()), tokenizer
    )


def test_policy_logps_equal_those_of_all_logits_and_do_not_see_padding() -> None:
    model, items = tiny()
    batch = items.collate(np.arange(len(items)))
    found = policy_logps(model, **batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(found, completion_logps(logits, batch["input_ids"], batch["completion_mask"]))
    alone = torch.cat([policy_logps(model, **items.collate([i])) for i in range(len(items))])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


class WithoutLogitsToKeep(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> object:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_a_model_that_gives_all_logits_only() -> None:
    model, items = tiny()
    batch = items.collate(np.arange(len(items)))
    torch.testing.assert_close(policy_logps(WithoutLogitsToKeep(model), **batch), policy_logps(model, **batch))
