"""Generating through a part that another party holds: its key-value cache stays there.

In the unsplit model's cache a `LayerElsewhere` stands for each of the part's layers. Operations on the cache
(reordering it for beams, cropping) thereby reach the party that holds the part.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from splitlearn.cut import PartSpec
from splitlearn.model.blueprint import Blueprint
from splitlearn.model.caches import PartCache, cache_of_part, make_cache
from splitlearn.model.split_model import SplitModel

# Methods that transformers calls on all entries of a cache at once.
_CHANGES = ("reset", "reorder_cache", "crop", "batch_repeat_interleave", "batch_select_indices", "activate_past_recording")


class GenerationSession(Protocol):
    """The key-value cache that the holder of a part keeps for one generation. The part takes it as ``past_key_values``.

    Attributes:
        num_cached_tokens: how many tokens the part has seen in earlier calls; it is set before each call.
    """

    num_cached_tokens: int

    def change(self, name: str, *arguments: Any) -> None:
        """Change the cache as the method ``name`` of transformers' ``Cache`` does, for example ``reorder_cache``."""

    def end(self) -> None:
        """Forget the cache; the session cannot be used any more."""


class LocalSession:
    """A session as the holder of a part, or of several, keeps it.

    Args:
        *parts: the parts.
    """

    def __init__(self, *parts: SplitModel) -> None:
        # A part without layers caches nothing.
        self._caches = {part.spec.name: part.make_cache() for part in parts if part.spec.start < part.spec.end}

    def cache_of(self, part: str) -> PartCache | None:
        """Return a part's key-value cache, which `SplitModel.run` takes as ``past_key_values``; None for one without layers.

        Args:
            part: the part's name.
        """
        return self._caches.get(part)

    @property
    def num_cached_tokens(self) -> int:
        """How many tokens the parts have seen in earlier calls."""
        return self._open_caches()[0].num_cached_tokens

    @num_cached_tokens.setter
    def num_cached_tokens(self, number: int) -> None:
        for cache in self._open_caches():
            cache.num_cached_tokens = number

    def change(self, name: str, *arguments: Any) -> None:
        """Change the caches as the method ``name`` of transformers' ``Cache`` does.

        Raises:
            ValueError: it is no change of a cache.
        """
        if name not in _CHANGES:
            raise ValueError(f"{name!r} is no change of a cache; there are {', '.join(_CHANGES)}")
        for cache in self._open_caches():
            getattr(cache, name)(*arguments)
            cache.num_cached_tokens = cache.get_seq_length()

    def end(self) -> None:
        """Forget the caches."""
        self._caches.clear()

    def _open_caches(self) -> list[PartCache]:
        if not self._caches:
            raise ValueError("this session has ended; begin another one")
        return list(self._caches.values())


class LayerElsewhere(CacheLayerMixin):
    """Stands in a whole model's cache for a layer of a part that another party holds.

    Args:
        session: the session of the part.
        replaced: the entry in whose place it stands.
        leads: whether changes of the cache are passed on by this entry; one of a part's does it for all.
    """

    # Nothing of it can be made in advance.
    supports_early_init = False

    def __init__(self, session: GenerationSession, replaced: Any, leads: bool) -> None:
        super().__init__()
        self.session = session
        self._leads = leads
        self.is_croppable = getattr(replaced, "is_croppable", False)
        self.is_sliding = getattr(replaced, "is_sliding", False)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to hold anything."""
        raise RuntimeError("the keys and values of this layer are held by another party")

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to hold anything."""
        return self.lazy_initialization()

    def get_seq_length(self) -> int:
        """Return how many tokens the layer has cached."""
        return self.session.num_cached_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return for how many keys, from which on, a mask for ``query_length`` new tokens is needed."""
        return self.session.num_cached_tokens + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: it grows as needed."""
        return -1

    # Called so until transformers 5.2x.
    get_max_cache_shape = get_max_length

    def offload(self) -> None:
        """Leave its data where they are."""

    prefetch = offload

    def reset(self) -> None:
        """Have the holder forget all tokens."""
        self._change("reset")

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Have the holder put row ``beam_idx[i]`` in the place of row i."""
        self._change("reorder_cache", beam_idx)

    def crop(self, number: int) -> None:
        """Have the holder forget the last tokens."""
        self._change("crop", number)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have the holder repeat each row."""
        self._change("batch_repeat_interleave", repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Have the holder keep some rows."""
        self._change("batch_select_indices", indices)

    def activate_past_recording(self) -> None:
        """Have the holder keep the states that cropping needs."""
        self._change("activate_past_recording")

    def _change(self, name: str, *arguments: Any) -> None:
        if self._leads:
            self.session.change(name, *arguments)


class SessionHolder(Protocol):
    """The interface through which a part that another party holds takes part in generation.

    Attributes:
        spec: which part it is.
        blueprint: the unsplit model's structure.
    """

    spec: PartSpec
    blueprint: Blueprint

    def begin_session(self) -> GenerationSession:
        """Return an empty key-value cache that the holder keeps for one generation."""


def divide_cache(whole: Cache, parts: Sequence[Any], num_cached_tokens: int) -> list[PartCache | GenerationSession | None]:
    """Return the cache of each part: a slice of the whole model's, or the session of a part that another party holds.

    A session begins with the first call that has its cache, and ends when the cache is no longer used.

    Args:
        whole: a cache with an entry for every layer of the unsplit model.
        parts: bottom, trunk and top.
        num_cached_tokens: how many tokens it holds.

    Returns:
        None for a part elsewhere that has no layers.

    Raises:
        ValueError: the cache has no entry for every layer, or holds tokens in the place of layers that are elsewhere, or is of
            another kind than is kept there.
    """
    caches = []
    for part in parts:
        own = cache_of_part(whole, part.spec, num_cached_tokens)
        caches.append(_session(whole, part, num_cached_tokens) if part.is_elsewhere else own)
    return caches


def _session(whole: Cache, part: SessionHolder, num_cached_tokens: int) -> GenerationSession | None:
    start, end = part.spec.start, part.spec.end
    entries = whole.layers[start:end]
    if not entries:
        return None
    first: Any = entries[0]
    if not isinstance(first, LayerElsewhere):
        if num_cached_tokens:
            raise ValueError(
                f"the cache holds {num_cached_tokens} tokens in the layers of the {part.spec.name}, which another party holds; "
                "begin with an empty cache"
            )
        _refuse_other_kinds(entries, part)
        session = part.begin_session()
        # transformers asks for it before the first call.
        if any(getattr(entry, "record_past", False) for entry in entries):
            session.change("activate_past_recording")
        places = [LayerElsewhere(session, entry, leads=entry is first) for entry in entries]
        whole.layers[start:end] = places
        weakref.finalize(places[0], session.end)
        first = places[0]
    running: GenerationSession = first.session
    running.num_cached_tokens = num_cached_tokens
    return running


def _refuse_other_kinds(entries: Sequence[Any], part: SessionHolder) -> None:
    """Refuse a cache of another kind than the holder of a part keeps."""
    kept = make_cache(part.blueprint.meta_model.config).layers[part.spec.start : part.spec.end]
    for entry, usual in zip(entries, kept, strict=True):
        if type(entry) is not type(usual):
            raise ValueError(
                f"the cache has entries of the kind {type(entry).__name__}, but the party that holds the {part.spec.name} "
                f"keeps {type(usual).__name__}; generate with the usual kind of cache, or from make_cache()"
            )
