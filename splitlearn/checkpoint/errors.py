"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is: the message names the file or tensor and what to do about it."""


class AbsentFileError(FileNotFoundError):
    """A checkpoint that can be reached and does not have the file."""


class UnreachableFileError(FileNotFoundError):
    """A file that is not in the hub's cache while the hub cannot be reached, so nobody knows whether it exists."""


def name_some(names: list[str], limit: int = 5) -> str:
    """Return up to ``limit`` names in a sentence's form, and how many more there are."""
    shown = ", ".join(sorted(names)[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
