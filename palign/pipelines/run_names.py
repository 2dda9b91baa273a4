"""What the runs of a recipe are called where they are tracked: recipe, policy or model, seed."""

__all__ = ["run_name"]


def run_name(given: str | None, recipe: str, part: str, *, seed: int) -> str:
    """The name of one of the trainings that a recipe does; a name of the user's is kept in front.

    A recipe trains several policies or models: under one name a tracker would take them for one run.
    """
    return f"{given}-{part}" if given else f"{recipe}-{part}-seed{seed}"
