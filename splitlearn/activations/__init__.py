"""Smashed data that are kept: where they are stored, and when they need not be computed again."""

from splitlearn.activations.cache import ActivationCache, CacheSettings

__all__ = ["ActivationCache", "CacheSettings"]
