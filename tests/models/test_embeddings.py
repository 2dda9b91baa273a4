"""EmbeddingStore: filled once, right after a kill, shared by processes; embed_preferences on real rows."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from palign.data.preferences import Preferences
from palign.models.backbones import Backbone
from palign.models.embeddings import EmbeddingStore, embed_preferences, text_key
from palign.writing import SavingError
from tests.models.test_backbones import COMPLETIONS, HIDDEN, PROMPTS, make_backbone


class Counting(torch.nn.Module):
    """The model inside a backbone, counting the rows that pass through it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.config, self.rows = model, model.config, 0

    def forward(self, **inputs: object) -> object:
        self.rows += len(inputs["input_ids"])
        return self.inner(**inputs)


def counted(kind: str = "gpt2", **options: object) -> tuple[Backbone, Counting]:
    backbone = make_backbone(kind, **options)
    backbone.model = Counting(backbone.model)
    return backbone, backbone.model


def open_store(directory: Path | None, backbone: Backbone) -> EmbeddingStore:
    return EmbeddingStore(directory, backbone.fingerprint(), HIDDEN)


@torch.no_grad()
@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_vectors_are_the_backbones_own(tmp_path: Path, on_disk: bool, kind: str) -> None:
    backbone = make_backbone(kind)
    store = open_store(tmp_path if on_disk else None, backbone)
    rows = store.fill(backbone, PROMPTS, COMPLETIONS, batch_size=3, progress=False)
    expected = torch.cat(
        [backbone(**backbone.encode([p], [c])).text for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    )
    np.testing.assert_allclose(store.vectors[rows], expected.numpy(), atol=1e-5)
    assert isinstance(store.vectors, np.memmap) is on_disk
    assert not store.vectors.flags.writeable


def test_each_text_passes_through_the_backbone_once(tmp_path: Path) -> None:
    backbone, counter = counted()
    prompts, completions = ["the cat", "the cat", "a b", "the cat"], ["likes tea", "likes tea", "c", "sun"]
    store = open_store(tmp_path, backbone)
    first = store.fill(backbone, prompts, completions, progress=False)
    assert counter.rows == 3 and len(store) == 3
    assert first.tolist() == [0, 0, 1, 2]
    again = store.fill(backbone, prompts, completions, progress=False)  # a second epoch, another K
    fresh = open_store(tmp_path, backbone).fill(backbone, prompts, completions, progress=False)  # another run
    assert counter.rows == 3
    assert first.tolist() == again.tolist() == fresh.tolist()
    store.fill(backbone, [*prompts, "rain"], [*completions, "sun"], progress=False)
    assert counter.rows == 4


@torch.no_grad()
def test_prompts_come_out_of_the_items_own_passes(tmp_path: Path) -> None:
    backbone, counter = counted(max_length=8)
    prompts = ["the cat", "the cat", "dog likes tea", "a b c d e f g"]
    completions = ["likes tea", "sun", "a", "h i j k"]
    store = open_store(tmp_path, backbone)
    store.fill(backbone, prompts, completions, keep_prompt_states=True, progress=False)
    assert counter.rows == 4
    assert ("dog likes tea", None) in store
    assert (
        "a b c d e f g",
        None,
    ) not in store  # cut to make room for its completion: not the state of the whole prompt
    rows = store.fill(backbone, prompts, None, progress=False)
    assert counter.rows == 5
    np.testing.assert_allclose(store.vectors[rows], backbone(**backbone.encode(prompts)).text.numpy(), atol=1e-5)


def test_a_texts_name_says_where_prompt_ends() -> None:
    texts = [("a", "b"), ("ab", ""), ("", "ab"), ("ab", None), ("a", None), ("", None), ("", "")]
    assert len({text_key(*text) for text in texts}) == len(texts)
    assert text_key("\ud800", None) != text_key("?", None)  # half of a surrogate pair is no reason to stop


@pytest.mark.parametrize(
    ("file", "lost_bytes", "rows_left"),
    [
        ("vectors.f32", 1, 3),
        ("vectors.f32", HIDDEN * 4, 3),
        ("keys.bin", 5, 3),
        ("keys.bin", 32, 3),
        ("keys.bin", 70, 1),
        ("vectors.f32", None, 0),
    ],
)
def test_a_torn_tail_is_ignored_and_written_again(
    tmp_path: Path, file: str, lost_bytes: int | None, rows_left: int
) -> None:
    backbone, counter = counted()
    store = open_store(tmp_path, backbone)
    rows = store.fill(backbone, PROMPTS, COMPLETIONS, progress=False)
    expected = np.array(store.vectors[rows])
    path = store.directory / file
    os.truncate(path, 0 if lost_bytes is None else path.stat().st_size - lost_bytes)
    reopened = open_store(tmp_path, backbone)
    assert len(reopened) == rows_left
    counter.rows = 0
    rows = reopened.fill(backbone, PROMPTS, COMPLETIONS, progress=False)
    assert counter.rows == 4 - rows_left
    np.testing.assert_allclose(reopened.vectors[rows], expected, atol=1e-5)
    assert (store.directory / "keys.bin").stat().st_size == 4 * 32
    assert (store.directory / "vectors.f32").stat().st_size == 4 * HIDDEN * 4


def test_a_full_disk_is_said_and_what_was_there_is_kept(small_disk: Path) -> None:
    """Three vectors of 64 KiB fit on a MiB, twenty more do not."""
    store, vectors = EmbeddingStore(small_disk, "f" * 64, 2**14), np.ones((20, 2**14), dtype=np.float32)
    store.append([bytes([i] * 32) for i in range(3)], vectors[:3])
    with pytest.raises(SavingError, match="^Vectors of texts could not be written to .* its disk is full") as caught:
        store.append([bytes([i] * 32) for i in range(3, 23)], vectors)
    assert f"'{store.directory}'" in str(caught.value) and "are not computed again. Make room" in str(caught.value)
    again = EmbeddingStore(small_disk, "f" * 64, 2**14)
    assert len(store) == len(again) == 3 and np.array_equal(again.vectors, vectors[:3])


def _fill_for_ever(directory: Path, written: object) -> None:
    backbone = counted()[0]
    store = open_store(directory, backbone)
    for part in range(10**6):
        store.fill(backbone, [f"{word} {part}" for word in "abcdefgh"], ["the"] * 8, progress=False)
        written.value = len(store)


def test_killed_while_filling(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    written = context.RawValue("i", 0)  # no lock, which a killed child might hold
    child = context.Process(target=_fill_for_ever, args=(tmp_path, written))
    child.start()
    deadline = time.monotonic() + 30
    while written.value < 64 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    assert child.exitcode == -signal.SIGKILL
    backbone, counter = counted()
    store = open_store(tmp_path, backbone)  # the dead process's lock is free
    assert len(store) >= written.value >= 64
    texts = ["b 3", "h 0", "c 7"]
    rows = store.fill(backbone, texts, ["the"] * 3, progress=False)
    assert counter.rows == 0
    with torch.no_grad():
        np.testing.assert_allclose(
            store.vectors[rows], backbone(**backbone.encode(texts, ["the"] * 3)).text.numpy(), atol=1e-5
        )


def _fill_and_count(directory: Path, counts: object) -> None:
    backbone, counter = counted()
    store = open_store(directory, backbone)
    counts.put(None)  # both processes have seen the empty store
    time.sleep(0.2)
    rows = store.fill(backbone, PROMPTS, COMPLETIONS, progress=False)
    counts.put((counter.rows, np.array(store.vectors[rows])))


def test_two_processes_fill_once_between_them(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_fill_and_count, args=(tmp_path, results)) for _ in range(2)]
    for child in children:
        child.start()
    finished = [result for result in (results.get(timeout=30) for _ in range(4)) if result is not None]
    for child in children:
        child.join(10)
    assert sorted(count for count, _ in finished) == [0, 4]
    np.testing.assert_array_equal(finished[0][1], finished[1][1])


def test_the_wrong_backbone_or_width_is_refused(tmp_path: Path) -> None:
    backbone = make_backbone("gpt2")
    store = open_store(tmp_path, backbone)
    with pytest.raises(ValueError, match="not the one the embedding store was made for"):
        store.fill(make_backbone("gpt2", pooling="mean"), ["a"], progress=False)
    with pytest.raises(ValueError, match="was made for"):
        EmbeddingStore(tmp_path, backbone.fingerprint(), HIDDEN + 1)


def test_dropout_is_off_while_filling_and_on_again_after() -> None:
    backbone = make_backbone("gpt2").train()
    stores = [open_store(None, backbone) for _ in range(2)]
    for store in stores:
        store.fill(backbone, ["the cat"], progress=False)
    np.testing.assert_array_equal(stores[0].vectors, stores[1].vectors)
    assert backbone.training


def test_a_vector_with_nan_is_never_stored(tmp_path: Path) -> None:
    backbone = make_backbone("gpt2")
    with torch.no_grad():
        backbone.model.ln_f.weight.fill_(float("nan"))
    store = open_store(tmp_path, backbone)
    with pytest.raises(RuntimeError, match="NaN or infinity"):
        store.fill(backbone, ["the cat"], progress=False)
    assert len(open_store(tmp_path, backbone)) == 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_embed_preferences(tmp_path: Path, kind: str) -> None:
    rows = [
        {"annotator_id": "x", "prompt": "the cat", "chosen": "likes tea", "rejected": "likes rain"},
        {"annotator_id": "y", "prompt": "dog", "completions": ["a", "b", "c"]},
        {"annotator_id": "y", "prompt": "the cat", "chosen": "likes rain", "rejected": "sun"},
    ]
    prefs, backbone = Preferences.from_rows(rows), make_backbone(kind)
    items, prompts = embed_preferences(
        backbone, prefs, open_store(tmp_path, backbone), with_prompts=True, progress=False
    )
    texts = [(prefs.prompts[index], completion) for index, completion in prefs.items]
    np.testing.assert_allclose(
        items, backbone(**backbone.encode(*map(list, zip(*texts, strict=True)))).text.numpy(), atol=1e-5
    )
    np.testing.assert_allclose(prompts, backbone(**backbone.encode(prefs.prompts)).text.numpy(), atol=1e-5)
    assert embed_preferences(backbone, prefs, open_store(tmp_path, backbone), progress=False)[1] is None
    vectors = Preferences.from_arrays(["x"], np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="hold no text"):
        embed_preferences(backbone, vectors, open_store(tmp_path, backbone))
