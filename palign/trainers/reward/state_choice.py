"""Which states of a causal backbone become the vector of an answer: chosen on people held out, like everything else.

One pass over a sample of the texts gives the states after some layers, pooled over the completion's own tokens or at
the last of them. A head is fitted on each kind for people of whom a part is held out
(`palign.trainers.reward.trial`), and the kind that makes their answers likeliest is taken. Three questions are asked
one after the other, each with the answers before it: are states scaled to one length, is the mean or the last token
read, and after which layer. One length (SimpleShot, arXiv 1911.04623), the mean and the last layer stay unless another
answer gains more than two errors: the best of several is partly luck, and people held out are judged on texts that
those trained on have met, too, which favours what learns texts by heart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from palign.data.preferences import Preferences
from palign.functional.mixture_type_count import paired_gain
from palign.models.architectures import n_layers_of
from palign.models.backbones import Backbone, StateKind
from palign.models.embeddings import item_texts, text_batches, text_key
from palign.models.heads import Scaling
from palign.models.pal_config import PALConfig
from palign.models.row_tensors import RowTensors
from palign.models.states.evaluating import evaluating
from palign.parallel.sharded import forwards
from palign.trainers.reward.head_fit import HeadFitOptions
from palign.trainers.reward.linear_fit import LinearFitOptions
from palign.trainers.reward.trial import LEAST_TO_CALIBRATE, HeldOutTrial, eligible_people

__all__ = ["StateChoice", "candidate_layers", "choose_states"]

SURE = 2.0  # errors above zero
MOST_TEXTS = 4096  # that are read for the choice
N_FOLDS = 4  # everybody is held out once, where people can be parted so
DEPTHS = (1 / 2, 2 / 3, 5 / 6)  # of the layers; the last one is tried as well


@dataclass(frozen=True)
class StateChoice:
    """What people held out chose.

    Attributes:
        kind: layer and pooling.
        scaling: `common` or `unit`.
        table: a dict for each trial with layer, pooling, scaling and log_likelihood (nats an answer).
        n_people: annotators who were judged.
        keys: (n_texts,) of 32 bytes each, of the texts that were read.
        vectors: (n_texts, hidden) float32 of that kind, which are not to be computed again.
    """

    kind: StateKind
    scaling: str
    table: list[dict[str, object]]
    n_people: int
    keys: list[bytes]
    vectors: np.ndarray


def candidate_layers(n_layers: int) -> list[int | None]:
    """Layers that are tried; the last one is None."""
    inner = sorted({round(depth * n_layers) for depth in DEPTHS} - {0, n_layers}, reverse=True)
    return [None, *inner]


def choose_states(
    rows: Preferences,
    backbone: Backbone,
    config: PALConfig,
    options: HeadFitOptions,
    *,
    n_prototypes: Sequence[int],
    scalings: Sequence[str] = (Scaling.UNIT, Scaling.COMMON),
    layers: Sequence[int | None] | None = None,
    poolings: Sequence[str] = ("completion", "completion_last"),
    batch_size: int = 32,
    seed: int = 0,
    show_progress: bool = True,
) -> StateChoice | None:
    """The kind of states and their scaling under which people held out are likely.

    Args:
        rows: of text; a sample of people is taken where they hold more than 4,096 texts.
        backbone: causal; what it pools now is left as it is.
        config: of the head; a network that reads no prompt is fitted whatever its variant.
        n_prototypes: numbers of prototypes to judge by; each kind is judged at the best of them.
        scalings, layers, poolings: to try; the first of each stays unless another gains more than two errors.
            Layers are those of `candidate_layers` if None.

    Returns:
        None where fewer than 8 annotators have two answers or more.
    """
    rows = _sample(rows, seed)
    people = rows.annotators().indices(rows.annotator_ids)
    if len(eligible_people(people, (rows.ranks >= 0).sum(1))) < LEAST_TO_CALIBRATE:
        return None
    layers = candidate_layers(n_layers_of(backbone.model.config)) if layers is None else list(layers)
    kinds = [StateKind(layer, pooling) for layer in layers for pooling in poolings]
    texts = item_texts(rows, backbone.tokenizer, plain_prompts=config.plain_prompts)[:2]
    vectors = dict(zip(kinds, _vectors(backbone, *texts, kinds, batch_size, show_progress), strict=True))
    config = replace(config, variant="fixed", similarity=None, personal_dim=0)
    seen: dict[tuple[StateKind, str], tuple[Tensor, Tensor]] = {}

    def judged(kind: StateKind, scaling: str) -> tuple[Tensor, Tensor]:
        """Sums of log-likelihood and numbers of answers of everybody held out, (n_people,) each."""
        if (kind, scaling) not in seen:
            data = RowTensors.of(rows, people, vectors[kind])
            trial = HeldOutTrial(data, replace(config, scaling=str(scaling)), options, seed, n_folds=N_FOLDS)
            who = trial.people_of("fixed")
            sums = [
                trial.judge("fixed", k, LinearFitOptions()).log_likelihood[who]
                for k in trial.allowed(n_prototypes) or [1]
            ]
            seen[kind, scaling] = max(sums, key=lambda values: float(values.sum())), trial.n_judged[who]
            bar.update()
        return seen[kind, scaling]

    def better(kept: tuple[StateKind, str], others: list[tuple[StateKind, str]]) -> tuple[StateKind, str]:
        """The likeliest of those that surely gain over `kept`; it, if none does."""
        before, n_answers = judged(*kept)
        gains = {other: paired_gain(judged(*other)[0], before, n_answers) for other in others}
        sure = {other: gain for other, (gain, error) in gains.items() if gain > SURE * error}
        return max(sure, key=sure.get) if sure else kept

    total = len(scalings) + len(poolings) - 1 + len(layers) - 1
    with tqdm(total=total, desc="choosing states", disable=not show_progress) as bar:
        best, scaling = better((kinds[0], scalings[0]), [(kinds[0], one) for one in scalings[1:]])
        best, _ = better((best, scaling), [(StateKind(layers[0], one), scaling) for one in poolings[1:]])
        best, _ = better((best, scaling), [(StateKind(one, best.pooling), scaling) for one in layers[1:]])
    table = [
        {"layer": kind.layer, "pooling": kind.pooling, "scaling": str(name),
         "log_likelihood": float(values.sum() / n_answers.sum())}
        for (kind, name), (values, n_answers) in seen.items()
    ]  # fmt: skip
    keys = [text_key(prompt, completion) for prompt, completion in zip(*texts, strict=True)]
    return StateChoice(best, str(scaling), table, len(seen[best, scaling][0]), keys, vectors[best])


def _sample(rows: Preferences, seed: int) -> Preferences:
    """Rows of people in random order, as many as name `MOST_TEXTS` texts together, and no text but theirs."""
    people = rows.annotators().indices(rows.annotator_ids)
    place = np.random.default_rng(seed).permutation(int(people.max()) + 1)[people]
    order = np.argsort(place, kind="stable")
    is_new = np.zeros(rows.item_indices.shape, dtype=bool)
    in_order = rows.filled_item_indices[order]
    first = np.unique(in_order.ravel(), return_index=True)[1]
    is_new.ravel()[first] = True
    n_rows = int((is_new.sum(1).cumsum() <= MOST_TEXTS).sum())
    return rows.select(np.sort(order[:n_rows])).with_own_items()


@torch.no_grad()
def _vectors(
    backbone: Backbone,
    prompts: list[str],
    completions: list[str],
    kinds: Sequence[StateKind],
    batch_size: int,
    show_progress: bool,
) -> np.ndarray:
    """(n_kinds, n_texts, hidden) float32, one pass for each different text."""
    texts = backbone.tokenize(prompts, completions)
    vectors = np.zeros((len(kinds), len(texts), backbone.hidden_size), dtype=np.float32)
    bar = tqdm(total=len(texts), desc="reading texts for the choice of states", disable=not show_progress)
    with bar, evaluating(backbone), forwards(backbone.model):
        for batch, encoded in text_batches(backbone, texts, batch_size):
            vectors[:, batch] = torch.stack(backbone.pooled_as(encoded, kinds)).cpu().numpy()
            bar.update(len(batch))
    return vectors
