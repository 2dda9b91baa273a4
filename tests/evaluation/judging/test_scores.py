"""Scores of every kind of model are those of one completion at a time, read by hand; shards together are the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from palign.data.preferences import Preferences
from palign.evaluation.evaluate import evaluate_models, group_names, shard
from palign.evaluation.judging.kinds import recognise
from palign.evaluation.judging.scores import score_source, types_of
from palign.models.mixture_policy import MixturePolicy
from palign.models.pal import PALRewardModel
from tests.worlds.colour import colour_tokenizer
from tests.worlds.judged_models import PEOPLE, make_model, rows_of_colours

ROWS = Preferences.from_rows(rows_of_colours())


def texts(row: int, item: int) -> tuple[str, str]:
    prompt, completion = ROWS.items[ROWS.item_indices[row, item]]
    return ROWS.prompts[prompt], completion


def by_hand(value: object) -> np.ndarray:
    """(n_rows, max_items) of `value(prompt, completion)`, one at a time, 0 at padding."""
    found = np.zeros(ROWS.ranks.shape)
    for row, item in np.argwhere(ROWS.ranks >= 0):
        found[row, item] = value(*texts(row, item))
    return found


@torch.no_grad()
def logp(model: torch.nn.Module, prompt: str, completion: str) -> float:
    tokenizer = colour_tokenizer()
    head, whole = (tokenizer(text)["input_ids"] for text in (prompt, prompt + completion + tokenizer.eos_token))
    logps = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logps[place - 1, whole[place]].item() for place in range(len(head), len(whole)))


@torch.no_grad()
def test_a_reward_model_of_trl(tmp_path: Path) -> None:
    place = make_model("reward", tmp_path)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(place).eval(), colour_tokenizer()

    def value(prompt: str, completion: str) -> float:
        ids = tokenizer(prompt + completion + tokenizer.eos_token, return_tensors="pt")["input_ids"]
        return model(input_ids=ids).logits.item()

    found = score_source(recognise(str(place)), ROWS, batch_size=5)
    np.testing.assert_allclose(found.scores, by_hand(value), atol=1e-5)
    assert found.type_weights is None


@torch.no_grad()
def test_an_encoder_reads_prompt_and_completion_as_a_pair(tmp_path: Path) -> None:
    place = make_model("encoder", tmp_path)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(place).eval(), colour_tokenizer()

    def value(prompt: str, completion: str) -> float:
        return model(**tokenizer(prompt, completion, return_tensors="pt")).logits.item()

    np.testing.assert_allclose(score_source(recognise(str(place)), ROWS).scores, by_hand(value), atol=1e-5)


@pytest.mark.parametrize(("kind", "beta"), [("adapter", 0.1), ("fair", 0.25)])
def test_an_adapter_against_its_base(kind: str, beta: float, tmp_path: Path) -> None:
    place = make_model(kind, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), place).eval()
    expected = by_hand(lambda *pair: beta * (logp(policy, *pair) - logp(base, *pair)))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(score_source(recognise(str(place)), ROWS).scores, expected, atol=1e-5)


def test_a_language_model_against_its_reference(tmp_path: Path) -> None:
    place, base = make_model("causal", tmp_path), make_model("base", tmp_path)
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (place, base)]
    expected = by_hand(lambda *pair: 0.1 * (logp(models[0], *pair) - logp(models[1], *pair)))
    found = score_source(recognise(str(place), reference=str(base)), ROWS)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)


def test_a_mixture_and_a_pal_model_score_for_the_person_of_the_row(tmp_path: Path) -> None:
    place = make_model("mixture", tmp_path)
    found = score_source(recognise(str(place)), ROWS)
    np.testing.assert_allclose(found.scores, MixturePolicy.from_pretrained(place).scores(ROWS).numpy(), atol=1e-6)
    assert found.type_weights == types_of(recognise(str(place))).type_weights
    place = make_model("pal", tmp_path)
    model, expected = PALRewardModel.from_pretrained(place), np.zeros(ROWS.ranks.shape)
    for row, item in np.argwhere(ROWS.ranks >= 0):
        prompt, completion = texts(row, item)
        expected[row, item] = model.score([prompt], [completion], [ROWS.annotator_ids[row]]).item()
    found = score_source(recognise(str(place)), ROWS, batch_size=3)
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert list(found.type_weights) == PEOPLE[:5] and found.type_names[2] == "prototype_2"  # p5 is a stranger
    np.testing.assert_allclose([sum(weights) for weights in found.type_weights.values()], 1, atol=1e-5)


@pytest.mark.parametrize("n_ranks", [2, 5, 40])
def test_shares_of_the_rows_are_the_whole(n_ranks: int, tmp_path: Path) -> None:
    numbers = [shard(ROWS, rank, n_ranks) for rank in range(n_ranks)]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(len(ROWS)))
    source = recognise(str(make_model("reward", tmp_path)))
    parts, whole = np.zeros(ROWS.ranks.shape), score_source(source, ROWS).scores
    for own in numbers[:3]:
        parts[own] = score_source(source, ROWS.select(own)).scores
        np.testing.assert_allclose(parts[own], whole[own], atol=1e-5)


def test_rows_keep_the_texts_that_they_use() -> None:
    own = ROWS.select([3, 7]).with_own_items()
    assert own.to_rows() == ROWS.select([3, 7]).to_rows() and len(own.items) == (own.ranks >= 0).sum()


def test_several_models_make_one_table_and_the_first_that_knows_types_gives_them(tmp_path: Path) -> None:
    sources = [recognise(str(make_model(kind, tmp_path))) for kind in ("reward", "pal")]
    found = evaluate_models(sources, ROWS)
    assert found.table["model"].tolist() == ["reward"] * len(ROWS) + ["pal"] * len(ROWS)
    kinds = found.table.groupby("annotator_id")["type"].agg(set)
    weights = types_of(sources[1]).type_weights
    for person in PEOPLE[:5]:
        assert kinds[person] == {f"prototype_{int(np.argmax(weights[person]))}"}
    assert found.table.loc[found.table["annotator_id"] == "p5", "type"].isna().all()
    assert found.figures.type_weights == weights


def test_a_model_whose_scores_are_nan_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palign.evaluation.judging.scores._rewards", lambda source, rows, **_: np.full(99, np.nan))
    with pytest.raises(ValueError, match="model 'reward': the score of item 0 in row 0 is nan"):
        evaluate_models([recognise(str(make_model("reward", tmp_path)))], ROWS)


def test_a_model_whose_weights_are_nan_is_refused(tmp_path: Path) -> None:
    place = make_model("reward", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(place)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(place)
    with pytest.raises(ValueError, match="the tensor 'score.weight' holds nan"):
        evaluate_models([recognise(str(place))], ROWS)


def test_vectors_and_texts_are_told_apart(tmp_path: Path) -> None:
    vectors = Preferences.from_arrays(["x"], np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="reads texts, and the rows hold vectors"):
        score_source(recognise(str(make_model("reward", tmp_path))), vectors, vectors=np.zeros((2, 3)))


def test_group_names_and_intersections() -> None:
    assert group_names(["country", "country*age", "age", "country"]) == [("country",), ("country", "age"), ("age",)]
    for wrong in ("", "a*", "a*a"):
        with pytest.raises(ValueError, match="country\\*age"):
            group_names([wrong])
