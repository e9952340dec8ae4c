"""One part of a cut model, callable on its own.

Shapes: B rows, T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from splitlearn.boundary import LayerOutputs, to_device
from splitlearn.checkpoint import PartReceipt, read_part_file, write_part_file
from splitlearn.cut import PartSpec
from splitlearn.model.blueprint import Blueprint
from splitlearn.model.caches import PartCache, cache_of_part, make_cache
from splitlearn.model.description import describe_part, read_description
from splitlearn.model.part_call import PartOutput, call_part
from splitlearn.model.passage import Passage
from splitlearn.model.quantized import count_values, stored_bytes
from splitlearn.model.recorded_outputs import refuse_choice_of_layers, refuse_without_parts_below
from splitlearn.model.surgery import cut_out
from splitlearn.model.tensors import fill_from_whole
from splitlearn.runs import Stamp


class SplitModel(nn.Module):
    """Bottom, trunk or top of a causal LM, made of transformers' own modules.

    Bottom takes token ids, trunk and top take smashed data; bottom and trunk return smashed data, top returns the unsplit
    transformers model's output. Inputs are moved to the part's device.

    Args:
        blueprint: the unsplit model's structure.
        spec: which part this is.
        model: the causal LM, already cut down to the part.
        passage: where smashed data enter and leave its layers.

    Attributes:
        receipt: the cost of loading it; None if it was not loaded from a checkpoint by itself.
        is_elsewhere: whether another party holds it.
        stamp: of a part that `load` has read from a run's folder, which run and step it is of; None otherwise.
    """

    is_elsewhere = False

    def __init__(self, blueprint: Blueprint, spec: PartSpec, model: PreTrainedModel, passage: Passage) -> None:
        super().__init__()
        self.receipt: PartReceipt | None = None
        self.stamp: Stamp | None = None
        self.blueprint = blueprint
        self.spec = spec
        self.model = model
        self._passage = passage
        self.train(model.training)
        parameters = inspect.signature(blueprint.anatomy.base(model).forward).parameters
        self._accepted = set(parameters)
        self._accepts_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())

    @property
    def device(self) -> torch.device:
        """The device of the part's tensors (the CPU for a part without any)."""
        # Stop at the first tensor: walking all modules for every generated token would slow generation noticeably.
        tensor = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the part's parameters."""
        parameter = next(self.parameters(), None)
        return torch.get_default_dtype() if parameter is None else parameter.dtype

    @property
    def config(self) -> PreTrainedConfig:
        """The configuration of the part's model, which speaks of its own layers."""
        return self.model.config

    @property
    def layers(self) -> nn.ModuleList:
        """The part's own decoder layers."""
        return self.blueprint.anatomy.layers(self.model)

    @property
    def num_parameters(self) -> int:
        """How many numbers the part's parameters hold."""
        return sum(count_values(parameter) for parameter in self.parameters())

    @property
    def weight_bytes(self) -> int:
        """Bytes of the part's parameters."""
        return sum(stored_bytes(parameter) for parameter in self.parameters())

    def make_cache(self) -> PartCache:
        """Return an empty key-value cache for this part's own layers, to pass as ``past_key_values``."""
        return cache_of_part(make_cache(self.blueprint.meta_model.config), self.spec, num_cached_tokens=0)

    def run(self, inputs: torch.Tensor, below: Mapping[str, LayerOutputs] | None = None, **arguments: Any) -> PartOutput:
        """Run the part among the others of its model, as `ComposedCausalLM.run` does.

        The part's own hooks see the arguments and the result of `forward`.

        Args:
            inputs: as for `forward`.
            below: as for `forward`.
            **arguments: as for `forward`.

        Returns:
            The result of `forward`, with the recorded outputs of a bottom or trunk.

        Raises:
            ValueError: as `forward`.
        """
        recorded: dict[str, tuple[Any, ...]] = {}
        output = self(inputs, below=below, recorded=recorded, **arguments)
        return PartOutput(output, recorded)

    def forward(
        self,
        inputs: torch.Tensor,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        skips_head: bool = False,
        below: Mapping[str, LayerOutputs] | None = None,
        recorded: dict[str, tuple[Any, ...]] | None = None,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the part.

        Args:
            inputs: token ids of shape (B, T) for a bottom, smashed data of shape (B, T, D) for a trunk or top.
            attention_mask: 1 for real tokens and 0 for padding, shape (B, T), cached tokens first; the same for every part. Or
                another form of mask that the transformers model takes.
            position_ids: positions of the tokens, shape (B, T); the same for every part.
            past_key_values: this part's own cache, from `make_cache`; it is filled in place.
            use_cache: whether to fill the cache; None fills it where one is given.
            skips_head: have a top return its base model's output, which is the head's input.
            below: recorded outputs of each part below, by the part's name; a top returns all of them, and computes the router
                loss of a mixture of experts over them.
            recorded: filled with the recorded outputs of a bottom or trunk; `run` does that.
            device: the part's device, from a caller who has looked it up; None looks it up.
            **kwargs: further arguments of the transformers model, for example ``labels`` for a top.

        Returns:
            Smashed data of shape (B, T, D); from a top transformers' output with ``.logits`` (B, T, V), and ``.loss`` if labels
            were given. A few architectures have smashed data with more dimensions.

        Raises:
            ValueError: ``use_cache`` comes without a cache, ``inputs`` have the wrong dtype or shape for this part, hidden
                states or attentions of chosen layers are asked for, or a top is asked for recorded outputs of all layers
                without ``below``.
        """
        config = self.blueprint.anatomy.base(self.model).config
        refuse_choice_of_layers(config, kwargs)
        if below is None:
            refuse_without_parts_below(self.spec, config, kwargs)
        self._check_inputs(inputs, past_key_values, use_cache)
        if self.spec.name == "trunk" and self.spec.start == self.spec.end:
            return inputs
        arguments: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        arguments[self._cache_name] = past_key_values
        if device is None:
            device = self.device
        arguments = {name: to_device(value, device) for name, value in arguments.items() if value is not None}
        fills_cache = past_key_values is not None if use_cache is None else use_cache
        arguments["use_cache"] = fills_cache
        for name in ("attention_mask", "position_ids", self._cache_name, "use_cache"):
            if name not in self._accepted and not self._accepts_any:
                arguments.pop(name, None)
        anatomy, inputs = self.blueprint.anatomy, to_device(inputs, device)
        output = call_part(self.model, self.spec, anatomy, self._passage, inputs, arguments, below or {}, skips_head)
        if fills_cache and isinstance(past_key_values, PartCache):
            past_key_values.num_cached_tokens += inputs.shape[1]
        if recorded is not None:
            recorded.update(output.layer_outputs)
        return output.output

    @property
    def _cache_name(self) -> str:
        return "cache_params" if "cache_params" in self._accepted else "past_key_values"

    def _check_inputs(self, inputs: torch.Tensor, cache: Cache | None, use_cache: bool | None) -> None:
        if use_cache and cache is None:
            raise ValueError("use_cache=True needs a cache to fill: pass past_key_values=part.make_cache()")
        takes_ids = self.spec.has_embedding
        is_right = inputs.ndim == 2 if takes_ids else inputs.ndim >= 3
        if not is_right or inputs.is_floating_point() == takes_ids:
            expected = "token ids of shape (B, T)" if takes_ids else "smashed data of shape (B, T, D)"
            raise ValueError(f"{self.spec.name} takes {expected}, not {inputs.dtype} of shape {tuple(inputs.shape)}")

    def loss(self, logits_BTV: torch.Tensor, labels_BT: torch.Tensor, num_tokens: torch.Tensor | int) -> torch.Tensor:
        """Return the model's own next-token loss, summed over supervised tokens and divided by ``num_tokens``.

        Args:
            logits_BTV: the top's logits, shape (B, T, V).
            labels_BT: the token ids, -100 where a token is not supervised, shape (B, T).
            num_tokens: the divisor, usually the supervised tokens of the whole batch.

        Returns:
            A scalar on the logits' device.
        """
        text = self.blueprint.config.get_text_config(decoder=True)
        loss: torch.Tensor = self.model.loss_function(
            logits=logits_BTV,
            labels=labels_BT.to(logits_BTV.device),
            vocab_size=text.vocab_size,
            num_items_in_batch=num_tokens,
        )
        return loss

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """Return the part's parameters and all its buffers under the unsplit model's names."""
        # A parameter under two names is there under both.
        tensors = dict(self.model.named_parameters(remove_duplicate=False)) | dict(self.model.named_buffers())
        return {self.blueprint.global_name(name, self.spec): tensor.detach() for name, tensor in tensors.items()}

    def save(self, path: str | Path, stamp: Stamp | None = None) -> None:
        """Write the part as one file that `load` reads without the original checkpoint.

        Args:
            path: the file; its folder is made if need be.
            stamp: which run and step the part is of; parts of two stamps are never put together. None leaves it out.

        Raises:
            ValueError: the part has adapters, which are saved by themselves.
            OSError: the folder cannot be written or the disk is full; an older file is left as it was.
        """
        unknown = self.named_tensors().keys() - self.blueprint.tensor_names
        if unknown:
            raise ValueError(
                f"{self.spec.name} holds {min(unknown)}, which is no tensor of its model; save adapters by themselves"
            )
        description = describe_part(self.blueprint, self.spec) | {"run": stamp.to_dict() if stamp else {}}
        write_part_file(Path(path), description, self.named_tensors())

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> SplitModel:
        """Read a part that `save` wrote; its weights are mapped from the file, and equal to the bit.

        Args:
            path: the file.
            device: where the part goes.

        Returns:
            The part, in evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged, or not a part.
        """
        description, tensors = read_part_file(Path(path))
        blueprint, spec = read_description(description, tensors, path)
        loaded = cls.from_tensors(blueprint, spec, tensors, str(path)).to(device)
        # Files of older releases have none.
        loaded.stamp = Stamp.from_plain(description.get("run"))
        return loaded

    @classmethod
    def from_tensors(cls, blueprint: Blueprint, part: PartSpec, tensors: Mapping[str, torch.Tensor], source: str) -> SplitModel:
        """Make a part of tensors that have the unsplit model's names and layouts; they are shared, not copied.

        Args:
            blueprint: the unsplit model's structure.
            part: which part to make.
            tensors: parameters and all buffers by the unsplit model's names; those of other parts are passed over.
            source: where the tensors come from, for messages.

        Returns:
            The part, in evaluation mode, on the tensors' device.

        Raises:
            CheckpointError: a tensor of the part is missing or has another shape.
        """
        model, passage = cut_out(blueprint.meta_model, part, blueprint.anatomy)
        fill_from_whole(model, blueprint, part, tensors, source)
        model.eval()
        return cls(blueprint, part, model, passage)
