"""What is uploaded of a saved model, and what stays here."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from palign import push_folder
from palign.models.files.hub import files_of_model, ids_held

SAVED = Path(__file__).parents[2] / "saved"
BESIDE = (
    "scores.csv", "report.json", "report.html", "summary.json", "samples.jsonl", "held_out.jsonl", "history.csv",
    "mixture_state.safetensors", "optimizer.pt", ".partial-x", "notes.txt",
)  # fmt: skip


class Api:
    """Stands for the hub, and keeps what it was given."""

    seen: dict = {}

    def __init__(self, token: str | None = None) -> None:
        Api.seen = {"token": token}

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        Api.seen["repo"] = (repo_id, private, exist_ok)

    def upload_folder(self, **given: object) -> str:
        Api.seen |= given
        return f"address of {given['repo_id']}"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    Api.seen = {}


def model_in(tmp_path: Path, name: str) -> Path:
    """A saved model among what a recipe writes beside it."""
    folder = tmp_path / name
    shutil.copytree(SAVED / name, folder)
    for beside in BESIDE:
        (folder / beside).write_text("p0 said")
    for inner in ("checkpoint-3", "baselines/pooled/type_0", "samples", "reference_logps"):
        (folder / inner).mkdir(parents=True)
        (folder / inner / "README.md").write_text("p0 said")
    return folder


@pytest.mark.parametrize(
    ("name", "needed", "kind"),
    [
        ("mixture", {"mixture.json", "responsibilities.parquet", "type_1/adapter_model.safetensors",
                     "base_model/model.safetensors", "tokenizer.json", "README.md"}, "mixture of types"),
        ("fair", {"game.json", "adapter_model.safetensors", "adapter_config.json", "README.md"}, "fair policy"),
        ("pal_prompt_lora", {"annotators.json", "config.json", "model.safetensors", "README.md",
                             "backbone_adapter/adapter_model.safetensors"}, "PAL reward model"),
    ],
)  # fmt: skip
def test_the_model_is_uploaded_and_nothing_beside_it(name: str, needed: set, kind: str, tmp_path: Path) -> None:
    folder = model_in(tmp_path, name)
    assert push_folder(folder, "me/it", private=True, token="t") == "address of me/it"
    names = Api.seen["allow_patterns"]
    assert needed <= set(names) and Api.seen["repo"] == ("me/it", True, True) and Api.seen["token"] == "t"
    assert Api.seen["commit_message"] == f"palign: {kind}" and Api.seen["folder_path"] == str(folder)
    before = {path.relative_to(SAVED / name).as_posix() for path in (SAVED / name).rglob("*") if path.is_file()}
    assert set(names) <= before - {"mixture_state.safetensors", "mixture_state.json"}


def test_a_policy_with_who_is_asking(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "fair", tmp_path / "policy")
    (tmp_path / "policy" / "game.json").unlink()
    shutil.copy(SAVED / "policy" / "conditioning.json", tmp_path / "policy")
    push_folder(tmp_path / "policy", "me/it")
    assert "conditioning.json" in Api.seen["allow_patterns"] and Api.seen["commit_message"] == "palign: policy"


@pytest.mark.parametrize("name", ["mixture", "pal_text", "policy"])
def test_ids_that_look_like_e_mails_are_not_uploaded_unless_one_says_so(name: str, tmp_path: Path) -> None:
    folder, person = tmp_path / name, "anna.smith@example.org"
    shutil.copytree(SAVED / ("fair" if name == "policy" else name), folder)
    if name == "mixture":
        table = pd.read_parquet(folder / "responsibilities.parquet")
        table["annotator_id"] = [person, *table["annotator_id"][1:]]
        table.to_parquet(folder / "responsibilities.parquet")
    elif name == "policy":
        (folder / "conditioning.json").write_text(
            (SAVED / "policy" / "conditioning.json").read_text().replace('"p0"', f'"{person}"')
        )
    else:
        people = json.loads((folder / "annotators.json").read_text())
        (folder / "annotators.json").write_text(json.dumps([person, *people[1:]]))
    assert person in set(ids_held(folder))
    with pytest.raises(ValueError, match="1 annotator ids look like e-mail addresses .*push_personal_ids=True"):
        push_folder(folder, "me/it")
    assert Api.seen == {}
    push_folder(folder, "me/it", push_personal_ids=True)
    assert Api.seen["repo_id"] == "me/it"


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ValueError, match="holds no saved model"):
            push_folder(folder, "me/it")
    shutil.copytree(SAVED / "fair", tmp_path / "fair")
    (tmp_path / "fair" / "README.md").unlink()
    with pytest.raises(ValueError, match="has no README.md, its card"):
        push_folder(tmp_path / "fair", "me/it")
    outside = tmp_path / "secret"
    outside.write_text("x")
    shutil.copytree(SAVED / "fair", tmp_path / "linked")
    (tmp_path / "linked" / "config.json").symlink_to(outside)
    assert "config.json" not in files_of_model(tmp_path / "linked")
