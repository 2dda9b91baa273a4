"""What people held out chose, in sentences for the report."""

from typing import TYPE_CHECKING

from palign.data.preferences import Preferences
from palign.pipelines.reports.facts import n_in_no_number
from palign.trainers.reward.prototype_count import PrototypeChoice

if TYPE_CHECKING:
    from palign.trainers.reward.state_choice import StateChoice

__all__ = ["choice_sentences", "names_matter", "people_in_no_number", "states_sentence"]

NAMES_DOUBTED = "guard: look: names:"
SURE = 2.0  # errors above zero
POOLED = {
    "completion": "the mean over the completion's own tokens",
    "completion_last": "the completion's last own token",
    "last": "the last token",
    "mean": "the mean over all tokens",
    "first": "the first token",
    "max": "the largest value over all tokens",
}
SCALED = {"unit": "each of one length", "common": "on one scale"}
KINDS = {
    "fixed": "a network",
    "linear": "directions fitted by EM",
    "metric": "one metric for all",
    "prompt": "a network that reads the prompt",
}


def people_in_no_number(train: Preferences, evaluation: Preferences) -> list[str]:
    """Annotators who were trained on and have no row to be judged by, counted; nothing where there are none."""
    n_left = n_in_no_number(train, evaluation)
    if not n_left:
        return []
    return [
        f"{n_left:,} of the {len(train.annotators()):,} annotators trained on have no row held out, as too few of "
        "theirs could be: they are in no number of this report."
    ]


def states_sentence(choice: "StateChoice") -> str:
    """Which states are read, and how likely answers of people held out were under the others."""
    best = {"layer": choice.kind.layer, "pooling": choice.kind.pooling, "scaling": choice.scaling}
    shown = {_what_differs(row, best): f"{row['log_likelihood']:.3f}" for row in choice.table}
    taken = shown.pop("")
    others = "; ".join(f"{name} {value}" for name, value in shown.items())
    compared = f"; {others}" if others else ""
    return (
        f"The vector of a completion is {states_name(**best)}. It was chosen on {choice.n_people:,} annotators held "
        f"out (nats an answer: this {taken}{compared}). Anything but the mean of the last layer at one length "
        "is taken where it gains more than two errors."
    )


def _what_differs(row: dict[str, object], best: dict[str, object]) -> str:
    """What is different in a trial from what was taken, in words; nothing if it is what was taken."""
    names = {
        "pooling": POOLED[row["pooling"]],
        "layer": "last layer" if row["layer"] is None else f"layer {row['layer']}",
        "scaling": SCALED[row["scaling"]],
    }
    return ", ".join(name for key, name in names.items() if row[key] != best[key])


def states_name(layer: int | None, pooling: str, scaling: str) -> str:
    """One kind of states in words."""
    where = "after the last layer" if layer is None else f"after layer {layer}"
    return f"{POOLED[pooling]} {where}, {SCALED[scaling]}"


def names_matter(notes: list[str], choice: PrototypeChoice) -> str | None:
    """What people held out say against the guard's doubt that names tell anything; None where there is no such doubt,
    or nothing against it.
    """
    doubted = any(note.startswith(NAMES_DOUBTED) for note in notes)
    row = next((row for row in choice.table if row["n_prototypes"] == choice.n_prototypes), None)
    if not doubted or choice.n_prototypes == 1 or row is None or row["gain"] <= SURE * row["gain_error"]:
        return None
    return (
        "The guard's doubt about names, from words alone, does not hold for what the model reads: over K = 1, "
        f"K = {choice.n_prototypes} gains {row['gain']:.3f} ± {row['gain_error']:.3f} nats an answer of people held "
        "out."
    )


def choice_sentences(choice: PrototypeChoice) -> list[str]:
    """How K, kind of head, temperature and a person's own part came about; nothing where nobody was held out."""
    if not choice.n_people:
        return []
    return [*_split(choice), *_count(choice), *_kind(choice), *_temperature(choice), *_personal(choice)]


def _split(choice: PrototypeChoice) -> list[str]:
    if choice.n_people_by_item:
        how = (
            f"Rows of {choice.n_people_by_item:,} annotators share items. Their items were divided between the two "
            "parts, and comparisons across were left out."
        )
    else:
        how = "No annotator's rows share items, so their rows were divided between the two parts."
    return [
        f"The settings below were chosen on {choice.n_people:,} annotators who were held out of training: one part of "
        f"their answers places them, the other judges. {how}"
    ]


def _count(choice: PrototypeChoice) -> list[str]:
    rows = [
        f"K = {int(row['n_prototypes'])}: {row['log_likelihood']:.3f} (accuracy {row['accuracy']:.3f})"
        for row in choice.table
    ]
    shown = f"log-likelihood of a held-out answer in nats: {'; '.join(rows)}"
    last = next(row for row in choice.table if row["n_prototypes"] == choice.n_prototypes)
    promise = (
        ""
        if choice.n_prototypes == 1
        else f" Over K = 1 it promises {last['gain']:+.3f} ± {last['gain_error']:.3f} nats an answer."
    )
    if len(choice.table) > 2:
        return [f"K = {choice.n_prototypes} was chosen: the smallest that is not clearly worse than the best; {shown}."
                + promise]  # fmt: skip
    return [f"K = {choice.n_prototypes} was given; {shown}.{promise}"]


def _kind(choice: PrototypeChoice) -> list[str]:
    if choice.variants is None:
        return []
    shown = ", ".join(f"{KINDS.get(name, name)} {value:.3f}" for name, value in choice.variants.items())
    return [
        f"Items recur in many people's rows, so two kinds of head were tried at K = 1 (nats an answer): {shown}. "
        f"Taken: {KINDS.get(choice.variant, choice.variant)}."
    ]


def _temperature(choice: PrototypeChoice) -> list[str]:
    return [
        f"Rewards are multiplied by {choice.temperature:g}, the factor under which held-out answers are likeliest "
        f"(K = 1: {choice.pooled_temperature:g})."
    ]


def _personal(choice: PrototypeChoice) -> list[str]:
    if choice.personal is None:
        return []
    return [
        "Every annotator has a deviation of their own from their mixture: it gains "
        f"{choice.personal.gain:.3f} ± {choice.personal.gain_error:.3f} nats an answer of people held out."
    ]
