"""What a trainer shows others of a model: its own card, never the generic one, and nobody's e-mail address."""

from pathlib import Path
from typing import Any

from palign.data.pseudonyms import refuse_personal_ids

__all__ = ["OwnCard"]

WAY_OUT = "set push_personal_ids (--push_personal_ids true)"


class OwnCard:
    """Put before `Trainer` among the bases; `write_card(folder)`, where a trainer has it, writes README.md."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Ours in place of transformers' and TRL's."""
        if not hasattr(self, "write_card"):
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            self.write_card(Path(self.args.output_dir))

    def refuse_personal_ids(self) -> None:
        """ValueError where ids of the rows look like e-mail addresses, unless they may be published."""
        rows = getattr(self, "train_rows", None)
        if rows is not None and not getattr(self.args, "push_personal_ids", False):
            refuse_personal_ids(rows.annotator_ids, WAY_OUT)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As of transformers; ValueError as of `refuse_personal_ids`."""
        self.refuse_personal_ids()
        return super().push_to_hub(*args, **kwargs)
