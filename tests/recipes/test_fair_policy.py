"""The recipe of the fair policy: smoke, rows of one's own, and what is refused before a model is loaded."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from palign.data.annotators import AnnotatorIndex
from palign.models.files.mixture import packed_prompts
from palign.models.mixture_policy import MixturePolicy
from palign.pipelines.arguments.fair import parse_fair_arguments
from palign.pipelines.fair import FairSetup, embedded_rows, set_up_fair_policy
from palign.trainers.fair_policy_trainer import used_prompts
from tests.worlds.colour import COLD, WARM, colour_lm, colour_tokenizer
from tests.worlds.planted import FRESH, PROMPTS, TRAIN, random_mixture
from tests.worlds.recipes import RECIPES, load_recipe
from tests.worlds.reward_models import vector_model

SMALL = {
    "n_prompts": 8, "n_samples": 2, "n_eval_prompts": 8, "n_eval_samples": 2, "max_new_tokens": 6, "max_steps": 2,
    "n_bootstrap": 20, "use_cpu": True, "disable_tqdm": True, "n_sample_prompts": 2,
}  # fmt: skip


def write_rows(path: Path, prompts: list[str]) -> str:
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for number, prompt in enumerate(prompts * 3):
            pair = [f" the door is {rng.choice(words)}" for words in (WARM, COLD)]
            row = dict(zip(("chosen", "rejected"), pair[:: 1 - 2 * (number % 2)], strict=True))
            file.write(json.dumps({"annotator_id": f"p{number % 8}", "prompt": prompt, **row}) + "\n")
    return str(path)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """Options of a mixture and rows of one's own."""
    random_mixture(tmp_path / "mixture")
    return SMALL | {
        "mixture_path": str(tmp_path / "mixture"), "dataset_name": write_rows(tmp_path / "train.jsonl", TRAIN),
        "eval_dataset_name": write_rows(tmp_path / "fresh.jsonl", FRESH), "output_dir": str(tmp_path / "out"),
    }  # fmt: skip


def flags(options: dict[str, Any]) -> list[str]:
    found = []
    for name, value in options.items():
        found += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return found


def test_rows_and_a_mixture_of_ones_own(own: dict[str, Any]) -> None:
    summary = load_recipe("fair_policy").main(flags(own | {"routes": ["merge", "distill"], "max_kl": 1e6}))
    output = Path(own["output_dir"])
    for name in ("adapter_model.safetensors", "adapter_config.json", "game.json", "README.md", "samples.md"):
        assert (output / name).is_file(), name
    assert json.loads((output / "summary.json").read_text()) == summary
    assert all(isinstance(value, float) for value in summary.values())
    for name in ("chosen/max_regret", "ensemble/kl", "game/value", "pooled/votes/worst_accuracy"):
        assert np.isfinite(summary[name])
    assert summary["chosen/votes/more_than_pooled/low"] <= summary["chosen/votes/more_than_pooled/value"]
    assert "pooled" in (output / "report.md").read_text()


def test_prompts_that_nobody_judged(own: dict[str, Any], tmp_path: Path) -> None:
    prompts = [f"the {word} door {number}" for number in range(10) for word in ("old", "new")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": p}) for p in [*prompts, *prompts[:5]]))
    added = {"prompts_name": str(tmp_path / "prompts.jsonl"), "eval_fraction": 0.5, "n_prompts": 9}
    trainer = set_up_fair_policy(*parse_fair_arguments(flags(own | added))).trainer
    assert len(trainer.train_prompts) == 9 and len(trainer.eval_prompts) == 8  # of ten on each side
    assert not set(trainer.train_prompts) & set(trainer.eval_prompts)
    assert set(trainer.train_prompts) | set(trainer.eval_prompts) <= set(prompts)
    assert trainer.train_rows.prompts[0] in TRAIN  # votes are still those of the rows
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match=r"prompts.jsonl, row 1 .*column 'prompt': nothing there.* columns text"):
        set_up_fair_policy(*parse_fair_arguments(flags(own | added)))


def test_votes_are_held_out_where_the_mixture_held_them_out(own: dict[str, Any], tmp_path: Path) -> None:
    """Half of the prompts by another seed would be mostly prompts that the types were trained on."""
    words = Path(own["mixture_path"]) / "mixture.json"
    rows = {name: value for name, value in own.items() if name != "eval_dataset_name"}
    rows |= {"eval_fraction": 0.5, "dataset_name": write_rows(tmp_path / "all.jsonl", PROMPTS)}
    record = json.loads(words.read_text())

    def set_up(n_held_out: int) -> FairSetup:
        trained = packed_prompts(PROMPTS, np.arange(n_held_out, len(PROMPTS)))
        words.write_text(json.dumps(record | {"trained_prompts": trained}))
        return set_up_fair_policy(*parse_fair_arguments(flags(rows)))

    setup = set_up(9)
    assert sorted(used_prompts(setup.trainer.eval_rows)) == sorted(PROMPTS[:9])
    assert sorted(used_prompts(setup.trainer.train_rows)) == sorted(PROMPTS[9:])
    assert "the 9 prompts that the mixture was not trained on" in setup.guard_notes[0]
    setup = set_up(2)  # too few to judge by: half of the prompts then, and it is said
    n_rows = len(setup.trainer.eval_rows)
    (note,) = setup.trainer._notes_of_votes()
    assert re.match(rf"\d+ of the {n_rows} votes .* are on prompts that the types were trained on", note)
    words.write_text(json.dumps(record))
    setup = set_up_fair_policy(*parse_fair_arguments(flags(rows)))
    assert "does not say which prompts" in setup.guard_notes[0] and setup.trainer._notes_of_votes() == []


def test_types_from_the_prototypes_of_a_reward_model(own: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "base"
    colour_lm().save_pretrained(base)
    colour_tokenizer().save_pretrained(base)
    pal = vector_model(annotators=AnnotatorIndex(f"p{i}" for i in range(8)), n_prototypes=2)
    pal.save_pretrained(tmp_path / "pal")
    given = {k: v for k, v in own.items() if k != "mixture_path"} | {
        "types_from": "pal", "pal_path": str(tmp_path / "pal"), "model_name_or_path": str(base),
        "num_train_epochs": 1, "per_device_train_batch_size": 8, "guard": "warn",
    }  # fmt: skip
    record = set_up_fair_policy(*parse_fair_arguments(flags(given))).trainer.mixture.record
    expected = pal.weights_for(record.annotators.ids).detach().numpy()
    np.testing.assert_allclose(record.responsibilities, expected, atol=1e-6)
    assert record.was_trained_on(TRAIN).all() and not record.was_trained_on(FRESH).any()


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a model is loaded all the same."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded before the input was checked")

    monkeypatch.setattr(MixturePolicy, "from_pretrained", refuse)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture_path": "nowhere"}, "'nowhere' is not a mixture: it lacks mixture.json"),
        ({"max_new_tokens": 60}, r"Prompt 0 \(.* has \d+ tokens, and the model holds 64: no room"),
        ({"types_from": "declared"}, "--mixture_path names types that are there"),
        ({"population": "shared"}, "--population shared is of the embedded default, and --dataset_name names rows"),
        ({"judges": ["pal"]}, "--judges or --rl_reward names 'pal': give --pal_path"),
        ({"types_from": "guessed"}, "--types_from is 'guessed'; choose from mixture, declared, pal"),
        ({"type_importance": [1.0, 2.0, 3.0]}, "give 2 numbers from 0 on"),
        ({"pooled_path": "nowhere"}, "'nowhere' is not an adapter"),
        ({"eval_fraction": 2.0}, "must lie between 0 and 1"),
        ({"embeddings": "vectors.npy"}, "policies answer prompts of text"),
    ],
)
def test_what_can_be_known_is_said_first(own: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_up_fair_policy(*parse_fair_arguments(flags(own | change)))


@pytest.mark.usefixtures("no_model")
def test_missing_and_foreign_adapters_are_named(own: dict[str, Any]) -> None:
    mixture = Path(own["mixture_path"])
    words = json.loads((mixture / "mixture.json").read_text())
    base = str(mixture / "base_model")
    (mixture / "mixture.json").write_text(json.dumps(words | {"base_model": base}))
    (mixture / "contents.json").unlink(missing_ok=True)  # edited by hand: no hashes
    config = mixture / "type_1" / "adapter_config.json"
    kept = config.read_text()
    config.write_text(json.dumps(json.loads(kept) | {"base_model_name_or_path": "another/base"}))
    with pytest.raises(ValueError, match=r"trained on 'another/base', and mixture.json names .* must share one base"):
        set_up_fair_policy(*parse_fair_arguments(flags(own)))
    config.write_text(kept)
    (mixture / "type_1" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"type_1' is not an adapter: it lacks adapter_model.safetensors"):
        set_up_fair_policy(*parse_fair_arguments(flags(own)))


@pytest.mark.usefixtures("no_model")
def test_a_mixture_of_one_type_and_rows_that_are_not_named(own: dict[str, Any], tmp_path: Path) -> None:
    random_mixture(tmp_path / "one", n_types=1)
    with pytest.raises(ValueError, match="one type: there is nothing to aggregate"):
        set_up_fair_policy(*parse_fair_arguments(flags(own | {"mixture_path": str(tmp_path / "one")})))
    without = {k: v for k, v in own.items() if "dataset" not in k}
    with pytest.raises(ValueError, match="people of your own, and no rows are named: give --dataset_name"):
        set_up_fair_policy(*parse_fair_arguments(flags(without)))
    nothing = {k: v for k, v in own.items() if k != "mixture_path"}
    with pytest.raises(ValueError, match="There is no mixture yet: give --mixture_path"):
        set_up_fair_policy(*parse_fair_arguments(flags(nothing)))


def test_an_adapter_of_other_shapes_is_refused(own: dict[str, Any]) -> None:
    path = Path(own["mixture_path"]) / "type_1" / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    save_file(tensors | {first: tensors[first][:, :3].contiguous()}, path)
    with pytest.raises(ValueError, match="was made for another base or configuration"):
        set_up_fair_policy(*parse_fair_arguments(flags(own)))


def test_nan_in_an_adapter_is_named_before_any_game(own: dict[str, Any]) -> None:
    path = Path(own["mixture_path"]) / "type_0" / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)
    with pytest.raises((ValueError, RuntimeError), match=re.compile("not finite|nan", re.IGNORECASE)):
        load_recipe("fair_policy").main(flags(own))


@pytest.mark.slow
def test_types_may_be_declared_groups(own: dict[str, Any], tmp_path: Path) -> None:
    colour_lm().save_pretrained(tmp_path / "base")
    colour_tokenizer().save_pretrained(tmp_path / "base")
    rows = [json.loads(line) for line in open(own["dataset_name"], encoding="utf-8")]
    with open(own["dataset_name"], "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row | {"team": "ab"[int(row["annotator_id"][1]) % 2]}) + "\n" for row in rows)
    options = {k: v for k, v in own.items() if k not in ("mixture_path", "max_steps")} | {
        "types_from": "declared", "type_column": "team", "model_name_or_path": str(tmp_path / "base"),
        "num_train_epochs": 1, "routes": ["merge"], "max_kl": 1e6,
    }  # fmt: skip
    summary = load_recipe("fair_policy").main(flags(options))
    record = json.loads((tmp_path / "out" / "game.json").read_text())
    assert record["types"] == ["a", "b"]
    assert summary["chosen/max_regret"] == summary["merge/max_regret"]


@pytest.mark.slow
def test_the_smoke_configuration_runs_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RECIPES / "configs" / "fair_policy" / "smoke.yaml"
    summary = load_recipe("fair_policy").main(["--config", str(config), "--disable_tqdm", "True"])
    output = tmp_path / yaml.safe_load(config.read_text())["output_dir"]
    assert summary["n_types"] == 3
    assert np.isfinite(summary["chosen/max_regret"])
    record = MixturePolicy.from_pretrained(output / "mixture").record
    script = parse_fair_arguments(["--config", str(config)])[0]
    train, fresh = embedded_rows(record, script)
    assert len(train) == len(record.annotators) * 4
    assert not set(train.prompts) & set(fresh.prompts)
