"""Keeping smashed data of frozen parts, so that they need not be computed again."""

from splitlearn.activations.cache import ActivationCache, CacheSettings

__all__ = ["ActivationCache", "CacheSettings"]
