"""From arguments to rows, a model and trainers: splits, declared types, baselines that leave no trace."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from palign.data.preferences import Preferences
from palign.models.reference_logps import reference_pass
from palign.pipelines.arguments.mixture import parse_mixture_arguments
from palign.pipelines.mixture import MixtureSetup, declared_types, set_up_mixture
from tests.worlds.colour import colour_lm, colour_tokenizer, planted_rows


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm")
    colour_lm().save_pretrained(path)
    colour_tokenizer().save_pretrained(path)
    return path


def flags(tmp_path: Path, model_folder: Path | str, rows: list[dict[str, Any]], *further: str) -> list[str]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [
        "--dataset_name", str(path), "--model_name_or_path", str(model_folder), "--use_cpu", "true", "--lora_r", "2",
        "--output_dir", str(tmp_path / "out"), "--n_types", "2", "--disable_tqdm", "true", *further,
    ]  # fmt: skip


def set_up(*arguments: Any) -> MixtureSetup:
    return set_up_mixture(*parse_mixture_arguments(flags(*arguments)))


def test_prompts_of_the_evaluation_were_never_trained_on(tmp_path: Path, model_folder: Path) -> None:
    setup = set_up(tmp_path, model_folder, planted_rows(8, 10))  # six prompts
    train, held_out = ({rows.prompts[i] for i in rows.prompt_indices} for rows in (setup.train_rows, setup.eval_rows))
    assert len(held_out) == 1 and len(train) == 5 and not train & held_out
    assert setup.truth.tolist() == ["w", "c"] * 4
    assert setup.tokenizer.padding_side == "left"


@pytest.mark.parametrize("prompt", [None, "the same for everybody"])
def test_with_one_prompt_rows_are_held_out(tmp_path: Path, model_folder: Path, prompt: str | None) -> None:
    rows = [{k: v for k, v in (row | {"prompt": prompt}).items() if v is not None} for row in planted_rows(4, 10)]
    setup = set_up(tmp_path, model_folder, rows, "--eval_fraction", "0.3")
    assert (len(setup.train_rows), len(setup.eval_rows)) == (28, 12)
    assert len(setup.train_rows.annotators()) == 4


def test_rows_to_evaluate_on_are_taken_as_they_are(tmp_path: Path, model_folder: Path) -> None:
    own = tmp_path / "eval.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in planted_rows(2, 3, seed=9)), encoding="utf-8")
    setup = set_up(tmp_path, model_folder, planted_rows(4, 5), "--eval_dataset_name", str(own))
    assert (len(setup.train_rows), len(setup.eval_rows)) == (20, 6)


def test_options_of_the_model_reach_it(tmp_path: Path, model_folder: Path) -> None:
    further = ("--dtype", "bfloat16", "--attn_implementation", "eager")
    setup = set_up(tmp_path, model_folder, planted_rows(4, 5), *further)
    assert setup.model.dtype == torch.bfloat16 and setup.model.config._attn_implementation == "eager"


def test_home_is_found(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model_folder.parent))
    setup = set_up(tmp_path, f"~/{model_folder.name}", planted_rows(4, 5))
    assert setup.model.name_or_path == str(model_folder)


# declared types


def typed(values: list[Any]) -> Preferences:
    return Preferences.from_rows(
        [{"annotator_id": i % 2, "chosen": "x", "rejected": "y", "kind": value} for i, value in enumerate(values)]
    )


def test_each_annotator_has_one_declared_type() -> None:
    assert declared_types(typed(["b", 3, "b", 3]), "kind").tolist() == ["b", "3"]
    assert declared_types(typed(["b", "a"]), "type") is None
    assert declared_types(typed([0, False]), "kind").tolist() == ["0", "False"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", "a", "c"], r"Row 3 \(counting from 0\), column 'kind': annotator '1' had 'b' before and has 'c'"),
        (["a", "b", None, "b"], r"Row 2 .*annotator '0' has none.*--type_column"),
        ([float("nan"), "b"], r"Row 0 .*annotator '0' has none"),
    ],
)
def test_two_types_or_none_are_named(values: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declared_types(typed(values), "kind")


ONE = planted_rows(1, 6)


@pytest.mark.parametrize(
    ("rows", "further", "message"),
    [
        (planted_rows(4, 5), ["--type_column", "persona"], "no column 'persona'.*they have type"),
        ([{k: v for k, v in r.items() if k != "type"} for r in planted_rows(4, 5)],
         ["--baselines", "oracle"], "no column 'type'.*no further column.*leave out the oracle.*--baselines pooled"),
        ([*planted_rows(4, 5), planted_rows(1, 1)[0] | {"type": "other"}], [], "Row 20 .*had 'w' before"),
        (ONE, [], "come from one annotator"),
        (planted_rows(4, 5), ["--n_types", "5"], "n_types is 5, and the rows come from 4 annotators"),
        (planted_rows(4, 5), ["--n_types", "auto"], "n_types is 'auto'.*--n_types 2"),
        ([r | {"annotator_id": i} for i, r in enumerate(planted_rows(8, 3))], [], "single binary votes|binary vote"),
        (planted_rows(4, 5), ["--group_columns", "country"], "country"),
        (planted_rows(4, 5), ["--annotator_column", "worker"], "worker"),
        (planted_rows(4, 8), ["--model_name_or_path", "nolm"], "model_name_or_path is 'nolm', which could not be"),
        ([r | {"prompt": [{"role": "user", "content": "hi"}]} | {
            side: [{"role": "assistant", "content": r[side]}] for side in ("chosen", "rejected")
        } for r in planted_rows(4, 8)], ["--guard", "off"], "tokenizer has no chat template"),
    ],
)  # fmt: skip
def test_bad_rows_are_found_before_a_model_loads(
    tmp_path: Path, model_folder: Path, rows: list[Any], further: list[str], message: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=message):
        set_up(tmp_path, model_folder, rows, *further)


# one trainer after another


@pytest.fixture
def setup(tmp_path: Path, model_folder: Path) -> MixtureSetup:
    return set_up(
        tmp_path,
        model_folder,
        planted_rows(4, 8),
        "--n_restarts",
        "2",
        "--head_dim",
        "8",
        "--max_steps",
        "2",
        "--n_permutations",
        "0",
    )


def test_baselines_differ_from_the_mixture_in_what_they_should(setup: MixtureSetup, tmp_path: Path) -> None:
    found = {}
    for name in ("pooled", "oracle", "cluster", "em"):
        trainer = setup.trainer(name)
        found[name] = trainer
        setup.release(trainer)
    assert {name: trainer.n_types for name, trainer in found.items()} == {
        "pooled": 1, "oracle": 2, "cluster": 2, "em": 2,
    }  # fmt: skip
    # 'c' before 'w' in the alphabet; annotators w, c, w, c
    assert found["oracle"].mixture.responsibilities.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    hard = found["cluster"].mixture.responsibilities
    assert bool(((hard == 0) | (hard == 1)).all())
    assert found["em"].args.output_dir == str(tmp_path / "out") == setup.args.output_dir
    assert found["pooled"].args.output_dir == str(tmp_path / "out" / "baselines" / "pooled")
    assert (setup.args.n_types, setup.args.types_from) == (2, "em")
    assert len({trainer._reference_dir for trainer in found.values()}) == 1


def test_drawn_beta_is_one_dpo_whose_rows_differ_in_beta(setup: MixtureSetup, tmp_path: Path) -> None:
    setup.beta_spread = 0.8
    betas = {}
    for name in ("pooled", "drawn_beta", "em"):
        trainer = setup.trainer(name)
        betas[name] = trainer.row_betas
        if name == "drawn_beta":
            assert trainer.n_types == 1 and trainer.args.output_dir == str(tmp_path / "out" / "baselines" / name)
        setup.release(trainer)
    assert betas["pooled"] is None and betas["em"] is None
    normal = np.random.default_rng(setup.args.seed).standard_normal(len(setup.train_rows))
    np.testing.assert_allclose(betas["drawn_beta"], setup.args.beta * np.exp(0.8 * normal), rtol=1e-6)


def test_a_finished_drawn_beta_is_of_its_spread(setup: MixtureSetup) -> None:
    for name in ("pooled", "drawn_beta"):
        setup.finish(name, np.zeros((2, 2)), 1.0)
    setup.beta_spread *= 2
    assert setup.finished("drawn_beta") is None and setup.finished("pooled") is not None


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr_scheduler_type", "constant"), ("warmup_steps", 3), ("weight_decay", 0.1), ("optim", "sgd"),
     ("max_grad_norm", 0.5), ("bf16", True), ("fp16", True), ("gradient_accumulation_steps", 2), ("seed", 7)],
)  # fmt: skip
def test_a_finished_baseline_is_of_its_options(setup: MixtureSetup, option: str, value: Any) -> None:
    scores = np.arange(4.0).reshape(2, 2)
    setup.finish("pooled", scores, 2.5)
    found, seconds = setup.finished("pooled")
    assert np.array_equal(found, scores) and seconds == 2.5
    setattr(setup.args, option, value)
    assert setup.finished("pooled") is None


def test_a_finished_baseline_is_of_its_base(tmp_path: Path, model_folder: Path) -> None:
    """The same folder with other weights in it is another base."""
    own = tmp_path / "lm"
    shutil.copytree(model_folder, own)
    first = set_up(tmp_path, own, planted_rows(4, 8))
    first.finish("pooled", np.zeros((2, 2)), 1.0)
    assert set_up(tmp_path, own, planted_rows(4, 8)).finished("pooled") is not None
    with torch.no_grad():
        next(first.model.parameters()).add_(1.0)
    first.model.save_pretrained(own)
    assert set_up(tmp_path, own, planted_rows(4, 8)).finished("pooled") is None


def test_a_baseline_leaves_no_trace_on_the_model(setup: MixtureSetup) -> None:
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    untouched = setup.trainer("em")
    first = {n: p.detach().clone() for n, p in untouched.policies.policy.named_parameters() if "lora" in n}
    setup.release(untouched)
    trainer = setup.trainer("oracle")
    trainer.train()
    setup.release(trainer)
    after = setup.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    again = setup.trainer("em")
    second = {n: p for n, p in again.policies.policy.named_parameters() if "lora" in n}
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    np.testing.assert_array_equal(again.reference_logps, untouched.reference_logps)


def test_in_half_precision_the_reference_is_read_alike(tmp_path: Path, model_folder: Path) -> None:
    further = ("--bf16", "true", "--max_steps", "1", "--learning_rate", "0")
    setup = set_up(tmp_path, model_folder, planted_rows(4, 8), *further)
    trainer = setup.trainer("pooled")
    trainer.train()
    assert float(trainer.mixture_policy().type_rewards(setup.eval_rows).abs().max()) < 1e-6  # bfloat16: 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        alike = reference_pass(setup.model, trainer.items, show_progress=False).logps
    exact = reference_pass(setup.model, trainer.items, show_progress=False).logps
    np.testing.assert_allclose(trainer.reference_logps, alike, atol=1e-4)
    assert np.abs(alike - exact).max() > 1e-3  # else nothing was compared


def test_callbacks_hear_of_evaluations(setup: MixtureSetup) -> None:
    heard = []

    class Listener(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
            heard.append(metrics)

    trainer = setup.trainer("pooled")
    trainer.add_callback(Listener())
    assert heard == [] and trainer.evaluate() == heard[0]
