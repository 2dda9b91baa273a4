"""The whole of it on a tiny model: files, plain PEFT, resume between routes, bad input; recovery of planted types."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign.data.annotators import AnnotatorIndex
from palign.models.adapters import route
from palign.models.files.game import load_game, save_game
from palign.models.files.game_keys import Ends, GameRecord, GoldRecord, PolicyRow, RoomRecord
from palign.models.mixture_policy import MixturePolicy
from palign.pipelines.reports.fair import add_gold
from palign.trainers.fair.builder import RouteBuilder
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.fair_policy_trainer import FairPolicyTrainer
from palign.writing import SavingError
from tests.worlds.planted import FRESH, TRAIN, colour_rows, planted_mixture, random_mixture
from tests.worlds.reward_models import text_model
from tests.worlds.typed_records import keys_named, keys_seen

ALL = ["distill", "regress", "dro", "rl", "maxmin", "merge", "soup"]


def make_trainer(output: Path, mixture: MixturePolicy, **further: Any) -> FairPolicyTrainer:
    own = {
        "routes": ALL, "n_prompts": 8, "n_samples": 2, "n_eval_prompts": 8, "n_eval_samples": 2, "max_new_tokens": 6,
        "draw_batch_size": 64, "max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "n_regress_rounds": 2, "n_bootstrap": 20, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
        "logging_strategy": "no", "seed": 0,
    }  # fmt: skip
    rows, pal = (further.pop("train", None), further.pop("fresh", None)), further.pop("pal", None)
    train, fresh = (rows[0] or colour_rows(TRAIN)), (rows[1] or colour_rows(FRESH, seed=1))
    args = FairPolicyConfig(output_dir=str(output), **(own | further))
    return FairPolicyTrainer(mixture, args, train, fresh, pal=pal)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FairPolicyTrainer:
    folder = tmp_path_factory.mktemp("fair")
    trainer = make_trainer(folder / "out", random_mixture(folder / "mixture"), max_kl=1e6)
    trainer.train()
    trainer.save_model()
    return trainer


def test_every_policy_is_in_the_table_and_in_game_json(finished: FairPolicyTrainer) -> None:
    record = load_game(finished.output_dir)
    names = ["ensemble", "type_0", "type_1", "reference", "pooled", *ALL, "uniform", "prior"]
    assert [row["name"] for row in record["table"]] == names
    assert record["chosen"] in ALL
    game = record["game"]
    assert sum(game["policy_weights"]["value"]) == pytest.approx(1)
    assert game["gap"] == pytest.approx(0, abs=1e-9)
    rows = {row["name"]: row for row in record["table"]}
    assert all(abs(rows[f"type_{k}"]["regrets"][k]) < 1e-9 for k in range(2))
    w = torch.tensor(game["policy_weights"]["value"])
    types = torch.tensor([rows[f"type_{k}"]["regrets"] for k in range(2)]).T
    assert rows["ensemble"]["regrets"] == pytest.approx((types @ w).tolist(), abs=1e-5)
    card = (finished.output_dir / "README.md").read_text()
    assert "## Fairness" in card
    assert f"**{record['chosen']}**" in card


def test_keys_of_game_json_are_those_named(finished: FairPolicyTrainer, tmp_path: Path) -> None:
    record = copy.deepcopy(finished.record)
    without = keys_named(GameRecord) - (keys_named(GoldRecord) - keys_named(Ends)) - {(PolicyRow, "gold")}
    without -= {(RoomRecord, "optimum"), (RoomRecord, "gold_single")}
    assert keys_seen(load_game(finished.output_dir), GameRecord) == without
    answers = {row["name"]: [["yes"], ["no"]] for row in record["table"] if row["weights"] is None}
    add_gold(record, answers, ["type_0", "type_1"], lambda text, k: float(text == "yes") + k, optimum=9.0)
    save_game(record, tmp_path)
    assert keys_seen(load_game(tmp_path), GameRecord) == keys_named(GameRecord)


def test_the_adapter_is_plain_peft(finished: FairPolicyTrainer) -> None:
    base = finished.model.peft_config["type_0"].base_model_name_or_path
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(finished.output_dir)).eval()
    ids = torch.arange(5, 15)[None]
    chosen, model = finished.record["chosen"], finished.model.eval()
    with torch.no_grad():
        with route(model, chosen):
            ours = model(input_ids=ids).logits
        theirs = alone(input_ids=ids).logits
        with route(model, None):
            reference = model(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, reference, atol=1e-3)
    assert list(alone.peft_config) == ["default"]


def test_only_the_route_moves(finished: FairPolicyTrainer, tmp_path: Path) -> None:
    fresh = random_mixture(tmp_path)
    before = {n: p for n, p in fresh.policies.policy.named_parameters() if "type_" in n or "lora" not in n}
    after = dict(finished.model.named_parameters())
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert not any(p.requires_grad for p in after.values())
    moved = [n for n, p in after.items() if "lora_B.distill" in n and bool(p.any())]
    assert moved


def test_a_finished_route_is_not_trained_again(finished: FairPolicyTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a route was trained")

    mixture = finished.mixture
    for name in (*ALL, "pooled"):
        mixture.policies.policy.delete_adapter(name)
    monkeypatch.setattr("palign.trainers.fair.builder.RouteBuilder.fit", refuse)
    again = make_trainer(finished.output_dir, mixture, max_kl=1e6)
    found = again.train()
    assert found["table"] == finished.record["table"]
    assert not [p for p in (finished.output_dir / "routes").iterdir() if p.name.startswith(".")]
    other = make_trainer(finished.output_dir, mixture, max_kl=1e6, learning_rate=1e-3, routes=["distill"])
    with pytest.raises(AssertionError, match="a route was trained"):
        other.train()


def key_of(trainer: FairPolicyTrainer, **changes: Any) -> str:
    """What route dro is known by, of the same trainer with other options, people, answers or responsibilities."""
    args = copy.copy(trainer.args)
    for name in changes.keys() & vars(args).keys():
        setattr(args, name, changes[name])
    rows, mixture = copy.copy(trainer.train_rows), copy.copy(trainer.mixture)
    for name in changes.keys() & {"annotator_ids", "item_indices"}:
        object.__setattr__(rows, name, changes[name])
    mixture.record = replace(mixture.record, **{n: changes[n] for n in changes.keys() & vars(mixture.record).keys()})
    return replace(trainer.builder, args=args, rows=rows, mixture=mixture)._key("dro")


def test_a_route_is_known_by_all_that_trains_it(finished: FairPolicyTrainer) -> None:
    """Turned round are the people, the pairs, and who is of which type: two people of two types each way."""
    rows, gamma = finished.train_rows, finished.mixture.record.responsibilities
    others = [
        {"warmup_steps": 3}, {"adam_beta1": 0.5}, {"adam_beta2": 0.5}, {"adam_epsilon": 1e-3}, {"optim": "sgd"},
        {"bf16": True}, {"fp16": True}, {"data_seed": 4}, {"num_train_epochs": 7}, {"learning_rate": 0.3},
        {"annotator_ids": rows.annotator_ids[::-1]}, {"item_indices": rows.item_indices[:, ::-1]},
        {"responsibilities": gamma[::-1]}, {"beta": 0.25},
    ]  # fmt: skip
    keys = [key_of(finished), *(key_of(finished, **changes) for changes in others)]
    assert len(set(keys)) == len(keys)
    assert keys[0] == key_of(finished, n_eval_prompts=9, logging_steps=3) == finished.builder.records["dro"]["key"]


def test_a_full_disk_is_told_and_finished_routes_are_kept(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run left half-written is removed first."""
    mixture, fill = random_mixture(tmp_path / "mixture"), small_disk / "fill"
    for name in ("samples/a.npz.partial417", "routes/.partial-dro/route.json"):
        (small_disk / name).parent.mkdir(parents=True)
        (small_disk / name).write_text("half")
    keep = RouteBuilder._keep

    def filled(builder: RouteBuilder, name: str, *args: Any) -> None:
        if name == "distill":
            with open(fill, "wb", buffering=0) as file:
                file.write(b"0" * 2**20)
        keep(builder, name, *args)

    monkeypatch.setattr(RouteBuilder, "_keep", filled)
    options = {"routes": ["merge", "distill"], "max_kl": 1e6}
    with pytest.raises(SavingError, match="^Route distill could not be written to .* its disk is full") as caught:
        make_trainer(small_disk, mixture, **options).train()
    assert f"'{small_disk}/routes/distill'" in str(caught.value) and "are whole, and not built" in str(caught.value)
    assert sorted(path.name for path in (small_disk / "routes").iterdir()) == ["merge", "pooled"]
    assert not [path for path in (small_disk / "samples").iterdir() if path.suffix != ".npz"]


def test_an_interrupted_route_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = random_mixture(tmp_path / "mixture")
    trainer = make_trainer(tmp_path / "out", mixture, routes=["merge", "distill"])

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("palign.trainers.fair.distill.DistillRows", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    done = tmp_path / "out" / "routes"
    assert sorted(p.name for p in done.iterdir() if not p.name.startswith(".")) == ["merge", "pooled"]
    when = (done / "merge" / "route.json").stat().st_mtime_ns
    make_trainer(tmp_path / "out", mixture, routes=["merge", "distill"]).train()
    assert (done / "merge" / "route.json").stat().st_mtime_ns == when
    assert json.loads((done / "distill" / "route.json").read_text())["n_rows"] > 0


def test_checkpoints_within_a_route_are_gone_with_it(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path / "out", random_mixture(tmp_path / "mixture"), routes=["distill", "rl"], max_kl=1e6,
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    assert {path.name for path in (tmp_path / "out" / "routes").iterdir()} == {"pooled", "distill", "rl"}


def test_routes_by_reinforcement_say_what_they_did(finished: FairPolicyTrainer) -> None:
    for name in ("rl", "maxmin"):
        entries = finished.record["routes"][name]
        assert entries["starts_from"] == "soup"
        assert sum(entries["type_weights"]) == pytest.approx(1)
        assert entries["n_completions"] == 2 * 4 * 4  # two steps of four rows of four
        assert entries["rounds"][0]["weights"] == pytest.approx([0.5, 0.5])


def test_a_reward_model_may_train_and_judge(tmp_path: Path) -> None:
    """A PAL model of the same people: the route is trained on its rewards, and the table stands under it, too."""
    pal = text_model(annotators=AnnotatorIndex(f"p{i}" for i in range(8)))
    trainer = make_trainer(
        tmp_path / "out", random_mixture(tmp_path / "mixture"), routes=["rl"], rl_reward="pal", max_kl=1e6,
        judges=["types", "pal", "votes"], pal=pal,
    )  # fmt: skip
    own, reference = (torch.tensor(values) for values in ([[2.0, 2.0]] * 8, [[1.0, 1.0]] * 8))
    trainer.estimate()
    with mock.patch.object(RouteBuilder, "reward_values", lambda _: (own.double(), reference.double())):
        record = trainer.train()
    assert set(record["judges"]) == {"types", "pal", "votes"}
    texts = trainer.eval_draws["rl"].texts(trainer.mixture.tokenizer)
    expected = trainer.pal.values(trainer.eval_prompts, texts).mean(0)
    assert record["judges"]["pal"]["values"]["rl"] == pytest.approx(expected.tolist())
    assert not record["judges"]["votes"]["is_enough"]
    assert any("Too few held-out votes to choose a route by: 4 people" in note for note in record["notes"])


def test_one_type_is_nothing_to_aggregate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one type: there is nothing to aggregate"):
        make_trainer(tmp_path / "out", random_mixture(tmp_path, n_types=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fresh": colour_rows(TRAIN)}, r"0 different fresh prompts \(15 others are trained on\)"),
        ({"train": colour_rows(TRAIN[:3])}, "3 different training prompts; regret is a mean over prompts"),
        ({"type_importance": [1.0]}, "give 2 numbers from 0 on"),
        ({"routes": ["linear"]}, "routes holds linear; choose from distill"),
        ({"judges": ["crowd"]}, "judges holds crowd; choose from types, pal, votes"),
        ({"judges": ["pal"]}, "no PAL reward model is there; give --pal_path"),
        ({"rl_reward": "gold"}, "rl_reward is 'gold'; choose from types, pal"),
        ({"merge_type": "linear"}, "merge_type is 'linear'; choose from svd, cat"),
        ({"n_prompts": 4}, "n_prompts is 4; .* give 8 or more"),
        ({"estimator": "greedy"}, "estimator is 'greedy'"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path / "out", random_mixture(tmp_path / "mixture"), **options)


def test_there_is_nothing_to_save_before_training(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="call train"):
        make_trainer(tmp_path / "out", random_mixture(tmp_path / "mixture")).save_model()


@pytest.mark.slow
def test_two_planted_types_are_served_alike(tmp_path: Path) -> None:
    """Opposite types of like strength, three people in four of the warm one: half of the answers to each all the
    same, and one adapter that loses less than both types' policies and than pooled DPO, which follows the majority."""
    trainer = make_trainer(
        tmp_path / "out", planted_mixture(tmp_path / "mixture"), routes=["distill", "regress"], n_prompts=15,
        n_samples=16, n_eval_prompts=15, n_eval_samples=16, max_new_tokens=8, max_steps=100, learning_rate=2e-3,
        per_device_train_batch_size=8, n_bootstrap=200, draw_batch_size=256,
        train=colour_rows(TRAIN, cold_every=4), fresh=colour_rows(FRESH, cold_every=4, seed=1),
    )  # fmt: skip
    rows = {row["name"]: row for row in trainer.train()["table"]}
    worst = {name: row["max_regret"]["value"] for name, row in rows.items()}
    assert trainer.weights.tolist() == pytest.approx([0.5, 0.5], abs=0.1)
    assert worst[trainer.record["chosen"]] < min(worst["type_0"], worst["type_1"], worst["pooled"])
    assert worst["distill"] == pytest.approx(worst["ensemble"], rel=0.2)
    assert rows["distill"]["kl"]["value"] < rows["ensemble"]["kl"]["high"] + 0.1
