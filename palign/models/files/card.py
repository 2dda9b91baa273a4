"""Model cards: what every saved model says of itself to whoever finds it.

All cards have the same sections: data, types, fairness, intended use, limits. Whatever a user gave (ids, names, paths)
is escaped where it is shown, and of a folder on somebody's machine only the last part is.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from palign.writing import write_whole

__all__ = [
    "CLASSIFIER",
    "FAIR",
    "MIXTURE",
    "PAL",
    "POLICY",
    "SECTIONS",
    "add_measured",
    "base_note",
    "decimals",
    "named",
    "render",
    "shown",
    "table",
]

CARD = "README.md"
SECTIONS = ("Data", "Types", "Fairness", "Intended use", "Limits")
MEASURED = re.compile(r"<!-- measured -->.*?<!-- end -->\n\n", flags=re.DOTALL)


def shown(value: object) -> str:
    """A user's text in a line of Markdown: no tag, no table cell, no code span and no new line can come of it."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`|*\[\]#]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def named(name_or_path: object) -> str:
    """A model's name for a card: a hub name as it is, of a local folder the last part alone."""
    text = str(name_or_path or "").strip()
    is_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith((".", "~")) and not Path(text).exists()
    return re.sub(r"[^\w./-]", "_", text if is_hub else Path(text).name) or "its base model"


def base_note(name_or_path: object) -> str:
    """A sentence for the card of an adapter whose base is a folder of this machine; nothing for others."""
    text = str(name_or_path or "").strip()
    if not text or not Path(text).expanduser().is_dir() or Path(text).name in ("base_model", "backbone"):
        return ""
    return (
        "\nThe files beside this card name the base by an absolute path of the machine that trained it: elsewhere "
        "load the base by hand.\n"
    )


def decimals(largest: float, least: int) -> int:
    """Places after the point, `least` or as many as show the largest of some numbers with as many digits."""
    size = abs(largest)
    return least + max(0, -1 - math.floor(math.log10(size))) if 0 < size < math.inf else least


def table(rows: Iterable[Sequence[object]]) -> str:
    """Lines of a Markdown table below its head; the cells are Markdown already."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def render(template: str, **values: object) -> str:
    """A card; `IDENTITIES`, which all cards share, is put in."""
    return template.format(identities=IDENTITIES, unknown=UNKNOWN, **values)


def add_measured(folder: str | Path, sentences: Sequence[str]) -> None:
    """Put what a report measured on held-out rows at the head of the fairness section of a saved model's card.

    Args:
        folder: of the model; where there is no card, or one without that section, nothing is done.
        sentences: plain text, of a report's headline. What was put there before goes.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        return
    before, heading, after = path.read_text(encoding="utf-8").partition("\n## Fairness\n\n")
    if not heading:
        return
    lines = "\n".join(f"- {shown(sentence)}" for sentence in sentences)
    block = f"<!-- measured -->\nOn held-out rows, by the report beside this card:\n\n{lines}\n<!-- end -->\n\n"
    write_whole(path, before + heading + block + MEASURED.sub("", after))


UNKNOWN = """What they were asked, and how they were found, stands with the data set; this card does not know it."""
IDENTITIES = """Types are patterns in votes, not identities, and people of one type differ. Whoever is like nobody in
the data is served like the average of those who are there. Serving people by type can keep from them what they would
not have chosen and would have wanted to see."""

PAL = """---
library_name: palign
tags:
- reward-model
- pluralistic-alignment
- fairness
---
# PAL reward model

Scores a completion for a given person: {n_prototypes} prototypes, {n_annotators} annotators, variant `{variant}`, on
{backbone}.

```python
from palign import PALRewardModel

model = PALRewardModel.from_pretrained("PATH_OR_NAME")
model.score(prompts, completions, annotator_ids)
```
{base_note}
## Data

{n_rows} of {n_annotators} annotators: pairs, ratings or rankings of completions, each with the id of the person who
judged. {unknown}

## Types

Every annotator is a mixture of the prototypes, which were discovered from the judgements.

| prototype | mean weight | annotators with their largest weight on it |
|---|---|---|
{types}

## Fairness

One prototype would serve one average person. Compare this model with that one on rows of your own, by annotator, type
and declared group: `palign evaluate --model_path PATH --baseline_path POOLED --dataset_name ROWS --group_columns
COLUMN`. A small gap between the groups that were declared says nothing of those that were not.

## Intended use

To rank completions for a person who is in `annotators.json`, or who was placed by some answers of their own
(`fit_annotators`), and to train policies that are told who is asking. Not for comparing people, nor for guessing who
they are.

## Limits

Rewards of different people are on different scales; compare completions for one person, not people. A reward that
rises as a policy is trained on it is no proof that anybody is better served.

{identities}

`annotators.json` holds the annotators' ids as they were given: replace ids that name a person before sharing.
"""

CLASSIFIER = """---
library_name: transformers
pipeline_tag: text-classification
tags:
- reward-model
- pluralistic-alignment
- fairness
---
# The reward of one person, or of some weights over prototypes

Exported from a PAL reward model on `{backbone}`; the state that is scored: `{pooling}`. One label, its logit the
reward. It loads with palign imported, or without palign by the one file of code in this folder.

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForSequenceClassification.from_pretrained("PATH", trust_remote_code=True)
text = tokenizer.apply_chat_template(
    [{{"role": "user", "content": question}}, {{"role": "assistant", "content": answer}}], tokenize=False
)
model(**tokenizer(text, return_tensors="pt")).logits
```

## Data

That of the reward model it was exported from. {unknown}

## Types

None any more: the person, or the weights, are folded into the head.

## Fairness

This is the taste of one person or of one mixture. Whoever trains a policy on it serves that taste alone.

## Intended use

Programs that load a sequence classifier: benchmarks of reward models, trainers, servers. Not for telling who the
person is, nor for others than them.

## Limits

Write texts through this folder's chat template. A text that holds the template's own marks can move the place where
the answer is taken to begin.

{identities}
"""

POLICY = """---
library_name: {library}
tags:
- {tag}
- trl
- pluralistic-alignment
- fairness
---
# Policy trained on personal rewards

{what} of {base}, trained by {algorithm} (TRL) on the reward of the person each prompt belongs to. How it knows who is
asking: `{conditioning}`.

```python
{use}
```
{base_note}
## Data

{n_rows} prompts of {n_annotators} people; completions were sampled and rewarded in training, nobody wrote or judged
them. {unknown}

## Types

{types}

## Fairness

The mean reward of each group in the first and in the last update of training, in standard deviations of each person's
rewards over completions of the reference. It is what was optimised: only an independent judge can show that a policy
serves anybody.

| group | first | last |
|---|---|---|
{groups}

KL to the reference in the last update: {kl} nats per completion. A policy that is not told who is asking (`none`) is
the one to compare with.

## Intended use

To answer people whose place among the types is known or was found from their own answers. Not for deciding about
people, and not where a wrong or agreeable answer does harm: a reward that knows a person's taste teaches to please it.

## Limits

Rewards are those of a reward model, with its mistakes; a policy finds them.

{identities}
"""

MIXTURE = """---
library_name: peft
tags:
- dpo
- lora
- pluralistic-alignment
- fairness
---
# Mixture of {n_types} preference types

One LoRA adapter for each type of annotator, on {base}. Types were discovered by EM mixture-DPO from {n_rows:,}
judgements of {n_annotators:,} annotators.

```python
from palign import MixturePolicy

policy = MixturePolicy.from_pretrained("PATH")
policy.generate(prompts, annotator_ids=people)  # each by their likeliest type
policy.posterior(rows_of_newcomers)  # their types, from their votes
```

Every `type_k` is a plain PEFT adapter: `PeftModel.from_pretrained(base_model, "PATH/type_0")`.
{base_note}
## Data

Pairs or rankings of completions, each with the id of the person who judged. {unknown}

## Types

| adapter | mixing weight | annotators whose likeliest type it is |
|---|---|---|
{types}

{sure:.0%} of the annotators belong to one type with a probability above .9.
{checks}
## Fairness

A type that few people belong to was trained on few votes, and its adapter is the least sure. Compare with one DPO for
all (pooled) on held-out rows, by type and declared group: `palign evaluate --model_path PATH --dataset_name ROWS
--group_columns COLUMN`. One policy that no type loses much by is made by `palign fair --mixture_path PATH`.

## Intended use

To answer people by the adapter of their likeliest type, as their votes show it, and to make one policy of all of them.
Not for guessing who somebody is.

## Limits

{identities}

`responsibilities.parquet` holds the annotators' ids as they were given: replace ids that name a person before sharing.
"""

FAIR = """---
library_name: peft
tags:
- dpo
- lora
- pluralistic-alignment
- fairness
---
# Fair policy of {n_types} preference types

One LoRA adapter on {base}, made of {n_types} type policies by min-max regret (route: {chosen}): no type is to lose
much against a policy of its own.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "PATH")
```
{base_note}
## Data

The judgements that the mixture of types was trained on. The game was solved on {n_prompts} of their prompts and
everything below was measured on {n_eval} others, on completions that were sampled from the policies. {unknown}

## Types

| type | share of people | weight of its policy in the game | weight of its regret | regret here |
|---|---|---|---|---|
{types}

## Fairness

Regret of a type: the reward it expects of its own policy less what it expects of this one, in units of reward (its
own implicit reward, β times the log-ratio to the reference). Relative: 0 is its own policy, 1 is the reference.

The game has the value {value}, duality gap {gap:.1e}; in brackets 95% intervals over prompts. KL budget {budget:.2f}
nats.

{table}
`ensemble` draws a type's policy for each request by the weights above and needs all {n_types} adapters; `uniform` and
`prior` likewise by equal weights and by the shares of people. *Votes* is the accuracy of the policy's own implicit
reward on held-out votes of the type it serves worst: a judge that knows nothing of regret.
{notes}
## Intended use

One policy for people of whom nobody knows, or may ask, which type they are. Where the type is known and may be used,
the type's own policy serves better.

## Limits

{identities}

Whoever is between types is in no row of this table. The judges are the type policies themselves: where one is poorly
trained, its regret says little. A low worst regret is a compromise, and can be a text that is nobody's favourite.
"""
