"""The cost of a cut: for each part the bytes it reads, and the memory that loading and training it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from splitlearn.boundary import BoundaryCodecs
from splitlearn.cut import PART_NAMES, PartSpec, Placement
from splitlearn.loading import OpenedModel, PartLoader
from splitlearn.model import Blueprint, embedding_width
from splitlearn.planning.activations import Activations, measure_activations
from splitlearn.planning.quantized import bytes_per_value
from splitlearn.planning.traffic import traffic_of_step

METHODS = ("load", "lora", "full")
# In the place of a device, for a part of another party's machine.
ELSEWHERE = "elsewhere"
# AdamW keeps two averages of each gradient, in the weights' dtype.
_ADAMW_STATES = 2
# PEFT keeps adapters of half-precision models in float32.
_ADAPTER_BYTES = 4


@dataclass(frozen=True)
class Need:
    """Memory on one device.

    Attributes:
        own_bytes: memory that no file backs, so that it must be available. On a GPU this is all.
        mapped_bytes: RAM backed by files: the system can drop these pages and read them again.
        is_known: whether it is complete; False if the activations kept for the backward pass could not be measured.
        is_upper_bound: whether the true figure may be lower.
    """

    own_bytes: int
    mapped_bytes: int = 0
    is_known: bool = True
    is_upper_bound: bool = False


@dataclass(frozen=True)
class PartCost:
    """The cost of one part.

    Attributes:
        part: its name.
        holds: its layers, in words.
        device: where it goes.
        num_parameters: its parameters; a head that shares the embedding on the same device has none of its own.
        stored_bytes: bytes of its tensors in the checkpoint, by dtype.
        shards: the files that hold them.
        download_bytes: bytes of its tensors that are not on this machine yet.
        weight_bytes: bytes of its parameters once they are loaded, and quantized where that is asked for.
        needs: memory by method: ``load`` (frozen), ``lora`` and ``full`` fine-tuning.
    """

    part: str
    holds: str
    device: str
    num_parameters: int
    stored_bytes: Mapping[str, int]
    shards: tuple[str, ...]
    download_bytes: int
    weight_bytes: int
    needs: Mapping[str, Need]


@dataclass(frozen=True)
class CutCost:
    """The cost of a cut.

    Attributes:
        model: the folder or hub id.
        commit: the hub's commit; None for a local folder.
        split_point_1: first layer of the trunk.
        split_point_2: first layer of the top.
        dtype: dtype of floating-point weights.
        full_dtype: their dtype in parts that are trained in full.
        quantization: plain settings of how frozen linear layers are quantized; None leaves them as they are.
        num_rows: rows of a batch.
        num_tokens: tokens of a row.
        lora_rank: rank of the adapters that ``lora`` assumes.
        parts: the cost of each part.
        smashed_bytes: bytes of smashed data at each of the two cuts for one batch.
        parties: the party that holds each part, by the part's name.
        traffic: bytes that a step sends over each cut if all parts are trained, as `traffic_of_step` returns them.
        codecs: how they are encoded, by cut and direction, in words.
        left_out: tensors of the checkpoint that the model does not have and that are not read.
        link: what a step would take over a network, as `Link.predict` returns it, with the computing estimated; None if none is
            described.
    """

    model: str
    commit: str | None
    split_point_1: int
    split_point_2: int
    dtype: str
    full_dtype: str
    quantization: Any
    num_rows: int
    num_tokens: int
    lora_rank: int
    parts: tuple[PartCost, ...]
    smashed_bytes: int
    parties: Mapping[str, str]
    traffic: Mapping[str, Mapping[str, int]]
    codecs: Mapping[str, Mapping[str, str]]
    left_out: tuple[str, ...] = ()
    link: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, for JSON."""
        return asdict(self)


def cost_of(
    opened: OpenedModel,
    placement: Placement,
    num_rows: int,
    num_tokens: int,
    lora_rank: int,
    with_activations: bool = True,
    full_dtype: torch.dtype | None = None,
    codecs: BoundaryCodecs | None = None,
) -> CutCost:
    """Compute the cost of a cut. Configuration, index and headers are read; weights are neither read nor downloaded.

    Args:
        opened: the model, cut; its request says how frozen linear layers are quantized.
        placement: who holds which part, and on which device.
        num_rows: rows of a batch (B).
        num_tokens: tokens of a row (T).
        lora_rank: rank of adapters beside every linear layer but the head.
        with_activations: whether to measure the bytes a batch keeps for the backward pass, which takes up to a second.
        full_dtype: dtype of floating-point weights in parts that are trained in full; None is as in the others.
        codecs: how what crosses the cuts is sent; None sends everything as it is.

    Returns:
        The figures of the cut and of each part, in bytes.

    Raises:
        CheckpointError: a shard is damaged or lacks a tensor.
        FileNotFoundError: a shard is missing.
    """
    loader, plan, blueprint = opened.loader, opened.plan, opened.blueprint
    in_full = full_dtype or blueprint.dtype
    kept: dict[str, Activations | None] = dict.fromkeys(("lora", "full"))
    if with_activations:
        kept = {
            "lora": measure_activations(blueprint, num_rows, num_tokens, lora_rank),
            "full": measure_activations(replace(blueprint, dtype=in_full), num_rows, num_tokens),
        }
    named_parameters = blueprint.meta_model.named_parameters(remove_duplicate=False)
    sizes = {name: float(parameter.nbytes) for name, parameter in named_parameters}
    quantization = opened.request.quantization
    if quantization is not None:
        value_bytes = bytes_per_value(quantization, blueprint.dtype)
        for name in loader.quantized_names:
            sizes[name] = value_bytes * blueprint.meta_model.get_parameter(name).numel()
    hidden_size = embedding_width(blueprint.meta_model)
    return CutCost(
        model=loader.source.name,
        commit=loader.source.commit,
        split_point_1=plan.split_point_1,
        split_point_2=plan.split_point_2,
        dtype=str(blueprint.dtype).removeprefix("torch."),
        full_dtype=str(in_full).removeprefix("torch."),
        quantization=quantization,
        num_rows=num_rows,
        num_tokens=num_tokens,
        lora_rank=lora_rank,
        parts=tuple(_part_cost(loader, part, _devices(placement), kept, lora_rank, sizes, in_full) for part in plan.parts),
        smashed_bytes=num_rows * num_tokens * hidden_size * blueprint.dtype.itemsize,
        parties={name: placement.holder(name) for name in PART_NAMES},
        traffic=traffic_of_step(placement, num_rows, num_tokens, hidden_size, blueprint.dtype, codecs),
        codecs=(codecs or BoundaryCodecs()).to_dict(),
        left_out=tuple(loader.left_out),
    )


def _part_cost(
    loader: PartLoader,
    part: PartSpec,
    devices: Mapping[str, str],
    kept: Mapping[str, Activations | None],
    lora_rank: int,
    sizes: Mapping[str, float],
    full_dtype: torch.dtype,
) -> PartCost:
    reading = loader.reading(part)
    names = set(reading.sources.values())
    stored = loader.source.stored(names)
    by_dtype: Counter[str] = Counter()
    for dtype, size in stored.values():
        by_dtype[dtype] += size
    own = part_parameters(loader.blueprint, part, devices)
    return PartCost(
        part=part.name,
        holds=part.describe(),
        device=devices[part.name],
        num_parameters=sum(parameter.numel() for parameter in own.values()),
        stored_bytes=dict(by_dtype),
        shards=tuple(sorted(reading.files)),
        download_bytes=loader.source.missing_bytes(names),
        weight_bytes=round(sum(sizes[name] for name in own)),
        needs=_needs(loader, part, devices[part.name], own, set(by_dtype), kept, lora_rank, sizes, full_dtype),
    )


def _devices(placement: Placement) -> dict[str, str]:
    """Return the device of each part, in words if it is not in this process."""
    return dict.fromkeys(PART_NAMES, ELSEWHERE) | placement.devices


def part_parameters(blueprint: Blueprint, part: PartSpec, devices: Mapping[str, str]) -> dict[str, nn.Parameter]:
    """Return the parameters, on the meta device, that a part holds for itself, by the unsplit model's names.

    A tied one counts for the first part that holds it if the parts are on one device, and for each of them otherwise.

    Args:
        blueprint: the unsplit model's structure.
        part: the part.
        devices: the device of each part.
    """
    parameters = dict(blueprint.meta_model.named_parameters(remove_duplicate=False))
    shares = devices["bottom"] == devices["top"]
    own = {}
    for name, parameter in parameters.items():
        owner = blueprint.ties.get(name)
        is_shared = owner is not None and (shares or blueprint.belongs_to(owner, part))
        if blueprint.belongs_to(name, part) and not is_shared:
            own[name] = parameter
    return own


def _needs(
    loader: PartLoader,
    part: PartSpec,
    device: str,
    own: Mapping[str, nn.Parameter],
    stored_dtypes: set[str],
    kept: Mapping[str, Activations | None],
    lora_rank: int,
    sizes: Mapping[str, float],
    full_dtype: torch.dtype,
) -> dict[str, Need]:
    weights = sum(parameter.numel() * max(parameter.itemsize, full_dtype.itemsize) for parameter in own.values())
    dtype = str(loader.blueprint.dtype).removeprefix("torch.")
    # Quantized weights take memory of their own; the others can stay mapped from the files.
    quantized = round(sum(sizes[name] for name, parameter in own.items() if sizes[name] != parameter.nbytes))
    rest = sum(parameter.nbytes for name, parameter in own.items() if sizes[name] == parameter.nbytes)
    stays_mapped = device == "cpu" and stored_dtypes <= {dtype}
    frozen = Need(quantized, rest) if stays_mapped else Need(quantized + rest)
    adapters = sum(lora_rank * sum(shape) for shape in _linear_shapes(loader.blueprint, part))
    trained_bytes = {"lora": _ADAPTER_BYTES * adapters, "full": weights}
    needs = {"load": frozen}
    for method, trained in trained_bytes.items():
        held = frozen.own_bytes if method == "lora" else 0
        activations = kept[method]
        needs[method] = Need(
            # Trained weights, their gradients and AdamW's averages have the same size.
            own_bytes=held + trained * (2 + _ADAMW_STATES) + (activations.of(part) if activations else 0),
            mapped_bytes=frozen.mapped_bytes if method == "lora" else 0,
            is_known=activations is not None,
            is_upper_bound=activations is not None and activations.is_upper_bound,
        )
    return needs


def _linear_shapes(blueprint: Blueprint, part: PartSpec) -> list[torch.Size]:
    """Return the shapes of the linear layers of a part that adapters stand beside: all but the head."""
    model = blueprint.meta_model
    head = model.get_output_embeddings()
    return [
        module.weight.shape
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and blueprint.belongs_to(f"{path}.weight", part)
    ]
