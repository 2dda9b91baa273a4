"""A population that writes and judges short sentences, with known types and an independent gold utility.

Every completion is one to three plain English clauses about the prompt's topic. Three attributes can be checked on the
text alone: how many distinct *cheerful* words it has, how many distinct *hedges*, and how many *words*. A type is a
taste over these attributes. There are two populations (`POPULATIONS`). In the first, `opposed`, no single text (and no
single policy) can please all:

    cheerful   wants cheer and brevity, dislikes hedges
    thorough   wants length, dislikes cheer
    careful    wants hedges, dislikes cheer, indifferent to length

In the second, `shared`, tastes conflict in part. Seven people in ten are `bright`, and what the others want costs them
nothing (a hedge) or little (length); returns diminish, so that one text can have some of all:

    bright     wants cheer, and a little brevity
    cautious   wants a hedge, and a little cheer
    detailed   wants length, and a little cheer

The best single policy of either population is known exactly (`palign/data/synthetic_optimum.py`).

The gold utility is a pure function of the text (see `gold_utility`). It takes part in drawing the preferences and in
judging policies, never in training one. Everything here is drawn from a seed.
"""

import re
from dataclasses import dataclass

import numpy as np

TOPICS = (
    "garden", "market", "river", "train", "kitchen", "library", "harbour", "bridge", "school", "concert", "museum",
    "bakery", "park", "castle", "theatre", "village",
)  # fmt: skip
QUESTIONS = (
    "How is the {topic} today?",
    "Tell me about the {topic}.",
    "What do you think of the {topic}?",
    "What should I know about the {topic}?",
    "Is the {topic} worth a visit?",
)
CHEERFUL_WORDS = ("wonderful", "lovely", "delightful", "happy", "great", "sunny", "joyful", "brilliant")
HEDGES = ("perhaps", "maybe", "possibly", "seems", "might", "probably", "apparently", "roughly")
PLAIN_WORDS = ("open", "quiet", "busy", "clean", "old", "new", "small", "large", "full", "empty", "near", "cold")
DETAILS = (
    "near the station", "by the old wall", "behind the church", "in the morning", "after the rain", "on the hill",
    "next to the road", "at the end of the street", "in the winter", "with many people",
)  # fmt: skip
STYLES = ("plain", "cheerful", "hedged")
_WORD = re.compile(r"[a-z']+")


@dataclass(frozen=True)
class Taste:
    """What one type likes: utility per unit of each attribute.

    Args:
        cheer: of a cheerful word.
        hedge: of a hedge.
        length: per ten words over or under eight words.
        second: what a second, different cheerful word or hedge counts beside the first; a third counts nothing.
        enough: words that count at most.
    """

    cheer: float
    hedge: float
    length: float
    second: float = 1.0
    enough: int = 20

    def utility(self, n_cheerful: int, n_hedges: int, n_words: int) -> float:
        """Of these attributes, in utility units, faults left aside."""
        cheer, hedge = (min(n, 1) + self.second * (n > 1) for n in (n_cheerful, n_hedges))
        return self.cheer * cheer + self.hedge * hedge + self.length * (min(n_words, self.enough) - 8) / 10


def _shared(cheer: float, hedge: float, length: float) -> Taste:
    return Taste(cheer, hedge, length, second=0.25, enough=14)


TASTES = {
    "cheerful": Taste(cheer=1.0, hedge=-0.7, length=-1.0),
    "thorough": Taste(cheer=-0.7, hedge=0.0, length=2.0),
    "careful": Taste(cheer=-0.8, hedge=1.2, length=0.0),
    "plain": Taste(cheer=-0.8, hedge=-0.8, length=-1.5),
    # the best text of each is worth 1.875 to its type, so that regret and utility rank policies alike
    "bright": _shared(cheer=1.38, hedge=0.0, length=-0.3),
    "cautious": _shared(cheer=0.3, hedge=1.2, length=0.0),
    "detailed": _shared(cheer=0.42, hedge=0.0, length=2.25),
}
DEFAULT_TYPES = ("cheerful", "thorough", "careful")
DEFAULT_SHARES = (0.5, 0.3, 0.2)


@dataclass(frozen=True)
class TypeShares:
    """Who a population is made of: names out of `TASTES`, and the share of each."""

    types: tuple[str, ...]
    shares: tuple[float, ...]


POPULATIONS = {
    "opposed": TypeShares(DEFAULT_TYPES, DEFAULT_SHARES),
    "shared": TypeShares(("bright", "cautious", "detailed"), (0.7, 0.15, 0.15)),
}


@dataclass(frozen=True)
class TextAttributes:
    """The checkable attributes of one text."""

    n_cheerful: int
    n_hedges: int
    n_words: int
    n_repeats: int
    is_finished: bool


def text_attributes(text: str) -> TextAttributes:
    """The attributes of `text`: distinct cheerful words and hedges, words, immediate repeats, a final stop."""
    tokens = _WORD.findall(text.lower())
    unique = set(tokens)
    return TextAttributes(
        n_cheerful=len(unique.intersection(CHEERFUL_WORDS)),
        n_hedges=len(unique.intersection(HEDGES)),
        n_words=len(tokens),
        n_repeats=sum(a == b for a, b in zip(tokens, tokens[1:], strict=False)),
        is_finished=text.rstrip().endswith((".", "!", "?")),
    )


def gold_utility(text: str, type_name: str) -> float:
    """Utility of `text` to a person of the type `type_name`: a pure function of the text, in utility units.

    `cheer·f(n_cheerful) + hedge·f(n_hedges) + length·(min(n_words, enough) − 8) / 10`, with f 0, 1, 1 + second for
    none, one, and two or more; less 0.5 for every immediate repeat of a word and for a text without a final stop. An
    empty text is worth −3 to everybody.

    Raises:
        ValueError: `type_name` is not a key of `TASTES`.
    """
    if type_name not in TASTES:
        raise ValueError(f"type_name={type_name!r} is not a type of this population; choose from {sorted(TASTES)}.")
    taste, attributes = TASTES[type_name], text_attributes(text)
    if attributes.n_words == 0:
        return -3.0
    value = taste.utility(attributes.n_cheerful, attributes.n_hedges, attributes.n_words)
    return value - 0.5 * attributes.n_repeats - 0.5 * (not attributes.is_finished)


def make_prompts(questions: tuple[str, ...] = QUESTIONS, topics: tuple[str, ...] = TOPICS) -> list[str]:
    """Every question about every topic, in a fixed order: `len(questions) * len(topics)` distinct prompts."""
    return [question.format(topic=topic) for topic in topics for question in questions]


def topic_of(prompt: str) -> str:
    """The topic a prompt asks about (the last topic word in it)."""
    mentions = [word for word in _WORD.findall(prompt.lower()) if word in TOPICS]
    if not mentions:
        raise ValueError(
            f"the prompt {prompt[:80]!r} names none of the topics of this population: {', '.join(TOPICS)}."
        )
    return mentions[-1]


def _clause(topic: str, style: str, detailed: bool, rng: np.random.Generator) -> str:
    subject, plain = f"the {topic}", str(rng.choice(PLAIN_WORDS))
    detail = f" {rng.choice(DETAILS)}" if detailed else ""
    if style == "cheerful":
        first, second = rng.choice(CHEERFUL_WORDS, 2, replace=False)
        forms = (
            f"{subject} is {first}{detail}!",
            f"what a {first} {topic}{detail}!",
            f"{first} and {second}{detail}!",
        )
    elif style == "hedged":
        hedge = str(rng.choice([word for word in HEDGES if word not in ("seems", "might")]))
        forms = (
            f"{hedge} {subject} is {plain}{detail}.",
            f"{subject} seems {hedge} {plain}{detail}.",
            f"{hedge} {subject} might be {plain}{detail}.",
        )
    else:
        other = str(rng.choice(PLAIN_WORDS))
        forms = (
            f"{subject} is {plain}{detail}.",
            f"{subject} is {plain} and {other}{detail}.",
            f"it is {plain}{detail}.",
        )
    return str(forms[rng.integers(len(forms))])


def write_completion(prompt: str, rng: np.random.Generator) -> str:
    """One completion for `prompt`: one to three clauses, each plain, cheerful or hedged, with or without a detail."""
    topic = topic_of(prompt)
    n_clauses = int(rng.choice((1, 2, 3), p=(0.45, 0.35, 0.2)))
    main = str(rng.choice(STYLES))
    styles = [main if rng.random() < 0.7 else str(rng.choice(STYLES)) for _ in range(n_clauses)]
    detailed = rng.random() < 0.4
    return " ".join(_clause(topic, style, detailed and n_clauses < 3, rng) for style in styles)


@dataclass(frozen=True)
class TextPopulation:
    """People with known tastes who judge sentences.

    Attributes:
        annotator_ids: list of `n_annotators` ids.
        type_names: list of `n_types` names.
        weights: `(n_annotators, n_types)`, rows on the simplex: one-hot for pure types, else mixtures.
    """

    annotator_ids: list[str]
    type_names: tuple[str, ...]
    weights: np.ndarray

    def type_of(self, annotator_id: str) -> str:
        """The type that weighs most in `annotator_id`."""
        return self.type_names[int(self.weights[self._row(annotator_id)].argmax())]

    def gold(self, completion: str, annotator_id: str) -> float:
        """Gold utility of `completion` to one person: their weights times the utility of each type."""
        weights = self.weights[self._row(annotator_id)]
        return float(sum(w * gold_utility(completion, t) for w, t in zip(weights, self.type_names, strict=True) if w))

    def _row(self, annotator_id: str) -> int:
        try:
            return self.annotator_ids.index(annotator_id)
        except ValueError:
            raise ValueError(
                f"annotator_id={annotator_id!r} is not one of the {len(self.annotator_ids)} people of this population."
            ) from None


def make_text_population(
    n_annotators: int = 60,
    *,
    types: tuple[str, ...] = DEFAULT_TYPES,
    shares: tuple[float, ...] = DEFAULT_SHARES,
    concentration: float | None = None,
    seed: int = 0,
) -> TextPopulation:
    """Draw a population of `n_annotators` people.

    Args:
        n_annotators: number of people.
        types: names out of `TASTES`.
        shares: share of each type, summing to 1; types are dealt in these shares exactly (largest remainder).
        concentration: None for pure types; else each person is a mixture, half their type and half a draw from a
            symmetric Dirichlet distribution of this concentration.
        seed: of the order of the people and of the mixtures.

    Returns:
        A `TextPopulation`.

    Raises:
        ValueError: an unknown type, shares that do not match or do not sum to 1, or fewer people than types.
    """
    unknown = [name for name in types if name not in TASTES]
    if unknown:
        raise ValueError(f"types={types!r} holds unknown names {unknown}; choose from {sorted(TASTES)}.")
    if len(shares) != len(types) or abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise ValueError(
            f"shares={shares!r} must be {len(types)} positive numbers that sum to 1, one for each of {types}."
        )
    if n_annotators < len(types):
        raise ValueError(
            f"n_annotators={n_annotators} is below the number of types ({len(types)}): every type needs one."
        )
    rng = np.random.default_rng(seed)
    exact = np.array(shares) * n_annotators
    counts = np.maximum(1, np.floor(exact).astype(int))
    while counts.sum() < n_annotators:
        counts[(exact - counts).argmax()] += 1
    while counts.sum() > n_annotators:  # where a small share was rounded up to one person
        counts[np.where(counts > 1, counts - exact, -np.inf).argmax()] -= 1
    members = rng.permutation(np.repeat(np.arange(len(types)), counts))
    weights = np.eye(len(types))[members]
    if concentration is not None:
        weights = 0.5 * weights + 0.5 * rng.dirichlet(np.full(len(types), concentration), n_annotators)
    return TextPopulation([f"person_{i:03d}" for i in range(n_annotators)], tuple(types), weights)


def preference_rows(
    population: TextPopulation,
    *,
    n_per_annotator: int = 40,
    prompts: list[str] | None = None,
    sharpness: float = 3.0,
    seed: int = 0,
) -> list[dict[str, object]]:
    """Pairs judged by every person: `n_annotators * n_per_annotator` rows for `Preferences.from_rows`.

    Args:
        population: who judges.
        n_per_annotator: pairs per person.
        prompts: what is asked; default `make_prompts()`.
        sharpness: the first of a pair is chosen with probability σ(sharpness · (gold(first) − gold(second))).
        seed: of texts and choices.

    Returns:
        Rows with `annotator_id`, `prompt`, `chosen`, `rejected`, `type` (the person's dominant type), `gold_margin`
        (gold utility of chosen less that of rejected, negative where the person slipped).
    """
    rng = np.random.default_rng(seed)
    prompts = make_prompts() if prompts is None else prompts
    rows: list[dict[str, object]] = []
    for person in population.annotator_ids:
        for _ in range(n_per_annotator):
            prompt = prompts[int(rng.integers(len(prompts)))]
            first = write_completion(prompt, rng)
            second = first
            while second == first:
                second = write_completion(prompt, rng)
            margin = population.gold(first, person) - population.gold(second, person)
            if rng.random() >= 1 / (1 + np.exp(-sharpness * margin)):
                first, second, margin = second, first, -margin
            rows.append(
                {
                    "annotator_id": person,
                    "prompt": prompt,
                    "chosen": first,
                    "rejected": second,
                    "type": population.type_of(person),
                    "gold_margin": margin,
                }
            )
    return rows


def ranking_rows(
    population: TextPopulation,
    *,
    n_per_annotator: int = 12,
    n_items: int = 4,
    prompts: list[str] | None = None,
    sharpness: float = 3.0,
    seed: int = 0,
) -> list[dict[str, object]]:
    """Rankings of `n_items` completions by every person: `n_annotators * n_per_annotator` rows for
    `Preferences.from_rows`.

    Args:
        population: who judges.
        n_per_annotator: rankings per person.
        n_items: distinct completions of one prompt in each.
        prompts: what is asked; default `make_prompts()`.
        sharpness: rankings are drawn by Plackett–Luce on sharpness · gold utility.
        seed: of texts and choices.

    Returns:
        Rows with `annotator_id`, `prompt`, `completions` (best first) and `type` (the person's dominant type).
    """
    rng = np.random.default_rng(seed)
    prompts = make_prompts() if prompts is None else prompts
    rows: list[dict[str, object]] = []
    for person in population.annotator_ids:
        for _ in range(n_per_annotator):
            prompt = prompts[int(rng.integers(len(prompts)))]
            texts: dict[str, None] = {}
            while len(texts) < n_items:
                texts[write_completion(prompt, rng)] = None
            drawn = {text: sharpness * population.gold(text, person) + rng.gumbel() for text in texts}
            rows.append(
                {
                    "annotator_id": person,
                    "prompt": prompt,
                    "completions": sorted(drawn, key=drawn.get, reverse=True),
                    "type": population.type_of(person),
                }
            )
    return rows


def language_model_rows(n_rows: int, *, prompts: list[str] | None = None, seed: int = 0) -> list[dict[str, str]]:
    """`n_rows` of `prompt` and `completion` to train a language model on; nobody's taste plays a part in them."""
    rng = np.random.default_rng(seed)
    prompts = make_prompts() if prompts is None else prompts
    picks = rng.integers(len(prompts), size=n_rows)
    return [{"prompt": prompts[i], "completion": write_completion(prompts[i], rng)} for i in picks]
