"""Refuses, in one sentence, a machine that has no ``cryptography``."""

try:
    import cryptography  # noqa: F401
except ImportError as error:
    raise ImportError("certificates need the package cryptography: pip install 'splitlearn[parties]'") from error
