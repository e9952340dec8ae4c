"""One ordinary Hugging Face folder of a trained model, written part by part."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards

from splitlearn.adapters import copy_adapter, save_adapters
from splitlearn.checkpoint import INDEX_FILE, CheckpointError, write_tensor_file
from splitlearn.data import PromptFormat, read_tokenizer, with_learned_ends
from splitlearn.export.card import model_card
from splitlearn.export.restore import restore_part
from splitlearn.export.run_record import RunRecord
from splitlearn.export.saved_state import saved_adapters
from splitlearn.export.tensors import Tensors, part_tensors
from splitlearn.files import whole_folder, write_json, write_text
from splitlearn.loading import OpenedModel

ADAPTERS = ("merge", "keep")
_FROM_CHECKPOINT = ".adapters"


def export_run(
    record: RunRecord,
    opened: OpenedModel,
    out: Path,
    max_shard_size: str = "5GB",
    adapters: str = "merge",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a run's model as one folder that ``AutoModelForCausalLM.from_pretrained`` reads.

    Tensors that were not trained are those of the base checkpoint to the bit. The parts follow one another, so no more than one
    is in memory. The folder appears whole or not at all.

    Args:
        record: the run.
        opened: its base model, cut as the run cut it.
        out: the folder to write; it must not exist.
        max_shard_size: largest size of one file.
        adapters: one of `ADAPTERS`: ``"merge"`` puts them into the weights, ``"keep"`` writes them beside the weights as PEFT
            does; transformers finds them there if PEFT is installed.
        dtype: what floating-point tensors are cast to; None leaves them as they were trained. The configuration then says
            float32 if any part's weights were, so that transformers reads them whole.

    Returns:
        The folder.

    Raises:
        ValueError: ``adapters`` is none of these, or is ``"keep"`` and the run has trained none.
        CheckpointError: the folder exists already, or a checkpoint's file is damaged.
        FileNotFoundError: the run did not save what it trained.
        OSError: the folder cannot be written, or the disk has no room for all of it.
    """
    if adapters not in ADAPTERS:
        raise ValueError(f"adapters is {adapters!r}; use one of {', '.join(ADAPTERS)}")
    keeps = adapters == "keep"
    if keeps and record.adapters.method is None:
        raise ValueError(f"adapters is keep, but the run in {record.folder} has trained none; leave it out")
    if out.exists():
        raise CheckpointError(f"out={out} exists already; name a new folder")
    with whole_folder(out, num_bytes=_least_bytes(opened, dtype)) as temporary:
        parts = (part_tensors(opened, part, record, merges=not keeps) for part in opened.plan.parts)
        _write_weights(parts, opened.blueprint.ties, temporary, max_shard_size, dtype)
        opened.blueprint.config.dtype = dtype or _widest(record, opened)
        _write_descriptions(record, opened, temporary, keeps)
        if keeps:
            adapters_folder = _adapters_of(record, opened, temporary)
            stands_alone = all(trained.keeps_base_weights for trained in record.trained.values())
            copy_adapter(adapters_folder, temporary, stands_alone=stands_alone)
            shutil.rmtree(temporary / _FROM_CHECKPOINT, ignore_errors=True)
    return out


def _least_bytes(opened: OpenedModel, dtype: torch.dtype | None) -> int:
    """Return how much the weights will take at least: those that were not trained stay in the dtype of the base checkpoint."""
    num_parameters = sum(parameter.numel() for parameter in opened.blueprint.meta_model.parameters())
    return num_parameters * min(each.itemsize for each in ((dtype,) if dtype else (opened.dtype, opened.source.stored_dtype())))


def _adapters_of(record: RunRecord, opened: OpenedModel, folder: Path) -> Path:
    """Return the folder of a run's adapters; those of a checkpoint are written first."""
    if record.checkpoint is None:
        return saved_adapters(record)
    parts = [restore_part(opened, part, record) for part in opened.plan.parts]
    save_adapters(parts, record.adapters, folder / _FROM_CHECKPOINT)
    return folder / _FROM_CHECKPOINT


def _widest(record: RunRecord, opened: OpenedModel) -> torch.dtype:
    held: set[str | None] = (
        {str(part.get("dtype")) for part in record.summary.parts or ()} if record.checkpoint is None else set()
    )
    held |= {record.part_dtype(name) for name in record.trained}
    return torch.float32 if "float32" in held else opened.dtype


def _write_weights(
    parts: Iterable[Tensors], ties: Mapping[str, str], folder: Path, max_shard_size: str, dtype: torch.dtype | None
) -> None:
    weight_map: dict[str, str] = {}
    total_bytes, files = 0, []
    for number, tensors in enumerate(parts):
        # A tied tensor is stored once, by the first part that holds it.
        written = weight_map.keys() | tensors.keys()
        new = {name: each for name, each in tensors.items() if name not in weight_map and ties.get(name) not in written}
        if dtype is not None:
            new = {name: each.to(dtype) if each.is_floating_point() else each for name, each in new.items()}
        shards = split_torch_state_dict_into_shards(
            new, filename_pattern=f"part-{number}{{suffix}}.safetensors", max_shard_size=max_shard_size
        )
        for file, names in shards.filename_to_tensors.items():
            write_tensor_file({name: new[name].contiguous() for name in names}, folder / file)
            weight_map.update(dict.fromkeys(names, file))
            files.append(file)
        total_bytes += sum(each.nbytes for each in new.values())
    # How many files there are is known only now.
    final = {file: f"model-{index:05d}-of-{len(files):05d}.safetensors" for index, file in enumerate(files, 1)}
    for file, name in final.items():
        (folder / file).rename(folder / name)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": {name: final[file] for name, file in weight_map.items()}}
    write_json(folder / INDEX_FILE, index)


def _write_descriptions(record: RunRecord, opened: OpenedModel, folder: Path, keeps_adapters: bool) -> None:
    config = opened.blueprint.config
    config.architectures = [opened.blueprint.model_class.__name__]
    config.save_pretrained(folder)
    generation_config = with_learned_ends(opened.blueprint.generation_config, PromptFormat.read(record.folder))
    if generation_config is not None:
        # Published settings that contradict one another are read by transformers, but not saved by its save_pretrained.
        generation_config.to_json_file(folder / "generation_config.json")
    name, revision = opened.source.name, opened.source.commit
    read_tokenizer(name, revision, record.folder).save_pretrained(folder)
    write_text(folder / "README.md", model_card(record, opened, keeps_adapters))
