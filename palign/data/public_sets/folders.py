"""Readers of studies published as a folder of tables: LLMFAO and Polis conversations.

A reader takes the folder, a counter of what it leaves out, and options, and yields rows as
`Preferences.from_rows` takes them.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palign.data.rows.files import csv_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["llmfao_rows", "need_files", "polis_rows"]

Row = dict[str, Any]


def need_files(folder: str | Path, *names: str) -> None:
    """ValueError when the folder lacks a file, before anything is read."""
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; these files are read: {', '.join(names)}.")


def llmfao_rows(source: str | Path, dropped: Counter) -> Iterator[Row]:
    """LLMFAO: the annotator is the crowd worker; ties say nothing about a pair and are left out.

    `chosen_index` and `rejected_index` are rows of responses.csv.gz, and so of a file of their embeddings; `position`
    says which side the chosen one stood on.
    """

    folder = Path(source)
    need_files(folder, "comparisons_public.csv", "prompts.csv", "responses.csv.gz")
    responses = csv_frame(folder / "responses.csv.gz", keep_default_na=False)
    text, row_of = responses["text"].tolist(), {number: row for row, number in enumerate(responses["resp"])}
    prompts = csv_frame(folder / "prompts.csv", keep_default_na=False).set_index("prompt")
    for judged in csv_frame(folder / "comparisons_public.csv", keep_default_na=False).itertuples():
        if judged.winner == "tie":
            dropped["ties"] += 1
            continue
        sides = [row_of[judged.resp_left], row_of[judged.resp_right]]
        chosen, rejected = sides if judged.winner == "left" else sides[::-1]
        if text[chosen] == text[rejected]:
            dropped["pairs of equal responses"] += 1
            continue
        prompt = prompts.loc[judged.prompt]
        yield {
            "annotator_id": f"worker_{judged.worker}",
            "prompt": prompt["text"],
            "chosen": text[chosen],
            "rejected": text[rejected],
            "chosen_index": chosen,
            "rejected_index": rejected,
            "prompt_type": prompt["type"],
            "position": judged.winner,
        }


def polis_rows(
    source: str | Path,
    dropped: Counter,
    *,
    conversation: str = "",
    form: str = "pairs",
    n_items: int = 4,
    rows: int = 40,
    min_votes: int = 10,
    test_share: float = 0.2,
    seed: int = 0,
) -> Iterator[Row]:
    """Polis: the annotator is the voter, whose votes (1 agree, 0 pass, −1 disagree) are a ranking of three tiers.

    A folder of `NAME.statements.csv` and `NAME.votes.csv.gz`, or an export as Polis writes it (`comments.csv`,
    `votes.csv`, perhaps `participant-votes.csv` or, before, `participants-votes.csv`, which has the opinion groups).
    Of several votes of one person on one statement the latest by `timestamp` counts. Each voter's statements are split
    before anything is drawn (`part`).

    Args:
        conversation: name of the conversation, or a part of it; a folder with one needs none.
        form: "pairs" of two statements of different tiers, or "rankings" of `n_items` that are not all of one tier.
        rows: train rows of a voter, at most; a `test_share` of as many are test rows.
        min_votes: least votes of a voter.
    """
    if form not in ("pairs", "rankings"):
        raise ValueError(f"form is {form!r}; allowed are pairs, rankings.")
    name, text, votes = _polis_tables(Path(source), conversation)
    rng = np.random.default_rng(seed)
    n_drawn = {"train": rows, "test": max(1, round(rows * test_share))}
    for user, voter_votes in votes.groupby("user"):
        group = voter_votes["group"].iloc[0]
        head = {"annotator_id": f"voter_{user}", "prompt": f"Conversation: {name}. Statement:\n"}
        head["opinion_group"] = None if group != group else f"group_{int(group)}"
        if len(voter_votes) < min_votes:
            dropped[f"voters with fewer than {min_votes} votes"] += 1
            continue
        voter = Voter(voter_votes, test_share, rng)
        drawn = {part: voter.draw(part, 2 if form == "pairs" else n_items, n) for part, n in n_drawn.items()}
        if not drawn["train"]:
            dropped["voters who voted alike on everything"] += 1
            continue
        for part, judgements in drawn.items():
            for statements, tiers in judgements:
                yield head | _judgement(form, [text[s] for s in statements], tiers) | {"part": part}


def _judgement(form: str, texts: list[str], votes: list[int]) -> Row:
    if form == "pairs":
        return {"chosen": texts[0], "rejected": texts[1]}
    return {"completions": texts, "ratings": votes}


def _polis_tables(folder: Path, conversation: str) -> tuple[str, dict[int, str], "pd.DataFrame"]:
    """Name, statement → text, and votes (user, group, statement, vote)."""

    if (folder / "comments.csv").is_file():
        need_files(folder, "comments.csv", "votes.csv")
        comments = csv_frame(folder / "comments.csv", keep_default_na=False)
        votes = csv_frame(folder / "votes.csv")
        votes = votes.rename(columns={"voter-id": "user", "comment-id": "statement"})
        if "timestamp" in votes:
            votes = votes.sort_values("timestamp", kind="stable")
        votes = votes.drop_duplicates(["user", "statement"], keep="last").sort_index()  # a change of mind
        votes["group"] = np.nan
        names = [name for name in ("participant-votes.csv", "participants-votes.csv") if (folder / name).is_file()]
        if names:
            people = csv_frame(folder / names[0]).set_index("participant")
            votes["group"] = votes["user"].map(people["group-id"])
        text = dict(zip(comments["comment-id"], comments["comment-body"], strict=True))
        return conversation or folder.name, text, votes[votes["statement"].isin(text)]
    name = find_conversation(folder, conversation)
    need_files(folder, f"{name}.statements.csv", f"{name}.votes.csv.gz")
    statements = csv_frame(folder / f"{name}.statements.csv", keep_default_na=False)
    text = dict(zip(statements["statement"], statements["text"], strict=True))
    return name, text, csv_frame(folder / f"{name}.votes.csv.gz")


def find_conversation(folder: Path, name: str) -> str:
    """The one conversation of the folder whose name contains `name`; ValueError lists them otherwise."""
    suffix = ".votes.csv.gz"
    names = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    matches = [known for known in names if name in known]
    if len(matches) != 1:
        what = f"{len(matches)} conversations" if matches else "no conversation"
        raise ValueError(f"{what} in {folder} match {name!r}; there are {', '.join(matches or names) or 'none'}.")
    return matches[0]


class Voter:
    """One person's votes, split in two, and the rows drawn from a part."""

    def __init__(self, votes: "pd.DataFrame", test_share: float, rng: np.random.Generator):
        order = rng.permutation(len(votes))
        n_test = round(test_share * len(votes))
        statements, tiers = votes["statement"].to_numpy(), votes["vote"].to_numpy()
        self.rng = rng
        self.parts = {
            name: (statements[rows], tiers[rows])
            for name, rows in (("test", order[:n_test]), ("train", order[n_test:]))
        }

    def draw(self, part: str, n_items: int, n_rows: int) -> list[tuple[list[int], list[int]]]:
        """Up to `n_rows` different (statements, votes) of `n_items` each that are not all of one tier, best first."""
        statements, tiers = self.parts[part]
        if len(statements) < n_items or len(set(tiers)) < 2:
            return []
        drawn: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
        for _ in range(5 * n_rows):
            rows = self.rng.choice(len(statements), size=n_items, replace=False)
            if len(drawn) < n_rows and len(set(tiers[rows])) > 1:
                rows = rows[np.argsort(-tiers[rows], kind="stable")]
                drawn[tuple(sorted(rows))] = (statements[rows].tolist(), tiers[rows].tolist())
        return list(drawn.values())
