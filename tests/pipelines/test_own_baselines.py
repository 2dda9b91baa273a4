"""Baselines of what a person chose before: a regression of their own, a model that is shown it, a vote."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from transformers import AutoModelForCausalLM

from palign.data.preferences import Preferences
from palign.evaluation.judging.in_context import in_context_scores, shown_choices, with_choices
from palign.evaluation.judging.kinds import recognise
from palign.evaluation.judging.own_logistic import fit_person, own_logistic_scores
from palign.evaluation.judging.scores import score_source
from palign.models.classifier.export import export_classifier
from palign.models.completions import TokenizedItems, policy_logps
from palign.models.pal import PALRewardModel
from palign.pipelines.own_baselines import without_judged
from palign.pipelines.reports.fair import vote_note
from tests.worlds.colour import colour_tokenizer
from tests.worlds.judged_models import make_model, rows_of_colours, write_rows
from tests.worlds.recipes import load_recipe
from tests.worlds.reward_models import HIDDEN, make_people, text_model, text_rows, vector_model


def test_one_pair_has_the_margin_where_prior_and_evidence_meet() -> None:
    """Of one pair d, |d| = 1, the margin m maximises log σ(m) − m²/2v: m = v σ(−m); for v = 1, m = .40106."""
    d = np.array([[0.6, 0.8]])
    roots = {v: brentq(lambda m, v=v: m - v / (1 + np.exp(m)), 0, v) for v in (1.0, 4.0)}
    assert roots[1.0] == pytest.approx(0.40106, abs=1e-5)
    for variance, margin in roots.items():
        direction = fit_person(d, np.ones(1), variance=variance)
        np.testing.assert_allclose(d @ direction, [margin], atol=1e-4)
        np.testing.assert_allclose(direction, margin * d[0], atol=1e-4)  # nothing across the pair


def test_people_of_opposite_tastes_are_each_found_from_their_own_rows() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, HIDDEN)).astype(np.float32)
    taste = rng.normal(size=HIDDEN)
    people, chosen, rejected = [], [], []
    for i in range(240):
        a, b = rng.choice(400, size=2, replace=False)
        sign = 1 if i % 2 else -1
        if sign * (vectors[a] - vectors[b]) @ taste < 0:
            a, b = b, a
        people.append(f"p{i % 2}")
        chosen.append(a)
        rejected.append(b)
    rows = Preferences.from_arrays([*people[:200], *people[200:-4], *["new"] * 4], chosen, rejected)
    model = vector_model(annotators=make_people(2))
    earlier, later = rows.select(np.arange(200)), rows.select(np.arange(200, 240))
    scores, variance, n_without = own_logistic_scores(model, earlier, later, vectors=vectors)
    known = np.array([person != "new" for person in later.annotator_ids])
    right = scores[:, 0] > scores[:, 1]
    assert right[known].mean() > 0.85 and (scores[~known] == 0).all() and n_without == 1
    assert variance in (0.25, 1.0, 4.0, 16.0)


def test_choices_stand_in_front_of_the_question_newest_last() -> None:
    rows = [{"annotator_id": "a", "prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(3)]
    shown = shown_choices(Preferences.from_rows(rows), 2)
    assert [text.splitlines() for text in shown["a"]] == [
        [f"Question: q{i}", f"The reader preferred: yes {i}", f"Over: no {i}", ""] for i in (1, 2)
    ]
    told = with_choices("and now?", shown["a"])
    assert told.startswith("Earlier choices of this reader:\n\nQuestion: q1") and told.endswith("asks:\nand now?")
    system = {"role": "system", "content": "s"}
    turns = with_choices([system, {"role": "user", "content": "and now?"}], shown["a"])
    assert turns[0] == system and turns[1] == {"role": "user", "content": told}
    assert with_choices("and now?", []) == "and now?"


def test_a_model_in_context_is_judged_against_itself_without(tmp_path: Path) -> None:
    folder = str(make_model("causal", tmp_path))
    rows = Preferences.from_rows(rows_of_colours(12))
    earlier = Preferences.from_rows([r for r in rows_of_colours(12, seed=1) if r["annotator_id"] != "p5"])
    scores, n_cut = in_context_scores(folder, earlier, rows, n_shown=1, beta=0.5)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), colour_tokenizer()
    choices = shown_choices(earlier, 1)

    def logp(prompt: str, completion: str) -> float:
        row = {"annotator_id": "a", "prompt": prompt, "chosen": completion, "rejected": "."}
        items = TokenizedItems.of(Preferences.from_rows([row]), tokenizer)
        with torch.no_grad():
            return policy_logps(model, **items.collate([0])).item()

    for row, item in np.argwhere(rows.ranks >= 0):
        number, completion = rows.items[rows.item_indices[row, item]]
        bare = rows.prompts[number]
        told = with_choices(bare, choices.get(rows.annotator_ids[row], []))
        assert scores[row, item] == pytest.approx(0.5 * (logp(told, completion) - logp(bare, completion)), abs=1e-3)
    mine = np.array([person == "p5" for person in rows.annotator_ids])
    assert n_cut == 0 and (scores[mine] == 0).all() and np.abs(scores[~mine]).max() > 0.01


def test_earlier_rows_that_are_judged_are_not_shown() -> None:
    made = [{"annotator_id": "a", "prompt": "q", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(4)]
    turned = {"annotator_id": "a", "prompt": "q", "chosen": "r0", "rejected": "c0"}
    others = {"annotator_id": "b", "prompt": "q", "chosen": "c1", "rejected": "r1"}
    kept, n_out = without_judged(Preferences.from_rows([*made, others]), Preferences.from_rows([turned, made[1]]))
    assert n_out == 2 and len(kept) == 3 and list(kept.annotator_ids) == ["a", "a", "b"]


def test_the_report_holds_both(tmp_path: Path, capsys) -> None:
    make_model("pal", tmp_path)
    make_model("causal", tmp_path)
    judged = write_rows(tmp_path / "judged.jsonl", rows_of_colours(24))
    earlier = write_rows(tmp_path / "earlier.jsonl", rows_of_colours(36, seed=5))
    flags = ["--model_path", str(tmp_path / "pal"), "--dataset_name", judged, "--earlier_dataset_name", earlier]
    flags += ["--own_logistic", "true", "--in_context_model", str(tmp_path / "causal"), "--n_shown", "2"]
    flags += ["--use_cpu", "true", "--n_resamples", "50", "--guard", "off", "--output_dir", str(tmp_path / "out")]
    summary = load_recipe("evaluate_fairness").main(flags)
    assert {"own logistic/accuracy", "in context/accuracy", "pal/accuracy"} <= summary.keys()
    page = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "own logistic is a regression of each person's own" in json.dumps(page)
    assert "in context is " in json.dumps(page)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--own_logistic", "true"], "give --earlier_dataset_name"),
        (["--in_context_model", "x"], "give --earlier_dataset_name"),
        (["--n_shown", "0"], "--n_shown is 0"),
    ],
)
def test_what_they_need_is_said(flags: list[str], message: str, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", rows_of_colours(4))
    with pytest.raises(ValueError, match=message):
        load_recipe("evaluate_fairness").main(["--model_path", "x", "--dataset_name", rows, *flags])


def test_an_exported_reward_is_judged_as_the_model_it_came_from(tmp_path: Path) -> None:
    model = text_model("llama")
    export_classifier(model, tmp_path / "r", weights=model.weights_for(["p1"])[0])
    rows = Preferences.from_rows([row | {"annotator_id": "p1"} for row in text_rows(10)])
    found = score_source(recognise(str(tmp_path / "r"), name="r"), rows).scores
    for row, item in np.argwhere(rows.ranks >= 0):
        number, completion = rows.items[rows.item_indices[row, item]]
        assert found[row, item] == pytest.approx(
            model.score([rows.prompts[number]], [completion], "p1").item(), abs=1e-4
        )
    assert isinstance(model, PALRewardModel)


def test_a_vote_of_the_types_and_what_it_costs() -> None:
    """Types with shares .6 and .4. a: regrets 0 and 5; b: 1 and 1; c: 3 and 0. The majority elects a by both rules.

    Borda: a .6 · 1 + .4 · 0 = .6; b .6 · ½ + .4 · ½ = .5; c .4. Copeland: a beats both.
    """
    rows = [("a", [0.0, 5.0]), ("b", [1.0, 1.0]), ("c", [3.0, 0.0])]
    table = [{"name": name, "regrets": regrets, "weights": None} for name, regrets in rows]
    table.append({"name": "ensemble", "regrets": [0.0, 0.0], "weights": [0.5, 0.5]})
    record = {"table": table, "types": ["x", "y"], "mixing_weights": [0.6, 0.4], "chosen": "b"}
    assert vote_note(record) == (
        "A vote of the types, each by its share of people, would elect by Borda a, under which y loses 5.000, and by "
        "Copeland a, under which y loses 5.000; b, chosen by regret, costs no type more than 1.000."
    )


def test_a_person_is_judged_with_what_is_theirs_beside_the_mixture(tmp_path: Path) -> None:
    """As `score` has it: the deviation counts."""
    model = text_model("llama", personal_dim=2)
    torch.nn.init.normal_(model.deviations.own.weight)
    model.deviations.basis.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "pal")
    rows = Preferences.from_rows(text_rows(10))
    found = score_source(recognise(str(tmp_path / "pal"), name="pal"), rows).scores
    for row, item in np.argwhere(rows.ranks >= 0):
        number, completion = rows.items[rows.item_indices[row, item]]
        wanted = model.score([rows.prompts[number]], [completion], rows.annotator_ids[row]).item()
        assert found[row, item] == pytest.approx(wanted, abs=1e-4)
