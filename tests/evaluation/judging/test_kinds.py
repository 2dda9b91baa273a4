"""What lies at a path is told from its files, and what cannot be judged is said before anything heavy is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from palign.evaluation.judging.kinds import ModelKind, recognise
from tests.worlds.judged_models import make_model


@pytest.mark.parametrize(
    ("made", "kind", "beta"),
    [
        ("pal", ModelKind.PAL, None),
        ("mixture", ModelKind.MIXTURE, None),
        ("fair", ModelKind.FAIR_POLICY, 0.25),
        ("adapter", ModelKind.ADAPTER, 0.1),
        ("reward", ModelKind.REWARD, None),
        ("encoder", ModelKind.REWARD, None),
        ("causal", ModelKind.CAUSAL, 0.1),
    ],
)
def test_every_kind_is_told_from_its_files(
    made: str, kind: ModelKind, beta: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_model(made, tmp_path)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    reference = str(place) if made == "causal" else None
    found = recognise(str(place), reference=reference)
    assert (found.kind, found.name, found.path) == (kind, made, str(place))
    assert found.beta == beta or kind is ModelKind.MIXTURE
    assert not found.reads_vectors
    if made in ("adapter", "causal"):
        assert recognise(str(place), reference=reference, beta=0.5).beta == 0.5


def files(folder: Path, **contents: Any) -> str:
    folder.mkdir()
    for name, content in contents.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


WEIGHTS = {"model_safetensors": 0, "tokenizer_json": 0}


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({}, ["no config.json, adapter_config.json or mixture.json", "it is empty", "PAL reward model"]),
        ({"notes_txt": 1}, ["notes.txt"]),
        ({"config_json": {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}},
          **WEIGHTS}, ["2 labels", "num_labels=1"]),
        ({"config_json": {"architectures": ["LlamaForCausalLM"]}, **WEIGHTS}, ["--reference_path"]),
        ({"config_json": {"architectures": ["BertForMaskedLM"]}, **WEIGHTS}, ["head BertForMaskedLM"]),
        ({"config_json": {"architectures": ["LlamaForCausalLM"]}, "tokenizer_json": 0}, ["model.safetensors"]),
        ({"adapter_config_json": {"task_type": "CAUSAL_LM"}}, ["--base_path"]),
        ({"adapter_config_json": {"base_model_name_or_path": "/nowhere/base"}}, ["/nowhere/base", "--base_path"]),
        ({"mixture_json": {}}, ["responsibilities.parquet"]),
        ({"config_json": {"model_type": "palign_pal_reward", "backbone": None}}, []),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_said_at_once(contents: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    place = files(tmp_path / "m", **contents)
    if not words:
        assert recognise(place).reads_vectors
        return
    with pytest.raises(ValueError) as caught:
        recognise(place)
    assert all(word in str(caught.value) for word in [*words, place]), caught.value


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        recognise(str(tmp_path / "gone"))
