"""The reward model: who is asked for, what is scored, and that neither pads nor newcomers move anybody's score."""

import logging

import numpy as np
import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.pal import PALRewardModel
from palign.trainers.reward.collator import RewardCollator
from tests.worlds.reward_models import (
    HIDDEN,
    make_people,
    make_transformer,
    state_bits,
    text_model,
    text_rows,
    vector_model,
    vector_rows,
    vectors,
)

PROMPTS = ["tea or milk", "rain", "sun and rain new old", "cat"]
COMPLETIONS = ["tea hot", "no", "big red sun yes yes", "small cold milk"]
WHO = ["p0", "p3", "p1", "p0"]
STRANGE = ["a.b/c", "../x", "😀", "<script>alert(1)</script>", "7", "müller ", "weights", "logits.weight"]


def kinds() -> list:
    return [("llama", "fixed"), ("llama", "prompt"), ("bert", "fixed"), ("bert", "prompt")]


# who


def test_one_prototype_serves_everybody_alike() -> None:
    for model in (vector_model(n_prototypes=1), text_model(n_prototypes=1)):
        texts = (None, vectors(4)) if model.backbone is None else (PROMPTS, COMPLETIONS)
        scores = [model.score(*texts, who) for who in ("p0", "p4", "a stranger")]
        assert torch.equal(scores[0], scores[1])
        torch.testing.assert_close(scores[0], scores[2], atol=1e-5, rtol=0)
        torch.testing.assert_close(scores[0], model.score(*texts, weights=[1.0]), atol=1e-5, rtol=0)


def test_several_prototypes_do_not() -> None:
    model = vector_model()
    assert (model.score(None, vectors(4), "p0") - model.score(None, vectors(4), "p1")).abs().min() > 1e-3


@pytest.mark.parametrize("variant", ["fixed", "prompt"])
def test_scores_by_id_by_weights_and_by_prototypes_are_one(variant: str) -> None:
    model = text_model(variant=variant, similarity="squared_distance")
    by_id = model.score(PROMPTS, COMPLETIONS, WHO)
    weights = model.weights_for(WHO)
    assert by_id.shape == (4,)
    assert torch.equal(model.score(PROMPTS, COMPLETIONS, weights=weights), by_id)
    corners = torch.stack([model.score(PROMPTS, COMPLETIONS, weights=corner) for corner in torch.eye(3)], dim=1)
    table = model.score_prototypes(PROMPTS, COMPLETIONS)
    assert table.shape == (4, 3)
    torch.testing.assert_close(table, corners, atol=1e-4, rtol=1e-5)


def test_mixed_people_in_one_batch_and_batches_of_any_size() -> None:
    model = text_model()
    together = model.score(PROMPTS, COMPLETIONS, WHO)
    alone = torch.cat([model.score([p], [c], [w]) for p, c, w in zip(PROMPTS, COMPLETIONS, WHO, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.score(PROMPTS, COMPLETIONS, WHO, batch_size=3), together, atol=1e-5, rtol=1e-5)


def test_shift_of_everybodys_logits_changes_no_score() -> None:
    model = vector_model()
    before = model.score(None, vectors(5), [f"p{i}" for i in range(5)])
    with torch.no_grad():
        model.people.logits.weight += 2.5
    torch.testing.assert_close(model.score(None, vectors(5), [f"p{i}" for i in range(5)]), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STRANGE)
def test_any_id_names_a_person(name: str) -> None:
    people = AnnotatorIndex([*STRANGE, "other"])
    model = vector_model(annotators=people)
    row = people.index(name)
    expected = model.people.logits.weight[row].softmax(0)
    torch.testing.assert_close(model.weights_for([name])[0], expected.detach())
    assert torch.equal(model.score(None, vectors(2), name), model.score(None, vectors(2), [name, name]))


@pytest.mark.parametrize("seven", [7, 7.0, "7", np.int64(7), np.float32(7)])
def test_numbers_and_their_texts_are_one_person(seven: object) -> None:
    model = vector_model(annotators=AnnotatorIndex(["6", "7"]))
    expected = model.score(None, vectors(3), ["7"] * 3)
    assert torch.equal(model.score(None, vectors(3), [seven] * 3), expected)
    assert torch.equal(model.score(None, vectors(3), seven), expected)


@pytest.mark.parametrize("is_training", [False, True])
def test_strangers_are_scored_by_the_mean_said_once_or_refused(
    is_training: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = vector_model()
    model.people.freeze_population()
    model.train(is_training)
    with caplog.at_level(logging.WARNING, logger="palign"):
        scores = [model.score(None, vectors(3), ["nobody", "p1", "else"]) for _ in range(3)][-1]
    expected = model.score(None, vectors(3), weights=model.people.mean)
    torch.testing.assert_close(scores[[0, 2]], expected[[0, 2]], atol=1e-5, rtol=0)
    assert len(caplog.records) == 1
    with pytest.raises(ValueError, match="'nobody', 'else'"):
        model.weights_for(["nobody", "p1", "else"], unknown="error")
    with pytest.raises(ValueError, match="'mean' or 'error'"):
        model.weights_for(["p1"], unknown="zero")


def test_partition_scores_by_one_prototype_also_while_in_training_mode() -> None:
    model = vector_model(partition=True).train()
    largest = model.people.all().argmax(1)
    scores = model.score(None, vectors(5), [f"p{i}" for i in range(5)])
    expected = model.score_prototypes(None, vectors(5))[torch.arange(5), largest]
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    assert model.training and model.head.training and model.people.training


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([0.5, 0.5, 0.5], "sum 1.5"),
        ([1.5, -0.5, 0.0], "0 or more"),
        ([float("nan"), 0.5, 0.5], "Row 0"),
        ([[1.0, 0, 0], [0, 1.0, 0], [0.2, 0.2, 0.2], [1.0, 0, 0]], "Row 2"),
        ([0.5, 0.5], r"\(4, 3\)"),
        ([[1.0, 0, 0]] * 3, r"\(4, 3\)"),
        (1.0, r"\(4, 3\)"),
    ],
)
def test_weights_off_the_simplex_are_refused(weights: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vector_model().score(None, vectors(4), weights=weights)


def test_somebody_must_be_asked_for_and_only_in_one_way() -> None:
    model = vector_model()
    for options in ({}, {"annotator_ids": ["p0"], "weights": [1.0, 0, 0]}):
        with pytest.raises(ValueError, match="one of the two"):
            model.score(None, vectors(1), **options)
    with pytest.raises(ValueError, match="4 completions came with 2 people"):
        model.score(None, vectors(4), ["p0", "p1"])


# what


@pytest.mark.parametrize(("kind", "variant"), kinds())
def test_pads_on_either_side_change_nothing(kind: str, variant: str) -> None:
    model = text_model(kind, variant=variant)
    if kind == "bert" and variant == "prompt":
        return _texts_of_other_lengths_change_nothing(model)
    batch = model.backbone.encode(PROMPTS, COMPLETIONS)
    weights, n = model.weights_for(WHO), batch["input_ids"].shape[1]
    expected = model.score(PROMPTS, COMPLETIONS, WHO)
    for side in ("right", "left"):
        ids, mask = torch.full((4, n + 5), 9), torch.zeros(4, n + 5, dtype=torch.long)  # 9 is a word, not the pad
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            where = slice(0, length) if side == "right" else slice(n + 5 - length, n + 5)
            ids[row, where], mask[row, where] = batch["input_ids"][row, :length], 1
        scores = model.score_tokens(ids, mask, weights, batch["prompt_lengths"])
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    return None


def _texts_of_other_lengths_change_nothing(model: PALRewardModel) -> None:
    expected = model.score(PROMPTS[:1], COMPLETIONS[:1], "p0")
    long = " ".join(["sun"] * 20)
    together = model.score([PROMPTS[0], long], [COMPLETIONS[0], long], "p0")
    torch.testing.assert_close(together[:1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "variant"), kinds())
def test_reward_depends_on_the_last_token_of_the_prompt(kind: str, variant: str) -> None:
    model = text_model(kind, variant=variant)
    scores = [model.score([f"sun and {word}"], ["tea hot"], "p0") for word in ("tea", "milk")]
    assert (scores[0] - scores[1]).abs() > 1e-3


@pytest.mark.parametrize(("kind", "variant"), kinds())
@pytest.mark.parametrize("n_items", [2, 4])
def test_difference_of_scores_is_the_training_margin(kind: str, variant: str, n_items: int) -> None:
    """Through `RewardCollator` and `forward`, as stage two trains, and through row_tensors, as stage one does."""
    model = text_model(kind, variant=variant)
    rows = Preferences.from_rows(text_rows(12, n_items=n_items))
    with torch.no_grad():
        batch = RewardCollator(model.backbone, rows, model.annotators, model.needs_prompts)(list(range(12)))
        ranks = batch.pop("ranks")
        scores, logits, center = model(**batch)
        data = model.row_tensors(rows)
        items, prompts = data.states(slice(None))
        frozen = model.head(items, model.people(data.annotator_index), prompts)
    assert ranks.tolist() == rows.ranks.tolist()
    assert torch.equal(logits, model.people.logits.weight[data.annotator_index])
    torch.testing.assert_close(center, model.people.logits.weight.mean(0))
    told = rows.to_rows()
    for item in range(n_items):
        texts = [[row["chosen"], row["rejected"]] if n_items == 2 else row["completions"] for row in told]
        asked = ([row["prompt"] for row in told], [text[item] for text in texts])
        ids = [row["annotator_id"] for row in told]
        for reward in (model.score(*asked, ids), model.score(*asked, weights=model.weights_for(ids))):
            torch.testing.assert_close(scores[:, item], reward, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(frozen[:, item], reward, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_margin_stays_that_of_training_where_prompts_are_cut(kind: str) -> None:
    model = text_model(kind, variant="prompt", max_length=12)
    words = "tea milk rain sun cat dog red blue old new yes no".split()
    rows = [
        {
            "annotator_id": "p0",
            "prompt": " ".join(words[:9]),
            "chosen": "tea hot big",
            "rejected": " ".join(words[3:]),
        },
        {"annotator_id": "p1", "prompt": " ".join(words[2:]), "chosen": " ".join(words), "rejected": "cat"},
    ]
    prefs = Preferences.from_rows(rows)
    with torch.no_grad():
        batch = RewardCollator(model.backbone, prefs, model.annotators, True)([0, 1])
        batch.pop("ranks")
        scores = model(**batch)[0]
        items, prompts = model.row_tensors(prefs).states(slice(None))
        frozen = model.head(items, model.weights_for(["p0", "p1"]), prompts)
    for item, name in enumerate(("chosen", "rejected")):
        alone = [model.score([row["prompt"]], [row[name]], [row["annotator_id"]]) for row in rows]
        torch.testing.assert_close(scores[:, item], torch.cat(alone), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(frozen[:, item], torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_collator_reads_every_text_once_and_none_for_padding() -> None:
    model = text_model()
    rows = [
        {"annotator_id": "p0", "prompt": "cat", "chosen": "tea", "rejected": "milk"},
        {"annotator_id": "p1", "prompt": "cat", "completions": ["milk", "sun", "tea"], "ratings": [2, 1, 1]},
        {"annotator_id": "p1", "prompt": "dog", "chosen": "old", "rejected": "new"},
    ]
    collator = RewardCollator(model.backbone, Preferences.from_rows(rows), model.annotators)
    assert collator([0, 1])["input_ids"].shape[0] == 3
    last = collator([2, 1])
    assert last["input_ids"].shape[0] == 5
    assert last["ranks"].tolist() == [[0, 1, -1], [0, 1, 1]]


def test_conversations_need_a_template_and_lengths_must_agree() -> None:
    model = text_model()
    with pytest.raises(ValueError, match="3 prompts"):
        model.score(PROMPTS[:3], COMPLETIONS, "p0")
    with pytest.raises(TypeError, match="single text"):
        model.score("rain", "sun!", "p0")
    with pytest.raises(ValueError, match="prompts is None"):
        model.score(None, COMPLETIONS, "p0")
    with pytest.raises(ValueError, match="template"):
        model.score([[{"role": "user", "content": "tea"}]], [[{"role": "assistant", "content": "yes"}]], "p0")


def test_vectors_of_another_width_or_with_nan_are_refused() -> None:
    model = vector_model(variant="prompt")
    broken = vectors(3)
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="Vector 1"):
        model.score(vectors(3), broken, "p0")
    with pytest.raises(ValueError, match=rf"\(batch, {HIDDEN}\)"):
        model.score(vectors(3), vectors(3)[:, :5], "p0")
    with pytest.raises(ValueError, match="1 prompts"):
        model.score(vectors(1), vectors(3), "p0")
    with pytest.raises(ValueError, match="prompts is None"):
        model.score(None, vectors(3), "p0")
    assert torch.equal(
        model.score(torch.from_numpy(vectors(3)), torch.from_numpy(vectors(3, seed=4)), "p0"),
        model.score(vectors(3), vectors(3, seed=4), "p0"),
    )


def test_nothing_to_score_is_no_error() -> None:
    assert vector_model().score(None, vectors(0), []).shape == (0,)
    assert text_model().score([], [], []).shape == (0,)


# rows of vectors


def test_rows_that_do_not_fit_the_vectors_are_named() -> None:
    model, table = vector_model(), vectors(20)
    rows = Preferences.from_arrays(["p0", "p1", "p0"], np.array([1, 2, 3]), np.array([4, 20, 5]))
    with pytest.raises(ValueError, match=r"Row 1 .* vector 20, .* 20 rows"):
        model.row_tensors(rows, table)
    table[5, 0] = np.inf
    fine = Preferences.from_arrays(["p0", "p1", "p0"], np.array([1, 2, 3]), np.array([4, 6, 5]))
    with pytest.raises(ValueError, match="Row 2 .* vector 5, which holds NaN"):
        model.row_tensors(fine, table)
    assert len(model.row_tensors(fine.select([0, 1]), table)) == 2  # a broken vector that nobody names is no matter
    with pytest.raises(ValueError, match=rf"this model takes \(n, {HIDDEN}\)"):
        model.row_tensors(fine, np.zeros((20, 5), dtype=np.float32))


def test_rows_without_prompts_are_named_where_prompts_are_needed() -> None:
    rows = Preferences.from_arrays(["p0", "p1"], np.array([1, 2]), np.array([4, 6]), np.array([3, -1]))
    with pytest.raises(ValueError, match="Row 1 .* names no prompt"):
        vector_model(variant="prompt").row_tensors(rows, vectors(10))
    assert vector_model().row_tensors(rows, vectors(10)).prompt_states is None


def test_text_and_vectors_are_not_mixed_up() -> None:
    text, numbers = Preferences.from_rows(text_rows(4)), vector_rows(4, n_vectors=5)
    with pytest.raises(ValueError, match="has no backbone"):
        vector_model().row_tensors(text)
    with pytest.raises(ValueError, match="made on a backbone"):
        text_model().row_tensors(numbers, vectors(5))
    with pytest.raises(ValueError, match="as `embeddings`"):
        vector_model().row_tensors(numbers)


def test_large_tables_in_half_precision_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, table = vector_model(), vector_rows(30, n_vectors=20), vectors(20).astype(np.float16)
    copied = model.row_tensors(rows, table)
    monkeypatch.setattr("palign.models.row_tensors.MAX_COPY", 1)
    mapped = model.row_tensors(rows, table)
    assert mapped.item_states.dtype == torch.float16 and copied.item_states.dtype == torch.float32
    assert torch.equal(mapped.states(slice(3, 9))[0], copied.states(slice(3, 9))[0])


# newcomers


@pytest.mark.parametrize("method", ["posterior", "map", "official"])
@pytest.mark.parametrize("options", [{}, {"n_prototypes": 1}, {"mixing": "projected"}])
def test_fitting_changes_no_bit_and_adding_moves_nobody(method: str, options: dict) -> None:
    model, table = vector_model(**options), vectors(30)
    model.people.freeze_population()
    ids = ["p0", "p4", "a stranger"]
    scores, bits = model.score(None, table[:3], ids), state_bits(model)
    new = vector_rows(24, n_vectors=30, n_annotators=3)
    new = Preferences.from_arrays(
        [f"new.{i[1:]}/😀" for i in new.annotator_ids], new.item_indices[:, 0], new.item_indices[:, 1]
    )
    fit = model.fit_annotators(new, embeddings=table, method=method)
    assert state_bits(model) == bits
    assert fit.ids == ["new.0/😀", "new.1/😀", "new.2/😀"] and fit.n_rows.tolist() == [8, 8, 8]
    torch.testing.assert_close(fit.weights.sum(1), torch.ones(3))
    by_weights = model.score(None, table[:3], weights=fit.weights)
    model.add_annotators(fit)
    assert torch.equal(model.score(None, table[:3], ids), scores)
    torch.testing.assert_close(model.score(None, table[:3], fit.ids), by_weights, atol=1e-4, rtol=1e-5)
    with pytest.raises(ValueError, match="in the index already"):
        model.add_annotators(fit)
    assert len(model.annotators) == model.people.logits.num_embeddings == 8


def test_a_fit_of_another_model_is_refused_before_anybody_is_added() -> None:
    model, table = vector_model(n_prototypes=2), vectors(30)
    new = Preferences.from_arrays(["n"] * 3, np.arange(3), np.arange(3) + 5)
    fit = vector_model(n_prototypes=3).fit_annotators(new, embeddings=table)
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        model.add_annotators(fit)
    assert "n" not in model.annotators


@pytest.mark.parametrize(
    "options", [{}, {"mixing": "input"}, {"similarity": "cosine"}, {"similarity": "distance"}, {"variant": "prompt"}]
)
def test_posterior_is_bayes_over_the_population(options: dict) -> None:
    """Against a loop over people and support, with rankings of several lengths."""
    model, table = vector_model(**options), vectors(12) * 0.2
    model.people.freeze_population()
    rows = [
        {"annotator_id": "a", "completion_indices": [0, 1, 2], "prompt_index": 7},
        {"annotator_id": "a", "chosen_index": 3, "rejected_index": 4, "prompt_index": 8},
        {"annotator_id": "b", "completion_indices": [5, 1, 3, 9], "n_ranked": 1, "prompt_index": 7},
    ]
    fit = model.fit_annotators(Preferences.from_rows(rows, embeddings=12), embeddings=table)

    def reward(item: int, prompt: int, weights: torch.Tensor) -> float:
        return float(model.score(table[[prompt]], table[[item]], weights=weights))

    stages = {"a": [(0, [1, 2], 7), (1, [2], 7), (3, [4], 8)], "b": [(5, [1, 3, 9], 7)]}
    for number, name in enumerate("ab"):
        log_posterior = model.people.log_prior.double().clone()
        for s, weights in enumerate(model.people.support):
            for winner, losers, prompt in stages[name]:
                held = np.array([reward(item, prompt, weights) for item in (winner, *losers)])
                log_posterior[s] += held[0] - np.logaddexp.reduce(held)
        expected = log_posterior.softmax(0) @ model.people.support.double()
        torch.testing.assert_close(fit.weights[number].double(), expected, atol=1e-4, rtol=1e-3)
    assert fit.n_rows.tolist() == [2, 1]


def test_fitting_in_small_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table, rows = vectors(30), vector_rows(40, n_vectors=30, n_prompts=30)
    for options in ({}, {"variant": "prompt"}, {"mixing": "input"}):
        model = vector_model(**options)
        expected = model.fit_annotators(rows, embeddings=table).weights
        with monkeypatch.context() as patch:
            patch.setattr("palign.models.people_fit.MAX_ENTRIES", 1)
            torch.testing.assert_close(
                model.fit_annotators(rows, embeddings=table).weights, expected, atol=1e-5, rtol=1e-4
            )


def test_newcomers_are_fitted_from_texts_and_plain_rows() -> None:
    model = text_model(variant="prompt")
    fit = model.fit_annotators([row | {"annotator_id": 7} for row in text_rows(5)])
    assert fit.ids == ["7"] and fit.weights.shape == (1, 3) and float(fit.spread.min()) >= 0


def test_methods_that_cannot_are_refused() -> None:
    table, pair = vectors(9), Preferences.from_arrays(["n"], np.array([1]), np.array([2]))
    ranking = Preferences.from_rows([{"annotator_id": "n", "completion_indices": [0, 1, 2]}], embeddings=9)
    with pytest.raises(ValueError, match="one of posterior, map, official"):
        vector_model().fit_annotators(pair, embeddings=table, method="newton")
    with pytest.raises(ValueError, match="linear in the weights"):
        vector_model(mixing="input").fit_annotators(pair, embeddings=table, method="map")
    with pytest.raises(ValueError, match="pairs only"):
        vector_model().fit_annotators(ranking, embeddings=table, method="official")


# making one


def test_models_do_not_share_their_people() -> None:
    people = make_people(4)
    model, other = vector_model(annotators=people), vector_model(annotators=people, n_prototypes=2)
    new = Preferences.from_arrays(["n"] * 3, np.arange(3), np.arange(3) + 5)
    model.add_annotators(model.fit_annotators(new, embeddings=vectors(9)))
    assert (len(people), len(other.annotators), len(model.annotators)) == (4, 4, 5)
    other.score(None, vectors(1), "n")  # a stranger there


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "b"}, "variant"),
        ({"mixing": "late"}, "latent, projected, input"),
        ({"similarity": "dot"}, "squared_distance"),
        ({"n_prototypes": 0}, "at least 1"),
        ({"n_prototypes": "auto"}, "whole number"),
        ({"n_prototypes": 2.5}, "whole number"),
        ({"dropout": 1.0}, "dropout"),
        ({"n_layers": 0}, "n_layers"),
    ],
)
def test_wrong_options_are_named_before_a_model_is_loaded(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PALRewardModel.from_backbone("nobody/has-this-model", annotators=make_people(3), **options)
    with pytest.raises(ValueError, match=said):
        PALRewardModel.from_embeddings(hidden_size=4, annotators=make_people(3), **options)


def test_model_object_needs_its_tokenizer_and_stays_frozen() -> None:
    backbone, tokenizer = make_transformer()
    with pytest.raises(ValueError, match="tokenizer"):
        PALRewardModel.from_backbone(backbone, annotators=make_people(3))
    model = PALRewardModel.from_backbone(backbone, tokenizer=tokenizer, annotators=make_people(3))
    assert model.tokenizer is tokenizer and model.backbone.hidden_size == HIDDEN
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert vector_model().tokenizer is None


def test_score_for_weights_is_score_for_each_of_them() -> None:
    torch.manual_seed(0)
    model = PALRewardModel.from_embeddings(hidden_size=4, n_prototypes=3, annotators=AnnotatorIndex(["a"])).eval()
    items = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    together = model.score_for_weights(None, items, weights)
    apart = torch.stack([model.score(None, items, weights=one) for one in weights], 1)
    assert together.shape == (5, 2)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
