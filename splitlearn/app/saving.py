"""Writing adapters, parts and the prompt format into a run's folder."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig

from splitlearn.adapters import save_adapters
from splitlearn.data import PROMPT_FORMAT_FILE, TEMPLATE_FILE, BlockDataModule
from splitlearn.loading import save_parts
from splitlearn.model import SplitModel
from splitlearn.runs import Stamp
from splitlearn.training import SplitCausalLM


def save_prompt_format(datamodule: LightningDataModule, run_folder: Path) -> None:
    """Write how the model is asked, in the place of what an earlier run left: an interrupted run is asked as a completed one.

    Args:
        datamodule: the data, set up; only splitlearn's own have a format.
        run_folder: where to write.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    for file in (TEMPLATE_FILE, PROMPT_FORMAT_FILE):
        (run_folder / file).unlink(missing_ok=True)
    if isinstance(datamodule, BlockDataModule):
        datamodule.save_prompt_format(run_folder)


def save_trained(cfg: DictConfig, module: SplitCausalLM, run_folder: Path, stamp: Stamp) -> dict[str, str]:
    """Save adapters, and parts if that is wanted: beside adapters those that were trained themselves.

    Args:
        cfg: the run's configuration.
        module: the trained module.
        run_folder: where to save.
        stamp: which run and step they are of.

    Returns:
        The folders, by kind: ``"adapters"`` and ``"parts"``.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    folders = {}
    # A part with a server is saved there; what was trained of it stands in this run's checkpoints, too.
    wanted: list[SplitModel] = list(module.parts_here)
    if module.adapters.method is not None:
        if len(wanted) == len(module.parts):
            save_adapters(module.parts, module.adapters, run_folder / "adapters", stamp)
            folders["adapters"] = str((run_folder / "adapters").resolve())
        else:
            # An adapter for the unsplit model that lacks the server's part would pass for a whole one.
            print("a server has some of the adapters, so they are not saved apart; checkpoints hold all: export with ckpt=last")
        wanted = [part for part in wanted if module.trained[part.spec.name].trains_weights]
    if cfg.model.quantization is not None:
        # The base checkpoint holds the quantized weights with more digits.
        wanted = [part for part in wanted if module.trained[part.spec.name].trains_all_weights]
    if cfg.save_parts and wanted:
        save_parts(wanted, run_folder / "parts", stamp)
        folders["parts"] = str((run_folder / "parts").resolve())
    return folders
