"""Tensors that transformers itself changes after it has loaded them."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from splitlearn.loading import PartLoader
from splitlearn.verification.outcome import largest_difference


def changed_after_loading(whole: PreTrainedModel, loader: PartLoader) -> dict[str, float]:
    """Compare a loaded model with its checkpoint's files.

    Some classes initialise parts of loaded weights anew: Youtu clears the padding row of its embedding. The parts do the same,
    because they equal the result of ``from_pretrained``.

    Args:
        whole: the unsplit model that transformers' ``from_pretrained`` returned for the checkpoint.
        loader: the opened checkpoint.

    Returns:
        For each changed tensor the largest difference from the file after a cast to the model's dtype. Tensors that are
        converted on the way are passed over.

    Raises:
        FileNotFoundError: a shard is missing.
        CheckpointError: a shard is damaged.
    """
    source, loaded = loader.source, whole.state_dict()
    shards = source.open_shards(set(source.weight_map.values()), None)
    changed = {}
    for match in loader.matches:
        for target in () if match.is_converted else match.targets:
            expected = shards[source.weight_map[match.source]].read(match.source).to(loaded[target].dtype)
            if not torch.equal(expected, loaded[target].cpu()):
                changed[target] = largest_difference(expected, loaded[target].cpu())
    return changed
