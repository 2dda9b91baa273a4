"""Vectors of images by a CLIP-like encoder, as PAL's items.

A model that has `get_image_features` (CLIP, SigLIP and their kin) gives those; any other vision model its pooled
state, or the mean of its patches where it has none. Each vector is brought to length √width, since such features are
compared by their angle.
"""

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from palign.data.image_folder import ImageFolder
from palign.models.backbones import enter_tensor
from palign.models.embeddings import EmbeddingStore
from palign.models.states.evaluating import evaluating

__all__ = ["ImageEncoder"]

FEW = 64  # images that are read without a progress bar


class ImageEncoder:
    """A vision model and what prepares its pixels.

    Args:
        model: of transformers, with `get_image_features` or an output of patch states.
        processor: its image processor.
    """

    def __init__(self, model: torch.nn.Module, processor: Any) -> None:
        self.model, self.processor = model.requires_grad_(False), processor

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, dtype: str = "float32", device: Any = "cpu") -> "ImageEncoder":
        """Load a hub name or a folder, safetensors only.

        Raises:
            ValueError: it cannot be loaded as a model with an image processor, or reads no images.
        """
        from transformers import AutoImageProcessor, AutoModel

        try:
            processor = AutoImageProcessor.from_pretrained(name_or_path)
            model = AutoModel.from_pretrained(name_or_path, dtype=dtype, use_safetensors=True)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"--image_model is {name_or_path!r}, which could not be loaded as a vision model with its image "
                f"processor ({str(error).splitlines()[0][:200]}). Give a hub name that can be reached, or a folder "
                "with config.json, *.safetensors and preprocessor_config.json."
            ) from error
        return cls(model.to(device), processor)

    def fingerprint(self) -> str:
        """A content key (64 hex digits) of weights, configuration and preparation; the same wherever it lies."""
        return self._content_key

    @cached_property
    def _content_key(self) -> str:  # every weight is read for it, and the weights are frozen
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            enter_tensor(digest, name, tensor)
        left_out = ("_name_or_path", "transformers_version", "architectures")
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in left_out}
        digest.update(json.dumps([config, self.processor.to_dict()], sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def vectors(
        self,
        folder: ImageFolder,
        numbers: np.ndarray | None = None,
        *,
        batch_size: int = 32,
        store_dir: str | None = None,
        show_progress: bool = True,
    ) -> np.ndarray:
        """(len(folder), hidden) float32, a row for each image of the folder; rows not asked for are zero.

        Args:
            folder: the images.
            numbers: which of them; all if None. Equal files are read once.
            store_dir: keep vectors there, by the content of file and encoder, and read back those that it has.

        Raises:
            ValueError: an image does not open.
            RuntimeError: a vector is not finite.
        """
        numbers = np.arange(len(folder)) if numbers is None else np.unique(np.asarray(numbers))
        keys = [hashlib.sha256((folder.path / folder.names[number]).read_bytes()).digest() for number in numbers]
        store = EmbeddingStore(store_dir, self.fingerprint(), self._width(folder, numbers))
        stored = store.rows_of_keys(keys) >= 0
        missing = {key: int(number) for key, number, has in zip(keys, numbers, stored, strict=True) if not has}
        todo, shown = list(missing.items()), show_progress and len(missing) > FEW
        with (
            evaluating(self.model),
            torch.no_grad(),
            tqdm(total=len(todo), desc="reading images", disable=not shown) as bar,
        ):
            for start in range(0, len(todo), batch_size):
                part = todo[start : start + batch_size]
                store.append([key for key, _ in part], self._embed(folder, [number for _, number in part]))
                bar.update(len(part))
        vectors = np.zeros((len(folder), store.hidden_size), dtype=np.float32)
        vectors[numbers] = store.vectors[store.rows_of_keys(keys)]
        return vectors

    def _width(self, folder: ImageFolder, numbers: np.ndarray) -> int:
        with evaluating(self.model), torch.no_grad():
            return self._embed(folder, [int(numbers[0])]).shape[1]

    def _embed(self, folder: ImageFolder, numbers: list[int]) -> np.ndarray:
        """(n, hidden) float32, each of length √hidden."""
        pixels = self.processor(images=[folder.open(number) for number in numbers], return_tensors="pt")
        features = _features(self.model, pixels["pixel_values"].to(self.model.device, self.model.dtype)).float()
        unit = torch.nn.functional.normalize(features, dim=-1)
        return (unit * features.shape[-1] ** 0.5).cpu().numpy()


def _features(model: torch.nn.Module, pixels: Tensor) -> Tensor:
    """(batch, hidden)."""
    if hasattr(model, "get_image_features"):
        output = model.get_image_features(pixel_values=pixels)
    else:
        output = model(pixel_values=pixels)
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        pooled = output.last_hidden_state.mean(1) if output.last_hidden_state.ndim == 3 else None
    return output.last_hidden_state.flatten(2).mean(2) if pooled is None else pooled.flatten(1)
