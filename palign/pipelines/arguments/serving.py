"""Command-line arguments of `recipes/serve.py`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from palign.cli.parser import CommandLine

__all__ = ["ServingArguments", "parse_serving_arguments"]


@dataclass
class ServingArguments:
    """What is served, to whom, and how much of it a request may ask."""

    model_path: str | None = field(
        default=None, metadata={"help": "Serve the rewards of a PAL reward model: a folder or hub name."}
    )
    mixture_path: str | None = field(
        default=None, metadata={"help": "Serve the policies of a mixture, each person by the adapter of their type."}
    )
    fair_path: str | None = field(
        default=None,
        metadata={"help": "With --mixture_path: the fair policy, which answers people who are not known."},
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to serve; another than this machine's own needs PALIGN_SERVE_TOKEN."},
    )
    port: int = field(default=8000, metadata={"help": "Port to serve."})
    batch_size: int = field(default=64, metadata={"help": "Texts in one pass of the model."})
    max_rows: int = field(default=4096, metadata={"help": "Rows of one request."})
    max_body_mb: float = field(default=16.0, metadata={"help": "Size of one request, in MB."})
    max_characters: int = field(default=200_000, metadata={"help": "Characters of one text."})
    max_new_tokens: int = field(default=1024, metadata={"help": "Tokens of one answer of a policy, at most."})
    read_seconds: float = field(default=20.0, metadata={"help": "Seconds that a request's body may take to arrive."})
    device: str = field(default="auto", metadata={"help": "'auto' takes an accelerator where there is one; or 'cpu'."})
    dtype: str = field(default="auto", metadata={"help": "Of the model's weights; 'auto' is that of its files."})


def parse_serving_arguments(argv: Sequence[str] | None = None) -> tuple[ServingArguments]:
    """Read flags over YAML over defaults.

    Raises:
        ValueError: not exactly one thing to serve, or a limit that lets nothing through.
    """
    parser = CommandLine([ServingArguments])
    (script,) = parser.parse_args_and_config(list(sys.argv[1:] if argv is None else argv))
    if (script.model_path is None) == (script.mixture_path is None):
        raise ValueError(
            "Nothing to serve, or two things: give --model_path REWARD_MODEL, or --mixture_path MIXTURE [--fair_path "
            "POLICY]."
        )
    if script.fair_path is not None and script.mixture_path is None:
        raise ValueError("--fair_path answers people that a mixture does not know; give --mixture_path, too.")
    for name in ("batch_size", "max_rows", "max_body_mb", "max_characters", "max_new_tokens", "read_seconds"):
        if not getattr(script, name) > 0:
            raise ValueError(f"--{name} is {getattr(script, name)}; it must be above 0.")
    if not 0 <= script.port < 65536:
        raise ValueError(f"--port is {script.port}; give a number from 0 to 65535.")
    return (script,)
