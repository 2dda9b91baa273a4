"""Sentences about what people held out chose."""

from palign.models.backbones import StateKind
from palign.pipelines.reports.reward import names_matter, states_sentence
from palign.trainers.reward.prototype_count import PrototypeChoice
from palign.trainers.reward.state_choice import StateChoice

DOUBT = "guard: look: names: A person's other answers tell 48.6% of 640 answers."


def choice(gain: float, error: float, k: int = 4) -> PrototypeChoice:
    table = [
        {"n_prototypes": 1, "gain": 0.0, "gain_error": 0.0},
        {"n_prototypes": 4, "gain": gain, "gain_error": error},
    ]
    return PrototypeChoice(k, table)


def test_a_doubt_about_names_is_answered_where_people_held_out_differ_surely():
    sentence = names_matter(["something else", DOUBT], choice(0.25, 0.03))
    assert "over K = 1, K = 4 gains 0.250 ± 0.030 nats" in sentence


def test_it_stays_where_nothing_is_sure_or_nothing_was_doubted():
    assert names_matter([DOUBT], choice(0.05, 0.03)) is None
    assert names_matter([DOUBT], choice(0.25, 0.03, k=1)) is None
    assert names_matter(["guard: look: position: x"], choice(0.25, 0.03)) is None
    assert names_matter([DOUBT], PrototypeChoice(4, [])) is None


def test_states_are_named_with_what_they_were_compared_to():
    table = [
        {"layer": None, "pooling": "completion", "scaling": "common", "log_likelihood": -0.61},
        {"layer": 25, "pooling": "completion", "scaling": "unit", "log_likelihood": -0.42},
    ]
    sentence = states_sentence(StateChoice(StateKind(25, "completion"), "unit", table, 16, [], None))
    assert sentence == (
        "The vector of a completion is the mean over the completion's own tokens after layer 25, each of one length. "
        "It was chosen on 16 annotators held out (nats an answer: this -0.420; last layer, on one scale -0.610). "
        "Anything but the mean of the last layer at one length is taken where it gains more than two errors."
    )
