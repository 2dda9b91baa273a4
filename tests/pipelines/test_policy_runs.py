"""What the runs of PPO and GRPO share: where the models lie that policies are compared on."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.evaluation.judging.in_context import CLOSING, OPENING
from palign.evaluation.judging.samples import sample_policy
from palign.pipelines.arguments.policy import PolicyArguments
from palign.pipelines.in_context import choices_before
from palign.pipelines.policies import PolicyRun
from palign.pipelines.ppo import PPORuns
from palign.rewards import PersonalizedReward
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import IdReward, named_rows, tiny_policy

ELSEWHERE = torch.device("meta")


def runs_elsewhere(peft_config: Any = None) -> PPORuns:
    """Training takes place on another device than the one the model was loaded on."""
    model, tokenizer = tiny_policy()
    args = SimpleNamespace(
        device=ELSEWHERE, temperature=1.0, seed=0, max_completion_length=4, plain_prompts=False, disable_tqdm=True,
        bf16=False,
    )  # fmt: skip
    reward = PersonalizedReward(IdReward(), standardize=False)
    return PPORuns(model, tokenizer, reward, WhoIsAsking(), named_rows(4), named_rows(4), args, peft_config)


@pytest.mark.parametrize("peft_config", [None, lora(4)])
def test_the_reference_answers_on_the_device_of_training(peft_config: Any) -> None:
    found = runs_elsewhere(peft_config).sampling(None)
    assert found["policy"].device == ELSEWHERE and "reference" not in found


def test_a_policy_trained_whole_is_compared_with_a_reference_on_its_own_device() -> None:
    runs = runs_elsewhere()
    policy = runs._clean_model()
    assert policy is not runs.model and policy.device == torch.device("cpu")
    run = PolicyRun(PolicyConditioning.NONE, policy.to(ELSEWHERE), None)
    found = runs.sampling(run)
    assert found["policy"] is policy and found["reference"] is runs.model
    assert found["policy"].device == found["reference"].device == ELSEWHERE


def test_eval_prompts_begin_as_those_that_the_policy_was_trained_on() -> None:
    """With bos, once, and told who is asking where the policy is."""
    runs = runs_elsewhere()
    bos = [("<bos>", runs.tokenizer.bos_token_id)]
    runs.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=bos)
    runs.who.add([str(i) for i in range(4)], torch.ones(4, 1).numpy())
    for told, start in ((None, ""), (PolicyConditioning.PROMPT, "[reader: type 0] ")):
        ids = runs.eval_prompts(told)
        assert ids == runs.tokenizer([start + row["prompt"] for row in named_rows(4)])["input_ids"]
        assert all(row.count(runs.tokenizer.bos_token_id) == 1 for row in ids)


def test_token_ids_are_answered_as_their_text_is() -> None:
    model, tokenizer = tiny_policy()
    texts = ["person 1", "the garden is open and quiet today"]
    found = [
        sample_policy(model, tokenizer, prompts, max_new_tokens=6, seed=3)
        for prompts in (texts, tokenizer(texts, add_special_tokens=False)["input_ids"])
    ]
    assert found[0].completions == found[1].completions and (found[0].kl == found[1].kl).all()


def test_a_quantized_model_stays_where_it_was_loaded() -> None:
    """transformers refuses to move some of them."""
    runs = runs_elsewhere(lora(4))
    runs.model.is_quantized = True
    assert runs.sampling(None)["policy"].device == torch.device("cpu")


def test_the_reference_in_context_reads_choices_and_is_measured_from_the_one_that_does_not() -> None:
    """The person with choices has them before the prompt, the oldest left out where there is no room."""
    runs = runs_elsewhere()
    bare = runs.eval_prompts(None)
    prompt = named_rows(4)[1]["prompt"]
    choices = {"1": ["OLD ", "NEW "]}
    whole, newest = (
        runs.tokenizer(OPENING + "".join(shown) + CLOSING + prompt)["input_ids"] for shown in (choices["1"], ["NEW "])
    )
    assert len(whole) > len(newest) > len(bare[1])
    for room, told, words in (
        (len(whole), whole, "up to 2 earlier choices .* 1 of 4 prompts show some.$"),
        (len(whole) - 1, newest, "1 of 4 prompts show some. 1 had room for fewer"),
        (len(newest) - 1, bare[1], "0 of 4 prompts show some. 1 had room for fewer"),
    ):
        runs.model.config.max_position_embeddings = room + runs.max_new_tokens
        assert re.search(words, runs.show_choices(choices))
        assert runs.in_context_prompts == [bare[0], told, *bare[2:]]
        found = runs.sampling_in_context()
        assert found["prompts"] == runs.in_context_prompts and found["reference_prompts"] == bare
        assert found["policy"] is runs.model


def test_choices_on_prompts_that_are_judged_are_not_shown(tmp_path: Path) -> None:
    rows = [
        {"annotator_id": who, "prompt": asked, "chosen": "yes", "rejected": "no"}
        for who, asked in (("1", "a?"), ("1", "b?"), ("2", "a?"))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = PolicyArguments(earlier_dataset_name=str(tmp_path / "rows.jsonl"))
    choices, notes = choices_before(script, [{"annotator_id": "1", "prompt": "a?"}])
    assert {person: len(shown) for person, shown in choices.items()} == {"1": 1, "2": 1}
    assert "b?" in choices["1"][0] and notes[0].startswith("1 earlier rows are on prompts judged here")
    with pytest.raises(ValueError, match="Give rows on other prompts"):
        choices_before(script, rows)
    assert choices_before(PolicyArguments(), rows) == ({}, [])
