"""Smashed data that are kept: their codecs, where they are stored, and when they need not be computed again."""

from splitlearn.activations.cache import ActivationCache, CacheSettings
from splitlearn.activations.codecs import CODECS

__all__ = ["CODECS", "ActivationCache", "CacheSettings"]
