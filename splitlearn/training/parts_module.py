"""A cut causal LM as a LightningModule: loaded in Lightning's hooks and kept in checkpoints.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Self, cast

import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import Callback, LightningModule

from splitlearn.boundary import find_routes
from splitlearn.cut import PART_NAMES, Placement, refuse_both
from splitlearn.defences import Defences, DefenceSteps, refuse_idle
from splitlearn.loading import ModelRequest, OpenedModel
from splitlearn.memory import MemoryTracker
from splitlearn.model import ComposedCausalLM, SplitModel
from splitlearn.naming import named, naming_group
from splitlearn.randomness import NamedGenerators, new_key
from splitlearn.training import checkpoint_content
from splitlearn.training.assembling import TrainableModel, load_trainable
from splitlearn.training.checkpoint_fit import check_checkpoint, check_noise, describe_base
from splitlearn.training.part_owner import PartElsewhere
from splitlearn.training.settings import TrainingSettings, parse_dtype, plain_request
from splitlearn.training.top_loss import LogitsLimit


class PartsModule(LightningModule):
    """Bottom, trunk and top of a causal LM, without a way to train them: subclasses have the steps.

    The parts are loaded in Lightning's set-up hooks, one after another, and only once. A checkpoint holds what is trained of
    them under the unsplit model's names.

    Args:
        model_name_or_path: a local folder or a hub id.
        split_point_1: first layer of the trunk.
        split_point_2: first layer of the top.
        model_type: the architecture the checkpoint must have; None takes what it is.
        device: where a part goes that ``device_map`` does not name.
        device_map: None, one device, a mapping from part to device, or ``"auto"``.
        low_memory: load part by part rather than the whole model first.
        dtype: what floating-point weights become, for example ``"float32"``; None takes the configuration's dtype, or else that
            of the stored weights, and float32 for parts whose weights are trained.
        optimizer: plain settings of `Optimization`.
        verbose: print what is loaded and what it costs.
        revision: of a hub's repository the branch, tag or commit; None is its main branch.
        peft: plain settings of `AdapterSettings`; ``{"method": "lora"}`` is what ``peft=lora`` is on the command line.
        gradient_checkpointing: keep only the inputs of layers for the backward pass and compute the rest again.
        activation_cache: plain settings of `CacheSettings`.
        max_logits_mib: how large a batch's logits may become in MiB; beyond it they are computed and used piece by piece, if
            the head is a plain linear one. ``"auto"`` is 32 on the CPU and 512 on a GPU, None has no limit.
        quantization: how the linear layers of parts that are frozen or have adapters are quantized while they are loaded.
        compile_layers: have ``torch.compile`` compile the decoder layers: True, or its arguments.
        unexpected_tensors: what is done with tensors of the checkpoint that the model does not have: ``"auto"`` leaves them out
            unless they speak for another model, ``"refuse"`` refuses them all, ``"leave_out"`` none.
        placement: who holds which part on which device, instead of ``device`` and ``device_map``; None is U-shaped.
        untie: make a head that is tied to the embedding a tensor of its own, which is trained apart.
        boundary: plain settings of `BoundaryCodecs`, how what crosses the cuts is sent; ``"int8"`` is ``boundary=int8``.
            None sends everything as it is.
        defence: plain settings of `DefenceSettings`, what is done so that it tells less about the text; None for nothing.
        microbatches: into how many a training batch is divided. They are all sent to a party that holds the trunk before the
            first answer is awaited, and the gradient of each is sent before the next answer is, so that both compute at once.
            Their loss is not to be scaled afterwards.
        privacy: plain settings of `PrivacySettings`, how noise of which an epsilon is claimed is made and accounted for.

    Attributes:
        placement: who holds which part on which device.
        trained: which tensors of each part are trained, by the part's name. A part that is to have adapters is frozen if it
            turns out, as parts are loaded, that none of its modules gets one.
        defences: what is done so that what crosses the cuts tells less about the text.
        generators: what parts and boundaries draw random numbers from, seeded as torch was when the module was made. Noise of
            which an epsilon is claimed follows from a secret key, which checkpoints hold.

    Raises:
        ValueError: a setting is unknown or out of range.
    """

    def __init__(
        self,
        model_name_or_path: str,
        split_point_1: int,
        split_point_2: int,
        model_type: str | None = None,
        device: str = "cpu",
        device_map: str | Mapping[str, str] | None = None,
        low_memory: bool = True,
        dtype: str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        verbose: bool = False,
        revision: str | None = None,
        peft: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        activation_cache: Mapping[str, Any] | None = None,
        max_logits_mib: LogitsLimit = "auto",
        quantization: str | Mapping[str, Any] | None = None,
        compile_layers: bool | Mapping[str, Any] | None = None,
        unexpected_tensors: str = "auto",
        placement: Placement | None = None,
        untie: bool = False,
        boundary: Mapping[str, Any] | str | None = None,
        defence: Mapping[str, Any] | None = None,
        microbatches: int = 1,
        privacy: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if microbatches < 1:
            raise ValueError(f"{named('microbatches')} is {microbatches}; use 1 or more")
        # Where parts live is of this run alone: a checkpoint may be gone on from elsewhere.
        self.save_hyperparameters(ignore=["placement"])
        refuse_both(placement, device, device_map)
        self.placement = placement or Placement.u_shaped(device, device_map, num_gpus=torch.cuda.device_count())
        self.settings = TrainingSettings.from_plain(
            optimizer,
            peft,
            activation_cache,
            gradient_checkpointing,
            compile_layers,
            boundary,
            defence,
            privacy,
            max_logits_mib,
        )
        with naming_group("boundary"):
            self.settings.codecs.refuse_unused(find_routes(self.placement))
        with naming_group("defence"):
            refuse_idle(self.settings.defences, find_routes(self.placement), self.settings.trained)
        self.defences = Defences(self.settings.defences)
        self.optimization, self.adapters = self.settings.optimization, self.settings.adapters
        self.trained = self.settings.trained
        # Lightning's seed_everything sets this seed, too.
        self.generators = self._make_generators(torch.initial_seed())
        self.tracker = MemoryTracker()
        self.model: ComposedCausalLM | None = None
        # A checkpoint holds trained tensors only; `on_load_checkpoint` checks that it holds all of them.
        self.strict_loading = False
        self._request = ModelRequest(
            model_name_or_path,
            split_point_1,
            split_point_2,
            model_type=model_type,
            revision=revision,
            dtype=parse_dtype(dtype),
            quantization=quantization,
            unexpected_tensors=unexpected_tensors,
            untie=untie,
        )
        self._opened: OpenedModel | None = None
        self._elsewhere: dict[str, PartElsewhere] = {}
        self._trainable: TrainableModel | None = None

    @classmethod
    def from_opened(cls, opened: OpenedModel, **settings: Any) -> Self:
        """Make the module of a model that is opened already, so that nothing of it is read again.

        Args:
            opened: the model, cut.
            **settings: arguments of the class that are not about which model it is.

        Raises:
            ValueError: a setting is unknown or out of range.
        """
        module = cls(**plain_request(opened), **settings)
        module._opened = opened
        return module

    @property
    def learning_rate(self) -> float:
        """The peak learning rate of parts that have none of their own; setting it takes effect with the next optimizer."""
        return self.optimization.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimization = replace(self.optimization, learning_rate=value)

    def _make_generators(self, seed: int) -> NamedGenerators:
        """Return generators of a seed. Noise of which an epsilon is claimed follows from a secret key of their own."""
        with_epsilon = self.settings.noise_with_epsilon(find_routes(self.placement))
        is_secret = bool(with_epsilon) and not self.settings.privacy.reproducible_noise
        return NamedGenerators(seed, None, with_epsilon, new_key() if is_secret else None)

    @property
    def models(self) -> list[ComposedCausalLM]:
        """The loaded model of each data owner: here there is one."""
        return [self.composed]

    @property
    def composed(self) -> ComposedCausalLM:
        """The loaded model.

        Raises:
            RuntimeError: the parts have not been loaded.
        """
        return self._loaded.composed

    @property
    def _loaded(self) -> TrainableModel:
        if self._trainable is None:
            raise RuntimeError("the parts are not loaded yet: call load_parts(), or let the Trainer do it")
        return self._trainable

    @property
    def parts(self) -> tuple[SplitModel, SplitModel, SplitModel]:
        """Bottom, trunk and top."""
        return self.composed.parts

    @property
    def parts_here(self) -> tuple[SplitModel, ...]:
        """The parts that this process holds; all three, unless `connect` was called."""
        return self._loaded.prepared.parts

    def trained_names(self) -> set[str]:
        """Return the unsplit model's names of all tensors that are trained, here and elsewhere."""
        return self._loaded.step.trained_names()

    def connect(self, parts: Mapping[str, PartElsewhere]) -> None:
        """Use parts that other parties hold in the place of parts of this process.

        Args:
            parts: by the part's name.

        Raises:
            RuntimeError: the parts of this process are loaded already.
            ValueError: the placement gives one of the parts to the party of this process.
        """
        if self.model is not None:
            raise RuntimeError("the parts are loaded already: call connect() before")
        for name in parts:
            if self.placement.holder(name) == self.placement.data:
                raise ValueError(
                    f"the {name} is to be held elsewhere, but the placement gives it to {self.placement.data!r}, who has the "
                    "data; make the module with the placement that is meant"
                )
        self._elsewhere = dict(parts)

    def setup(self, stage: str) -> None:
        """Load the parts, as `load_parts` does."""
        self.load_parts()

    def configure_model(self) -> None:
        """Load the parts, as `load_parts` does; Lightning calls only this when it restores a checkpoint."""
        self.load_parts()

    def load_parts(self) -> None:
        """Load bottom, trunk and top, freeze what is not trained; a second call does nothing.

        Raises:
            ValueError: one side of a tied head is frozen and the other trained, or the checkpoint, cut or devices are unusable.
            FileNotFoundError: the checkpoint is not there.
        """
        if self.model is not None:
            return
        hparams = cast(AttributeDict, self.hparams)
        self._trainable = load_trainable(
            self._opened or self._request.open([name for name in PART_NAMES if name not in self._elsewhere]),
            self.settings,
            self.placement,
            self.generators,
            self._elsewhere,
            num_microbatches=hparams.microbatches,
            low_memory=hparams.low_memory,
            verbose=hparams.verbose,
            tracker=self.tracker,
        )
        self._opened = None
        with naming_group("defence"):
            self.defences.attach(self._trainable.composed)
        self.trained = dict(self._trainable.trained)
        self.model = self._trainable.composed

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that steps the defences; none without any that learn something."""
        return [DefenceSteps(self.defences)] if self.settings.defences.trained else []

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        """Run the three parts on token ids of shape (B, T); see `ComposedCausalLM.forward`."""
        return self.composed(input_ids, **kwargs)

    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate from token ids of shape (B, T) with transformers' own ``generate``; see `ComposedCausalLM.generate`.

        The parts are put in evaluation mode while it lasts.
        """
        with self.composed.evaluating():
            return self.composed.generate(inputs, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put trained tensors under the unsplit model's names; what was not trained is in the base checkpoint."""
        checkpoint[checkpoint_content.LAYOUT_KEY] = checkpoint_content.LAYOUT_VERSION
        checkpoint[checkpoint_content.GENERATORS_KEY] = self.generators.state()
        self._loaded.step.add_state(checkpoint)
        states = self.composed.codec_states()
        if states:
            checkpoint.setdefault(checkpoint_content.CODECS_KEY, {}).update(states)
        checkpoint["base"], checkpoint["trained"] = self.base, {name: what.value for name, what in self.trained.items()}

    @cached_property
    def base(self) -> dict[str, Any]:
        """Which model the parts are of, as plain values; it is kept in checkpoints and in the summary."""
        return describe_base(self.parts, self.adapters, self.hparams["quantization"], self._loaded.prepared.base_weights)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors under the module's own names; frozen ones, which a checkpoint leaves out, do not count as missing."""
        keys = super().load_state_dict(state_dict, strict=strict, assign=assign)
        trained = {name for name, parameter in self.named_parameters(remove_duplicate=False) if parameter.requires_grad}
        keys.missing_keys[:] = [name for name in keys.missing_keys if name in trained]
        return keys

    def load_trained(self, checkpoint: dict[str, Any]) -> None:
        """Have all parts, wherever they are, hold what a checkpoint of this run has trained, as after training the best one.

        Args:
            checkpoint: its content; the share of parts elsewhere is taken out of it.

        Raises:
            CheckpointError: a trained tensor is missing or has another shape.
        """
        self._loaded.step.load_trained(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, and give its tensors the names under which Lightning loads them.

        Raises:
            CheckpointError: it is of another layout, cut or model, or does not hold exactly what is trained; the message shows
                the difference.
        """
        checkpoint_content.check_layout(checkpoint)
        self.load_parts()
        check_checkpoint(checkpoint, self.hparams, self.base, self._loaded.step.trained_names())
        self._loaded.step.take_state(checkpoint)
        generators = checkpoint[checkpoint_content.GENERATORS_KEY]
        check_noise(generators, self.settings.noise_with_epsilon(find_routes(self.placement)), self.settings.privacy)
        self.generators.load_state(generators)
        self.composed.load_codec_states(checkpoint.get(checkpoint_content.CODECS_KEY) or {})
        checkpoint["state_dict"] = checkpoint_content.under_own_names(self, self.parts_here, checkpoint["state_dict"])
