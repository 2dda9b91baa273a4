"""The trainer: heads over frozen states, then LoRA or the whole backbone; what moves, what does not, and seeds."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.synthetic import make_gaussian_population
from palign.models import backbones
from palign.models.backbones import Backbone
from palign.models.pal import PALRewardModel
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.pal_reward_trainer import PALRewardTrainer
from palign.trainers.reward import head_training
from tests.worlds.reward_models import (
    SMALL,
    make_people,
    make_transformer,
    state_bits,
    text_model,
    text_rows,
    vector_model,
    vector_rows,
    vectors,
)

LORA = {"r": 2, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(**LORA)


def config(folder: Path, **options: Any) -> PALRewardConfig:
    defaults = {
        "head_epochs": 3, "head_batch_size": 16, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
        "save_strategy": "no", "num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "logging_steps": 1, "seed": 5,
    }  # fmt: skip
    return PALRewardConfig(output_dir=str(folder), **(defaults | options))


def rows(n: int = 24, **options: Any) -> Preferences:
    return Preferences.from_rows(text_rows(n, **options))


class CountedTexts:
    """How many texts a backbone read."""

    def __init__(self, backbone: Backbone):
        self.n = 0
        backbone.register_forward_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, args: tuple, kwargs: dict, out: Any) -> None:
        self.n += len(out.text)


# stage one


@pytest.mark.parametrize(("kind", "variant"), [("llama", "fixed"), ("llama", "prompt"), ("bert", "prompt")])
@pytest.mark.parametrize("on_disk", [True, False])
def test_every_text_passes_the_backbone_once(on_disk: bool, kind: str, variant: str, tmp_path: Path) -> None:
    model, data = text_model(kind, variant=variant), rows(24)
    counted = CountedTexts(model.backbone)
    args = config(
        tmp_path, head_epochs=4, n_restarts=3, embedding_cache_dir=str(tmp_path / "cache") if on_disk else None
    )
    trainer = PALRewardTrainer(model, args, data, data)
    trainer.train()
    alone = len(data.prompts) if kind == "bert" else 0
    assert counted.n == len(data.items) + alone
    trainer.evaluate()
    other = text_model(kind, variant=variant, n_prototypes=2)  # another K
    again = CountedTexts(other.backbone)
    PALRewardTrainer(other, args, data).train()
    assert (counted.n, again.n) == (len(data.items) + alone, 0 if on_disk else len(data.items) + alone)


def test_batch_size_of_the_embedding_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, pack = [], backbones.pack
    monkeypatch.setattr(backbones, "pack", lambda ids, *rest: sizes.append(len(ids)) or pack(ids, *rest))
    PALRewardTrainer(text_model(), config(tmp_path, embedding_batch_size=7), rows(24)).train()
    assert max(sizes) == 7


def test_frozen_backbone_does_not_move_by_a_bit_and_head_and_people_do(tmp_path: Path) -> None:
    model = text_model(variant="prompt")
    before = state_bits(model)
    assert PALRewardTrainer(model, config(tmp_path), rows()).train() is None
    after = state_bits(model)
    moved = {name for name in after if after[name] != before.get(name)}
    assert not {name for name in moved if name.startswith("backbone.")}
    learned = {name for name, _ in model.named_parameters() if not name.startswith("backbone.")}
    assert learned <= moved
    assert not model.head.training


def test_scores_of_the_trainer_are_those_of_the_model(tmp_path: Path) -> None:
    model, data = text_model(), rows(n_items=3)
    trainer = PALRewardTrainer(model, config(tmp_path), data)
    trainer.train()
    scores, told = trainer.predict_scores(data), data.to_rows()
    for item in range(3):
        asked = ([row["prompt"] for row in told], [row["completions"][item] for row in told])
        expected = model.score(*asked, [row["annotator_id"] for row in told])
        torch.testing.assert_close(scores[:, item], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_prototypes", [1, 3])
def test_same_seed_same_scores(n_prototypes: int, tmp_path: Path) -> None:
    found = []
    for seed in (1, 1, 2):
        model, table = vector_model(n_prototypes=n_prototypes), vectors(30)
        trainer = PALRewardTrainer(
            model, config(tmp_path, seed=seed, n_restarts=2), vector_rows(60, n_vectors=30), embeddings=table
        )
        torch.rand(len(found) + 1)
        trainer.train()
        found.append(model.score(None, table[:5], "p1"))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_restarts_keep_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], head_training.fit_head

    def fit(head: Any, people: Any, *args: Any, **options: Any) -> float:
        real(head, people, *args, **options)
        seen.append((state_bits(head), people.logits.weight.detach().clone()))
        return [0.5, 0.3, 0.4][len(seen) - 1]

    monkeypatch.setattr(head_training, "fit_head", fit)
    model = vector_model()
    args = config(tmp_path, n_restarts=3, smooth_annotators=False)
    PALRewardTrainer(model, args, vector_rows(40, n_vectors=20), embeddings=vectors(20)).train()
    assert len({bits["f.0.weight"] for bits, _ in seen}) == 3
    assert state_bits(model.head) == seen[1][0] and torch.equal(model.people.logits.weight, seen[1][1])


def test_training_ends_with_posterior_means_and_a_frozen_population(tmp_path: Path) -> None:
    table, data = vectors(30), vector_rows(100, n_vectors=30)
    models = [vector_model() for _ in range(2)]
    for model, smooth in zip(models, (False, True), strict=True):
        PALRewardTrainer(model, config(tmp_path, smooth_annotators=smooth), data, embeddings=table).train()
        torch.testing.assert_close(model.people.mean, model.people.all().mean(0))
    fit = models[0].fit_annotators(data, embeddings=table)
    torch.testing.assert_close(models[1].people.all(), fit.weights, atol=1e-5, rtol=0)


def test_rows_as_dicts_hinge_and_evaluation_of_strangers(tmp_path: Path) -> None:
    model, told = text_model(n_annotators=6), text_rows(12, n_annotators=6)
    trainer = PALRewardTrainer(model, config(tmp_path, loss_type="hinge"), told)
    trainer.train()
    metrics = trainer.evaluate([row | {"annotator_id": "nobody"} for row in told])
    assert 0 <= metrics["eval_accuracy"] <= 1 and metrics["eval_log_likelihood"] < 0
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        trainer.evaluate()


def test_accuracy_by_hand(tmp_path: Path) -> None:
    """Ranks 0, 1, 1 and 0, 1: five judged items, three strict pairs; a tie in score counts one half."""
    held = [
        {"annotator_id": "p0", "completion_indices": [0, 1, 2], "n_ranked": 1},
        {"annotator_id": "p1", "chosen_index": 3, "rejected_index": 4},
    ]
    trainer = PALRewardTrainer(vector_model(), config(tmp_path), vector_rows(9, n_vectors=9), embeddings=vectors(9))
    scores = torch.tensor([[2.0, 1.0, 3.0], [1.0, 1.0, 0.0]])
    trainer.predict_scores = lambda _, **options: scores
    metrics = trainer.evaluate(held, metric_key_prefix="x")
    assert metrics["x_accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    expected = (2 - np.log(np.exp([2.0, 1.0, 3.0]).sum()) + np.log(0.5)) / 2
    assert metrics["x_log_likelihood"] == pytest.approx(expected, abs=1e-6)


def test_gaussian_population_is_learned_with_newcomers(tmp_path: Path) -> None:
    population = make_gaussian_population(n_types=2, seed=1)
    people = AnnotatorIndex(population.annotator_ids)
    options = {"n_layers": 1, "preference_dim": 10}
    model = PALRewardModel.from_embeddings(hidden_size=10, annotators=people, n_prototypes=2, **options)
    args = config(tmp_path, head_epochs=30, head_batch_size=512, head_weight_decay=1e-3, annotator_prior=0.05)
    trainer = PALRewardTrainer(
        model, args, population.comparisons(300, seed=2), population.comparisons(200, seed=3),
        embeddings=population.items,
    )  # fmt: skip
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] >= 0.965
    new = population.newcomers(100, seed=4)
    fit = model.fit_annotators(new.comparisons(5, seed=5), embeddings=population.items)
    model.add_annotators(fit)
    assert trainer.evaluate(new.comparisons(50, seed=6))["eval_accuracy"] >= 0.89


def test_a_hundred_thousand_people_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palign.models.pal.SPARSE_FROM", 100)
    model, table = vector_model(n_annotators=2000), vectors(30)
    assert model.people.logits.sparse
    data = vector_rows(4000, n_vectors=30, n_annotators=2000)
    PALRewardTrainer(model, config(tmp_path, head_batch_size=512, n_restarts=2), data, embeddings=table).train()
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


# stage two


@pytest.mark.parametrize(("kind", "variant"), [("llama", "fixed"), ("llama", "prompt"), ("bert", "prompt")])
@pytest.mark.parametrize("how", ["lora", "whole"])
def test_only_what_is_asked_for_moves(how: str, kind: str, variant: str, tmp_path: Path) -> None:
    model, peft_config = text_model(kind, variant=variant), None
    if how == "lora":
        from peft import LoraConfig

        names = ["query", "value"] if kind == "bert" else LORA["target_modules"]
        peft_config = LoraConfig(**(LORA | {"target_modules": names, "task_type": "CAUSAL_LM"}))
    plain = {name.replace("model.", "", 1): bits for name, bits in state_bits(model.backbone).items()}
    trainer = PALRewardTrainer(
        model, config(tmp_path, train_backbone=how == "whole"), rows(), rows(), peft_config=peft_config
    )
    start = state_bits(model)
    assert trainer.train().global_step == 3
    moved = {name for name, bits in state_bits(model).items() if bits != start.get(name)}
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    of_backbone = {name for name in learned if name.startswith("backbone.")}
    frozen = {name for name in start if name.startswith("backbone.") and name not in learned}
    assert not moved & frozen
    if how == "whole":
        assert not frozen or all("position_ids" in name or "rotary" in name for name in frozen)
        assert len(moved & of_backbone) > 0.9 * len(of_backbone)
    else:
        assert of_backbone and all("lora_" in name for name in of_backbone)
        assert of_backbone <= moved
        for name, bits in state_bits(model.backbone.model.get_base_model()).items():
            if "lora_" not in name:
                assert bits == plain[name.replace(".base_layer.", ".")]
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    scores = model.score(["tea", "sun"], ["milk", "cat"], ["p0", "p1"])
    trainer.save_model(str(tmp_path / "saved"))
    read = PALRewardModel.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(read.score(["tea", "sun"], ["milk", "cat"], ["p0", "p1"]), scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("how", ["lora", "whole", "reentrant"])
def test_checkpointed_layers_run_twice_and_train_the_same(how: str, tmp_path: Path) -> None:
    found = []
    for is_on in (False, True):
        model, n_runs = text_model(), [0]

        def count(module: torch.nn.Module, _: Any, n_runs: list[int] = n_runs) -> None:
            n_runs[0] += module.training

        model.backbone.model.layers[1].mlp.register_forward_pre_hook(count)
        args = config(
            tmp_path, gradient_checkpointing=is_on, train_backbone=how == "whole",
            gradient_checkpointing_kwargs={"use_reentrant": True} if is_on and how == "reentrant" else None,
        )  # fmt: skip
        PALRewardTrainer(model, args, rows(), peft_config=None if how == "whole" else lora()).train()
        found.append((n_runs[0], model.state_dict()))
    (plain, kept), (twice, recomputed) = found
    assert (plain, twice) == (3, 6)  # 24 rows in batches of 8
    torch.testing.assert_close(recomputed, kept, atol=1e-6, rtol=0)


def test_a_trained_backbone_with_a_name_is_saved_too(tmp_path: Path) -> None:
    transformer, tokenizer = make_transformer()
    transformer.save_pretrained(tmp_path / "named")
    tokenizer.save_pretrained(tmp_path / "named")
    model = PALRewardModel.from_backbone(tmp_path / "named", annotators=make_people(5), **SMALL)
    trainer = PALRewardTrainer(model, config(tmp_path, train_backbone=True, learning_rate=1e-2), rows())
    trainer.train()
    scores = model.score(["tea"], ["milk"], "p0")
    trainer.save_model(str(tmp_path / "saved"))
    read = PALRewardModel.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(read.score(["tea"], ["milk"], "p0"), scores, atol=1e-6, rtol=0)


def two_stages(folder: Path, model: PALRewardModel, **options: Any) -> tuple[PALRewardModel, list[float]]:
    """Trained with LoRA (and without dropout), and the losses of the second stage."""
    model = copy.deepcopy(model)
    trainer = PALRewardTrainer(
        model, config(folder, head_epochs=1, num_train_epochs=2, **options), rows(32), peft_config=lora()
    )
    trainer.train()
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_accumulation_is_the_large_batch(tmp_path: Path) -> None:
    start = text_model(dropout=0.0, variant="prompt")
    one, losses = two_stages(tmp_path, start, per_device_train_batch_size=8)
    two, again = two_stages(tmp_path, start, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert len(losses) == len(again) == 8
    np.testing.assert_allclose(losses, again, atol=1e-4)
    expected = dict(one.named_parameters())
    for name, parameter in two.named_parameters():  # Adam makes a step of any gradient, of one near 0 too
        torch.testing.assert_close(parameter, expected[name], atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("loss_type", ["logistic", "hinge"])
@pytest.mark.parametrize("variant", ["fixed", "prompt"])
def test_gradients_of_parts_add_up_to_those_of_the_batch(variant: str, loss_type: str, tmp_path: Path) -> None:
    """Losses and gradients to 1e-5, without an optimiser between."""
    model = text_model(dropout=0.0, variant=variant)
    trainer = PALRewardTrainer(model, config(tmp_path, loss_type=loss_type), rows(32), peft_config=lora())
    trainer._counts = torch.full((5,), 6)

    def gradients(size: int) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for start in range(0, 8, size):
            batch = trainer.data_collator(list(range(start, start + size)))
            loss = trainer.compute_loss(model, batch) * size / 8
            loss.backward()
            total += loss.item()
        return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, parts = gradients(8), gradients(2)
    assert whole[0] == pytest.approx(parts[0], abs=1e-5)
    assert whole[1].keys() == parts[1].keys() and any("lora_B" in name for name in whole[1])
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parts[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_loss_is_the_margin_and_the_prior_by_hand(tmp_path: Path) -> None:
    model, data = text_model(dropout=0.0), rows(8)
    trainer = PALRewardTrainer(model, config(tmp_path, annotator_prior=0.7), data, peft_config=lora())
    trainer._counts = torch.tensor([2, 3, 2, 1, 5])
    loss, outputs = trainer.compute_loss(model, trainer.data_collator(list(range(8))), return_outputs=True)
    told, ids = data.to_rows(), [f"p{i % 5}" for i in range(8)]
    prompts = [row["prompt"] for row in told]
    margin = model.score(prompts, [r["chosen"] for r in told], ids) - model.score(
        prompts, [r["rejected"] for r in told], ids
    )
    torch.testing.assert_close(outputs["scores"][:, 0] - outputs["scores"][:, 1], margin, atol=1e-5, rtol=1e-5)
    logits = model.people.logits.weight.detach()
    away = ((logits - logits.mean(0)) ** 2).sum(1) / trainer._counts
    expected = torch.log1p(torch.exp(-margin)).mean() + 0.7 * away[[i % 5 for i in range(8)]].mean()
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=1e-5)


def test_two_stages_with_one_seed_are_one_model_and_evaluate_on_the_way(tmp_path: Path) -> None:
    found = []
    for seed in (3, 3, 4):
        model = text_model()
        torch.manual_seed(len(found))  # what was drawn before must not matter
        args = config(tmp_path, seed=seed, eval_strategy="epoch", num_train_epochs=2)
        trainer = PALRewardTrainer(model, args, rows(), rows(8), peft_config=lora())
        trainer.train()
        assert sum("eval_accuracy" in entry for entry in trainer.state.log_history) == 2
        found.append(model.score(["tea"], ["milk"], "p0"))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("how", ["lora", "whole"])
def test_resuming_goes_on_where_the_checkpoint_was(how: str, tmp_path: Path) -> None:
    start = text_model(dropout=0.0)
    options = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 2, "train_backbone": how == "whole"}

    def trained(folder: Path, resume: str | None = None) -> PALRewardModel:
        model = copy.deepcopy(start)
        peft_config = lora() if how == "lora" else None
        trainer = PALRewardTrainer(model, config(folder, **options), rows(), peft_config=peft_config)
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = trained(tmp_path / "a")
    resumed = trained(tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-3"))
    expected = dict(whole.named_parameters())
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_finished_run_goes_on_only_with_its_own_rows(tmp_path: Path) -> None:
    """Ended within its second epoch: loaded, it takes no step; with every pair turned round it is another run."""
    start, held = text_model(dropout=0.0), Preferences.from_rows(text_rows(16))
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in text_rows(16)]

    def trained(data: Any, **changes: Any) -> PALRewardTrainer:
        args = config(tmp_path, **{"save_strategy": "steps", "save_steps": 1, "max_steps": 3} | changes)
        trainer = PALRewardTrainer(copy.deepcopy(start), args, data, peft_config=lora())
        trainer.train(resume_from_checkpoint=True)
        return trainer

    whole, again = trained(held), trained(Preferences.from_rows(text_rows(16)))
    assert again.state.global_step == 3 and again.state.epoch == 1.5
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, whole.model.get_parameter(name)), name
    for data, change, words in ((turned, {}, "rows 16 rows, key"), (held, {"learning_rate": 0.5}, "learning_rate")):
        with pytest.raises(ValueError, match=f"of another run: {words}.* \\(now "):
            trained(data, **change)
    longer = trained(held, max_steps=4)
    assert longer.state.global_step == 4


# what does not fit


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss_type": "square"}, "'logistic' or 'hinge'"),
        ({"n_restarts": 0}, "n_restarts"),
        ({"head_batch_size": 0}, "head_batch_size"),
        ({"embedding_batch_size": 0}, "embedding_batch_size"),
        ({"annotator_prior": -1.0}, "annotator_prior"),
        ({"head_learning_rate": float("nan")}, "head_learning_rate"),
        ({"head_epochs": -1}, "head_epochs"),
    ],
)
def test_wrong_options_are_named(options: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **options)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("something was computed before the check")


def test_rows_and_model_that_do_not_fit_are_told_apart_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "forward", never)
    args, table = config(tmp_path), vectors(20)
    with pytest.raises(ValueError, match="n_prototypes is 6, and the rows come from 5 annotators"):
        PALRewardTrainer(text_model(n_prototypes=6, n_annotators=9), args, rows())
    with pytest.raises(ValueError, match="'p3', 'p4'"):
        PALRewardTrainer(text_model(n_annotators=3), args, rows())
    with pytest.raises(ValueError, match="rows hold text and the model was made for vectors"):
        PALRewardTrainer(vector_model(), args, rows())
    with pytest.raises(ValueError, match="indices of vectors and the model was made on a backbone"):
        PALRewardTrainer(text_model(), args, vector_rows(9, n_vectors=20), embeddings=table)
    with pytest.raises(ValueError, match="no backbone to train"):
        PALRewardTrainer(
            vector_model(), config(tmp_path, train_backbone=True), vector_rows(9, n_vectors=20), embeddings=table
        )
    with pytest.raises(ValueError, match="one of the two ways"):
        PALRewardTrainer(text_model(), config(tmp_path, train_backbone=True), rows(), peft_config=lora())
    with pytest.raises(ValueError, match="no rows"):
        PALRewardTrainer(text_model(), args, rows().select([]))


def test_vectors_with_nan_or_out_of_range_stop_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_training, "fit_head", never)
    data, table = vector_rows(30, n_vectors=20), vectors(20)
    with pytest.raises(ValueError, match="the embeddings have 10 rows"):
        PALRewardTrainer(vector_model(), config(tmp_path), data, embeddings=table[:10]).train()
    table[7] = np.nan
    first = int(np.flatnonzero((data.item_indices == 7).any(1))[0])
    with pytest.raises(ValueError, match=rf"Row {first} .* vector 7, which holds NaN"):
        PALRewardTrainer(vector_model(), config(tmp_path), data, embeddings=table).train()


class Noted(TrainerCallback):
    """The events of a training, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.logs: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.events.append(f"begin {state.max_steps}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.events.append(f"log {state.global_step}")
        self.logs.append(dict(logs))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.events.append("end")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        self.events.append("evaluate")


def test_a_frozen_backbone_has_the_events_of_a_training(tmp_path: Path) -> None:
    """What tensorboard, wandb and trackio hang on."""
    noted = Noted()
    args = config(tmp_path, head_epochs=3, head_min_steps=0)
    trainer = PALRewardTrainer(text_model(), args, rows(24), rows(24), callbacks=[noted])
    trainer.train()
    assert noted.events == ["begin 3", "log 1", "log 2", "log 3", "end"]
    losses = [entry["loss"] for entry in trainer.head_history]
    assert [entry["loss"] for entry in noted.logs] == losses and len(set(losses)) == 3
    trainer.evaluate()
    assert noted.events[-1] == "evaluate"
