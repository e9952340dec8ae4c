"""Making the three parts of a model, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from splitlearn.checkpoint import CheckpointSource
from splitlearn.cut import resolve_device_map
from splitlearn.memory import MemoryTracker
from splitlearn.model.blueprint import plan_cut, read_config
from splitlearn.model.load_model import Narrator, Parts, load_incrementally, load_whole
from splitlearn.model.part_loading import open_checkpoint


class ModelFactory:
    """Cuts a checkpoint's model into bottom, trunk and top."""

    @staticmethod
    def create_split_models(
        model_type: str | None,
        model_name_or_path: str | Path,
        split_point_1: int,
        split_point_2: int,
        device: str = "cpu",
        device_map: str | Mapping[str, str] | None = None,
        low_memory: bool = False,
        verbose: bool = False,
        storage_path: str | Path | None = None,
        auto_save: bool = False,
        *,
        dtype: torch.dtype | None = None,
        tracker: MemoryTracker | None = None,
    ) -> Parts:
        """Load a causal LM as three parts.

        Everything that can be checked without weights is checked first: cut, devices, model type, the checkpoint's names,
        files and shapes.

        Args:
            model_type: the architecture as transformers names it (``"gpt2"``, ``"qwen2"``, ``"llama"``, ...); None takes what
                the checkpoint is.
            model_name_or_path: a local folder or a hub id.
            split_point_1: first layer of the trunk.
            split_point_2: first layer of the top.
            device: where a part goes that ``device_map`` does not name.
            device_map: None, one device, a mapping from part to device, or ``"auto"``; see `resolve_device_map`.
            low_memory: load part by part, each from just the shards and tensors it needs. Otherwise the whole model is loaded
                first and then divided.
            verbose: print for each part what it holds, progress bars and the change in memory.
            storage_path: where to save the parts.
            auto_save: save the parts as ``bottom.pt``, ``trunk.pt`` and ``top.pt`` in ``storage_path``.
            dtype: what floating-point weights become; None takes the configuration's dtype, or else that of the stored weights.
            tracker: records a snapshot after each part; None uses one of its own.

        Returns:
            Bottom, trunk and top, in evaluation mode. A head tied to the embedding is one shared parameter if both are on one
            device, and two equal parameters otherwise.

        Raises:
            CutError: the split points do not cut this model.
            DeviceMapError: a device is malformed or absent, or a part's name is unknown.
            UnsupportedModelError: the architecture is unknown or not ``model_type``.
            CheckpointError: tensors are missing, unexpected, of the wrong shape, or a file is damaged.
            FileNotFoundError: the checkpoint or one of its files is not there.
            ValueError: ``auto_save`` without ``storage_path``.
        """
        if auto_save and storage_path is None:
            raise ValueError("auto_save=True needs storage_path, the folder to save the parts in")
        devices = resolve_device_map(device, device_map, num_gpus=torch.cuda.device_count())
        config = read_config(model_name_or_path, model_type)
        plan = plan_cut(config, split_point_1, split_point_2)
        loader = open_checkpoint(config, CheckpointSource(model_name_or_path), dtype)
        loader.blueprint.check(plan)
        if loader.source.is_local:
            for part in plan.parts:
                loader.open(loader.reading(part))
        narrator = Narrator(verbose, tracker or MemoryTracker())
        load = load_incrementally if low_memory else load_whole
        parts = load(loader, plan, devices, narrator)
        if auto_save and storage_path is not None:
            save_parts(parts, storage_path)
        return parts


def save_parts(parts: Parts, folder: str | Path) -> list[Path]:
    """Save the parts as ``bottom.pt``, ``trunk.pt`` and ``top.pt`` in a folder.

    Returns:
        The paths written.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    paths = [Path(folder) / f"{part.part.name}.pt" for part in parts]
    for part, path in zip(parts, paths, strict=True):
        part.save(path)
    return paths
