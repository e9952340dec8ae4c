"""Several clients of one trunk, simulated in one process, as ``placement.clients`` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.app.saving import save_trained
from splitlearn.data import BlockDataModule
from splitlearn.naming import naming_group
from splitlearn.runs import Stamp
from splitlearn.training import ClientSettings, SimulatedClients, SplitCausalLM

SIMULATION_SETTINGS = ("clients", "order", "average_every")


def simulation_of(cfg: DictConfig) -> dict[str, Any] | None:
    """Return how several clients are simulated, as plain settings; None for one client."""
    placement = plain(cfg.get("placement")) or {}
    if placement.get("clients") is None:
        return None
    return {name: placement[name] for name in SIMULATION_SETTINGS if name in placement}


def settle_clients(cfg: DictConfig) -> None:
    """Write into a run's configuration how its data are divided, and refuse what several clients cannot do.

    Args:
        cfg: the run's configuration; it is changed.

    Raises:
        ValueError: rows are divided and nobody says among whom, or a setting is for one client.
    """
    simulation, data = simulation_of(cfg), cfg.data
    if simulation is None:
        if data.get("partition") is not None and data.get("share") is None:
            raise ValueError(
                f"data.partition is {data.partition}, but data.share does not say whose rows this run trains with; set it to "
                "the number of a client, from 1, or take placement=simulated_clients"
            )
        return
    with naming_group("placement"):
        num_clients = len(ClientSettings.from_plain(simulation).clients)
    if data.get("partition") is None:
        raise ValueError("placement.clients are several, but data.partition is null; set it to iid, dirichlet or a column")
    if data.get("num_shares") not in (None, num_clients) or data.get("share") is not None:
        raise ValueError(
            f"data.num_shares is {data.get('num_shares')} and data.share {data.get('share')}, but this run simulates all "
            f"{num_clients} clients; leave both null"
        )
    addresses = {f"placement.parties.{name}.address": party.get("address") for name, party in cfg.placement.parties.items()}
    for name, value, remedy in (
        *((name, address, "leave it null: all parties are in this process") for name, address in addresses.items()),
        ("placement.server", cfg.placement.server, "leave it null: all parties are in this process"),
        ("load_best_model_at_end", cfg.load_best_model_at_end or None, "set it to false: each client has its own best"),
    ):
        if value is not None:
            raise ValueError(f"{name} is {value}, and placement.clients are several; {remedy}")
    data.num_shares = num_clients


def hand_out_in_turn(cfg: DictConfig, datamodule: LightningDataModule) -> None:
    """Have the data of several clients hand out as many batches of each in turn as a step of it is made of."""
    if isinstance(datamodule, BlockDataModule):
        datamodule.batches_per_turn = cfg.trainer.accumulate_grad_batches


def save_clients(cfg: DictConfig, module: SplitCausalLM, run_folder: Path, stamp: Stamp) -> None:
    """Save what the clients beside the first have trained, each into a folder of its own: ``clients/NAME``.

    Args:
        cfg: the run's configuration.
        module: the trained module.
        run_folder: the run's folder.
        stamp: which run and step they are of.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    if isinstance(module, SimulatedClients):
        for name in module.simulation.clients[1:]:
            with module.being(name):
                save_trained(cfg, module, run_folder / "clients" / name, stamp)
