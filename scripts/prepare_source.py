"""A public data set to preference rows: OUT/train.jsonl and OUT/test.jsonl.

    python scripts/prepare_source.py prism OUT --input PATH_OR_HUB_NAME [--test_share 0.2] [--seed 0]
    python scripts/prepare_source.py prism --help      what an annotator is there, its licence, its own options

Without a name: a list of the sources. `docs/sources.md` has a section for each. Every data set keeps its own licence
and wants its own attribution (CC BY 4.0 and others); the help of each says which.
"""

import argparse
import sys

from palign.cli.errors import run
from palign.data.public_sets.judges import PAPER_COUNTS
from palign.data.sources import SOURCES, write_source


def make_parser(name: str) -> argparse.ArgumentParser:
    """The flags of one source: those of all, and a flag for each option of its reader."""
    source = SOURCES[name]
    about = f"{source.read.__doc__}\n\nAnnotator: {source.annotator}. Licence: {source.licence}."
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SOURCES))
    parser.add_argument("out", help="folder that train.jsonl and test.jsonl are written to")
    parser.add_argument("--input", help=f"file, folder or hub name (default: {source.hub or 'none, give one'})")
    parser.add_argument("--split_by", help=f"column never split between two files (default: {source.split_by})")
    parser.add_argument("--test_share", type=float, default=0.2, help="share of the test rows (default 0.2)")
    parser.add_argument("--seed", type=int, default=0)
    for option, default in source.options().items():
        if option not in ("test_share", "seed"):
            kind = str if default is None else type(default)
            parser.add_argument(f"--{option}", type=kind, default=default, help=f"(default: {default})")
    return parser


def main(argv: list[str]) -> None:
    """Read the source named first and write it."""
    if not argv or argv[0] not in SOURCES:
        print(__doc__)
        for name, source in sorted(SOURCES.items()):
            print(f"    {name:<15} {source.annotator} · {source.licence}")
        sys.exit(0 if not argv or argv[0] in ("-h", "--help") else 2)
    args = vars(make_parser(argv[0]).parse_args(argv))
    name, out, path = args.pop("name"), args.pop("out"), args.pop("input")
    written, dropped = write_source(name, out, path=path, **args)
    for part, count in written.items():
        print(f"{out}/{part}.jsonl: {count:,} rows")
    if name == "tldr-length":
        print(f"the paper's counts: {', '.join(f'{part} {count:,}' for part, count in PAPER_COUNTS.items())}")
    for reason, count in dropped.items():
        print(f"left out: {count:,} {reason}")


if __name__ == "__main__":
    if status := run("prepare_source.py", lambda: main(sys.argv[1:])):
        sys.exit(status)
