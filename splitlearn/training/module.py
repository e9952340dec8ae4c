"""Fine-tuning of the three parts of a causal LM: Lightning's hooks, and the metrics that they log.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch

from splitlearn.training.loss import Losses
from splitlearn.training.parts_module import PartsModule
from splitlearn.training.step_figures import is_logged, learning_rates, num_steps_of, perplexity
from splitlearn.training.token_window import count_supervised

Batch = dict[str, torch.Tensor]


class SplitCausalLM(PartsModule):
    """Fine-tunes a causal LM that is cut into bottom, trunk and top.

    It is made with the arguments of `PartsModule`. Metrics: ``train_loss``, ``val_loss`` (nats for each supervised token),
    ``train_perplexity``, ``val_perplexity``, and ``train_router_loss`` if the configuration of a mixture of experts has
    ``output_router_logits``; ``learning_rate`` (``learning_rate/bottom`` and so on where parts differ) and ``gradient_norm``,
    over all parts and before clipping.
    """

    def _losses_of(self, batch: Batch, divisor: int, name: str) -> Losses:
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return self._loaded.loss(batch, divisor, name, data)

    def flops_of(self, batch: Batch) -> int | None:
        """Return the floating-point operations of the last training step, which was on ``batch``; None if not known."""
        return self._loaded.loss.flops_of(batch["input_ids"])

    def chunk_tokens(self, num_positions: int) -> int | None:
        """Return for how many positions logits are in memory at a time in a batch of ``num_positions``; None for all."""
        return self._loaded.loss.chunk_tokens(num_positions)

    def on_train_start(self) -> None:
        """Begin a step, or go on with the one in which a checkpoint was written."""
        self._loaded.step.begin()

    def on_train_epoch_start(self) -> None:
        """Tell data that are streamed which epoch it is; Lightning tells only samplers."""
        loader = self.trainer.train_dataloader
        if loader is not None and hasattr(loader, "set_epoch"):
            loader.set_epoch(self.trainer.current_epoch)

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
