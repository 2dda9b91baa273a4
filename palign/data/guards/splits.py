"""Is what a model is judged on new to it, and does everybody speak of the same things?"""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from palign.data.guards.finding import Finding, plain_text, row_hashes, sample
from palign.data.preferences import Preferences
from palign.functional.evidence.components import INDEPENDENT, evidence_of_rows

__all__ = [
    "check_prompt_sources",
    "check_shared_completions",
    "check_shared_conversations",
    "check_shared_items",
    "check_shared_judgements",
    "check_shared_prompts",
    "check_type_sources",
    "check_unseen",
]

SAME_SPLIT = 0.95  # share of judgements from which on two splits are one
LEAK, LEAK_STOPS, COPIES_STOP = 0.01, 0.2, 0.05
BY_CHANCE = 0.2  # of the judgements, at most, are excused by how often the first split repeats itself
IS_LIST = 30  # completions a prompt; from here on prompts are headings over many texts, and sharing them no leak
CONNECTED, APART, N_SHUFFLES = 0.95, 0.8, 10
CONFOUNDED, CONFOUNDED_STOPS = 0.5, 0.95  # of what could be gained over guessing the commonest type
MOST_TYPES = 50
MOST_ROWS = 2_000_000
MOST_TURNS = 50  # prompts that begin with one exchange; more of them begin with an example
CONVERSATION_NAMES = re.compile(r"(conversation|conv|dialogue?|session|thread|chat|post)(_?(id|hash|key))?", re.I)
SOURCE_NAMES = re.compile(r"(prompt_)?(source|dataset|subset|domain|category|topic|task)(_name|_id)?", re.I)


def _prompt_keys(prefs: Preferences) -> list[str]:
    return [plain_text(prompt) for prompt in prefs.prompts]


def _item_keys(prefs: Preferences) -> list[tuple[str, str]]:
    """Prompt and completion of each of `items`."""
    prompts = _prompt_keys(prefs)
    return [(prompts[prompt], plain_text(text)) for prompt, text in prefs.items]


def _judgements(first: Preferences, second: Preferences) -> tuple[np.ndarray, np.ndarray]:
    """(n_rows,) of each: who judged what, whichever way; a row of the second with something new is −1 somewhere."""
    people = first.annotators()
    if first.is_text and second.is_text:
        number = {key: i for i, key in enumerate(_item_keys(first))}
        known = np.array([*(number.get(key, -1) for key in _item_keys(second)), -1], dtype=np.int64)
        second_items = known[second.item_indices]  # padding is -1, and so is the last
        is_new = ((second_items < 0) & (second.item_indices >= 0)).any(axis=1)
        prompts = (np.zeros(len(first), np.int64), np.zeros(len(second), np.int64))  # items have theirs
    else:
        second_items, is_new = second.item_indices, np.zeros(len(second), dtype=bool)
        prompts = (first.prompt_indices, second.prompt_indices)
    width = max(first.item_indices.shape[1], second_items.shape[1])
    hashes = []
    for ids, items, prompt in (
        (first.annotator_ids, first.item_indices, prompts[0]),
        (second.annotator_ids, second_items, prompts[1]),
    ):
        padded = np.pad(items, ((0, 0), (0, width - items.shape[1])), constant_values=-1)
        hashes.append(row_hashes(people.indices(ids, unknown=-1), prompt, np.sort(padded, axis=1)))
    is_new |= people.indices(second.annotator_ids, unknown=-1) < 0
    return hashes[0], np.where(is_new, np.uint64(0), hashes[1])


def check_shared_judgements(first: Preferences, second: Preferences, names: tuple[str, str]) -> Finding:
    """The same person's judgement of the same completions in two splits, up to two splits that are one."""
    keys, others = _judgements(first, second)
    rows = np.flatnonzero((others != 0) & np.isin(others, keys))
    share = len(rows) / len(second)
    sentence = f"{len(rows):,} of the {len(second):,} judgements of {names[1]} stand in {names[0]} as well"
    # where few items meet again and again, as they do in the first
    by_chance = min(4 * (1 - len(np.unique(keys)) / len(keys)), BY_CHANCE)
    if len(rows) < 2 or (share < LEAK + by_chance and share < SAME_SPLIT):
        return Finding.of("shared_judgements", "ok", share, f"{sentence}.")
    if share >= SAME_SPLIT:
        message = f"{sentence}: {names[1]} is {names[0]}. What is chosen on one cannot be judged on the other."
    else:
        message = (
            f"{sentence}: they were learned, not predicted. Drop the copies, or keep them together "
            "(palign.data.splits.split_by_row does)."
        )
    return Finding.of("shared_judgements", "stop" if share >= COPIES_STOP else "look", share, message, rows, names[1])


def check_shared_items(first: Preferences, second: Preferences, names: tuple[str, str]) -> Finding:
    """Items that the same person judges in two splits, where rows are made of votes, ratings or rankings.

    Rows are taken to be so made where a person's rows count for less than `INDEPENDENT` of their number
    (`palign.functional.evidence.components`): independent judgements seldom share items that often.
    """
    if first.is_text != second.is_text or len(first) + len(second) > MOST_ROWS:
        return Finding.of("shared_items", "ok", 0.0, "not looked at: too many rows, or rows of two kinds.")
    people = first.annotators()
    keys = {key: i for i, key in enumerate(_item_keys(first))} if first.is_text else None
    known = None if keys is None else np.array([*(keys.get(key, -1) for key in _item_keys(second)), -1])
    items = second.item_indices if known is None else known[second.item_indices]
    owners = (people.indices(first.annotator_ids), people.indices(second.annotator_ids, unknown=-1))
    base = int(max(first.item_indices.max(initial=0), items.max(initial=0))) + 1
    judged = np.unique((owners[0][:, None] * base + first.item_indices)[first.item_indices >= 0])
    meets = (owners[1][:, None] >= 0) & (items >= 0) & np.isin(owners[1][:, None] * base + items, judged)
    rows = np.flatnonzero(meets.any(axis=1))
    share = len(rows) / len(second)
    note = (
        f"{len(rows):,} of the {len(second):,} judgements of {names[1]} name an item that their annotator judges in "
    )
    note += names[0]
    evidence = float(evidence_of_rows(first.item_indices, first.ranks, owners[0]).mean())
    if share < LEAK or len(rows) < 2 or evidence >= INDEPENDENT:
        return Finding.of("shared_items", "ok", share, f"{note}.")
    message = (
        f"{note}, and one annotator's judgements hang together as pairs made of votes or rankings do: who said a > b "
        "and c > d has nearly said a > d. A figure got on them promises too much. Split by item "
        "(palign.data.splits.split_by_item)."
    )
    return Finding.of("shared_items", "look", share, message, rows, names[1])


def check_shared_prompts(first: Preferences, second: Preferences, names: tuple[str, str]) -> Finding:
    """The same prompt in two splits."""
    if not first.is_text or not second.is_text:
        return Finding.of("shared_prompts", "ok", 0.0, "the rows name vectors.")
    used = [np.unique(part.prompt_indices) for part in (first, second)]
    if len(used[1]) == 1 or len(np.unique(second.item_indices)) > IS_LIST * len(used[1]):
        return Finding.of("shared_prompts", "ok", 0.0, "the prompts are a short list, each with many completions.")
    keys = [_prompt_keys(part) for part in (first, second)]
    known = {keys[0][prompt] for prompt in used[0]}
    shared = np.array([prompt for prompt in used[1] if keys[1][prompt] in known], dtype=np.int64)
    rows = np.flatnonzero(np.isin(second.prompt_indices, shared))
    share = len(shared) / len(used[1])
    return _leak("shared_prompts", share, rows, names, f"{len(shared):,} of the {len(used[1]):,} prompts", False)


def check_shared_completions(first: Preferences, second: Preferences, names: tuple[str, str]) -> Finding:
    """The same completion of the same prompt in two splits."""
    if not first.is_text or not second.is_text:
        return Finding.of("shared_completions", "ok", 0.0, "the rows name vectors.")
    used = [np.unique(part.item_indices[part.item_indices >= 0]) for part in (first, second)]
    keys = [_item_keys(part) for part in (first, second)]
    known = {keys[0][item] for item in used[0]}
    shared = np.array([item for item in used[1] if keys[1][item] in known], dtype=np.int64)
    rows = np.flatnonzero(np.isin(second.item_indices, shared).any(axis=1))
    share = len(shared) / len(used[1])
    return _leak(
        "shared_completions", share, rows, names, f"{len(shared):,} of the {len(used[1]):,} completions", False
    )


def check_shared_conversations(first: Preferences, second: Preferences, names: tuple[str, str]) -> Finding:
    """Turns of one conversation in two splits: by a column that names it (`conversation_id`, …), and by conversations
    that begin with the same exchange."""
    shares = np.zeros(len(second), dtype=bool)
    for column in first.columns:
        if CONVERSATION_NAMES.fullmatch(column) and column in second.columns:
            known = {value for value in first.columns[column].tolist() if value is not None}
            shares |= np.fromiter((value in known for value in second.columns[column].tolist()), bool, len(second))
    if first.is_text and second.is_text and any(_opening(p)[1] is not None for p in first.prompts + second.prompts):
        keys_seen = [set(), set()]
        for goes_on, keys in _exchanges(first):
            keys_seen[goes_on] |= keys
        # two first answers to one question are no conversation
        seen = (keys_seen[True], keys_seen[False] | keys_seen[True])
        shares |= np.fromiter((not seen[on].isdisjoint(keys) for on, keys in _exchanges(second)), bool, len(second))
    sentence = f"{int(shares.sum()):,} of the {len(second):,} rows"
    rows = np.flatnonzero(shares)
    return _leak(
        "shared_conversations", float(shares.mean()), rows, names, sentence, True, "belong to a conversation that"
    )


def _exchanges(prefs: Preferences) -> Iterator[tuple[bool, set[tuple[str, str]]]]:
    """For every row, whether its prompt goes beyond one question, and keys of what may be the first exchange: the
    first question with the first answer or, where the prompt is that question alone, with each completion."""
    opening = [_opening(prompt) for prompt in prefs.prompts]
    often = Counter(exchange for exchange in opening if exchange[1] is not None)
    examples = {exchange for exchange, count in often.items() if count > MOST_TURNS}
    keys = [None if answer is None else {(ask, answer)} - examples for ask, answer in opening]
    texts = [plain_text(text).strip() for _, text in prefs.items]
    for prompt, items in zip(prefs.prompt_indices.tolist(), prefs.item_indices.tolist(), strict=True):
        if keys[prompt] is not None:
            yield True, keys[prompt]
        else:
            yield False, {(opening[prompt][0], texts[item]) for item in items if item >= 0}


_TURN = re.compile(r"\n\s*\n?(?:Human|User|Assistant|AI|Bot)\s*:\s*", re.I)


def _opening(prompt: object) -> tuple[str, str | None]:
    """The first question and, where the prompt has one, the first answer."""
    if isinstance(prompt, str):
        turns = [turn.strip() for turn in _TURN.split("\n" + prompt) if turn.strip()]
    else:
        turns = [message["content"].strip() for message in prompt if message["role"] != "system"]
    if not turns:
        return "", None
    return turns[0], turns[1] if len(turns) > 1 else None


def _leak(
    name: str, share: float, rows: np.ndarray, names: tuple[str, str], what: str, stops: bool, verb: str = "stand in"
) -> Finding:
    sentence = f"{what} of {names[1]} {verb} {names[0]}{' has' if verb != 'stand in' else ' as well'}"
    if share < LEAK or len(rows) < 2:
        return Finding.of(name, "ok", share, f"{sentence}.")
    advice = "a figure got on them is not one for new ones. Split by what they share."
    verdict = "stop" if stops and share >= LEAK_STOPS else "look"
    return Finding.of(name, verdict, share, f"{sentence}: {advice}", rows, names[1])


def check_unseen(seen: Preferences, unseen: Preferences, name: str = "the unseen annotators") -> Finding:
    """People who should be new and are not."""
    both = sorted(set(seen.annotators().ids) & set(unseen.annotators().ids))
    n, share = len(unseen.annotators()), len(both) / max(len(unseen.annotators()), 1)
    sentence = f"{len(both):,} of {n:,} annotators of {name} have rows to train on"
    if not both:
        return Finding.of("unseen", "ok", share, f"{sentence}.")
    rows = np.flatnonzero(np.isin(unseen.annotator_ids.astype(str), both))
    shown = ", ".join(map(repr, both[:3]))
    return Finding.of("unseen", "stop", share, f"{sentence} ({shown}): they are not new. Leave them out.", rows, name)


def check_prompt_sources(annotators: np.ndarray, prompts: np.ndarray, *, split: str = "", seed: int = 0) -> Finding:
    """Do annotators fall apart into groups that share no prompt, where shuffled names would leave them together?

    Args:
        annotators, prompts: (n_rows,) numbers.
    """
    people, of_row = np.unique(annotators, return_inverse=True)
    if len(people) < 4 or len(np.unique(prompts)) < 4:
        return Finding.of("prompt_source", "ok", 1.0, "too few annotators or prompts to tell.")
    share = _largest_together(of_row, prompts)
    rng = np.random.default_rng(seed)
    n_shuffles = N_SHUFFLES if len(of_row) < 20_000 else 1  # of many rows all shuffles look alike
    shuffled = min(_largest_together(rng.permutation(of_row), prompts) for _ in range(n_shuffles))
    sentence = (
        f"{share:.0%} of {len(people):,} annotators are joined by prompts they share ({shuffled:.0%} if shuffled)"
    )
    if shuffled < CONNECTED or share >= APART:
        return Finding.of("prompt_source", "ok", share, f"{sentence}.")
    return Finding.of(
        "prompt_source",
        "look",
        share,
        f"{sentence}; the others were asked other things: a taste cannot be told from what was asked.",
        (),
        split,
    )


def _largest_together(people: np.ndarray, prompts: np.ndarray) -> float:
    """Share of the people in the largest component of the graph of people and prompts."""
    n_people = int(people.max()) + 1
    of_prompt = np.unique(prompts, return_inverse=True)[1]
    n = n_people + int(of_prompt.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(people)), (people, of_prompt + n_people)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    return float(np.bincount(component[:n_people]).max() / n_people)


def check_type_sources(prefs: Preferences, column: str, *, split: str = "", seed: int = 0) -> Finding:
    """Does the prompt tell a person's type? Naive Bayes on the prompt, its words, and columns that name a source,
    learned from half of the people and judged on the others."""
    known = np.array([value is not None and value == value for value in prefs.column(column)])
    rows = np.flatnonzero(known)
    rows = rows[sample(len(rows), seed=seed)]
    types, of_row = np.unique(np.array([str(value) for value in prefs.columns[column][rows]]), return_inverse=True)
    annotators = prefs.annotators()
    people = annotators.indices(prefs.annotator_ids[rows])
    learned = np.random.default_rng(seed).permutation(len(annotators))[people] % 2 == 0
    nothing = Finding.of("type_source", "ok", 0.0, f"too little to tell whether prompts give {column!r} away.")
    if not prefs.is_text or not 2 <= len(types) <= MOST_TYPES or min(learned.sum(), (~learned).sum()) < 30:
        return nothing
    features = _prompt_features(prefs, rows, column)
    counts = np.zeros((len(types), features.shape[1])) + 0.5
    for k in range(len(types)):
        counts[k] += np.asarray(features[learned & (of_row == k)].sum(axis=0)).ravel()
    log_share = np.log(np.bincount(of_row[learned], minlength=len(types)) + 0.5)
    guess = (features[~learned] @ np.log(counts / counts.sum(axis=1, keepdims=True)).T + log_share).argmax(axis=1)
    truth = of_row[~learned]
    right, common = float((guess == truth).mean()), float(np.bincount(truth).max() / len(truth))
    gain = (right - common) / max(1 - common, 1e-9)
    sentence = f"Prompts tell the {column!r} of {right:.0%} of new people's rows ({common:.0%} by the commonest)"
    if gain < CONFOUNDED or (right - common) < 4 * np.sqrt(common * (1 - common) / len(truth)):
        return Finding.of("type_source", "ok", gain, f"{sentence}.")
    return Finding.of(
        "type_source",
        "stop" if gain >= CONFOUNDED_STOPS else "look",
        gain,
        f"{sentence}: types were asked different things, and a model can tell type from prompt without anybody's "
        "votes.",
        rows[~learned][guess == truth],
        split,
    )


def _prompt_features(prefs: Preferences, rows: np.ndarray, without: str) -> sparse.csr_matrix:
    """(n, n_features) of ones: the prompt itself, its words, and what columns like `source` or `topic` say."""
    names = [name for name in prefs.columns if SOURCE_NAMES.fullmatch(name) and name != without]
    columns = [prefs.columns[name] for name in names]
    index: dict[object, int] = {}
    text_features: dict[int, list[object]] = {}
    entries, starts = [], [0]
    for row in rows:
        prompt = int(prefs.prompt_indices[row])
        if prompt >= 0 and prompt not in text_features:
            text = plain_text(prefs.prompts[prompt])[:2000].lower()
            text_features[prompt] = [("prompt", prompt), *sorted(set(text.split()))]
        keys = [*text_features.get(prompt, []), *(("source", i, str(values[row])) for i, values in enumerate(columns))]
        entries += [index.setdefault(key, len(index)) for key in keys]
        starts.append(len(entries))
    return sparse.csr_matrix((np.ones(len(entries)), entries, starts), shape=(len(rows), max(len(index), 1)))
