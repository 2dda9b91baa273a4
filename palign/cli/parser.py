"""`TrlParser`, whose errors are for whoever typed the command: one line, exit status 2, no traceback."""

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from trl import TrlParser

from palign.cli.early_checks import refuse_missing_trackers
from palign.cli.option_file import OptionError, config_path, read_options, unknown_options

__all__ = ["CommandLine", "require_known_processes"]


class CommandLine(TrlParser):
    """`TrlParser` that takes no abbreviated flags and looks at all names before any dataclass is made.

    An unknown flag or key of the YAML file is told with the nearest name; so is a file that is missing or broken.
    A dataclass may name options in `AS_TEXT`, which it reads itself: a number or 'auto', say.
    """

    def __init__(self, kinds: Iterable[type]):
        kinds = list(kinds)
        super().__init__(kinds, allow_abbrev=False)
        for name in {name for kind in kinds for name in getattr(kind, "AS_TEXT", ())}:
            self._option_string_actions[f"--{name}"].type = str

    def parse_args_and_config(
        self, args: Iterable[str] | None = None, return_remaining_strings: bool = False, **rest: Any
    ) -> tuple[Any, ...]:
        """As of `TrlParser`; with `return_remaining_strings` unknown names are let through.

        Raises:
            SystemExit: with status 2; what is wrong stands on stderr.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            path = config_path(arguments)
            config = {} if path is None else read_options(path)
            arguments = _without_config(arguments)
            if not return_remaining_strings:
                self._refuse_unknown(arguments, path, config)
        except OptionError as error:
            self.error(str(error))
        with_config = arguments if path is None else ["--config", path, *arguments]
        parsed = super().parse_args_and_config(with_config, return_remaining_strings, **rest)
        for part in parsed:
            self._refuse_missing_trackers(getattr(part, "report_to", None) or ())
            if hasattr(type(part), "world_size"):  # training arguments, which know of the other processes or do not
                self._refuse_strangers(part.world_size)
        return parsed

    def _refuse_missing_trackers(self, names: Iterable[str]) -> None:
        try:
            refuse_missing_trackers(names)
        except OptionError as error:
            self.error(str(error))

    def names_in(self, args: Iterable[str]) -> set[str]:
        """Options that stand on a command line, or in the file behind its `--config`; read after they were parsed."""
        arguments = list(args)
        path = config_path(arguments)
        flags = (word.split("=")[0] for word in _without_config(arguments) if word.startswith("--"))
        return {flag.removeprefix("--").replace("-", "_") for flag in flags} | set(read_options(path) if path else ())

    def _refuse_strangers(self, n_processes: int) -> None:
        try:
            require_known_processes(n_processes)
        except RuntimeError as error:
            self.error(str(error))

    def error(self, message: str) -> NoReturn:
        """One line, not the usage of a hundred options."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def _refuse_unknown(self, arguments: list[str], path: str | None, config: dict[str, Any]) -> None:
        options = {action.dest for action in self._actions} - {"help"}
        wrong = [key for key in config if key not in options | {"env"}]
        if wrong:
            raise OptionError(f"--config {path}: {unknown_options(wrong, sorted(options))}; --help lists the options.")
        strays = self.parse_known_args(arguments)[1]
        flags = [word.split("=")[0].removeprefix("--") for word in strays if word.startswith("--")]
        if flags:
            known = {name[2:].replace("-", "_") for name in self._option_string_actions if name.startswith("--")}
            raise OptionError(f"{unknown_options(flags, sorted(known | {'config'}), '--')}; --help lists the options.")
        if strays:
            raise OptionError(f"{strays[0]!r} belongs to no option; every value stands behind its --OPTION.")


def require_known_processes(n_processes: int) -> None:
    """RuntimeError where a launcher has started several processes and this one knows of itself alone.

    Each of them would be the main process: they would train the same thing twice, into one folder.

    Args:
        n_processes: that this process knows of.
    """
    n_launched = int(os.environ.get("WORLD_SIZE") or 1)
    if n_launched > 1 and n_processes == 1:
        raise RuntimeError(
            f"{n_launched} processes were launched that do not know of each other: each takes itself for the only "
            "one, and all would write into one folder. There is no accelerator to join them by. On the CPU give "
            "--use_cpu true as well (accelerate_configs/cpu_2proc.yaml); else launch one process."
        )


def _without_config(arguments: list[str]) -> list[str]:
    kept, skips = [], False
    for argument in arguments:
        if skips or argument.startswith("--config="):
            skips = False
        elif argument == "--config":
            skips = True
        else:
            kept.append(argument)
    return kept
