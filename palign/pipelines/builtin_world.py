"""The embedded default: from nothing to a population, a language model and a PAL reward model, in the process.

Recipes that train a policy run on this when they are given nothing of the user's.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from palign.conditioning import condition_prompt
from palign.data.preferences import Preferences
from palign.data.synthetic_text import (
    POPULATIONS,
    TextPopulation,
    language_model_rows,
    make_prompts,
    make_text_population,
    preference_rows,
    ranking_rows,
)
from palign.models.pal import PALRewardModel
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer, train_tiny_lm
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.pal_reward_trainer import PALRewardTrainer

N_EVAL_PROMPTS = 16
SHARE_TOLD = 0.8  # of the language model's prompts that say who is asking, drawn at random


@dataclass
class EmbeddedDefault:
    """What the embedded default starts from.

    Attributes:
        population: people with known types; its gold utility judges policies and trains none.
        language_model: the policy to start from and the reference; it was told who is asking and learned nothing of
        it.
        tokenizer: of `language_model`.
        train_prompts, eval_prompts: distinct prompts.
    """

    population: TextPopulation
    language_model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    train_prompts: list[str]
    eval_prompts: list[str]

    def preferences(self, *, n_per_annotator: int, seed: int) -> Preferences:
        """Pairs of every person over the training prompts."""
        rows = preference_rows(self.population, n_per_annotator=n_per_annotator, prompts=self.train_prompts, seed=seed)
        return Preferences.from_rows(rows)

    def prompt_rows(self, prompts: list[str], n_per_annotator: int, *, seed: int) -> list[dict[str, Any]]:
        """`n_per_annotator` prompts of each person, drawn from `prompts`: `prompt`, `annotator_id`, `type`."""
        rng, people = np.random.default_rng(seed), self.population
        return [
            {"prompt": prompts[i], "annotator_id": person, "type": people.type_of(person)}
            for person in people.annotator_ids
            for i in rng.integers(len(prompts), size=n_per_annotator)
        ]


def make_embedded_default(
    *,
    n_annotators: int = 60,
    n_steps: int = 250,
    seed: int = 0,
    show_progress: bool = True,
    population: str = "opposed",
) -> EmbeddedDefault:
    """Draw the population and train the language model on sentences that nobody's taste plays a part in.

    Args:
        n_annotators: number of people.
        n_steps: of the language model.
        seed: of everything.
        show_progress: whether to draw a progress bar.
        population: a name of `POPULATIONS`.
    """
    people = embedded_people(population, n_annotators, seed=seed)
    rng = np.random.default_rng(seed)
    prompts = [str(prompt) for prompt in rng.permutation(make_prompts())]
    rows, n_types = language_model_rows(5000, seed=seed), len(people.type_names)
    who = [
        f"type {k}" if told else None
        for k, told in zip(rng.integers(n_types, size=5000), rng.random(5000) < SHARE_TOLD, strict=True)
    ]
    told = [condition_prompt(row["prompt"], name) for row, name in zip(rows, who, strict=True)]
    completions = [row["completion"] for row in rows]
    tokenizer = make_tiny_tokenizer(told + completions)
    model = make_tiny_lm(tokenizer, seed=seed)
    train_tiny_lm(model, tokenizer, told, completions, n_steps=n_steps, seed=seed, show_progress=show_progress)
    return EmbeddedDefault(people, model, tokenizer, prompts[N_EVAL_PROMPTS:], prompts[:N_EVAL_PROMPTS])


def embedded_people(population: str, n_annotators: int, *, seed: int) -> TextPopulation:
    """The people of a population by its name, one of `POPULATIONS`."""
    made_of = POPULATIONS[population]
    return make_text_population(n_annotators, types=made_of.types, shares=made_of.shares, seed=seed)


def embedded_rankings(
    population: TextPopulation,
    train_prompts: list[str],
    eval_prompts: list[str],
    *,
    n_each: int,
    n_items: int,
    seed: int,
) -> tuple[Preferences, Preferences]:
    """Rankings of everybody over the training prompts, and over prompts that training never sees.

    A completion begins with a space, since a policy's prompt and completion are tokenised as one text.
    """
    parts = []
    for number, prompts in enumerate((train_prompts, eval_prompts)):
        rows = ranking_rows(
            population, n_per_annotator=n_each, n_items=n_items, prompts=prompts, seed=2 * seed + number
        )
        for row in rows:
            row["completions"] = [f" {text}" for text in row["completions"]]
        parts.append(Preferences.from_rows(rows))
    return parts[0], parts[1]


def train_embedded_reward(
    default: EmbeddedDefault,
    output_dir: str,
    *,
    n_prototypes: int = 3,
    n_per_annotator: int = 60,
    seed: int = 0,
    use_cpu: bool = False,
    disable_tqdm: bool = False,
) -> PALRewardModel:
    """Train a PAL reward model on the population's pairs, over a frozen copy of the language model.

    Args:
        default: see `make_embedded_default`.
        output_dir: of the trainer.
        n_prototypes: K.
        n_per_annotator: pairs per person.
        seed: of the pairs and of the training.
        use_cpu, disable_tqdm: of the trainer.
    """
    preferences = default.preferences(n_per_annotator=n_per_annotator, seed=seed)
    model = PALRewardModel.from_backbone(
        copy.deepcopy(default.language_model),  # PPO puts its adapter into the other one
        tokenizer=default.tokenizer,
        n_prototypes=n_prototypes,
        annotators=preferences.annotators(),
        pooling="mean",  # of so small a model, the mean of the states tells more than the last one
    )
    args = PALRewardConfig(output_dir=output_dir, seed=seed, n_restarts=2, use_cpu=use_cpu, disable_tqdm=disable_tqdm)
    PALRewardTrainer(model, args, preferences).train()
    return model
