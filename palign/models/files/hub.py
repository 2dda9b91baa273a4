"""Any saved model to the hub, with its card: what belongs to the model, and nothing that lies beside it.

Beside a model lie samples, scores with annotators' ids, checkpoints, reports. What is uploaded is a list of names, not
what is left when others are taken out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from palign.data.annotators import AnnotatorIndex
from palign.data.pseudonyms import refuse_personal_ids
from palign.reading import read_json, read_table

__all__ = ["files_of_model", "ids_held", "push_folder"]

MODEL_FILES = re.compile(
    r"README\.md|(generation_)?config\.json|mixture\.json|game\.json|conditioning\.json|annotators\.json"
    r"|responsibilities\.parquet|trained_rows\.safetensors|adapter_config\.json|adapter_model\.safetensors"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|tokenizer(_config)?\.json|tokenizer\.model"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.jinja"
    r"|modeling_palign_reward\.py"
)
PARTS = re.compile(r"type_\d+|base_model|backbone|backbone_adapter")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "mixture.json")
WAY_OUT = "say push_personal_ids=True"


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    push_personal_ids: bool = False,
) -> str:
    """Upload a saved reward, mixture, fair policy, policy or exported classifier; returns the address of the commit.

    Args:
        folder: as palign saved it, with its README.md.
        repo_id: `owner/name`; is made where it is not there.
        push_personal_ids: upload annotators' ids that look like e-mail addresses, too.

    Raises:
        ValueError: no saved model lies there, or it has no card; or ids look like e-mail addresses.
    """
    folder = Path(folder).expanduser()
    names = files_of_model(folder)
    if not push_personal_ids:
        refuse_personal_ids(ids_held(folder), WAY_OUT)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    message = f"palign: {_kind(folder)}"
    return str(
        api.upload_folder(repo_id=repo_id, folder_path=str(folder), allow_patterns=names, commit_message=message)
    )


def files_of_model(folder: Path) -> list[str]:
    """Relative paths of what belongs to the model in a folder, in order.

    Raises:
        ValueError: as `push_folder`.
    """
    parts = [folder, *(path for path in folder.iterdir() if path.is_dir() and PARTS.fullmatch(path.name))] if (
        folder.is_dir()
    ) else []  # fmt: skip
    names = sorted(
        path.relative_to(folder).as_posix()
        for part in parts
        for path in part.iterdir()
        if path.is_file() and not path.is_symlink() and MODEL_FILES.fullmatch(path.name)
    )
    if not any(name in WEIGHTS or re.fullmatch(r"type_\d+/adapter_model\.safetensors", name) for name in names):
        raise ValueError(
            f"{str(folder)!r} holds no saved model. Give the folder that a recipe or save_pretrained wrote."
        )
    if "README.md" not in names:
        raise ValueError(f"{str(folder)!r} has no README.md, its card. Save the model again, or write one.")
    return names


def ids_held(folder: Path) -> Iterator[str]:
    """Annotators' ids in the files of a model."""
    if (path := folder / "annotators.json").is_file():
        yield from AnnotatorIndex.load(path).ids
    if (path := folder / "responsibilities.parquet").is_file():
        yield from map(str, read_table(path)["annotator_id"])
    if (path := folder / "conditioning.json").is_file():
        for value in read_json(path, dict).values():
            yield from (value if isinstance(value, dict) else ())


def _kind(folder: Path) -> str:
    config = folder / "config.json"
    if config.is_file() and read_json(config, dict).get("model_type") == "palign_metric":
        return "metric of all"
    kinds = {
        "mixture.json": "mixture of types", "game.json": "fair policy", "conditioning.json": "policy",
        "annotators.json": "PAL reward model", "adapter_config.json": "adapter",
    }  # fmt: skip
    return next((kind for name, kind in kinds.items() if (folder / name).is_file()), "model")
