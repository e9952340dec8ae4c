"""Several clients of one trunk, simulated in one process, as ``placement.clients`` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule
from omegaconf import DictConfig

from splitlearn.app.configuration import plain
from splitlearn.app.saving import save_trained
from splitlearn.data import BlockDataModule
from splitlearn.naming import naming_group
from splitlearn.runs import Stamp
from splitlearn.training import ClientSettings, SimulatedClients, SplitCausalLM
from splitlearn.training.callbacks import FederatedRounds

SIMULATION_SETTINGS = ("clients", "order", "average_every")


def rounds_folder_of(cfg: DictConfig) -> str | None:
    """Return where a run that is one of several clients meets the app of its rounds; None for other runs."""
    rounds = (plain(cfg.get("placement")) or {}).get("rounds") or {}
    folder: str | None = rounds.get("folder")
    return folder


def make_rounds(cfg: DictConfig) -> list[Callback]:
    """Return the callback by which a run that is one of several clients takes part in rounds; none for other runs.

    Raises:
        ValueError: a setting is out of range.
        OSError: the folder cannot be written.
    """
    folder = rounds_folder_of(cfg)
    if folder is None:
        return []
    with naming_group("placement"):
        return [FederatedRounds(folder, cfg.placement.average_every, cfg.placement.rounds.wait)]


def averages(cfg: DictConfig) -> bool:
    """Whether a run's bottom and top become the mean over several clients, here or by rounds."""
    simulation = simulation_of(cfg) or {}
    return rounds_folder_of(cfg) is not None or simulation.get("average_every") is not None


def simulation_of(cfg: DictConfig) -> dict[str, Any] | None:
    """Return how several clients are simulated, as plain settings; None for one client."""
    placement = plain(cfg.get("placement")) or {}
    if placement.get("clients") is None or rounds_folder_of(cfg) is not None:
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
    if rounds_folder_of(cfg) is not None:
        _settle_rounds(cfg)
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


def _settle_rounds(cfg: DictConfig) -> None:
    """Write into the configuration of a run that is one of several clients among how many data are divided.

    Raises:
        ValueError: no server has the trunk, a round has no length, or data are divided among others.
    """
    where, placement, data = f"placement.rounds.folder is {rounds_folder_of(cfg)}", cfg.placement, cfg.data
    if placement.server is None and not any(party.get("address") for party in placement.parties.values()):
        raise ValueError(
            f"{where}, but no server has the trunk; set placement.server, or leave it null to simulate all clients"
        )
    if placement.average_every is None:
        raise ValueError(f"{where}, but placement.average_every is null; set it to the number of steps in a round")
    if cfg.load_best_model_at_end:
        raise ValueError(f"{where}, and load_best_model_at_end is true; set it to false: the trunk goes on with all clients")
    with naming_group("placement"):
        num_clients = len(ClientSettings.from_plain({"clients": plain(placement.clients), "order": placement.order}).clients)
    if data.get("partition") is None:
        return
    if data.get("num_shares") not in (None, num_clients):
        raise ValueError(
            f"data.num_shares is {data.num_shares}, but placement.clients names {num_clients}; give all clients' names there"
        )
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
