"""Adapters on disk: no field beyond the list, no tensor made up, and a base found from the file's own place."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file

from palign.models.files.adapter_files import (
    base_of,
    check_adapter_config,
    load_adapter,
    portable_base,
    read_adapter_config,
)
from palign.models.mixture_policy import MixturePolicy
from tests.worlds.colour import colour_lm, colour_tokenizer
from tests.worlds.judged_models import make_model
from tests.worlds.planted import TRAIN, colour_rows, random_mixture
from tests.worlds.tiny_runs import QUICK


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_core": "os"},
        {"auto_mapping": {"parent_library": "antigravity", "base_model_class": "X"}},
        {"eva_config": {"rho": 2}},
        {"whatever_is_new": {"module": "os"}},
        {"runtime_config": {"other": 1}},
    ],
)
def test_fields_beyond_the_list_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    place = make_model("adapter", tmp_path)
    assert read_adapter_config(place).r == 2
    edited(place, **changes)
    with pytest.raises(ValueError, match=f"adapter_config.json sets {next(iter(changes))} to .*, which is not read"):
        read_adapter_config(place)


def test_what_says_nothing_is_taken() -> None:
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama"}
    check_adapter_config({"whatever_is_new": None, "other": [], "megatron_core": "megatron.core"}, "f")
    check_adapter_config({"r": 4, "auto_mapping": mapping}, "f")


@pytest.mark.parametrize("harm", ["drop", "rename", "nan"])
def test_no_tensor_is_made_up(tmp_path: Path, harm: str) -> None:
    place = make_model("adapter", tmp_path)
    load_adapter(colour_lm(), place)
    path = place / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if harm == "nan":
        tensors[name][0] = torch.nan
    else:
        tensors |= {f"{name}x": tensors[name]} if harm == "rename" else {}
        del tensors[name]
    save_file(tensors, path)
    with pytest.raises(ValueError, match="holds nan" if harm == "nan" else "tensors are missing, unknown"):
        load_adapter(colour_lm(), place)


def test_how_a_base_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "run/base_model",
        "run/type_0",
        "run/baselines/pooled/type_0",
        "models/own",
        "fair/mixture/base_model",
    ):
        (tmp_path / name).mkdir(parents=True)
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    assert portable_base("owner/name", run) == "owner/name" and portable_base(None, run) is None
    for given in (str(run / "base_model"), "run/base_model"):
        assert portable_base(given, run) == "./base_model"
        assert portable_base(given, run / "type_0") == "../base_model"
        assert portable_base(given, run / "baselines" / "pooled" / "type_0") == "../../../base_model"
    assert portable_base("fair/mixture/base_model", "fair") == "./mixture/base_model"
    assert portable_base("fair/mixture/base_model", "fair/routes/merge") == "../../mixture/base_model"
    assert portable_base("fair/mixture/base_model", run) == str(tmp_path / "fair" / "mixture" / "base_model")
    assert portable_base("models/own", run) == str(tmp_path / "models" / "own")
    monkeypatch.chdir("/")
    assert base_of("../base_model", run / "type_0") == str(run / "base_model")
    assert base_of("owner/name", run) == "owner/name"
    (run / "base_model" / "config.json").write_text("{}")
    for before in ("run/base_model", "/home/somebody/run/base_model"):  # an earlier version's, moved
        assert base_of(before, run / "type_0") == str(run / "base_model")


def test_a_moved_mixture_is_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").mkdir()
    whole = random_mixture(Path("before/run"))
    rows = colour_rows(TRAIN).select(range(4))
    expected = whole.type_rewards(rows)
    shutil.move("before/run", "after")
    shutil.rmtree("before")
    monkeypatch.chdir("/")
    assert torch.equal(MixturePolicy.from_pretrained(tmp_path / "after").type_rewards(rows), expected)
    told = (tmp_path / "after" / "mixture.json").read_text() + (
        tmp_path / "after" / "type_0" / "adapter_config.json"
    ).read_text()
    assert "before" not in told and str(tmp_path) not in told


def test_types_of_a_local_base_are_plain_adapters_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that was given by a relative path, and a type with its tokenizer."""
    from palign import MixtureDPOConfig, MixtureDPOTrainer
    from tests.worlds.lora import lora

    monkeypatch.chdir(tmp_path)
    model = colour_lm()
    model.save_pretrained("own")
    colour_tokenizer().save_pretrained("own")
    model.name_or_path = "own"
    args = MixtureDPOConfig(
        output_dir="out", n_types=2, n_permutations=0, n_restarts=2, save_strategy="no", max_steps=1,
        **{k: v for k, v in QUICK.items() if k != "num_train_epochs"},
    )  # fmt: skip
    trainer = MixtureDPOTrainer(
        model, args, colour_rows(TRAIN), processing_class=colour_tokenizer(), peft_config=lora()
    )
    trainer.save_model()
    monkeypatch.chdir("/")
    policy = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "out" / "type_1"))
    assert policy.peft_config["default"].base_model_name_or_path == str(tmp_path / "own")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out" / "type_0"))
    assert tokenizer.get_vocab() == colour_tokenizer().get_vocab()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "absolute path" in card and str(tmp_path) not in card
