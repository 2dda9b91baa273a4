"""The README.md of a saved metric."""

__all__ = ["CARD"]

CARD = """---
library_name: palign
tags:
- reward-model
- pluralistic-alignment
- fairness
---
# One metric for all, an ideal point each

Says how much each of {n_annotators} annotators likes an item: minus its squared distance, under one Mahalanobis metric
of {dim} dimensions that all share, to the person's ideal point. Items are {backbone} ({hidden_size} numbers).
Fitted with the {loss} loss and the regulariser `{penalty}` (strengths {strengths}), estimator `{estimator}`.

```python
from palign import MetricModel

model = MetricModel.from_pretrained("PATH")
model.score(prompts, completions, annotator_ids)
```

## Data

Pairs or rankings of items, each with the id of the person who judged. {unknown}

## Types

None: everybody has a point of their own, shrunk to what all share.

## Fairness

Whoever gave few answers is served nearly as all are. Compare people of many and of few answers in the report beside
this card.

## Intended use

To rank items for a person who is in `annotators.json`, or who was placed by some answers (`fit_annotators`). Not for
comparing people, nor for guessing who they are.

## Limits

That all measure by one metric is an assumption. Along directions in which the metric is weak an ideal point is not
known. Rewards of different people are on different scales.

{identities}

`annotators.json` holds the annotators' ids as they were given: replace ids that name a person before sharing.
"""
