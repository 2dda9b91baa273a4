"""How fast is the PAL reward model? Ratios are taken side by side in one run, since timings on shared machines wander.

python scripts/bench_pal_reward.py              # store, head training against thirty plain lines, fit_annotators
python scripts/bench_pal_reward.py --large      # 1,000,000 annotators × K = 8: train, save, load; peak memory
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.synthetic_text import language_model_rows
from palign.models.backbones import Backbone
from palign.models.embeddings import EmbeddingStore
from palign.models.pal import PALRewardModel
from palign.models.row_tensors import RowTensors
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer
from palign.trainers.reward.head_fit import HeadFitOptions, fit_head

HIDDEN, N_VECTORS, BATCH = 384, 12_000, 2048


def plain_lines(vectors: Tensor, pairs: Tensor, people: Tensor, n_people: int, n_prototypes: int, epochs: int) -> None:
    """What anybody would write: the yardstick."""
    f = nn.Sequential(nn.Linear(HIDDEN, 64), nn.GELU(), nn.Dropout(0.4), nn.Linear(64, 32))
    prototypes = nn.Parameter(torch.randn(n_prototypes, 32) * 0.5)
    logits = nn.Parameter(torch.randn(n_people, n_prototypes) * 0.1)
    optimizer = torch.optim.AdamW([*f.parameters(), prototypes, logits], lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(pairs)).split(BATCH):
            ideal = logits[people[rows]].softmax(1) @ prototypes
            scores = -((f(vectors[pairs[rows]]) - ideal[:, None]) ** 2).sum(-1)
            loss = F.softplus(scores[:, 1] - scores[:, 0]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def random_rows(n_rows: int, n_people: int, n_vectors: int, seed: int = 0) -> tuple[Preferences, np.ndarray]:
    """Pairs of random vectors by random people."""
    rng = np.random.default_rng(seed)
    first = rng.integers(n_vectors, size=n_rows)
    second = (first + rng.integers(1, n_vectors, size=n_rows)) % n_vectors
    people = rng.integers(n_people, size=n_rows)
    return Preferences.from_arrays(people, first, second), people


def bench_heads(n_prototypes: int = 4, n_rows: int = 60_000, repeats: int = 3) -> None:
    """Pairs a second at 384 → 64 → 32, both ways, alternating."""
    rows, _ = random_rows(n_rows, 200, N_VECTORS)
    vectors = np.random.default_rng(1).normal(size=(N_VECTORS, HIDDEN)).astype(np.float32)
    rates: dict[str, list[float]] = {"palign": [], "plain": []}
    for _ in range(repeats):
        model = PALRewardModel.from_embeddings(
            hidden_size=HIDDEN, n_prototypes=n_prototypes, annotators=rows.annotators()
        )
        data = model.row_tensors(rows, vectors)
        start = time.perf_counter()
        fit_head(model.head, model.people, data, HeadFitOptions(epochs=3, batch_size=BATCH), seed=0)
        rates["palign"].append(3 * n_rows / (time.perf_counter() - start))
        start = time.perf_counter()
        plain_lines(data.item_states, data.item_indices, data.annotator_index, 200, n_prototypes, epochs=3)
        rates["plain"].append(3 * n_rows / (time.perf_counter() - start))
    best = {name: max(values) for name, values in rates.items()}
    print(
        f"heads {HIDDEN} → 64 → 32, K = {n_prototypes}: {best['palign']:,.0f} pairs/s; thirty plain lines "
        f"{best['plain']:,.0f}; ratio {best['palign'] / best['plain']:.2f}"
    )


def bench_people(n_people: int = 20_000, n_answers: int = 20, n_prototypes: int = 8) -> None:
    """People a second through `fit_annotators`, vectors to weights."""
    seen, _ = random_rows(4000, 400, N_VECTORS)
    vectors = np.random.default_rng(1).normal(size=(N_VECTORS, HIDDEN)).astype(np.float32)
    model = PALRewardModel.from_embeddings(
        hidden_size=HIDDEN, n_prototypes=n_prototypes, annotators=seen.annotators()
    ).eval()
    model.people.freeze_population()
    rng = np.random.default_rng(2)
    first = rng.integers(N_VECTORS, size=n_people * n_answers)
    second = (first + rng.integers(1, N_VECTORS, size=len(first))) % N_VECTORS
    ids = np.char.add("new", np.repeat(np.arange(n_people), n_answers).astype(str))
    rows = Preferences.from_arrays(ids.astype(object), first, second)
    for method in ("posterior", "map"):
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            model.fit_annotators(rows, embeddings=vectors, method=method)
            seconds.append(time.perf_counter() - start)
        print(
            f"fit_annotators({method!r}), K = {n_prototypes}, {n_answers} answers each: "
            f"{n_people / min(seconds):,.0f} people/s"
        )


def bench_store(n_texts: int = 2000) -> None:
    """The embedding store: filled once, then found."""
    texts = [
        row["prompt"] + " " + row["completion"] + f" {i}" for i, row in enumerate(language_model_rows(n_texts, seed=0))
    ]
    tokenizer = make_tiny_tokenizer(texts)
    backbone = Backbone(make_tiny_lm(tokenizer, seed=0), tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for _ in range(2):
            start = time.perf_counter()
            store = EmbeddingStore(folder, backbone.fingerprint(), backbone.hidden_size)
            with torch.no_grad():
                store.fill(backbone, texts, None, progress=False)
            times.append(time.perf_counter() - start)
    print(f"embedding store, {n_texts} texts: first fill {times[0]:.2f} s, second {times[1]:.3f} s")


def bench_large(n_people: int = 1_000_000, n_rows: int = 4_000_000, n_prototypes: int = 8) -> None:
    """A million people: one epoch, saved and read again."""
    hidden = 32
    vectors = np.random.default_rng(1).normal(size=(N_VECTORS, hidden)).astype(np.float32)
    rows, people = random_rows(n_rows, n_people, N_VECTORS)
    annotators = AnnotatorIndex(np.arange(n_people))
    start = time.perf_counter()
    model = PALRewardModel.from_embeddings(hidden_size=hidden, n_prototypes=n_prototypes, annotators=annotators)
    data = RowTensors.of(rows, people, vectors)
    fit_head(model.head, model.people, data, HeadFitOptions(epochs=1, batch_size=8192), seed=0)
    trained = time.perf_counter()
    model.people.freeze_population(torch.bincount(data.annotator_index, minlength=n_people))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = time.perf_counter()
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
        again = PALRewardModel.from_pretrained(folder)
    same = torch.equal(again.people.logits.weight, model.people.logits.weight)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{n_people:,} annotators × K = {n_prototypes}, {n_rows:,} pairs: one epoch {trained - start:.0f} s, saved in "
        f"{saved - trained:.0f} s ({size:.0f} MiB), read back equal: {same}; peak memory {peak:.1f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--n_threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.n_threads)
    print(f"{options.n_threads} threads")
    if options.large:
        bench_large()
        return
    bench_store()
    bench_heads()
    bench_people()


if __name__ == "__main__":
    main()
