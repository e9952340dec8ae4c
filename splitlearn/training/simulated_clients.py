"""Several clients with ends of their own and one trunk, in one process: what they would do as parties, to the bit.

There is one optimizer with the groups of all clients. AdamW passes over parameters without gradients, so with clients that take
turns each step is that of one client and the trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import nn

from splitlearn.checkpoint import CheckpointError
from splitlearn.cut import PART_NAMES
from splitlearn.model import ComposedCausalLM, trained_parameters
from splitlearn.naming import naming_group
from splitlearn.training.assembling import TrainableModel, load_trainable
from splitlearn.training.checkpoint_content import (
    CODECS_KEY,
    GENERATORS_KEY,
    load_trained_tensors,
    speak_names,
    trained_tensors,
)
from splitlearn.training.client_settings import ClientSettings
from splitlearn.training.clipping import clip_coefficient, total_norm
from splitlearn.training.module import Batch, SplitCausalLM
from splitlearn.training.shared_steps import mean_gradients
from splitlearn.training.step_figures import is_logged, learning_rates, num_steps_of
from splitlearn.training.token_window import count_supervised

_ENDS = ("bottom", "top")
_TRUNK = PART_NAMES.index("trunk")
# In checkpoints: the states of the clients beside the first, and whether a step was under way.
_CLIENTS_KEY, _UNDER_WAY_KEY = "clients", "clients_under_way"


class SimulatedClients(SplitCausalLM):
    """Trains one trunk with several clients, each with data, bottom and top of its own.

    Batches come client by client: as many of one client as its step is made of, then those of the next. Steps are those of the
    trunk. Further metrics: ``val_loss/NAME`` of each client, whose mean is ``val_loss``. Outside training, the module is the
    model of the first client.

    Args:
        *args: those of `SplitCausalLM`.
        simulation: plain settings of `ClientSettings`.
        **settings: those of `SplitCausalLM`.

    Attributes:
        simulation: how clients are simulated.
        clients: each client's model by name, once the parts are loaded.

    Raises:
        ValueError: a setting is unknown or out of range.
    """

    def __init__(self, *args: Any, simulation: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(*args, **settings)
        with naming_group("placement"):
            self.simulation = ClientSettings.from_plain(simulation)
            self.simulation.refuse_beside(self.settings)
        self.clients: dict[str, TrainableModel] = {}
        # An optimizer of each client's parts and the trunk, in the order in which a client has them. They take no step.
        self._views: dict[str, torch.optim.Optimizer] = {}
        self._shares: dict[str, dict[str, torch.Tensor]] = {}
        self._batch_idx = 0

    def load_parts(self) -> None:
        """Load the trunk, and a bottom and a top for each client; a second call does nothing.

        Raises:
            ValueError: the checkpoint, cut or devices are unusable, or the model cannot be trained so.
            FileNotFoundError: the checkpoint is not there.
        """
        if self.model is not None:
            return
        opened = self._opened = self._opened or self._request.open(PART_NAMES)
        super().load_parts()
        # The holder of the trunk has used its own generator for adapters, so each client's begins afresh.
        drawn = self.generators.state()
        drawn["states"].pop(PART_NAMES[_TRUNK], None)
        self.generators.load_state(drawn)
        names = self.simulation.clients
        self.clients = {names[0]: self._loaded}
        for name in names[1:]:
            self.clients[name] = load_trainable(
                opened.only(_ENDS),
                self.settings,
                self.placement,
                # Each process of a client begins with the seed of its run, and has secrets of its own.
                self._make_generators(self.generators.seed),
                {},
                num_microbatches=cast(AttributeDict, self.hparams).microbatches,
                low_memory=True,
                verbose=False,
                tracker=self.tracker,
                beside=self._loaded,
            )
            self.clients[name].composed.stage_observers = self.composed.stage_observers
        # So that Lightning moves them, and puts them in training mode.
        self.others = nn.ModuleList(client.composed for client in list(self.clients.values())[1:])

    @property
    def models(self) -> list[ComposedCausalLM]:
        """The loaded model of each client."""
        return [client.composed for client in self.clients.values()]

    def _turn_to(self, name: str) -> None:
        self._trainable = self.clients[name]

    @contextmanager
    def being(self, name: str) -> Iterator[None]:
        """Have the module be the model of one client while the block runs.

        Args:
            name: the client's.
        """
        self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(self.simulation.clients[0])

    def _batches_of_each(self) -> int:
        """Return of how many batches a client's step is made."""
        return self.trainer.accumulate_grad_batches // self.simulation.batches_per_step(1)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch of the client whose turn it is."""
        names = self.simulation.clients
        self._batch_idx = batch_idx
        self._turn_to(names[batch_idx // self._batches_of_each() % len(names)])
        return super().training_step(batch, batch_idx)

    def on_after_backward(self) -> None:
        """With concurrent clients, keep the trunk's gradient apart once a client's is complete."""
        if self.simulation.is_sequential or (self._batch_idx + 1) % self._batches_of_each():
            return
        (name,) = (name for name, client in self.clients.items() if client is self._loaded)
        self._loaded.step.scale_gradients(self._views[name])
        parameters = trained_parameters([self.parts[_TRUNK]])
        self._shares[name] = {key: own.grad for key, own in parameters.items() if own.grad is not None}
        for parameter in parameters.values():
            parameter.grad = None

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale the gradients of a client's turn, or give the trunk the mean of all clients' gradients."""
        if self.simulation.is_sequential:
            super().on_before_optimizer_step(optimizer)
            return
        means = mean_gradients([self._shares.pop(name, {}) for name in self.clients])
        for name, parameter in trained_parameters([self.parts[_TRUNK]]).items():
            parameter.grad = means.get(name)
        self.log_dict(learning_rates(optimizer))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each client's gradients by the norm over its parts and the trunk; the trunk's by the smallest coefficient."""
        if self.simulation.is_sequential:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        if gradient_clip_val and gradient_clip_algorithm == "value":
            raise ValueError("gradient_clip_algorithm is 'value'; with concurrent clients use 'norm'")
        if not gradient_clip_val and not is_logged(self.trainer):
            return
        norms = {name: total_norm(view) for name, view in self._views.items()}
        self.log_dict({f"gradient_norm/{name}": norm.to(self.device) for name, norm in norms.items()})
        if not gradient_clip_val:
            return
        coefficients = {name: clip_coefficient(norm, gradient_clip_val) for name, norm in norms.items()}
        for name, client in self.clients.items():
            _multiply(client.composed.bottom, client.composed.top, by=coefficients[name])
        _multiply(self.parts[_TRUNK], by=torch.stack(list(coefficients.values())).min())

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Step, and average the clients' parts when it is time."""
        super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)
        every, num_steps = self.simulation.average_every, self.trainer.global_step + 1
        in_turn = len(self.clients) if self.simulation.is_sequential else 1
        if every is not None and num_steps % (every * in_turn) == 0:
            average_ends(list(self.clients.values()), self._sizes())

    def _sizes(self) -> list[int]:
        """Return how many training blocks each client has, by which it is weighted; alike if the data do not say it."""
        shares = getattr(getattr(self.trainer, "datamodule", None), "shares", None)
        return [len(share) for share in shares] if shares else [1] * len(self.clients)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Be the first client's model again."""
        self._turn_to(self.simulation.clients[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log each client's loss of ``input_ids`` and ``labels``, each (B, T), and their mean."""
        num_tokens = count_supervised(batch["labels"])
        losses = {}
        for name in self.clients:
            with self.being(name):
                losses[name] = self._losses_of(batch, max(num_tokens, 1), "val").text.to(self.device)
            self.log(f"val_loss/{name}", losses[name], batch_size=num_tokens)
        self.log("val_loss", torch.stack(list(losses.values())).mean(), prog_bar=True, batch_size=num_tokens)

    def configure_optimizers(self) -> Any:
        """Return one AdamW over the parts of all clients and the trunk, and a schedule for each client and for the trunk."""
        self._views = {name: client.step.make_optimizer(self.optimization) for name, client in self.clients.items()}
        first, *others = self._views
        groups = [dict(group) for group in self._views[first].param_groups]
        further: dict[nn.Parameter, str] = {}
        for name in others:
            client = self.clients[name]
            ends = (client.composed.bottom, client.composed.top)
            further |= {parameter: f"{name}/{key}" for key, parameter in trained_parameters(ends).items()}
            for group in self._views[name].param_groups:
                part, *kind = group["name"].split("/")
                if part in _ENDS:
                    groups.append({**group, "name": "/".join((part, name, *kind))})
        groups.sort(key=lambda group: PART_NAMES.index(group["name"].split("/")[0]))
        optimizer = torch.optim.AdamW(groups, lr=self.optimization.learning_rate, betas=self.optimization.betas)
        speak_names(optimizer, self.parts, further)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "step"}}

    def _schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        num_steps, in_turn = num_steps_of(self.trainer), len(self.clients) if self.simulation.is_sequential else 1
        of_trunk, of_client = (_factors(self, steps) for steps in (num_steps, self.simulation.steps_of_each(num_steps)))
        lambdas: list[Callable[[int], float]] = [
            of_trunk if group["name"].split("/")[0] == PART_NAMES[_TRUNK] else lambda step: of_client(step // in_turn)
            for group in optimizer.param_groups
        ]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambdas)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in the trunk and the first client's tensors as in a run of one client, and under ``clients`` the others'."""
        is_under_way = bool(self._shares) or any(client.step.is_under_way for client in self.clients.values())
        self._turn_to(self.simulation.clients[0])
        super().on_save_checkpoint(checkpoint)
        checkpoint[_CLIENTS_KEY] = {name: _state_of(self.clients[name]) for name in self.simulation.clients[1:]}
        checkpoint[_UNDER_WAY_KEY] = is_under_way

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, and give each client its share of it.

        Raises:
            CheckpointError: it is of other clients, was written in the middle of a step, or is of another model.
        """
        others = self.simulation.clients[1:]
        present = checkpoint.get(_CLIENTS_KEY) or {}
        if list(present) != list(others):
            raise CheckpointError(
                f"beside the first client the checkpoint is of {', '.join(present) or 'none'}, and this run's are "
                f"{', '.join(others)}; set placement.clients as it was"
            )
        if checkpoint.get(_UNDER_WAY_KEY):
            raise CheckpointError("the checkpoint was written in the middle of a step of several clients; go on from another")
        super().on_load_checkpoint(checkpoint)
        for name, state in present.items():
            composed = self.clients[name].composed
            load_trained_tensors([composed.bottom, composed.top], state["state_dict"])
            if composed.generators is not None:
                composed.generators.load_state(state[GENERATORS_KEY])
            composed.load_codec_states(state[CODECS_KEY])


def _state_of(client: TrainableModel) -> dict[str, Any]:
    composed = client.composed
    return {
        "state_dict": trained_tensors([composed.bottom, composed.top]),
        GENERATORS_KEY: None if composed.generators is None else composed.generators.state(),
        CODECS_KEY: composed.codec_states(),
    }


@torch.no_grad()
def average_ends(clients: list[TrainableModel], sizes: list[int]) -> None:
    """Replace what is trained of each client's bottom and top by the mean over all clients.

    Args:
        clients: the clients' models.
        sizes: how much each client counts, for example its number of rows.
    """
    tensors = [trained_parameters([client.composed.bottom, client.composed.top]) for client in clients]
    for name in tensors[0]:
        # In double precision the order of the clients hardly matters.
        weighted = [own[name].double() * (size / sum(sizes)) for own, size in zip(tensors, sizes, strict=True)]
        mean = torch.stack(weighted).sum(0)
        for own in tensors:
            own[name].copy_(mean)


def _multiply(*parts: nn.Module, by: torch.Tensor) -> None:
    gradients = {parameter: parameter.grad for part in parts for parameter in part.parameters() if parameter.grad is not None}
    if gradients:
        torch._foreach_mul_(list(gradients.values()), by)


def _factors(module: SplitCausalLM, num_steps: int) -> Callable[[int], float]:
    """Return what the learning rate is multiplied by in each of so many steps."""
    schedule = module.optimization.make_schedule(torch.optim.SGD([torch.zeros(())]), num_steps)
    factor: Callable[[int], float] = schedule.lr_lambdas[0]
    return lambda step: factor(step)
