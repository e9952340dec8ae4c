"""Errors of checkpoints and of their files."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is: the message names the file or tensor and the remedy."""


class AbsentFileError(FileNotFoundError):
    """A checkpoint that can be reached and does not have the file."""


class UnreachableFileError(FileNotFoundError):
    """A file that is not in the hub's cache while the hub cannot be reached, so that it may or may not exist."""


def name_some(names: list[str], limit: int = 5) -> str:
    """Return some names and the number of the others, to stand in a sentence.

    Args:
        names: the names.
        limit: how many to name.
    """
    shown = ", ".join(sorted(names)[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
