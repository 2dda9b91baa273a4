"""Public data sets → preference rows: a register, name → reader, with what an annotator is in each.

    from palign.data.sources import read_source
    rows = read_source("prism", "path/or/hub-name", dropped)

`scripts/prepare_source.py` writes them to train.jsonl and test.jsonl. Further sources are registered with
`register_source`.
"""

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palign.data.preferences import Preferences
from palign.data.public_sets import dialogues, folders, judges, surveys, tools

__all__ = ["SOURCES", "Source", "read_source", "register_source", "save_preferences", "write_source"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A public data set.

    Attributes:
        name: what it is called here.
        read: (path or hub name, counter of what is left out, **options) → rows as `Preferences.from_rows` takes them.
            A column `part` ("train", "test", …) says where a row belongs, where the source itself must decide it.
        annotator: who or what an annotator is.
        licence: of the data.
        hub: its name on the hub, "" where it is a folder of files.
        split_by: column whose values are never split between two parts.
    """

    name: str
    read: Callable[..., Iterator[Row]]
    annotator: str
    licence: str
    hub: str = ""
    split_by: str = "prompt"

    def options(self) -> dict[str, Any]:
        """Name → default of the reader's options."""
        parameters = inspect.signature(self.read).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


SOURCES: dict[str, Source] = {}


def register_source(source: Source) -> None:
    """Make a source known by its name; a name that was known before now means the new one."""
    if not callable(source.read):
        raise TypeError(f"The reader of {source.name!r} is {source.read!r}, not a function of (path, dropped, …).")
    SOURCES[source.name] = source


def read_source(
    name: str, path: str | Path | None = None, dropped: Counter | None = None, **options: Any
) -> Iterator[Row]:
    """Rows of a source, one after another.

    Args:
        path: a local copy of the published form, or a hub name; None takes the source's name on the hub.
        dropped: counts what is left out, and why.
        options: of the reader (`Source.options`).

    Raises:
        ValueError: an unknown source or option, or no path for a source that is not on the hub.
    """
    source = _known(name)
    unknown = set(options) - set(source.options())
    if unknown:
        raise ValueError(
            f"{name} has no option {sorted(unknown)[0]!r}; it has {', '.join(source.options()) or 'none'}."
        )
    if path is None and not source.hub:
        raise ValueError(f"{name} is no data set of the hub: give the file or folder it was downloaded to (--input).")
    return source.read(source.hub if path is None else path, Counter() if dropped is None else dropped, **options)


def _known(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"{name!r} is no source; there are {', '.join(sorted(SOURCES))}.")
    return SOURCES[name]


def write_source(
    name: str,
    out: str | Path,
    *,
    path: str | Path | None = None,
    test_share: float = 0.2,
    split_by: str | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[Counter, Counter]:
    """Write <out>/train.jsonl and test.jsonl (and further parts, where the source has them), row by row.

    A row goes where its `part` says, else by a hash of its `split_by` column: the same value is never in two parts,
    and the same seed gives the same parts.

    Returns:
        Rows written by part, and what was left out by reason.
    """
    source, dropped, written = _known(name), Counter(), Counter()
    shared = {key: value for key, value in {"seed": seed, "test_share": test_share}.items() if key in source.options()}
    Path(out).mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.push(lambda kind, *_: _remove(files) if kind else None)
        for row in read_source(name, path, dropped, **(shared | options)):
            part = row.pop("part", None) or _part(row, split_by or source.split_by, test_share, seed)
            if part not in files:
                files[part] = stack.enter_context((Path(out) / f"{part}.jsonl").open("w", encoding="utf-8"))
            files[part].write(json.dumps(row, ensure_ascii=False) + "\n")
            written[part] += 1
    if not written:
        raise ValueError(f"{name} gave no row; left out were {dict(dropped) or 'none'}. Is it the form expected?")
    return written, dropped


def _remove(files: dict[str, Any]) -> None:
    """Nothing half-written stays behind."""
    for file in files.values():
        file.close()
        Path(file.name).unlink(missing_ok=True)


def _part(row: Row, column: str, test_share: float, seed: int) -> str:
    if column not in row:
        raise ValueError(f"There is no column {column!r} to split by; the rows have {', '.join(row)}.")
    key = json.dumps([seed, row[column]], sort_keys=True, default=str).encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
    return "test" if drawn < test_share else "train"


_CC_BY, _MIT = "CC BY 4.0", "MIT"
for _source in (
    Source(
        "prism",
        surveys.prism_rows,
        "a participant; their survey answers are groups",
        "CC BY 4.0 (human-written), CC BY-NC 4.0 (model answers)",
        "HannahRoseKirk/prism-alignment",
        "conversation_id",
    ),
    Source(
        "tldr",
        judges.tldr_rows,
        "the worker who chose",
        "modified MIT; posts CC BY 4.0",
        "openai/summarize_from_feedback",
        "post_id",
    ),
    Source(
        "tldr-length",
        judges.tldr_length_rows,
        "a worker, relabelled by length",
        "modified MIT; posts CC BY 4.0",
        "openai/summarize_from_feedback",
        "post_id",
    ),
    Source("persona", surveys.persona_rows, "a simulated follower of a persona", _CC_BY),
    Source(
        "ultrafeedback",
        surveys.ultrafeedback_rows,
        "an aspect rated by GPT-4, a simulated user",
        _MIT,
        "openbmb/UltraFeedback",
    ),
    Source("helpsteer", judges.helpsteer_rows, "a slot of a row, filled by many people", _CC_BY, "nvidia/HelpSteer3"),
    Source("multipref", judges.multipref_rows, "a crowd worker or an expert", "ODC-By", "allenai/multipref"),
    Source(
        "global-opinion", surveys.global_opinion_rows, "a country", "CC BY-NC-SA 4.0", "Anthropic/llm_global_opinions"
    ),
    Source("polis", folders.polis_rows, "a voter", _CC_BY),
    Source("llmfao", folders.llmfao_rows, "a crowd worker", _CC_BY),
    Source(
        "arena",
        judges.arena_rows,
        "a judge, which may be an address rather than a person",
        "CC BY 4.0 (prompts), CC BY-NC 4.0 (answers)",
        "lmsys/chatbot_arena_conversations",
        "prompt",
    ),
    Source(
        "community-alignment",
        dialogues.community_alignment_rows,
        "a participant",
        _CC_BY,
        "facebook/community-alignment-dataset",
        "conversation_id",
    ),
    Source(
        "oasst",
        dialogues.oasst_rows,
        "all volunteers together",
        "Apache 2.0",
        "OpenAssistant/oasst2",
        "conversation_id",
    ),
    Source("shp", dialogues.shp_rows, "the voters of a subreddit", "as its card says", "stanfordnlp/SHP", "post_id"),
    Source(
        "personal-llm",
        dialogues.personal_llm_rows,
        "a reward model, a simulated person",
        _CC_BY,
        "namkoong-lab/PersonalLLM",
    ),
    Source("reward-bench-2", dialogues.reward_bench_rows, "nobody in particular", "ODC-By", "allenai/reward-bench-2"),
    Source("argilla", tools.argilla_rows, "a user of Argilla", "yours"),
    Source("label-studio", tools.label_studio_rows, "who completed the annotation", "yours"),
    Source("preflib", tools.preflib_rows, "a voter of one ballot", "as the file's page says"),
    Source("table", judges.table_rows, "what the named column says", "yours"),
):
    register_source(_source)


def save_preferences(prefs: Preferences, path: str | Path) -> None:
    """Write one JSON object per row (UTF-8), under the standard column names; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in prefs.to_rows():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
