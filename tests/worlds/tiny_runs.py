"""A run of seconds of each trainer, for what it logs."""

from pathlib import Path

from peft import LoraConfig

from palign import MixtureDPOConfig, MixtureDPOTrainer, PALRewardConfig, PALRewardModel, PALRewardTrainer
from palign.data.preferences import Preferences
from palign.data.synthetic_text import make_text_population, preference_rows
from tests.worlds.recipes import RECIPES, load_recipe
from tests.worlds.tiny_policy import tiny_policy

QUICK = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_steps": 1, "num_train_epochs": 1}


def logged_by(page: str, output_dir: Path) -> set[str]:
    """The metrics that the trainer of a page of docs/ logs in a tiny run."""
    if page == "ppo_trainer":
        return _history_of("ppo_pal", output_dir)
    if page == "grpo_trainer":
        rloo = _history_of("grpo_pal", output_dir / "rloo", "--algorithm", "rloo")
        return rloo | _history_of("grpo_pal", output_dir / "grpo")
    if page == "fair_policy":
        return _log_of_routes(output_dir)
    rows = Preferences.from_rows(preference_rows(make_text_population(4, seed=0), n_per_annotator=4, seed=0))
    model, tokenizer = tiny_policy()
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    if page == "pal_reward_trainer":
        reward = PALRewardModel.from_backbone(
            model.model, tokenizer=tokenizer, annotators=rows.annotators(), n_prototypes=2
        )
        args = PALRewardConfig(output_dir=str(output_dir), head_epochs=2, save_strategy="no", **QUICK)
        trainer = PALRewardTrainer(reward, args, rows, rows, peft_config=lora)
    else:
        args = MixtureDPOConfig(output_dir=str(output_dir), n_types=2, n_permutations=0, n_restarts=2, **QUICK)
        trainer = MixtureDPOTrainer(model, args, rows, rows, processing_class=tokenizer, peft_config=lora)
    trainer.train()
    trainer.evaluate()
    return {name for entry in trainer.state.log_history for name in entry}


def _history_of(recipe: str, output_dir: Path, *flags: str) -> set[str]:
    smoke = str(RECIPES / "configs" / recipe / "smoke.yaml")
    load_recipe(recipe).main(["--config", smoke, "--output_dir", str(output_dir), "--disable_tqdm", "true", *flags])
    header = next(output_dir.glob("*/history.csv")).read_text(encoding="utf-8").splitlines()[0]
    return set(header.split(","))


def _log_of_routes(output_dir: Path) -> set[str]:
    from unittest import mock

    from palign.trainers.fair.route_trainer import RouteTrainer

    logged: set[str] = set()

    def note(self: RouteTrainer, logs: dict[str, float], *_: object) -> None:
        logged.update(logs, ["epoch"])

    smoke = str(RECIPES / "configs" / "fair_policy" / "smoke.yaml")
    flags = ["--output_dir", str(output_dir), "--default_mixture_path", str(output_dir / "none")]
    with mock.patch.object(RouteTrainer, "log", note):
        load_recipe("fair_policy").main(["--config", smoke, *flags, "--logging_steps", "1", "--disable_tqdm", "true"])
    return logged
