"""The three parts of a causal LM as one LightningModule.

Shapes: B rows, T tokens, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

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
from splitlearn.training.loss import Losses
from splitlearn.training.part_owner import PartElsewhere
from splitlearn.training.settings import TrainingSettings, parse_dtype, plain_request
from splitlearn.training.step_figures import is_logged, learning_rates, num_steps_of, perplexity
from splitlearn.training.token_window import count_supervised

Batch = dict[str, torch.Tensor]


class SplitCausalLM(LightningModule):
    """Fine-tunes a causal LM that is cut into bottom, trunk and top.

    The parts are loaded in Lightning's set-up hooks, one after another, and only once. Metrics: ``train_loss``, ``val_loss``
    (nats for each supervised token), ``train_perplexity``, ``val_perplexity``, and ``train_router_loss`` if the configuration
    of a mixture of experts has ``output_router_logits``; ``learning_rate`` (``learning_rate/bottom`` and so on where parts
    differ) and ``gradient_norm``, over all parts and before clipping.

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
            the head is a plain linear one. None has no limit.
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
        max_logits_mib: float | None = 32.0,
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
    def from_opened(cls, opened: OpenedModel, **settings: Any) -> SplitCausalLM:
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

    def _losses_of(self, batch: Batch, divisor: int, name: str) -> Losses:
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return self._loaded.loss(batch, divisor, name, data)

    def on_train_start(self) -> None:
        """Begin a step, or go on with the one in which a checkpoint was written."""
        self._loaded.step.begin()

    def on_train_epoch_start(self) -> None:
        """Tell data that are streamed which epoch it is; Lightning tells only samplers."""
        loader = self.trainer.train_dataloader
        if loader is not None and hasattr(loader, "set_epoch"):
            loader.set_epoch(self.trainer.current_epoch)

    def flops_of(self, batch: Batch) -> int | None:
        """Return the floating-point operations of the last training step, which was on ``batch``; None if not known."""
        return self._loaded.loss.flops_of(batch["input_ids"])

    def chunk_tokens(self, num_positions: int) -> int | None:
        """Return for how many positions logits are in memory at a time in a batch of ``num_positions``; None for all."""
        return self._loaded.loss.chunk_tokens(num_positions)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of ``input_ids`` and ``labels``, each (B, T), for each supervised token of the step."""
        num_tokens = count_supervised(batch["labels"])
        divisor = self._loaded.step.count(num_tokens, self._loaded.loss.goes_back_early(batch))
        if self._is_clipped_after_this_batch():
            self._loaded.step.expect_clipping()
        losses = self._losses_of(batch, divisor, "train")
        loss = losses.text
        mean = loss.detach() * (divisor / max(num_tokens, 1))
        self.log("train_loss", mean.to(self.device), prog_bar=True, on_step=True, on_epoch=True, batch_size=num_tokens)
        for name, further in {"train_router_loss": losses.router, "train_boundary_loss": losses.boundary}.items():
            if further is not None:
                self.log(name, further.detach().to(self.device), batch_size=num_tokens)
                # Weighted by this micro-batch's share of tokens.
                loss = loss + further.to(loss.device) * (num_tokens / divisor)
        # Lightning divides by the number of accumulated batches; the token window does that exactly.
        return loss * self.trainer.accumulate_grad_batches

    def _is_clipped_after_this_batch(self) -> bool:
        """Whether a step follows the batch under way, and the norm of its gradients is needed."""
        trainer = self.trainer
        return not trainer.fit_loop._should_accumulate() and (bool(trainer.gradient_clip_val) or is_logged(trainer))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of ``input_ids`` and ``labels``, each (B, T), averaged over the set's supervised tokens."""
        num_tokens = count_supervised(batch["labels"])
        losses = self._losses_of(batch, max(num_tokens, 1), "val")
        self.log("val_loss", losses.text.to(self.device), prog_bar=True, batch_size=num_tokens)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training perplexity."""
        # Resuming after the last step re-enters the epoch end with no batches and no metric.
        if "train_loss_epoch" in self.trainer.callback_metrics:
            self.log("train_perplexity", perplexity(self.trainer.callback_metrics["train_loss_epoch"]))

    def on_validation_epoch_end(self) -> None:
        """Log the held-out perplexity."""
        self.log("val_perplexity", perplexity(self.trainer.callback_metrics["val_loss"]), prog_bar=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Gather the gradients of ties over two devices, then scale all gradients to the mean over the step's tokens."""
        self._loaded.step.scale_gradients(optimizer)
        self.log_dict(learning_rates(optimizer))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, log the norm of the gradients before that, and order the step elsewhere."""
        norm = self._loaded.step.clip(optimizer, gradient_clip_val, gradient_clip_algorithm, measures=is_logged(self.trainer))
        if norm is not None:
            self.log("gradient_norm", norm.to(self.device))
        # Lightning's last hook before the optimizer's step here, during which others take theirs.
        self._loaded.step.order(optimizer, self.trainer.global_step)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Step, copy tied tensors to where they are borrowed, and let go of the gradients."""
        super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)
        self._loaded.step.finish(optimizer)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Forget all gradients, here and elsewhere."""
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)
        self._loaded.step.zero_gradients()

    def configure_optimizers(self) -> Any:
        """Return one AdamW over the trained parts and its schedule, stepped after every optimizer step."""
        optimizer = self._loaded.step.make_optimizer(self.optimization)
        schedule = self.optimization.make_schedule(optimizer, num_steps_of(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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
