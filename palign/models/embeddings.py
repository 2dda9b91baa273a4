"""Vectors of texts under a frozen backbone: computed once, kept on disk, looked up by their content.

A store is two files that only ever grow: ``vectors.f32`` (n, hidden) and ``keys.bin``, 32 bytes for each vector. A
vector is written before its key, so the complete rows that both files hold are always right: a process killed while
writing loses at most the rows it was writing, and the torn tail is overwritten by the next one. A lock lets one
process fill at a time; the others wait, and then find everything there.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from palign.models.backbones import Backbone, TokenizedText
from palign.parallel.sharded import forwards, is_sharded, turns
from palign.parallel.shared_work import ending_together
from palign.reading import read_json
from palign.writing import saving, write_whole

if TYPE_CHECKING:
    from palign.data.preferences import Preferences

KEY_BYTES = 32
TEXTS_AT_ONCE = 4096  # tokenised, sorted by length and written together


def text_key(prompt: str, completion: str | None) -> bytes:
    """32 bytes that name a text: (``"a"``, ``"b"``), (``"ab"``, ``""``) and (``"ab"``, None) are three different."""
    prompt_bytes = prompt.encode("utf-8", "surrogatepass")
    rest = b"-" if completion is None else b"+" + completion.encode("utf-8", "surrogatepass")
    return hashlib.sha256(len(prompt_bytes).to_bytes(8, "little") + prompt_bytes + rest).digest()


class EmbeddingStore:
    """Pooled vectors by content, in a folder or (``directory=None``) in memory.

    Args:
        directory: the folder of all stores; this one lies in a sub-folder named after the fingerprint.
        fingerprint: content key of the backbone (:meth:`Backbone.fingerprint`).
        hidden_size: width of a vector.

    Raises:
        ValueError: the folder holds a store of another backbone or width.
    """

    def __init__(self, directory: str | Path | None, fingerprint: str, hidden_size: int) -> None:
        self.fingerprint, self.hidden_size = fingerprint, int(hidden_size)
        self.directory = None if directory is None else Path(directory).expanduser() / fingerprint[:24]
        self._rows: dict[bytes, int] = {}
        self._memory = [np.empty((0, self.hidden_size), dtype=np.float32)]
        if self.directory is not None:
            with self._saving():
                self.directory.mkdir(parents=True, exist_ok=True)
                with self._locked():
                    self._check_or_write_meta()
            self._read_new_keys()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, text: tuple[str, str | None]) -> bool:
        return text_key(*text) in self._rows

    @property
    def vectors(self) -> np.ndarray:
        """(n, hidden) float32, read-only, as of now: fill first. A memory map when the store lies in a folder."""
        if self.directory is None or not self._rows:
            self._memory = [np.concatenate(self._memory)]
            view = self._memory[0].view()
            view.flags.writeable = False
            return view
        return np.memmap(
            self.directory / "vectors.f32", dtype=np.float32, mode="r", shape=(len(self), self.hidden_size)
        )

    def rows(self, prompts: Sequence[str], completions: Sequence[str] | None = None) -> np.ndarray:
        """Row of each text in :attr:`vectors`, (n_texts,) int64; a text that is not there is -1."""
        return np.array([self._rows.get(key, -1) for key in _keys(prompts, completions)], dtype=np.int64)

    def fill(
        self,
        backbone: Backbone,
        prompts: Sequence[str],
        completions: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
        keep_prompt_states: bool = False,
        progress: bool = True,
        together: bool = False,
    ) -> np.ndarray:
        """Compute what is missing, one forward pass for each different text, and return the row of every text.

        Args:
            prompts: (n_texts,) strings.
            completions: (n_texts,) strings, or None to embed the prompts alone.
            keep_prompt_states: with a causal backbone, also store each prompt's vector out of the same pass.
            together: all processes call this with the same texts; each computes its share. Where the backbone is
                divided among them it is always so.

        Returns:
            (n_texts,) int64 rows of :attr:`vectors`.

        A backbone whose content key is not the store's raises ValueError.
        """
        if is_sharded(backbone.model):
            self._fill_in_step(backbone, prompts, completions, batch_size, keep_prompt_states, progress)
            return self.rows(prompts, completions)
        if together and PartialState().num_processes > 1:
            self._fill_share(backbone, prompts, completions, batch_size, keep_prompt_states, progress)
        rows = self.rows(prompts, completions)
        if rows.size == 0 or rows.min() >= 0:
            return rows
        self._require_made_for(backbone)
        with self._locked():
            self._read_new_keys()
            self._compute_missing(
                backbone, prompts, completions, batch_size, keep_prompt_states and backbone.is_causal, progress
            )
        return self.rows(prompts, completions)

    def _require_made_for(self, backbone: Backbone) -> None:
        if backbone.fingerprint() != self.fingerprint:
            raise ValueError(
                "this backbone is not the one the embedding store was made for: its weights, tokenizer, pooling or "
                "max_length differ. Open a store with fingerprint=backbone.fingerprint()."
            )

    def _fill_in_step(
        self,
        backbone: Backbone,
        prompts: Sequence[str],
        completions: Sequence[str] | None,
        batch_size: int,
        keep_prompt_states: bool,
        progress: bool,
    ) -> None:
        """What one process or another lacks, shared out, by a backbone that all have to run together.

        The processes may have different disks: what each computes is given to all, part by part.
        """
        state, first = PartialState(), {key: i for i, key in reversed([*enumerate(_keys(prompts, completions))])}
        lacking = gather_object([[i for key, i in first.items() if key not in self._rows]])
        missing = sorted(set().union(*lacking))
        if not missing:
            return
        self._require_made_for(backbone)
        own = missing[state.process_index :: state.num_processes]
        parts = [own[start : start + TEXTS_AT_ONCE] for start in range(0, len(own), TEXTS_AT_ONCE)]
        with ending_together():  # a text that cannot be read is said before all wait for its pass
            backbone.tokenize(
                *_of_numbers(own, prompts, completions),
            )
        with forwards(backbone.model):
            for part, is_own in turns(parts, missing[:1], backbone.model):
                share = EmbeddingStore(None, self.fingerprint, self.hidden_size)
                with ending_together():  # what may fail comes after the passes
                    share._compute_missing(
                        backbone,
                        *_of_numbers(part, prompts, completions),
                        batch_size,
                        keep_prompt_states and backbone.is_causal,
                        progress and state.is_main_process and is_own,
                    )
                for keys, vectors in gather_object([(share.keys(), np.asarray(share.vectors))]):
                    self.append(keys, vectors)

    def _fill_share(
        self,
        backbone: Backbone,
        prompts: Sequence[str],
        completions: Sequence[str] | None,
        batch_size: int,
        keep_prompt_states: bool,
        progress: bool,
    ) -> None:
        """This process's share of what is missing, kept part by part on a disk; in memory the shares are exchanged."""
        state = PartialState()
        missing = {key: i for i, key in enumerate(_keys(prompts, completions)) if key not in self._rows}
        indices = [i for key, i in missing.items() if key[0] % state.num_processes == state.process_index]
        shares = []
        with ending_together():
            for start in range(0, len(indices), TEXTS_AT_ONCE):
                part = indices[start : start + TEXTS_AT_ONCE]
                share = EmbeddingStore(None, self.fingerprint, self.hidden_size)
                share.fill(
                    backbone,
                    *_of_numbers(part, prompts, completions),
                    batch_size=batch_size,
                    keep_prompt_states=keep_prompt_states,
                    progress=progress and state.is_main_process,
                )
                shares.append((share.keys(), np.asarray(share.vectors)))
                if self.directory is not None:
                    self.append(*shares.pop())
        state.wait_for_everyone()
        if self.directory is not None:
            self._read_new_keys()
            return
        for keys, vectors in gather_object(shares):
            self.append(keys, vectors)

    def _compute_missing(
        self,
        backbone: Backbone,
        prompts: Sequence[str],
        completions: Sequence[str] | None,
        batch_size: int,
        keep_prompt_states: bool,
        progress: bool,
    ) -> None:
        missing = {key: i for i, key in enumerate(_keys(prompts, completions)) if key not in self._rows}
        todo, was_training = list(missing.items()), backbone.training
        backbone.eval()
        try:
            with _progress_bar(len(todo), progress and bool(todo)) as bar, torch.no_grad():
                for start in range(0, len(todo), TEXTS_AT_ONCE):
                    part = todo[start : start + TEXTS_AT_ONCE]
                    chosen_prompts = [prompts[i] for _, i in part]
                    texts = backbone.tokenize(
                        chosen_prompts, None if completions is None else [completions[i] for _, i in part]
                    )
                    vectors, prompt_states = _embed(backbone, texts, batch_size, bar)
                    self._append([key for key, _ in part], vectors)
                    if keep_prompt_states and completions is not None:
                        self._append_prompts(chosen_prompts, texts, prompt_states)
        finally:
            backbone.train(was_training)

    def _append_prompts(self, prompts: list[str], texts: list[TokenizedText], states: np.ndarray) -> None:
        """Store the states of prompts that are new and were read in full."""
        new = {
            text_key(prompt, None): i
            for i, prompt in enumerate(prompts)
            if texts[i].prompt_length and not texts[i].prompt_was_cut
        }
        new = {key: i for key, i in new.items() if key not in self._rows}
        self._append(list(new), states[list(new.values())])

    def keys(self) -> list[bytes]:
        """32 bytes for each row of :attr:`vectors`, in their order."""
        return list(self._rows)

    def rows_of_keys(self, keys: Sequence[bytes]) -> np.ndarray:
        """As :meth:`rows`, by keys of 32 bytes; what other processes have added meanwhile is seen."""
        if any(key not in self._rows for key in keys):
            self._read_new_keys()
        return np.array([self._rows.get(key, -1) for key in keys], dtype=np.int64)

    def append(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep vectors (n, hidden) float32 under keys of 32 bytes each; a key that is there keeps its vector."""
        with self._locked():
            self._read_new_keys()
            new = {key: i for i, key in enumerate(keys) if key not in self._rows}
            self._append(list(new), vectors[list(new.values())])

    def _append(self, keys: list[bytes], vectors: np.ndarray) -> None:
        """Vectors to disk first, then keys; whatever lies beyond the complete rows is overwritten."""
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
            raise RuntimeError(
                f"the backbone gave a vector with NaN or infinity for {len(keys)} texts, first at number {bad} of "
                "this part. Load it in float32 or bfloat16 instead of float16, or look at its weights."
            )
        n = len(self)
        if self.directory is None:
            self._memory.append(vectors)
        else:
            with self._saving():
                _write_at(self.directory / "vectors.f32", n * self.hidden_size * 4, vectors.astype("<f4").tobytes())
                _write_at(self.directory / "keys.bin", n * KEY_BYTES, b"".join(keys))
        self._rows.update((key, n + i) for i, key in enumerate(keys))

    def _read_new_keys(self) -> None:
        """Learn of the rows that are complete in both files and not known yet."""
        if self.directory is None:
            return
        sizes = [
            path.stat().st_size if path.exists() else 0
            for path in (self.directory / "keys.bin", self.directory / "vectors.f32")
        ]
        n, known = min(sizes[0] // KEY_BYTES, sizes[1] // (4 * self.hidden_size)), len(self)
        if n <= known:
            return
        with open(self.directory / "keys.bin", "rb") as file:
            file.seek(known * KEY_BYTES)
            content = file.read((n - known) * KEY_BYTES)
        self._rows.update((content[i * KEY_BYTES : (i + 1) * KEY_BYTES], known + i) for i in range(n - known))

    def _check_or_write_meta(self) -> None:
        path, meta = self.directory / "store.json", {"fingerprint": self.fingerprint, "hidden_size": self.hidden_size}
        if not path.exists():
            write_whole(path, json.dumps(meta))
        saved_meta = read_json(path, dict)
        if saved_meta != meta:
            raise ValueError(
                f"the embedding store in {str(self.directory)!r} was made for {saved_meta}, and {meta} is asked "
                "for. Give another directory, or delete this one to compute the vectors anew."
            )

    def _saving(self) -> contextlib.AbstractContextManager[None]:
        intact = "Those that were there before are whole, and are not computed again."
        return saving(self.directory, "Vectors of texts", intact)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store alone among the processes of this machine; a killed holder frees it."""
        if self.directory is None:
            yield
            return
        with open(self.directory / "lock", "a", encoding="utf-8") as file:
            with contextlib.suppress(
                ImportError
            ):  # no such module on Windows: there one process at a time is up to the user
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def embed_preferences(
    backbone: Backbone,
    prefs: "Preferences",
    store: EmbeddingStore,
    *,
    with_prompts: bool = False,
    batch_size: int = 32,
    progress: bool = True,
    together: bool = False,
    plain_prompts: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Vectors of every item and, on request, of every prompt of text preferences.

    Returns:
        item vectors (n_items, hidden), row for row ``prefs.items``; prompt vectors (n_prompts, hidden), row for row
        ``prefs.prompts``, or None. Both float32; a memory map where the rows lie in order in the store.

    `together`: all processes call this with the same rows, and each computes its share. `plain_prompts`: plain rows
    are read bare, else as turns. With a causal backbone the prompts come out of the passes of their items; an encoder
    reads each prompt once by itself. Rows of vectors instead of text raise ValueError.
    """
    item_prompts, completions, prompts = item_texts(prefs, backbone.tokenizer, plain_prompts=plain_prompts)
    item_rows = store.fill(
        backbone,
        item_prompts,
        completions,
        batch_size=batch_size,
        keep_prompt_states=with_prompts,
        progress=progress,
        together=together,
    )
    if not with_prompts:
        return _taken(store.vectors, item_rows), None
    prompt_rows = store.fill(backbone, prompts, None, batch_size=batch_size, progress=progress, together=together)
    return _taken(store.vectors, item_rows), _taken(store.vectors, prompt_rows)


def item_texts(
    prefs: "Preferences", tokenizer: object, *, plain_prompts: bool = True
) -> tuple[list[str], list[str], list[str]]:
    """What the model reads: prompt (n_items,) and completion (n_items,) of every item, and every prompt (n_prompts,).

    `plain_prompts`: plain rows are read bare, else as turns. Rows of vectors instead of text raise ValueError.
    """
    from palign.data.rendering import render_completion, render_prompt
    from palign.data.turns import in_turns

    if prefs.items is None or prefs.prompts is None:
        raise ValueError(
            "these preferences name rows of an embedding file and hold no text; give that file as embeddings instead "
            "of asking a backbone for vectors."
        )
    if not plain_prompts:
        prefs = in_turns(prefs)
    prompts = [render_prompt(prompt, tokenizer) for prompt in prefs.prompts]
    completions = [render_completion(prefs.prompts[index], text, tokenizer) for index, text in prefs.items]
    return [prompts[index] for index, _ in prefs.items], completions, prompts


def _of_numbers(
    numbers: Sequence[int], prompts: Sequence[str], completions: Sequence[str] | None
) -> tuple[list[str], list[str] | None]:
    """Prompts and completions of those numbers, where there are completions."""
    return [prompts[i] for i in numbers], None if completions is None else [completions[i] for i in numbers]


def _taken(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``vectors[rows]`` without a copy where the rows follow one another."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return vectors[rows[0] : rows[0] + len(rows)]
    return vectors[rows]


def text_batches(
    backbone: Backbone, texts: list[TokenizedText], batch_size: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Numbers of texts of about one length, longest first, and what `Backbone.collate` makes of them.

    Where the backbone is divided, as many as on the busiest process: some more than once.
    """
    by_length = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
    batches = [by_length[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    for batch, _ in turns(batches, by_length[:1], backbone.model):
        yield batch, backbone.collate([texts[i] for i in batch])


def _embed(
    backbone: Backbone, texts: list[TokenizedText], batch_size: int, bar: object
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled vectors of texts and, under a causal backbone, of their prompts: (n, hidden) each, in the order given."""
    vectors = np.zeros((len(texts), backbone.hidden_size), dtype=np.float32)
    prompt_states = np.zeros_like(vectors)
    for batch, encoded in text_batches(backbone, texts, batch_size):
        if not backbone.needs_lengths:  # an empty prompt's state is not kept by the caller
            encoded["prompt_lengths"] = encoded["prompt_lengths"].clamp(min=1)
        states = backbone(**encoded)
        vectors[batch] = states.text.float().cpu().numpy()
        if states.prompt is not None:
            prompt_states[batch] = states.prompt.float().cpu().numpy()
        bar.update(len(batch))
    return vectors, prompt_states


def _keys(prompts: Sequence[str], completions: Sequence[str] | None) -> list[bytes]:
    if completions is None:
        return [text_key(prompt, None) for prompt in prompts]
    return [text_key(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Cut the file at ``offset``, write there, and wait until it is on the disk."""
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _progress_bar(total: int, shown: bool) -> object:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="embedding texts", unit="text", mininterval=1.0, disable=not shown)
