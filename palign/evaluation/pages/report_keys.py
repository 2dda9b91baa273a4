"""Every key of report.json: what a report is made of, and all that its pages read.

Plain dicts of plain values. While a report is made an unknown or masked number is NaN; in the file it is null. A
metric is in its own unit (`sentences.WHAT_THE_NUMBERS_ARE`): rates in [0, 1], nats, units of reward.
"""

from typing import NotRequired, TypedDict

__all__ = [
    "AnyEstimate",
    "BestRecord",
    "ComparisonRecord",
    "DifferenceRecord",
    "Estimate",
    "FiguresRecord",
    "FrameRecord",
    "GroupRecord",
    "LikesRecord",
    "MetricRecord",
    "ModelRecord",
    "RegretsRecord",
    "ReportRecord",
    "SectionRecord",
    "SettingsRecord",
    "SpreadEstimate",
    "TrainingRecord",
    "TypeSpaceRecord",
    "WorstRecord",
]

Number = float | None  # None where it is masked or unknown


class Estimate(TypedDict):
    """A number and its interval, in the metric's unit."""

    value: Number
    low: Number
    high: Number


class SpreadEstimate(Estimate):
    """A statistic over groups that chance alone moves."""

    if_alike: NotRequired[Number]  # what chance would show were all served alike; in frames of annotators


class WorstRecord(Estimate):
    """The worst-served group."""

    group: str | None  # None where no group may be shown
    n_annotators: int  # in it


class BestRecord(TypedDict):
    """The best-served group; it has no interval."""

    value: Number
    group: str | None
    n_annotators: int


class GroupRecord(Estimate):
    """One group; where groups are single people there is no interval."""

    group: str
    n_annotators: int
    n_judgements: int
    is_ranked: bool  # whether it can be the worst or the best, and counts in the spreads


class MetricRecord(TypedDict):
    """One metric of one model by one grouping."""

    higher_is_better: bool
    overall: Estimate  # of everybody
    worst: WorstRecord
    best: BestRecord
    gap: Estimate  # best less worst
    ratio: Estimate  # lowest over highest group, in [0, 1]
    gini: SpreadEstimate  # over groups, each counted once, in [0, 1]
    cvar: SpreadEstimate  # mean of the worst-served share `cvar_alpha` of the groups
    by_group: list[GroupRecord]  # (n_groups,); empty where single people are not listed
    quantiles: NotRequired[dict[str, Number]]  # "0.1", "0.5", "0.9" → of people; in frames of annotators


class FrameRecord(TypedDict):
    """One model by one grouping."""

    groups: list[str]  # columns; more than one is their intersection
    n_groups: int
    notes: list[str]
    metrics: dict[str, MetricRecord]  # by name of the metric


class ModelRecord(TypedDict):
    """One model."""

    model: str  # its name
    n_annotators: int
    n_judgements: int  # rows: judgements of a reward model, completions of a policy
    metrics: list[str]  # that it has any number of
    frames: list[FrameRecord]  # one for each of the settings' `groups`, annotators first


class DifferenceRecord(TypedDict):
    """The second model less the first, on the same judgements."""

    stat: str  # "overall", "by_group", "worst" or "gap"
    group: str  # with "by_group"; else empty
    first: Number
    second: Number
    difference: Number
    low: Number  # of the difference
    high: Number
    n_annotators: int
    n_judgements: int


class ComparisonRecord(TypedDict):
    """Two models, one metric, one grouping."""

    first: str  # the baseline
    second: str
    metric: str
    groups: list[str]  # columns; empty where there are none but annotators
    n_dropped: int  # rows without a partner
    rows: list[DifferenceRecord]


class SectionRecord(TypedDict):
    """The reward models, or the policies."""

    name: str  # "reward models" or "policies"
    main: str  # the model that it is about
    baselines: list[str]  # models that others are compared with
    models: list[ModelRecord]
    comparisons: list[ComparisonRecord]
    notes: list[str]  # differences that could not be taken, and why


class SettingsRecord(TypedDict):
    """How the numbers were computed."""

    metrics: list[str]
    groups: list[list[str]]  # each grouping as its columns, annotators first
    opens_with: list[str]  # the grouping that the report opens with
    baseline: list[str]  # as asked for, of reward models
    reference: list[str]  # as asked for, of policies
    annotator_column: str
    weights: str  # what counts the same: "judgements" or "annotators"
    min_group_size: int  # annotators; smaller groups are masked
    min_ranked_size: int  # annotators; smaller groups are listed and not ranked
    level: float  # of intervals, in (0, 1)
    seed: int
    n_resamples: int
    cvar_alpha: float  # share of people, in (0, 1)
    judgements: str  # what rows are called
    remarks: list[str]  # phrases that the conclusion's first sentence ends with


class TypeSpaceRecord(TypedDict):
    """Where people stand among types."""

    names: list[str]  # (n_types,)
    annotators: list[str]  # (n_annotators,) ids
    weights: list[list[float]]  # (n_annotators, n_types), rows sum to 1
    group_column: str | None  # that people are marked by; None where it is their largest weight
    groups: list[str]  # (n_annotators,)


class RegretsRecord(TypedDict):
    """What each type loses under each policy, in units of reward."""

    types: list[str]  # (n_types,) names
    policies: list[str]  # (n_policies,) names
    values: list[list[float]]  # (n_types, n_policies)
    type_weights: list[float] | None  # (n_types,) the game's dual weights, sum to 1
    policy_weights: list[Number] | None  # (n_policies,) of the game; None where a policy has no part in it
    chosen: str | None
    worst: NotRequired[list[Estimate]]  # (n_policies,); this and the following of a fair policy
    worst_type: NotRequired[list[int]]  # (n_policies,) numbers of types
    mean: NotRequired[list[float]]  # (n_policies,) over types, each counted once
    kl: NotRequired[list[float]]  # (n_policies,) nats to the reference
    level: NotRequired[float]  # of the intervals of `worst`, in (0, 1)
    judges: NotRequired[dict[str, list[Estimate]]]  # worst regret (n_policies,) by further judges, in units of theirs


class TrainingRecord(TypedDict):
    """How a policy was trained; one value for each update, the mean over adapters."""

    name: str
    step: list[int]  # (n_updates,)
    reward: list[Number]  # (n_updates,) units of reward
    gold: NotRequired[list[Number]]  # (n_updates,) utility by an independent judge
    kl: NotRequired[list[Number]]  # (n_updates,) nats to the reference


class LikesRecord(TypedDict):
    """What a type likes against the others."""

    type: str  # its name
    most: list[str]  # texts that it scores highest, cut to 80 characters
    least: list[str]
    words: list[str]  # that tell its texts from others
    other_words: list[str]  # that tell what it does not like


class SmallImageRecord(TypedDict):
    """An image that a report shows."""

    name: str  # of its file, as rows name it
    jpeg: str  # base64


class ImageLikesRecord(TypedDict):
    """The images that a type likes most and least, against the others."""

    type: str
    most: list[SmallImageRecord]
    least: list[SmallImageRecord]


class FiguresRecord(TypedDict):
    """What is drawn beside the tables."""

    type_space: TypeSpaceRecord | None
    regrets: RegretsRecord | None
    training: list[TrainingRecord]
    likes: list[LikesRecord]  # one for each type, or none
    image_likes: list[ImageLikesRecord]


class ReportRecord(TypedDict):
    """The whole file."""

    schema_version: int
    title: str
    palign_version: str
    date: str  # ISO 8601
    facts: dict[str, str]  # what the report is made of: data, what was trained on and judged, backbone, date
    settings: SettingsRecord
    sections: list[SectionRecord]  # one or two
    notes: list[str]
    extra: dict[str, object]  # figures of the run: name → number, text or list, whatever the caller gives
    figures: FiguresRecord
    conclusion: list[str]  # at most one paragraph
    headline: list[str]  # sentences, one or more for each model


AnyEstimate = Estimate | BestRecord | DifferenceRecord
