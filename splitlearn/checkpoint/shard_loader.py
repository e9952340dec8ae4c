"""Finding the shards that a part needs and reading its tensors, as static methods that users call directly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoint.shard import open_shard
from splitlearn.checkpoint.source import CheckpointSource
from splitlearn.cut import ParamMapper


class ShardLoader:
    """Finds, fetches and reads the shards of a checkpoint, for one part of a model at a time."""

    @staticmethod
    def is_sharded_model(model_path: str | Path) -> bool:
        """Whether the checkpoint has an index of several files.

        Args:
            model_path: a local folder or a hub id.

        Raises:
            FileNotFoundError: a local path that does not exist.
        """
        return CheckpointSource(model_path).is_sharded

    @staticmethod
    def load_index_json(model_path: str | Path) -> dict[str, Any]:
        """Return the checkpoint's index, with ``weight_map`` from tensor name to file name.

        A checkpoint in a single file gets an index made for it.

        Args:
            model_path: a local folder or a hub id.

        Raises:
            FileNotFoundError: there is no checkpoint.
            CheckpointError: the index is damaged.
        """
        return CheckpointSource(model_path).index

    @staticmethod
    def get_required_shards_for_component(
        index_json: dict[str, Any],
        component: str,
        layer_range: tuple[int, int],
        model_type: str | None = None,
        include_embedding: bool = False,
        include_final_norm: bool = False,
        include_lm_head: bool = False,
    ) -> set[str]:
        """Return the files that hold a part's tensors, judged by the tensors' names.

        Args:
            index_json: the index, from `load_index_json`.
            component: the part's name; ignored.
            layer_range: first decoder layer and one past the last.
            model_type: ignored; the rules are the same for every architecture.
            include_embedding: also the tensors that act on tokens before the first layer.
            include_final_norm: also the tensors that act after the last layer.
            include_lm_head: also the head; where the index has none it is tied, so the embedding's file is needed.

        Returns:
            File names as the index gives them.
        """
        weight_map: dict[str, str] = index_json["weight_map"]
        start, end = layer_range
        has_head = any(ParamMapper.is_lm_head(name, model_type) for name in weight_map)
        wants_embedding = include_embedding or (include_lm_head and not has_head)

        def is_needed(name: str) -> bool:
            layer = ParamMapper.get_layer_number(name, model_type)
            if layer is not None:
                return start <= layer < end
            return (
                (wants_embedding and ParamMapper.is_embedding(name, model_type))
                or (include_final_norm and ParamMapper.is_final_norm(name, model_type))
                or (include_lm_head and ParamMapper.is_lm_head(name, model_type))
            )

        return {file for name, file in weight_map.items() if is_needed(name)}

    @staticmethod
    def download_shards_if_needed(model_path: str | Path, shard_files: Iterable[str]) -> dict[str, Path]:
        """Make just the named files of a checkpoint available locally.

        Args:
            model_path: a local folder or a hub id.
            shard_files: file names as the index gives them.

        Returns:
            The local path of each file.

        Raises:
            FileNotFoundError: a file is neither local nor on the hub.
        """
        source = CheckpointSource(model_path)
        return {file: source.fetch(file) for file in sorted(shard_files)}

    @staticmethod
    def load_shard_partial(shard_path: str | Path, filter_fn: Callable[[str], bool]) -> dict[str, torch.Tensor]:
        """Read some tensors of a shard; the others are never touched.

        Args:
            shard_path: the file.
            filter_fn: whether to read the tensor of a name.

        Returns:
            The tensors by name; those of a safetensors file are mapped from it.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged.
        """
        shard = open_shard(Path(shard_path))
        return {name: shard.read(name) for name in sorted(shard.names) if filter_fn(name)}
