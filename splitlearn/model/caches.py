"""The key-value cache of one part: the entries of its own layers in a transformers cache.

A part numbers its layers from zero, so it sees a slice of the whole model's cache as a cache of its own. Operations
on the whole cache (reordering it for beams, cropping, offloading) thereby reach every part.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from transformers import Cache, DynamicCache, PreTrainedConfig

from splitlearn.cut import PartSpec


class PartCache(Cache):
    """A part's cache, which counts its tokens itself.

    transformers' caches ask an attention layer for the count, but a part may consist of layers that keep none, such as linear
    attention.

    Attributes:
        num_cached_tokens: tokens seen in earlier calls.
    """

    num_cached_tokens: int

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens are cached.

        Args:
            layer_idx: the layer to ask, numbered from the part's first.
        """
        try:
            return super().get_seq_length(layer_idx) if self.layers else self.num_cached_tokens
        except ValueError:
            return self.num_cached_tokens

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many keys a mask must cover, and the position of the first.

        Args:
            query_length: number of new tokens.
            layer_idx: the layer to ask, numbered from the part's first.
        """
        try:
            if self.layers:
                return super().get_mask_sizes(query_length, layer_idx)
        except ValueError:
            pass
        return self.num_cached_tokens + query_length, 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether a linear-attention layer has seen tokens; in a part without any, whether the part has.

        Args:
            layer_idx: the layer to ask, numbered from the part's first; None asks for the first of its kind.
            state_idx: which of the layer's states; None asks for the first.

        Raises:
            ValueError: layer ``layer_idx`` keeps no such state.
        """
        try:
            return bool(super().has_previous_state(layer_idx, state_idx))
        except ValueError:
            if layer_idx is not None:
                raise
            return self.num_cached_tokens > 0


@cache
def _part_class(whole_class: Any) -> Any:
    return type(whole_class.__name__, (PartCache, whole_class), {"__module__": whole_class.__module__})


def make_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache with an entry for each layer.

    Args:
        config: the unsplit model's configuration.
    """
    return DynamicCache(config=config.get_text_config(decoder=True))


def cache_of_part(whole: Cache, part: PartSpec, num_cached_tokens: int) -> PartCache:
    """Return the slice of a whole model's cache that belongs to one part; both share the entries, so both see new tokens.

    Args:
        whole: a cache with an entry for every layer of the unsplit model.
        part: the part.
        num_cached_tokens: how many tokens it holds.

    Raises:
        ValueError: the cache has no entry for every layer.
    """
    if len(whole.layers) < part.end:
        raise ValueError(
            f"a {type(whole).__name__} with {len(whole.layers)} layers cannot be divided among the parts of a model of "
            f"{part.num_layers} layers: make it with the model's configuration, or use make_cache()"
        )
    # A shallow copy, so that both caches hold the same entries.
    sliced: Any = copy.copy(whole)
    sliced.layers = whole.layers[part.start : part.end]
    sliced.num_cached_tokens = num_cached_tokens
    whole_class: Any = type(whole)
    sliced.__class__ = _part_class(whole_class)
    return sliced


def count_cached_tokens(whole: Cache) -> int:
    """Return how many tokens a cache holds; 0 for one whose layers keep no count.

    Args:
        whole: a cache with an entry for every layer of the unsplit model.
    """
    try:
        return int(whole.get_seq_length())
    except ValueError:
        return 0
