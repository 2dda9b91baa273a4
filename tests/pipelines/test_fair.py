"""The mixture that a fair policy trains first: what is asked of the run reaches it."""

import json
from pathlib import Path
from typing import Any

import pytest

from palign.models.adapters import CONFIG
from palign.models.files.mixture import load_mixture
from palign.pipelines.arguments.fair import parse_fair_arguments
from palign.pipelines.arguments.mixture import parse_mixture_arguments
from palign.pipelines.fair import MADE, _mixture_arguments, _mixture_folder, _population, set_up_fair_policy
from tests.recipes.test_fair_policy import SMALL, flags, write_rows
from tests.worlds.colour import colour_lm, colour_tokenizer
from tests.worlds.planted import FRESH, TRAIN, random_mixture

TRAINING = {
    "learning_rate": (3e-3, 3e-3), "num_train_epochs": (2, 2.0), "per_device_train_batch_size": (3, 3),
    "gradient_accumulation_steps": (4, 4), "gradient_checkpointing": (True, True),
    "lr_scheduler_type": ("cosine", "cosine"), "warmup_steps": (7, 7), "weight_decay": (0.03, 0.03),
    "max_grad_norm": (0.5, 0.5), "bf16": (True, True), "optim": ("adamw_torch", "adamw_torch"),
    "adam_beta2": (0.95, 0.95), "seed": (11, 11), "data_seed": (5, 5), "use_cpu": (True, True),
    "beta": (0.7, 0.7), "plain_prompts": (True, True),
}  # fmt: skip
SCRIPT = {"trust_remote_code": True, "eval_fraction": 0.3, "type_column": "team"}
BASE = {"dtype": "bfloat16", "lora_r": 4, "lora_alpha": 6, "model_name_or_path": "some/base"}
OWN = ["--dataset_name", "rows.jsonl", "--model_name_or_path", "some/base"]


def mixture_of(folder: Path, *further: str) -> tuple[Any, ...]:
    words = ["--output_dir", str(folder), "--use_cpu", "true", *further]
    return _mixture_arguments(*parse_fair_arguments(words), folder / "mixture")


@pytest.mark.parametrize("name", [*TRAINING, *SCRIPT, *BASE])
def test_every_option_of_the_run_reaches_its_mixture(name: str, tmp_path: Path) -> None:
    given, expected = TRAINING.get(name, ({**SCRIPT, **BASE}.get(name),) * 2)
    script, _, args, base = mixture_of(tmp_path, *OWN, f"--{name}", str(given))
    place = script if name in SCRIPT else base if name in BASE else args
    assert getattr(place, name) == expected
    script, _, args, base = mixture_of(tmp_path, *OWN)
    place = script if name in SCRIPT else base if name in BASE else args
    assert getattr(place, name) != expected or name in ("use_cpu", "model_name_or_path")


def test_n_types_of_the_mixture(tmp_path: Path) -> None:
    assert (
        mixture_of(tmp_path, *OWN, "--n_types", "2")[2].n_types
        == parse_mixture_arguments(["--n_types", "2"])[2].n_types
    )
    assert mixture_of(tmp_path, *OWN)[2].n_types == parse_mixture_arguments([])[2].n_types  # auto
    assert mixture_of(tmp_path)[2].n_types == parse_mixture_arguments(["--n_types", "3"])[2].n_types


def test_what_is_not_asked_is_as_em_dpo_has_it(tmp_path: Path) -> None:
    """Of rows of one's own, and of the embedded default; but for what a fair policy's own defaults are."""
    for own, further in ((OWN, []), ([], ["--n_types", "3"])):
        _, _, args, base = mixture_of(tmp_path, *own)
        folder = ["--output_dir", str(tmp_path / "mixture"), "--use_cpu", "true"]
        _, _, expected, expected_base = parse_mixture_arguments([*folder, *own, *further])
        shorter = {"num_train_epochs": 2.0} if not own else {}  # mixture_epochs
        assert args.recorded_options() == expected.recorded_options() | shorter
        assert base == expected_base
        assert (args.output_dir, args.save_strategy, args.max_steps) == (folder[1], "no", -1)


def test_a_long_route_does_not_lengthen_its_mixture(tmp_path: Path) -> None:
    """A step of a route is a group of completions; the mixture counts epochs."""
    assert mixture_of(tmp_path, *OWN, "--max_steps", "9")[2].max_steps == -1


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--mixture_path", "m", "--beta", "1", "--lora_r", "8"], "--beta, --lora_r is of a mixture that is"),
        (["--types_from", "declared", "--n_types", "2"], "--n_types is 2, and --types_from declared says itself"),
        (["--beta", "-1"], "beta is -1.0; it must be positive and finite"),
        (["--dataset_name", "rows.jsonl"], "There is no mixture yet: give --mixture_path"),
    ],
)  # fmt: skip
def test_options_that_no_mixture_reads(further: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, SystemExit), match=message):
        mixture_of(tmp_path, *further)


def test_a_mixture_of_another_beta_is_not_taken_for_the_one_asked_for(tmp_path: Path) -> None:
    random_mixture(tmp_path / "mixture")
    (tmp_path / "mixture" / MADE).touch()
    held = load_mixture(tmp_path / "mixture").beta

    def folder(beta: float) -> Path:
        script, data, args = parse_fair_arguments(["--output_dir", str(tmp_path), "--beta", str(beta)])
        return _mixture_folder(script, data, args)

    assert folder(held) == tmp_path / "mixture"
    with pytest.raises(ValueError, match=rf"holds a mixture of beta {held}, .* --beta is {held + 1}"):
        folder(held + 1)


def test_who_an_embedded_mixture_was_trained_on(tmp_path: Path) -> None:
    """What the marker says; people of em_dpo.py where there is none, or an empty one."""
    script = parse_fair_arguments(["--output_dir", str(tmp_path)])[0]
    assert _population(tmp_path, script) == "opposed"
    (tmp_path / MADE).write_text("shared")
    assert _population(tmp_path, script) == "shared"
    script.population = "opposed"
    with pytest.raises(ValueError, match="holds a mixture of the population 'shared', and --population is 'opposed'"):
        _population(tmp_path, script)


def test_an_unknown_population(tmp_path: Path) -> None:
    with pytest.raises((ValueError, SystemExit), match="--population is 'all'; choose from opposed, shared"):
        parse_fair_arguments(["--output_dir", str(tmp_path), "--population", "all"])


def test_the_mixture_is_trained_as_asked(tmp_path: Path) -> None:
    colour_lm().save_pretrained(tmp_path / "base")
    colour_tokenizer().save_pretrained(tmp_path / "base")
    options = SMALL | {
        "dataset_name": write_rows(tmp_path / "train.jsonl", TRAIN), "n_types": 2, "beta": 0.7, "lora_r": 3,
        "eval_dataset_name": write_rows(tmp_path / "fresh.jsonl", FRESH), "output_dir": str(tmp_path / "out"),
        "model_name_or_path": str(tmp_path / "base"), "num_train_epochs": 1, "gradient_accumulation_steps": 2,
        "dtype": "bfloat16", "guard": "off",
    }  # fmt: skip
    setup = set_up_fair_policy(*parse_fair_arguments(flags(options)))
    record = setup.trainer.mixture.record
    assert (record.n_types, record.beta) == (2, 0.7)
    assert record.details["configuration"]["gradient_accumulation_steps"] == 2
    adapter = json.loads((tmp_path / "out" / "mixture" / "type_1" / CONFIG).read_text())
    assert adapter["r"] == 3
    assert str(setup.trainer.mixture.policies.policy.dtype) == "torch.bfloat16"
