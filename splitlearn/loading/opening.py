"""An opened checkpoint: the model's structure is drawn and compared with the stored tensors, before weights are read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from splitlearn.checkpoint import CONFIG_FILE, CheckpointError, CheckpointSource
from splitlearn.cut import PartSpec
from splitlearn.loading.configuration import read_generation_config
from splitlearn.loading.matching import Match, match_tensors
from splitlearn.loading.part_loader import PartLoader
from splitlearn.loading.unexpected import describe_left_out
from splitlearn.model import Blueprint, Origin, UnsupportedModelError, become_equal, count_layers, draw_blueprint, untie


class OpenedCheckpoint:
    """A checkpoint that is read once: the model is drawn once for each dtype, the index is matched once.

    Args:
        config: the model's configuration.
        source: the checkpoint's files.
        unexpected_tensors: treatment of tensors that the model does not have: ``"auto"``, ``"refuse"`` or ``"leave_out"``.
        untie: make tied tensors, such as head and embedding, separate parameters.
    """

    def __init__(
        self, config: PreTrainedConfig, source: CheckpointSource, unexpected_tensors: str = "auto", untie: bool = False
    ) -> None:
        self.config = config
        self.source = source
        self._unexpected_tensors = unexpected_tensors
        self._unties = untie
        self._blueprints: dict[torch.dtype, Blueprint] = {}
        # For a dtype and a tied tensor: whether the checkpoint stores the same values under both names.
        self._are_equal: dict[tuple[torch.dtype, str], bool] = {}
        self._matches: list[Match] | None = None
        self._left_out: list[str] = []

    @cached_property
    def _description(self) -> dict[str, Any]:
        name = str(Path(self.source.name).resolve()) if self.source.is_local else self.source.name
        return {
            "generation_config": read_generation_config(self.source),
            "origin": Origin(name, self.source.commit),
        }

    def make_loader(
        self, dtype: torch.dtype, parts: Sequence[PartSpec] | None = None, quantization: Any = None, downloads: bool = False
    ) -> PartLoader:
        """Return the loader of this checkpoint's parts in one dtype.

        Ties that the checkpoint contradicts are given up, as transformers does.

        Args:
            dtype: the dtype of floating-point weights.
            parts: the parts to be loaded; None means all.
            quantization: transformers' quantization config for parts that are not trained; None leaves them as they are.
            downloads: whether tied tensors are downloaded to compare them; otherwise only local ones are compared.

        Raises:
            UnsupportedModelError: the model cannot be cut.
            CheckpointError: the checkpoint lacks tensors that the model needs, or has tensors that are refused.
            FileNotFoundError: there is no checkpoint.
        """
        if dtype not in self._blueprints:
            self._check_number_of_layers()
            drawn = self._draw(self.config, dtype)
            if self._matches is None:
                self._match(drawn)
            self._blueprints[dtype] = self._without_ties(drawn) if self._unties and drawn.ties else drawn
        loader = self._make_loader(dtype, parts, quantization)
        self._compare_ties(loader, parts, downloads)
        settled = self._settled(loader)
        if settled is loader.blueprint:
            return loader
        self._blueprints[dtype] = settled
        return self._make_loader(dtype, parts, quantization)

    def _draw(self, config: PreTrainedConfig, dtype: torch.dtype) -> Blueprint:
        try:
            return draw_blueprint(config, dtype, **self._description)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{self.source.name} cannot be cut: {error}") from error

    def _make_loader(self, dtype: torch.dtype, parts: Sequence[PartSpec] | None, quantization: Any) -> PartLoader:
        matches = self._matches or []
        return PartLoader(self._blueprints[dtype], self.source, matches, self._left_out, parts, quantization)

    def _check_number_of_layers(self) -> None:
        """Refuse a configuration with more layers than the checkpoint has tensors, before a model of so many is drawn."""
        num_layers, num_tensors = count_layers(self.config), len(self.source.weight_map)
        if num_layers > num_tensors:
            raise CheckpointError(
                f"{CONFIG_FILE} of {self.source.name} says that there are {num_layers} layers, but the checkpoint holds only "
                f"{num_tensors} tensors"
            )

    def _without_ties(self, blueprint: Blueprint) -> Blueprint:
        """Return a blueprint whose tied parameters are parameters of their own."""
        drawn = self._draw(untie(self.config), blueprint.dtype)
        if drawn.ties:
            (tied, owner), name = next(iter(drawn.ties.items())), blueprint.model_class.__name__
            raise UnsupportedModelError(f"{tied} cannot be untied: {name} ties it to {owner} in any case")
        return replace(drawn, untied=blueprint.ties)

    def _match(self, blueprint: Blueprint) -> None:
        """Compare the checkpoint's names with the model's, which are the same in every dtype."""
        name, weight_map = self.source.name, self.source.weight_map
        self._matches, self._left_out = match_tensors(blueprint, weight_map, name, self._unexpected_tensors)
        if self._left_out and not _is_composite(self.config):
            # The warning is attributed to this line, so Python shows it once for a checkpoint that is opened several times.
            warnings.warn(f"{name}: {describe_left_out(self._left_out)}", stacklevel=1)

    def _compare_ties(self, loader: PartLoader, parts: Sequence[PartSpec] | None, downloads: bool) -> None:
        """Find out which tied tensors the checkpoint stores twice with equal values.

        A tie is compared only if both its ends are in parts to be loaded, so that no other part's shards are read.
        """
        source, blueprint = self.source, loader.blueprint
        for pair in blueprint.ties.items():
            key, names = (blueprint.dtype, pair[0]), loader.stored_names(pair)
            if key in self._are_equal or len(names) < 2 or not _holds_both(blueprint, pair, parts):
                continue
            files = [source.weight_map[name] for name in names]
            if not downloads and not _is_here(source, names, files):
                continue
            shards = source.open_shards(set(files), set(names))
            one, other = (shards[file].read(name) for file, name in zip(files, names, strict=True))
            self._are_equal[key] = become_equal(one, other, loader.dtype_on_load(names[0], one.dtype))

    def _settled(self, loader: PartLoader) -> Blueprint:
        """Return a loader's blueprint without ties that are known to be contradicted, and with the unknown ones marked."""
        blueprint = loader.blueprint
        # True: equal values; False: the checkpoint contradicts the tie; None: not compared.
        verdicts = {pair: self._are_equal.get((blueprint.dtype, pair[0])) for pair in blueprint.ties.items()}
        stored_twice = {pair for pair in verdicts if len(loader.stored_names(pair)) == 2}
        unsettled = frozenset(pair[0] for pair in stored_twice if verdicts[pair] is None)
        if False in verdicts.values():
            drawn = self._draw(untie(self.config), blueprint.dtype)
            kept = dict(pair for pair, are_equal in verdicts.items() if are_equal is not False)
            return replace(drawn, ties=kept, unsettled_ties=unsettled)
        return blueprint if unsettled == blueprint.unsettled_ties else replace(blueprint, unsettled_ties=unsettled)


def _is_composite(config: PreTrainedConfig) -> bool:
    """Whether a configuration describes models beside the text model; their tensors are left out without a warning."""
    return any(name != "text_config" for name in config.sub_configs)


def _holds_both(blueprint: Blueprint, pair: tuple[str, str], parts: Sequence[PartSpec] | None) -> bool:
    """Whether both ends of a tie are held by some of ``parts``; None means all parts."""
    return parts is None or all(any(blueprint.belongs_to(end, part) for part in parts) for end in pair)


def _is_here(source: CheckpointSource, names: Sequence[str], files: Sequence[str]) -> bool:
    """Whether tensors can be read without a download."""
    has_headers = all(file.endswith(".safetensors") for file in files)
    return source.is_local or (has_headers and not source.missing_bytes(names))
