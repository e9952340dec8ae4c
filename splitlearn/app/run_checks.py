"""Checks of an opened model and of data that are set up, made before any weights are read."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule
from omegaconf import DictConfig, OmegaConf

from splitlearn.boundary import BoundaryCodecs
from splitlearn.data import BlockDataModule
from splitlearn.loading import OpenedModel, dtype_in_full
from splitlearn.planning import check_fit, cost_of, least_methods
from splitlearn.training import SplitCausalLM, refuse_divided_ties


def check_memory(opened: OpenedModel, module: SplitCausalLM) -> None:
    """Refuse a tie between parties, and weights, gradients and optimizer state that are more than this machine's memory.

    Args:
        opened: the model, cut.
        module: how it is trained; its parts are not loaded yet.

    Raises:
        CutError: the cut leaves a part that cannot run.
        ValueError: two parties would train one tensor, or the run does not fit.
    """
    opened.blueprint.check(opened.plan)
    refuse_divided_ties(opened.blueprint, opened.plan, module.placement, module.trained)
    size: dict[str, Any] = {"num_rows": 1, "num_tokens": 1, "lora_rank": 1, "with_activations": False}
    size["full_dtype"] = dtype_in_full(opened.request.dtype, opened.dtype)
    cost = cost_of(opened, module.placement, **size)
    check_fit(cost, least_methods(module.trained))


def check_data(datamodule: LightningDataModule, opened: OpenedModel, verbose: bool) -> None:
    """Refuse tokens that the model does not know, and show what it will be trained on.

    Args:
        datamodule: the data, set up; only splitlearn's own are looked at.
        opened: the model.
        verbose: whether to show the beginning of the data.

    Raises:
        ValueError: a token id is not one of the model's.
    """
    if not isinstance(datamodule, BlockDataModule):
        return
    datamodule.check_token_ids(opened.config.get_text_config(decoder=True).vocab_size)
    if verbose:
        print(datamodule.describe())
        print(f"the training data begin with (what is learned stands between » and «):\n{datamodule.sample()}\n")


def check_examples(codecs: BoundaryCodecs, datamodule: LightningDataModule) -> None:
    """Refuse codecs that remember examples where the examples have no ids.

    Args:
        codecs: the run's.
        datamodule: the data; only splitlearn's own are looked at.

    Raises:
        ValueError: there is such a codec.
    """
    if not isinstance(datamodule, BlockDataModule) or (datamodule.packing != "none" and not datamodule.streaming):
        return
    needing = codecs.needing_examples()
    if needing is not None:
        cause = "data.streaming is true" if datamodule.streaming else "data.packing is none"
        raise ValueError(
            f"{needing} remembers each example from epoch to epoch, but {cause}, so examples have no ids; use "
            "data.packing=joined or isolated without streaming, or another codec"
        )


def check_watched(cfg: DictConfig, datamodule: LightningDataModule) -> None:
    """Refuse settings that wait for a held-out loss where nothing is held out.

    Args:
        cfg: the run's configuration.
        datamodule: the data, set up.

    Raises:
        ValueError: there is such a setting.
    """
    if not isinstance(datamodule, BlockDataModule) or datamodule.has_held_out:
        return
    names = ["load_best_model_at_end=true"] if cfg.load_best_model_at_end else []
    for name, callback in cfg.callbacks.items() if OmegaConf.is_dict(cfg.callbacks) else ():
        # The best checkpoint is then simply the latest.
        if OmegaConf.is_dict(callback) and name != "checkpoint" and str(callback.get("monitor")).startswith("val_"):
            names.append(f"callbacks.{name}")
    if names:
        raise ValueError(f"nothing is held out, but {' and '.join(names)} needs the held-out loss; hold out some rows")
