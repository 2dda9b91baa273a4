"""The linear head, temperatures, and a person's own part."""

from pathlib import Path

import numpy as np
import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.functional.people_deviations import fit_deviations, principal_basis
from palign.models.heads import FixedPointHead, LinearHead
from palign.models.pal import PALRewardModel
from palign.models.pal_config import PALConfig
from palign.models.row_tensors import RowTensors
from palign.pipelines.reports.reward import choice_sentences
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.pal_reward_trainer import PALRewardTrainer
from palign.trainers.reward.head_fit import HeadFitOptions
from palign.trainers.reward.linear_fit import TEXTS_RECUR, LinearFitOptions, items_recur
from palign.trainers.reward.prototype_count import PrototypeChoice, calibrate_head
from palign.trainers.reward.trial import Personal


def camps(n_people: int = 40, n_items: int = 12, n_rows: int = 20, seed: int = 0) -> Preferences:
    """Two camps of opposite order over a few items; every pair is drawn anew."""
    rng, rows = np.random.default_rng(seed), []
    for person in range(n_people):
        order = np.arange(n_items) if person % 2 else np.arange(n_items)[::-1]
        for _ in range(n_rows):
            first, second = rng.choice(n_items, 2, replace=False)
            better, worse = (first, second) if order[first] > order[second] else (second, first)
            rows.append({"annotator_id": f"p{person}", "chosen_index": int(better), "rejected_index": int(worse)})
    return Preferences.from_rows(rows, embeddings=n_items)


def trained(rows: Preferences, vectors: np.ndarray, folder: Path, **options: object) -> PALRewardModel:
    choice = PrototypeChoice(2, [], variant="linear", **options)
    model = PALRewardModel.from_embeddings(
        hidden_size=vectors.shape[1], annotators=rows.annotators(), n_prototypes=2, variant="linear"
    )
    args = PALRewardConfig(output_dir=str(folder), report_to="none", disable_tqdm=True)
    PALRewardTrainer(model, args, rows, embeddings=vectors, choice=choice).train()
    return model.eval()


def test_rewards_by_hand() -> None:
    head = LinearHead(2, n_prototypes=2, similarity="inner_product")
    with torch.no_grad():
        head.prototypes.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    head.standardize.center.copy_(torch.tensor([1.0, 1.0]))
    states, weights = torch.tensor([[2.0, 3.0]]), torch.tensor([[0.25, 0.75]])
    # (2 − 1, 3 − 1) = (1, 2); direction .25 · (1, 0) + .75 · (0, 3) = (.25, 2.25); .25 + 4.5
    assert head(states, weights).item() == pytest.approx(4.75)
    assert head.prototype_scores(states).tolist() == [[1.0, 6.0]]
    head.temperature = 0.5
    assert head(states, weights).item() == pytest.approx(2.375)
    assert head.scores_for_all(states[:, None], weights)[0, 0, 0].item() == pytest.approx(2.375)
    with pytest.raises(ValueError, match="inner_product"):
        LinearHead(2, n_prototypes=2, similarity="cosine")


def test_temperature_multiplies_every_similarity() -> None:
    states, weights = torch.randn(5, 3), torch.full((5, 2), 0.5)
    for similarity in ("squared_distance", "distance", "cosine"):
        head = FixedPointHead(3, n_prototypes=2, similarity=similarity).eval()
        before = head(states, weights)
        head.temperature = 0.25
        torch.testing.assert_close(head(states, weights), before / 4)
        torch.testing.assert_close(head.scores_for_all(states[:, None], weights[:1])[:, 0, 0], before / 4)


def test_two_camps_are_found_and_come_back_from_disk(tmp_path: Path) -> None:
    rows, vectors = camps(), 3 * np.eye(12, dtype=np.float32)
    model = trained(rows, vectors, tmp_path, temperature=0.5, personal=Personal(10.0, 0.1, 0.01))
    largest = model.people.all().argmax(1)
    assert len(set(largest[::2].tolist())) == len(set(largest[1::2].tolist())) == 1 and largest[0] != largest[1]
    best, worst = vectors[[11]], vectors[[0]]
    assert float(model.score(None, best, ["p1"]) - model.score(None, worst, ["p1"])) > 1
    assert float(model.score(None, best, ["p0"]) - model.score(None, worst, ["p0"])) < -1
    model.save_pretrained(tmp_path / "saved")
    again = PALRewardModel.from_pretrained(tmp_path / "saved")
    assert again.config.temperature == 0.5 and again.config.personal_dim == 12
    people = ["p0", "p1", "stranger"]
    torch.testing.assert_close(again.score(None, vectors[:3], people), model.score(None, vectors[:3], people))


def test_newcomers_have_a_part_of_their_own(tmp_path: Path) -> None:
    rows, vectors = camps(), 3 * np.eye(12, dtype=np.float32)
    model = trained(rows, vectors, tmp_path, personal=Personal(3.0, 0.1, 0.01))
    # somebody who likes item 5 best of all, whatever their camp
    odd = [{"annotator_id": "new", "chosen_index": 5, "rejected_index": other} for other in range(12) if other != 5]
    fit = model.fit_annotators(Preferences.from_rows(odd, embeddings=12), embeddings=vectors)
    assert fit.deviations.shape == (1, 12)
    alone = model.score(None, vectors, weights=fit.weights.expand(12, -1))
    own = model.score(None, vectors, weights=fit.weights.expand(12, -1), deviations=fit.deviations.expand(12, -1))
    assert own.argmax() == 5
    assert float(own[5] - own.mean()) > float(alone[5] - alone.mean())
    before = model.score(None, vectors[:2], ["p0", "p1"])
    model.add_annotators(fit)
    assert torch.equal(model.score(None, vectors[:2], ["p0", "p1"]), before)  # nobody else's row is touched
    torch.testing.assert_close(model.score(None, vectors, ["new"] * 12), own)


def test_a_deviation_is_the_optimum_of_its_problem() -> None:
    """One person, one feature, one pair: ridge · δ = σ(−(offset gap + δ)) at the optimum."""
    features, pair = torch.tensor([[1.0], [0.0]]), torch.tensor([[0, 1]])
    offsets = torch.tensor([[0.3, 0.0]])
    delta = fit_deviations(features, pair, pair, torch.tensor([0]), offsets, 2, ridge=0.5)
    value = float(delta[0, 0])
    assert 0.5 * value == pytest.approx(1 / (1 + np.exp(0.3 + value)), abs=1e-3)
    assert float(delta[1, 0]) == 0  # nothing is known of the other
    with pytest.raises(ValueError, match="ridge is 0"):
        fit_deviations(features, pair, pair, torch.tensor([0]), offsets, 1, ridge=0)


def test_whitened_directions_are_of_like_size() -> None:
    vectors = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([100.0, 1.0, 0.5])
    center, basis = principal_basis(vectors, 3, whiten=True)
    features = (vectors - center) @ basis
    torch.testing.assert_close(features.square().mean(0), torch.full((3,), 0.25), atol=1e-3, rtol=0)
    flat = torch.cat([vectors, torch.zeros(200, 2)], 1)
    assert principal_basis(flat, 5)[1].shape == (5, 5) and not principal_basis(flat, 5)[1][:, 3:].any()


def test_what_recurs() -> None:
    rows = camps(n_people=6)
    index = rows.annotators().indices(rows.annotator_ids)
    assert items_recur(RowTensors.of(rows, index, np.eye(12)))
    alone = [{"annotator_id": f"p{i}", "chosen_index": 2 * i, "rejected_index": 2 * i + 1} for i in range(6)]
    alone = Preferences.from_rows(alone, embeddings=12)
    index = alone.annotators().indices(alone.annotator_ids)
    assert not items_recur(RowTensors.of(alone, index, np.eye(12)))


def test_a_given_number_is_calibrated_on_people_held_out() -> None:
    rows = camps()
    index = AnnotatorIndex(rows.annotators().ids).indices(rows.annotator_ids)
    data = RowTensors.of(rows, index, 3 * np.eye(12))
    choice = calibrate_head(
        data, PALConfig(12, 1), HeadFitOptions(epochs=3), 2, variants=("fixed", "linear"), personal=False
    )
    assert choice.n_prototypes == 2 and choice.variant == "linear" and choice.n_people == 40
    assert choice.linear != LinearFitOptions() or choice.temperature != 1
    row = choice.table[-1]
    assert row["accuracy"] > 0.9 and row["gain"] > 0.1  # opposite camps: one reward for all knows nothing
    text = " ".join(choice_sentences(choice))
    assert "K = 2 was given" in text and "held out of training" in text and "Taken: directions fitted by EM" in text


@pytest.mark.parametrize(("n_people", "is_list"), [(6, False), (12, True)])
def test_texts_are_a_list_where_ten_people_met_the_median_one(n_people: int, is_list: bool) -> None:
    pairs = [(better, worse) for better in range(4) for worse in range(better)]  # everybody meets every item
    rows = Preferences.from_rows(
        [{"annotator_id": p, "chosen_index": b, "rejected_index": w} for p in range(n_people) for b, w in pairs],
        embeddings=4,
    )
    data = RowTensors.of(rows, rows.annotators().indices(rows.annotator_ids), np.eye(4))
    assert items_recur(data) and items_recur(data, TEXTS_RECUR) is is_list


def test_too_few_people_leave_everything_as_it_is() -> None:
    rows = camps(n_people=7)
    index = rows.annotators().indices(rows.annotator_ids)
    choice = calibrate_head(RowTensors.of(rows, index, np.eye(12)), PALConfig(12, 1), HeadFitOptions(), 2)
    assert (choice.temperature, choice.personal, choice.n_people) == (1.0, None, 0)
    assert choice_sentences(choice) == []


def test_eight_people_are_enough_to_calibrate() -> None:
    rows = camps(n_people=8)
    index = rows.annotators().indices(rows.annotator_ids)
    choice = calibrate_head(RowTensors.of(rows, index, np.eye(12)), PALConfig(12, 1), HeadFitOptions(), 2)
    assert choice.n_people and choice.temperature != 1.0


def test_few_rows_get_more_steps() -> None:
    options = HeadFitOptions(epochs=30, batch_size=512, min_steps=600)
    # 640 rows: batches of 64 make 10 steps an epoch, so 60 epochs
    assert options.schedule(640) == (60, 64)
    # 9,600 rows: 30 epochs of 20 batches are 600 steps
    assert options.schedule(9_600) == (30, 480)
    assert options.schedule(100_000) == (30, 512)
    assert HeadFitOptions(epochs=30).schedule(640) == (30, 512)
