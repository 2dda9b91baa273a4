"""Reward functions for other people's trainers, called as their code calls them."""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import palign.integrations.openrlhf as openrlhf_file
import palign.integrations.verl as verl_file
from palign.integrations.rows import loaded_reward, parts_of_query, person_of_label, score_rows
from palign.models.pal import PALRewardModel
from tests.models.classifier.test_export import chat_model

ASKS, ANSWERS, PEOPLE = ["ask 0", "kind 1", "ask 0"], ["answer 2 3", "think", "answer 2 3"], ["p0", "p1", "stranger"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pal")
    chat_model().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def wanted(folder: str) -> torch.Tensor:
    return PALRewardModel.from_pretrained(folder).score(ASKS, ANSWERS, PEOPLE)


def templated(tokenizer, ask: str) -> str:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": ask}], tokenize=False, add_generation_prompt=True
    )


def loaded_as(path: str, name: str):
    """A function out of a file by its path, as both trainers load it."""
    spec = importlib.util.spec_from_file_location("reward_func", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_rows_have_the_rewards_of_their_people(folder: str, wanted: torch.Tensor) -> None:
    assert score_rows(folder, ASKS, ANSWERS, PEOPLE) == pytest.approx(wanted.tolist(), abs=1e-5)
    assert loaded_reward(folder) is loaded_reward(folder)


def test_openrlhf_calls_with_one_row_and_three_lists(folder: str, wanted: torch.Tensor, monkeypatch) -> None:
    """`asyncio.to_thread(self.reward_func, queries[i:j], prompts[i:j], labels[i:j])`, OpenRLHF 0.11.2."""
    monkeypatch.setenv(openrlhf_file.MODEL_VARIABLE, folder)
    reward_func = loaded_as(openrlhf_file.__file__, "reward_func")
    tokenizer = loaded_reward(folder).model.tokenizer
    prompts = [templated(tokenizer, ask) for ask in ASKS]
    queries = [p + a + tokenizer.eos_token for p, a in zip(prompts, ANSWERS, strict=True)]
    for i, label in enumerate(["p0", '{"annotator_id": "p1", "answer": 3}', {"annotator_id": "stranger"}]):
        found = reward_func(queries[i : i + 1], prompts[i : i + 1], [label])
        assert found.keys() == {"rewards", "scores", "extra_logs"}
        torch.testing.assert_close(found["rewards"], wanted[i : i + 1], atol=1e-5, rtol=1e-5)
    monkeypatch.delenv(openrlhf_file.MODEL_VARIABLE)
    with pytest.raises(ValueError, match="Which reward model. Set PALIGN_REWARD_MODEL"):
        reward_func(queries, prompts, PEOPLE)


def test_verl_calls_by_keywords_for_a_row_or_for_many(folder: str, wanted: torch.Tensor) -> None:
    """`_call_with_kwargs(raw_fn, reward_kwargs, …)` of verl 0.9.1; messages come as an array out of a parquet file."""

    def call_with_kwargs(raw_fn, extra_kwargs, *args, **kwargs):
        return raw_fn(*args, **{**kwargs, **extra_kwargs})

    one = partial(call_with_kwargs, loaded_as(verl_file.__file__, "compute_score"), {"model_path": folder})
    messages = [np.array([{"role": "user", "content": ask}], dtype=object) for ask in ASKS]
    infos = [
        {"annotator_id": person, "prompt": prompt, "num_turns": 2, "rollout_reward_scores": {}}
        for person, prompt in zip(PEOPLE, [messages[0], ASKS[1], messages[2]], strict=True)
    ]
    for i, info in enumerate(infos):
        score = one(data_source="a", solution_str=ANSWERS[i], ground_truth=None, extra_info=info)
        assert score == pytest.approx(wanted[i].item(), abs=1e-5)
    many = partial(call_with_kwargs, loaded_as(verl_file.__file__, "compute_scores"), {"model_path": folder})
    scores = many(data_sources=["a"] * 3, solution_strs=ANSWERS, ground_truths=[None] * 3, extra_infos=infos)
    assert scores == pytest.approx(wanted.tolist(), abs=1e-5)
    with pytest.raises(ValueError, match=r"Row 1 .* without annotator_id or prompt"):
        many(
            data_sources=["a"] * 2, solution_strs=["b"] * 2, ground_truths=[0, 0], extra_infos=[infos[0], {"index": 1}]
        )


def test_what_a_query_holds_is_parted_and_marks_are_taken_off(folder: str) -> None:
    tokenizer = loaded_reward(folder).model.tokenizer
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    assert parts_of_query(f"tea milk </s>{eos}{eos}", "tea ", tokenizer) == ("tea ", "milk")
    assert parts_of_query(f"{bos}tea milk", "tea", tokenizer) == ("tea", " milk")
    assert parts_of_query("tea", "tea", tokenizer) == ("tea", "")
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        parts_of_query("a tea milk", "tea", tokenizer)


@pytest.mark.parametrize("label", [7, "7", 7.0, {"annotator_id": 7}, '{"annotator_id": "7"}', ' {"annotator_id": 7}'])
def test_a_label_is_a_person(label: object) -> None:
    assert person_of_label(label) == "7"


@pytest.mark.parametrize(("label", "error"), [({}, "no 'annotator_id'"), ("{7", "is none"), ("", "is empty")])
def test_a_label_without_a_person_is_refused(label: object, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        person_of_label(label)


def test_the_files_lie_where_the_page_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    for module in (openrlhf_file, verl_file):
        assert f"palign/integrations/{Path(module.__file__).name}" in page
