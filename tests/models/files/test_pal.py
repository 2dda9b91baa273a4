"""Reward models on disk: what is read back scores as what was written."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from palign.contents import CONTENTS
from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.files import pal as pal_files
from palign.models.pal import PALRewardModel
from palign.models.pal_config import PALConfig
from tests.worlds.reward_models import (
    HIDDEN,
    SMALL,
    make_people,
    make_transformer,
    spread_out,
    text_model,
    vector_model,
    vector_rows,
    vectors,
)

TEXTS = (["tea or milk", "rain", "sun"], ["tea hot", "no", "big red sun"], ["p0", "p4", "a stranger"])
ODD = AnnotatorIndex(["a.b/c", "😀", "<script>", "7", "p0", "p4", "\ud83d"])


@pytest.mark.parametrize("options", [{}, {"variant": "prompt"}, {"mixing": "input", "partition": True}])
def test_vectors(options: dict, tmp_path: Path) -> None:
    model = vector_model(annotators=ODD, **options)
    model.people.freeze_population(torch.tensor([5, 5, 5, 0, 5, 5, 5]))
    model.save_pretrained(tmp_path)
    read = PALRewardModel.from_pretrained(tmp_path)
    assert read.annotators == ODD and read.config == model.config and not read.training
    asked = (vectors(8, seed=2), vectors(8), [*ODD.ids, "a stranger"])
    assert torch.equal(read.score(*asked), model.score(*asked))
    rows = Preferences.from_arrays(["n"] * 3, np.arange(3), np.arange(3) + 5, np.arange(3))
    fits = [m.fit_annotators(rows, embeddings=vectors(9)) for m in (model, read)]
    assert torch.equal(fits[0].weights, fits[1].weights)


def test_people_added_later_are_kept_and_the_others_stay(tmp_path: Path) -> None:
    model = vector_model()
    model.people.freeze_population()
    before = model.score(None, vectors(3), TEXTS[2])
    fit = model.fit_annotators(
        Preferences.from_arrays(["n"] * 3, np.arange(3), np.arange(3) + 5), embeddings=vectors(9)
    )
    model.add_annotators(fit)
    model.save_pretrained(tmp_path)
    read = PALRewardModel.from_pretrained(tmp_path)
    assert torch.equal(read.score(None, vectors(3), TEXTS[2]), before)
    assert torch.equal(read.score(None, vectors(3), "n"), model.score(None, vectors(3), "n"))


@pytest.mark.parametrize("variant", ["fixed", "prompt"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_backbone_made_in_the_process_travels_along(kind: str, variant: str, tmp_path: Path) -> None:
    model = text_model(kind, variant=variant, pooling="max" if kind == "bert" else None, max_length=20)
    model.save_pretrained(tmp_path)
    read = PALRewardModel.from_pretrained(str(tmp_path))
    assert (read.backbone.pooling, read.backbone.max_length) == (model.backbone.pooling, 20)
    if kind == "llama":  # a pooler that the encoder does not read is drawn anew when it is loaded
        assert read.backbone.fingerprint() == model.backbone.fingerprint()
    assert torch.equal(read.score(*TEXTS), model.score(*TEXTS))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".partial")]


def test_backbone_with_a_name_is_not_copied(tmp_path: Path) -> None:
    transformer, tokenizer = make_transformer()
    transformer.save_pretrained(tmp_path / "named")
    tokenizer.save_pretrained(tmp_path / "named")
    model = PALRewardModel.from_backbone(tmp_path / "named", annotators=make_people(5), n_prototypes=2, **SMALL)
    spread_out(model).save_pretrained(tmp_path / "pal")
    assert not (tmp_path / "pal" / "backbone").exists()
    assert torch.equal(PALRewardModel.from_pretrained(tmp_path / "pal").score(*TEXTS), model.score(*TEXTS))


@pytest.mark.parametrize("is_named", [False, True])
def test_lora_on_the_backbone_comes_back(is_named: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = text_model(variant="prompt")
    if is_named:
        transformer, tokenizer = make_transformer()
        transformer.save_pretrained(tmp_path / "named")
        tokenizer.save_pretrained(tmp_path / "named")
        model.config.backbone = str(tmp_path / "named")
    plain = model.score(*TEXTS)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, init_lora_weights=False)
    torch.manual_seed(3)
    model.backbone.model = get_peft_model(model.backbone.model, lora)
    expected = model.eval().score(*TEXTS)
    assert (expected - plain).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "pal")
    read = PALRewardModel.from_pretrained(tmp_path / "pal")
    assert torch.equal(read.score(*TEXTS), expected)
    read.save_pretrained(tmp_path / "again")
    assert torch.equal(PALRewardModel.from_pretrained(tmp_path / "again").score(*TEXTS), expected)
    read.backbone.model = read.backbone.model.merge_and_unload()
    read.config.backbone = "backbone"
    read.save_pretrained(tmp_path / "pal")  # over the one with an adapter, which must not come back
    merged = PALRewardModel.from_pretrained(tmp_path / "pal").score(*TEXTS)
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-5)


def test_card_says_what_it_is_and_may_be_given(tmp_path: Path) -> None:
    model = vector_model()
    model.save_pretrained(tmp_path)
    assert "3 prototypes, 5 annotators" in (tmp_path / "README.md").read_text()
    model.save_pretrained(tmp_path, card="# mine {x}")
    assert (tmp_path / "README.md").read_text() == "# mine {x}"


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks config.json, model.safetensors, annotators.json"):
        PALRewardModel.from_pretrained(tmp_path)
    model = vector_model()
    model.save_pretrained(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(held | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="config.json is not what was saved"):
        PALRewardModel.from_pretrained(tmp_path)
    (tmp_path / CONTENTS).unlink()
    with pytest.raises(ValueError, match="'llama', not of a PAL"):
        PALRewardModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list, and an object is needed"):
        PALRewardModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "annotators.json", "model.safetensors"])
def test_files_of_two_models_are_noticed(file: str, tmp_path: Path) -> None:
    vector_model().save_pretrained(tmp_path / "a")
    vector_model(n_annotators=6, n_prototypes=2).save_pretrained(tmp_path / "b")
    (tmp_path / "b" / file).replace(tmp_path / "a" / file)
    with pytest.raises(ValueError, match=f"{file} is not what was saved"):
        PALRewardModel.from_pretrained(tmp_path / "a")
    (tmp_path / "a" / CONTENTS).unlink()  # as a folder of an earlier version
    with pytest.raises(ValueError, match="different models"):
        PALRewardModel.from_pretrained(tmp_path / "a")


def test_revision_of_the_repository_is_not_asked_of_the_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    model = text_model()
    model.save_pretrained(tmp_path)
    asked = []

    def download(name: str, revision: str | None = None) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    config = PALConfig.load(tmp_path / "config.json")
    given = []
    load_backbone = pal_files._load_backbone
    monkeypatch.setattr(
        pal_files, "_load_backbone", lambda c, f, options: given.append(options) or load_backbone(c, f, options)
    )
    read = PALRewardModel.from_pretrained("owner/pal", revision="v2")
    assert asked == [("owner/pal", "v2")] and given == [{}] and config.hidden_size == HIDDEN
    assert torch.equal(read.score(*TEXTS), model.score(*TEXTS))


def test_push_uploads_what_saving_writes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import huggingface_hub

    seen = {}

    class Api:
        def __init__(self, token: str | None = None):
            seen["token"] = token

        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
            seen["repo"] = (repo_id, private, exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            seen["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            return f"address of {repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with caplog.at_level(logging.INFO):
        assert vector_model().push_to_hub("me/pal", private=True, token="t") == "address of me/pal"
    assert seen["repo"] == ("me/pal", True, True)
    assert seen["files"] == ["README.md", "annotators.json", "config.json", "contents.json", "model.safetensors"]
    assert vector_rows(3, n_vectors=4).annotators().ids == ["p0", "p1", "p2"]


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_the_population_is_put_where_the_model_is(tmp_path: Path) -> None:
    """A model on another device, which "meta" stands for, as the best one is loaded back at the end of training."""
    model = vector_model()
    model.people.freeze_population()
    model.save_pretrained(tmp_path)
    elsewhere = vector_model().to("meta")
    pal_files.load_own_state(elsewhere, tmp_path)
    people = elsewhere.people
    assert {t.device.type for t in (people.mean, people.support, people.log_prior)} == {"meta"}
    assert people.support.shape == model.people.support.shape
