"""Rows that a policy is trained on: from files, checked with row and column, and as the policy reads their prompts."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from palign.models.completions import prompt_ids
from palign.trainers.policy.rows import groups_of, query_ids, read_prompt_rows
from tests.worlds.tiny_policy import tiny_policy


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_preference_rows_give_each_person_each_prompt_once(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "worker": 7, "country": "IE"}
    rows = [pair, {**pair, "chosen": "c"}, {**pair, "worker": "7.0"}, {**pair, "prompt": "q"}]
    found = read_prompt_rows(write(tmp_path / "r.jsonl", rows), annotator_column="worker", group_columns=["country"])
    assert found == [
        {"prompt": "p", "annotator_id": "7", "country": "IE"},
        {"prompt": "p", "annotator_id": "7.0", "country": "IE"},  # a text is kept letter for letter
        {"prompt": "q", "annotator_id": "7", "country": "IE"},
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prompt": "p"}, r"r.jsonl, row 2: there is no column 'annotator_id'; the row has 'prompt'"),
        ({"prompt": "p", "annotator_id": None}, r"r.jsonl, row 2, column 'annotator_id'"),
        ({"prompt": "p", "annotator_id": " "}, r"r.jsonl, row 2, column 'annotator_id'"),
        ({"prompt": "", "annotator_id": "a"}, r"r.jsonl, row 2, column 'prompt': the prompt is empty"),
    ],
)
def test_bad_rows_say_where(tmp_path: Path, bad: dict, message: str) -> None:
    good = {"prompt": "p", "annotator_id": "a"}
    with pytest.raises(ValueError, match=message):
        read_prompt_rows(write(tmp_path / "r.jsonl", [good, good, bad]))


def test_a_group_that_is_not_given_is_none(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "annotator_id": "a"} for i in range(4)]
    rows[0] |= {"country": "IE"}
    rows[1] |= {"country": None}
    rows[2] |= {"country": float("nan")}
    path = write(tmp_path / "r.jsonl", rows)
    found = read_prompt_rows(path, group_columns=["country"])
    assert [row["country"] for row in found] == ["IE", None, None, None]
    assert groups_of(found, "country") == ["IE", "(missing)", "(missing)", "(missing)"]
    assert groups_of(found, "type") == groups_of(found, None) == []
    with pytest.raises(ValueError, match="there is no column 'contry'. Did you mean 'country'.*--group_columns"):
        read_prompt_rows(path, group_columns=["contry"])


TEMPLATE = (
    "<bos>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer_with(single: str) -> Any:
    """The tiny tokenizer, which now makes `single` of every text $A."""
    _, tokenizer = tiny_policy()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize("single", ["$A", "<bos> $A"])
def test_a_policy_reads_plain_prompts_as_grpo_and_em_do(single: str) -> None:
    tokenizer = tokenizer_with(single)
    texts = ["person 3 asks", "the garden is open and quiet"]
    assert query_ids(texts, tokenizer) == tokenizer(texts)["input_ids"] == prompt_ids(texts, tokenizer)


@pytest.mark.parametrize("single", ["<bos> $A", "<bos> $A <eos>"])
def test_a_prompt_has_one_bos_and_no_eos_behind_it(single: str) -> None:
    """Also where a prompt or a chat template brings the bos token along; a prompt that is cut keeps it."""
    tokenizer = tokenizer_with(single)
    tokenizer.chat_template = TEMPLATE
    plain = tokenizer("the garden", add_special_tokens=False)["input_ids"]
    assert query_ids(["the garden", "<bos>the garden"], tokenizer) == [[1, *plain], [1, *plain]]
    messages = [{"role": "user", "content": "is the garden open"}]
    told = tokenizer("<bos>user: is the garden open<eos>assistant: ", add_special_tokens=False)["input_ids"]
    assert query_ids([messages], tokenizer) == [told]
    assert told.count(1) == 1 and told.count(2) == 1
    assert query_ids(["person 3 asks about the garden", messages], tokenizer, max_length=3) == [
        [1, *plain],
        [1, *told[-2:]],
    ]
    assert query_ids(["the garden"], tokenizer, max_length=1) == [plain[-1:]]
    begun = [*messages, {"role": "assistant", "content": "the garden"}]
    assert query_ids([begun], tokenizer)[0][-2:] == plain  # an answer that is begun is gone on with
