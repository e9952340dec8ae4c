"""The model that a command measures or attacks: a run's in one of its states, or a checkpoint's that nobody has fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from splitlearn.app.configuration import literal, make, plain
from splitlearn.app.making import make_module
from splitlearn.app.models import open_model
from splitlearn.app.opening_runs import open_base, read_run, restore_defences
from splitlearn.app.placing import resolve_placement
from splitlearn.app.served_runs import at_servers, fill, use_servers
from splitlearn.cut import Placement
from splitlearn.data import BlockDataModule
from splitlearn.export import RunRecord
from splitlearn.loading import OpenedModel
from splitlearn.settings import TARGETS
from splitlearn.training import SplitCausalLM

# The settings of a run that a model has without one: those of training are not used.
_OF_NO_RUN: dict[str, Any] = {
    "optimizer": None,
    "peft": None,
    "gradient_checkpointing": False,
    "activation_cache": None,
    "max_logits_mib": "auto",
    "compile": False,
    "verbose": False,
}


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A model that is opened and placed, before weights are read.

    Attributes:
        settings: the run's configuration, or what stands for it.
        opened: the checkpoint, cut.
        placement: who holds which part.
        record: the run; None for a model that nobody has fine-tuned.
    """

    settings: DictConfig
    opened: OpenedModel
    placement: Placement
    record: RunRecord | None = None

    @classmethod
    def of_run(
        cls,
        folder: str,
        ckpt: str | None,
        device: str | None,
        device_map: Any,
        server: Any = None,
        certificates: str | None = None,
    ) -> MeasuredModel:
        """Open the model of a run.

        Args:
            folder: the run's folder.
            ckpt: ``last``, ``best`` or the path of a checkpoint; None takes what a completed run ended with.
            device: where parts go that ``device_map`` does not name; None for both is as the run.
            device_map: as for training.
            server: where the run's servers are now, whose parts stay there; see `use_servers`.
            certificates: the folder of this party's certificate; None takes the run's.

        Raises:
            FileNotFoundError: the folder is no run's, or what is wanted of it is not there.
            ValueError: a file of the run, the base checkpoint or a device cannot be used.
        """
        record = read_run(folder, ckpt)
        settings = literal(record.config)
        settings.verbose = False
        elsewhere = use_servers(settings, server, certificates)
        for name, value in (("device", device), ("device_map", device_map)):
            if value is not None:
                settings[name] = value
                _forget_devices(settings)
        placement = resolve_placement(settings, elsewhere=elsewhere)
        opened = open_base(record, placement.parts_here())
        quantization = plain(settings.model.get("quantization"))
        return cls(settings, opened.revise(quantization=quantization), placement, record)

    @classmethod
    def of_checkpoint(cls, cfg: DictConfig) -> MeasuredModel:
        """Open the model that ``model``, ``split`` and ``placement`` of a configuration mean.

        Raises:
            CutError: the split does not cut this model.
            ValueError: a setting or the checkpoint cannot be used.
            FileNotFoundError: there is no such model.
        """
        settings = literal({name: plain(cfg[name]) for name in ("model", "split", "placement")} | _OF_NO_RUN)
        settings.device, settings.device_map = cfg.device or "cpu", cfg.device_map or "auto"
        return cls(settings, open_model(settings), resolve_placement(settings))

    def load(self, base: bool = False) -> SplitCausalLM:
        """Return the module with its parts loaded.

        Args:
            base: whether what the run has trained is left out.

        Raises:
            CheckpointError: a file is damaged, or of another run.
        """
        module = make_module(self.settings, self.opened, self.placement)
        module.load_parts()
        if self.record is not None and not base:
            fill(module, self.record)
            restore_defences(module.defences, self.record)
        return module

    @contextmanager
    def loaded(self, base: bool = False) -> Iterator[SplitCausalLM]:
        """Yield the module with its parts loaded, connected with the servers that hold the others while the block runs.

        Args:
            base: whether what the run has trained is left out.

        Raises:
            CheckpointError: a file is damaged, or of another run.
            ValueError: a server refuses, or its part is in another state than is wanted.
            ConnectionError: a server cannot be reached.
        """
        if self.record is None or not any(self.placement.addresses()):
            yield self.load(base)
            return
        with at_servers(self.settings, self.opened, self.placement, self.record, base) as module:
            if not base:
                restore_defences(module.defences, self.record)
            yield module

    def make_data(self, given: Mapping[str, Any]) -> BlockDataModule:
        """Return the data module of the settings, not set up.

        Args:
            given: settings that take the place of the run's.

        Raises:
            ValueError: a setting cannot be used, or the run's configuration names a class that is not splitlearn's.
        """
        settings = {**plain(self.settings.get("data") or {}), **given}
        target = settings.get("_target_")
        if target not in TARGETS or not str(target).startswith("splitlearn.data."):
            # Hydra would import and call any class that a configuration file names.
            raise ValueError(
                f"the run's data module {target} is none of splitlearn's own, so it is not made from its configuration"
            )
        source = self.opened.source
        data: BlockDataModule = make(literal(settings), tokenizer_name_or_path=source.name, tokenizer_revision=source.commit)
        return data


def _forget_devices(run: DictConfig) -> None:
    """Have all parts of a run go where ``device`` and ``device_map`` say, whatever its parties' own devices were."""
    for party in (run.get("placement") or {}).get("parties", {}).values():
        party["devices"] = None
