"""The choice of states: what makes people held out likeliest, from one pass over the texts."""

import itertools

import numpy as np
import torch

from palign.data.preferences import Preferences
from palign.models.backbones import Backbone
from palign.models.embeddings import text_key
from palign.models.pal_config import PALConfig
from palign.trainers.reward.head_fit import HeadFitOptions
from palign.trainers.reward.state_choice import candidate_layers, choose_states
from tests.models.test_backbones import HIDDEN, make_backbone

OPTIONS = HeadFitOptions(epochs=10, batch_size=64)
WORDS = ("tea", "rain", "sun", "cat", "dog", "the")


def tea_lovers(n_people: int = 12) -> Preferences:
    """Everybody prefers the completion that holds the word earlier in the list."""
    rng = np.random.default_rng(0)
    rows = []
    for person, (better, worse) in itertools.product(range(n_people), itertools.combinations(WORDS, 2)):
        around = rng.choice(["a", "b", "c", "d", "e", "f"], 4)
        texts = [
            f" {first} {word} {last}"
            for word, first, last in zip((better, worse), around[:2], around[2:], strict=True)
        ]
        rows.append({"annotator_id": person, "prompt": "likes", "chosen": texts[0], "rejected": texts[1]})
    return Preferences.from_rows(rows)


def choose(rows: Preferences, backbone: Backbone, **options):
    config = PALConfig(HIDDEN, 1, dropout=0.0)
    return choose_states(rows, backbone, config, OPTIONS, n_prototypes=(1,), show_progress=False, **options)


def test_a_layer_that_says_something_is_chosen_over_one_that_does_not():
    backbone, rows = make_backbone("llama"), tea_lovers()
    with torch.no_grad():
        backbone.model.norm.weight.zero_()  # the last layer's states are all zero
    choice = choose(rows, backbone)
    assert choice.kind.layer == 1
    by_layer = {row["layer"]: row["log_likelihood"] for row in choice.table}
    assert abs(by_layer[None] - np.log(0.5)) < 0.02  # nothing known of anything
    assert by_layer[1] > by_layer[None] + 0.1
    assert choice.n_people == 12  # three folds of four, the fewest


def test_vectors_are_those_of_the_chosen_kind_under_keys_of_their_texts():
    backbone, rows = make_backbone("llama"), tea_lovers()
    choice = choose(rows, backbone)
    assert backbone.kind == (None, "completion")  # left as it was
    backbone.read_as(choice.kind)
    text = rows.items[3][1]
    expected = backbone(**backbone.encode(["likes"], [text])).text[0]
    found = choice.vectors[choice.keys.index(text_key("likes", text))]
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_what_is_given_is_not_asked():
    choice = choose(tea_lovers(), make_backbone("llama"), layers=[1], poolings=("completion",), scalings=("unit",))
    assert [(row["layer"], row["pooling"], row["scaling"]) for row in choice.table] == [(1, "completion", "unit")]


def test_too_few_people_choose_nothing():
    assert choose(tea_lovers(7), make_backbone("llama")) is None


def test_a_sample_of_people_is_read_where_texts_are_many(monkeypatch):
    monkeypatch.setattr("palign.trainers.reward.state_choice.MOST_TEXTS", 150)
    rows = tea_lovers(40)
    choice = choose(rows, make_backbone("llama"), layers=[None], scalings=("common",))
    assert len(choice.keys) <= 150
    assert choice.n_people >= 4


def test_candidate_layers_by_hand():
    assert candidate_layers(30) == [None, 25, 20, 15]
    assert candidate_layers(2) == [None, 1]
    assert candidate_layers(1) == [None]
