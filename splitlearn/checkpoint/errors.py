"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is: the message names the file or tensor and what to do about it."""


def name_some(names: list[str], limit: int = 5) -> str:
    """Return up to ``limit`` names in a sentence's form, and how many more there are."""
    shown = ", ".join(sorted(names)[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
