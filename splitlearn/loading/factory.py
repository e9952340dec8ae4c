"""Making the parts of a model, one after another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from splitlearn.cut import PART_NAMES, Placement, resolve_device_map
from splitlearn.files import whole_folder
from splitlearn.loading.loaded_parts import LoadedParts
from splitlearn.loading.request import ModelRequest
from splitlearn.memory import MemoryTracker
from splitlearn.model import ComposedCausalLM, SplitModel, tie_parts
from splitlearn.runs import Stamp


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
        trained: Collection[str] = (),
        revision: str | None = None,
        quantization: str | Mapping[str, Any] | None = None,
        unexpected_tensors: str = "auto",
        in_float32: Collection[str] = (),
        shows_bars: bool = True,
        placement: Placement | None = None,
        untie: bool = False,
    ) -> tuple[SplitModel, SplitModel, SplitModel]:
        """Load a causal LM as three parts.

        Everything that can be checked without weights is checked first: cut, devices, model type, the checkpoint's names,
        files and shapes.

        Args:
            model_type: the architecture as transformers names it (``"gpt2"``, ``"qwen2"``, ``"llama"``, ...); None accepts any.
            model_name_or_path: a local folder or a hub id.
            split_point_1: first layer of the trunk.
            split_point_2: first layer of the top.
            device: where a part goes that ``device_map`` does not name.
            device_map: None, one device, a mapping from part to device, or ``"auto"``; see `resolve_device_map`.
            low_memory: load part by part, each from just the shards and tensors it needs. Otherwise the whole model is loaded
                first and then divided.
            verbose: print for each part its contents, progress bars and the change in memory.
            storage_path: where to save the parts.
            auto_save: save the parts as ``bottom.pt``, ``trunk.pt`` and ``top.pt`` in ``storage_path``.
            dtype: dtype of floating-point weights; None takes the configuration's, or else that of the stored weights.
            tracker: records a snapshot after each part; None uses one of its own.
            trained: parts whose weights will be written: they are read into private memory rather than mapped.
            revision: branch, tag or commit of a hub's repository; None is its main branch.
            quantization: how the linear layers of parts that are not ``trained`` are quantized while they are loaded; see
                `quantization_config`. None leaves them as they are.
            unexpected_tensors: treatment of tensors that the model does not have: ``"auto"`` leaves them out unless they are
                signs of another model, ``"refuse"`` refuses them all, ``"leave_out"`` none.
            in_float32: parts whose floating-point weights become float32 in any case. Smashed data are cast where they pass
                from one dtype to the other. A tied head goes with its embedding.
            shows_bars: whether ``verbose`` shows progress bars too.
            placement: where each part goes, instead of ``device`` and ``device_map``.
            untie: make tied tensors, such as head and embedding, separate parameters.

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
        loaded = ModelFactory.load_parts(
            model_name_or_path,
            split_point_1,
            split_point_2,
            model_type=model_type,
            device=device,
            device_map=device_map,
            dtype=dtype,
            trained=trained,
            verbose=verbose,
            tracker=tracker,
            revision=revision,
            quantization=quantization,
            unexpected_tensors=unexpected_tensors,
            placement=placement,
            untie=untie,
            low_memory=low_memory,
            in_float32=in_float32,
            shows_bars=shows_bars,
        )
        parts = loaded["bottom"], loaded["trunk"], loaded["top"]
        if auto_save and storage_path is not None:
            save_parts(parts, storage_path)
        return parts

    @staticmethod
    def load_parts(
        model_name_or_path: str | Path,
        split_point_1: int,
        split_point_2: int,
        parts: Sequence[str] = PART_NAMES,
        *,
        model_type: str | None = None,
        device: str = "cpu",
        device_map: str | Mapping[str, str] | None = None,
        dtype: torch.dtype | None = None,
        trained: Collection[str] = (),
        verbose: bool = False,
        tracker: MemoryTracker | None = None,
        revision: str | None = None,
        quantization: str | Mapping[str, Any] | None = None,
        unexpected_tensors: str = "auto",
        placement: Placement | None = None,
        untie: bool = False,
        low_memory: bool = True,
        in_float32: Collection[str] = (),
        shows_bars: bool = True,
    ) -> LoadedParts:
        """Load some parts of a causal LM, or all; of the others nothing is read or downloaded, with ``low_memory``.

        Args:
            model_name_or_path: a local folder or a hub id.
            split_point_1: first layer of the trunk.
            split_point_2: first layer of the top.
            parts: which to load, for example ``["trunk"]``.
            model_type: the architecture that the checkpoint must have; None accepts any.
            device: where a part goes that ``device_map`` does not name.
            device_map: None, one device, a mapping from part to device, or ``"auto"``. Devices of parts that are not loaded
                need not exist.
            dtype: dtype of floating-point weights; None takes the configuration's, or else that of the stored weights.
            trained: parts whose weights will be written: they are read into private memory rather than mapped.
            verbose: print progress, memory and the receipt.
            tracker: records a snapshot after each part.
            revision: branch, tag or commit of a hub's repository; None is its main branch.
            quantization: how the linear layers of parts that are not ``trained`` are quantized while they are loaded; see
                `quantization_config`. None leaves them as they are.
            unexpected_tensors: treatment of tensors that the model does not have: ``"auto"`` leaves them out unless they are
                signs of another model, ``"refuse"`` refuses them all, ``"leave_out"`` none.
            placement: where each of ``parts`` goes, instead of ``device`` and ``device_map``.
            untie: make tied tensors, such as head and embedding, separate parameters.
            low_memory: load part by part, each from just the shards and tensors it needs. Otherwise the whole model is loaded
                first, other parts too, and then divided, and the receipt is empty.
            in_float32: parts whose floating-point weights become float32 in any case. A tied head goes with its embedding.
            shows_bars: whether ``verbose`` shows progress bars too.

        Returns:
            The parts, in evaluation mode, and the receipt.

        Raises:
            CutError: the split points do not cut this model.
            ValueError: a part's name is unknown, or a device, the model type or the checkpoint is unusable.
            FileNotFoundError: the checkpoint or one of the needed files is not there.
        """
        request = ModelRequest(
            model_name_or_path,
            split_point_1,
            split_point_2,
            model_type,
            revision,
            dtype,
            quantization,
            unexpected_tensors,
            in_float32,
            untie,
        )
        return request.open(parts).load(
            device,
            device_map,
            trained=trained,
            low_memory=low_memory,
            verbose=verbose,
            tracker=tracker,
            shows_bars=shows_bars,
            placement=placement,
        )

    @staticmethod
    def load_saved_parts(
        folder: str | Path, device: str = "cpu", device_map: str | Mapping[str, str] | None = None
    ) -> ComposedCausalLM:
        """Load the parts that `save_parts` wrote, mapped from their files, and check that they belong together.

        Args:
            folder: holds ``bottom.pt``, ``trunk.pt`` and ``top.pt``.
            device: where a part goes that ``device_map`` does not name.
            device_map: None, one device, a mapping from part to device, or ``"auto"``.

        Returns:
            The composed model, in evaluation mode.

        Raises:
            FileNotFoundError: a part is not there.
            CheckpointError: a file is damaged or not a part.
            ValueError: the parts are of different models, commits, cuts, dtypes or states of a run; the message shows the
                difference.
        """
        devices = resolve_device_map(device, device_map, num_gpus=torch.cuda.device_count())
        parts = [SplitModel.load(Path(folder) / f"{name}.pt") for name in PART_NAMES]
        composed = ComposedCausalLM(*parts)
        unmarked = [part.spec.name for part in parts if part.stamp is None]
        if 0 < len(unmarked) < len(parts):
            raise ValueError(
                f"{folder} holds parts of two saves: {unmarked[0]} names no run, as those of older releases, and another does; "
                "save all parts again"
            )
        for part in parts:
            tie_parts(parts[: parts.index(part) + 1], devices)
            part.to(devices[part.spec.name])
        return composed


def save_parts(parts: Sequence[SplitModel], folder: str | Path, stamp: Stamp | None = None) -> list[Path]:
    """Save the parts as ``bottom.pt``, ``trunk.pt`` and ``top.pt`` in a folder.

    Args:
        parts: parts of one model.
        folder: the folder; it is made if it does not exist.
        stamp: the run and step that the parts belong to. With it, parts of two saves in one folder are never put together,
            should the process end between two files.

    Returns:
        The paths written.

    Raises:
        OSError: the folder cannot be written or the disk is full; older files are left as they were.
        ValueError: a part has adapters, which are saved by themselves.
    """
    names = [f"{part.spec.name}.pt" for part in parts]
    with whole_folder(Path(folder), exist_ok=True) as temporary:
        for part, name in zip(parts, names, strict=True):
            part.save(temporary / name, stamp)
    return [Path(folder) / name for name in names]
