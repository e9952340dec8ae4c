"""Attacking a model on exactly what crosses its cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase

from splitlearn.app.attack_texts import WHOLE_DOCUMENTS, attack_texts
from splitlearn.app.configuration import literal, naming_settings, plain
from splitlearn.app.measured_models import MeasuredModel
from splitlearn.app.simulating import averages
from splitlearn.attacks import AttackPlan, AttackTexts, PublicModel, Watch, run_attacks
from splitlearn.cut import Placement, describe_threats
from splitlearn.data import read_tokenizer
from splitlearn.defences import DefenceSettings
from splitlearn.export import restore
from splitlearn.files import check_writable, write_json
from splitlearn.loading import OpenedModel
from splitlearn.naming import named, naming_group
from splitlearn.settings import check, conf_folder
from splitlearn.silence import without_lightning_advice
from splitlearn.training.callbacks import tells_tokens

_OF_PLAN = ("cuts", "directions", "base_weights")
# The data of a model without a run, unless others are given.
_WITHOUT_RUN = {"_target_": "splitlearn.data.TextDataModule", "source": "embedded:python_docs", "seed": 0}
_VAL_FRACTION = 0.1
_OF_MODEL = {"model": "embedded", "split": "quarter_half_quarter", "placement": "u_shaped"}


@naming_settings()
def attack(cfg: DictConfig, watch: Watch | None = None) -> dict[str, Any]:
    """Attack a run's model, one of its checkpoints, its base model, or a checkpoint that nobody has fine-tuned.

    Args:
        cfg: a configuration like ``conf/attack.yaml``.
        watch: is told how far the attacks are.

    Returns:
        ``headline``, the best attack's figures; ``attacks``, all of them; ``token_overlap``, ``left_out``, ``threat_model``,
        and which ``model``, ``run``, ``state``, cut and ``data`` they are of. All of it is plain values.

    Raises:
        CutError: the split points do not cut the model.
        ValueError: a setting, the data or the checkpoint cannot be used, or nothing crosses a cut that is to be attacked.
        FileNotFoundError: a file or folder does not exist, or the run's folder lacks what was trained.
    """
    check(cfg, "attack")
    plan = _plan(cfg)
    if cfg.out is not None:
        _check_out(Path(cfg.out).expanduser())
    measured = _open(cfg)
    if cfg.get("boundary") is not None:
        measured.settings.boundary = literal(plain(cfg.boundary))
    if cfg.get("defence") is not None:
        _defend(measured, plain(cfg.defence))
    refuse_uncrossed(plan, measured.placement)
    data = {key: value for key, value in plain(cfg.data).items() if value is not None}
    texts = _texts(measured, data, plan)
    module = measured.load(cfg.base)
    public = public_model(measured.opened, plan)
    tokenizer = read_tokenizer(measured.opened.source.name, measured.opened.source.commit)
    with without_lightning_advice():
        report = run_attacks(module.composed, texts, plan, public=public, decode=decoder_of(tokenizer), watch=watch)
    found = {
        **_describe(cfg, measured, data),
        "base_weights": plan.base_weights,
        "threat_model": describe_threats(measured.placement, module.trained, averages(measured.settings), tells_tokens(module)),
        **report.to_dict(),
    }
    if cfg.out is not None:
        write_json(Path(cfg.out).expanduser(), found)
    return found


def _check_out(path: Path) -> None:
    """Refuse a file that cannot be written, before minutes of work."""
    if path.is_dir():
        raise ValueError(f"out is {path}, which is a folder; name a file")
    check_writable(path.parent)


def _plan(cfg: DictConfig) -> AttackPlan:
    settings = plain(cfg.attack)
    given = {name: plain(cfg[name]) for name in _OF_PLAN if cfg[name] is not None}
    with naming_group("attack"):
        return AttackPlan.from_plain({**settings, **given})


def _open(cfg: DictConfig) -> MeasuredModel:
    if cfg.run is None:
        for name, value in (("ckpt", cfg.ckpt), ("base", cfg.base)):
            if value:
                raise ValueError(f"{name} is {value}, but names a state of a run; give the run's folder with run=...")
        return MeasuredModel.of_checkpoint(cfg)
    for name, choice in _OF_MODEL.items():
        usual = OmegaConf.load(conf_folder() / name / f"{choice}.yaml")
        if plain(cfg[name]) != plain(usual):
            raise ValueError(f"run is {cfg.run}, whose own {name} is attacked; leave {name} out")
    return MeasuredModel.of_run(cfg.run, cfg.ckpt, cfg.device, cfg.device_map)


def _defend(measured: MeasuredModel, given: Mapping[str, Any]) -> None:
    """Add defences that act without training to those of the run."""
    with naming_group("defence"):
        trained = DefenceSettings.from_plain(given).trained
    if trained:
        raise ValueError(
            f"defence.{trained[0]} works by training; attack a run that was trained with it, which has it without being told"
        )
    measured.settings.defence = literal({**(plain(measured.settings.get("defence")) or {}), **given})


def refuse_uncrossed(plan: AttackPlan, placement: Placement) -> None:
    """Refuse a plan that attacks a cut which nothing crosses.

    Args:
        plan: the plan.
        placement: who holds which part.

    Raises:
        ValueError: the parts on both sides of a cut are one party's.
    """
    for cut in plan.cuts:
        if not placement.crosses(cut):
            raise ValueError(
                f"{named('attack.cuts')} names cut {cut}, but nothing crosses it: the parts on both sides are one party's; "
                "choose another cut, or another placement"
            )


def _texts(measured: MeasuredModel, given: Mapping[str, Any], plan: AttackPlan) -> AttackTexts:
    """Return the texts of the run, or of given data that are read as the run's; held-out documents are attacked."""
    settings = {**_WITHOUT_RUN, **(measured.settings.get("data") or {}), **WHOLE_DOCUMENTS, **given}
    if "source" in given:
        settings |= {"val_source": None, "streaming": False}
    if "source" in given or measured.record is None:
        # Here documents are held out to be attacked, whatever is held out of training.
        settings["val_fraction"] = given.get("val_fraction") or settings.get("val_fraction") or _VAL_FRACTION
    data = measured.make_data(settings)
    data.setup("fit")
    vocab_size: int = measured.opened.config.get_text_config(decoder=True).vocab_size
    data.check_token_ids(vocab_size)
    return attack_texts(data, plan)


def public_model(opened: OpenedModel, plan: AttackPlan) -> PublicModel | None:
    """Return the base model's weights if the attacker has them, unquantized as they are published.

    Args:
        opened: the base model, cut.
        plan: says whether the attacker has them.
    """
    return PublicModel.of(restore(opened.revise(quantization=None), None)) if plan.base_weights == "public" else None


def decoder_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """Return the function from token ids to text that results are shown with.

    Args:
        tokenizer: the model's tokenizer.
    """
    return lambda ids: str(tokenizer.decode(list(ids)))


def _describe(cfg: DictConfig, measured: MeasuredModel, data: Mapping[str, Any]) -> dict[str, Any]:
    plan = measured.opened.plan
    source = data.get("source", (measured.settings.get("data") or _WITHOUT_RUN)["source"])
    return {
        "model": measured.settings.model.name_or_path,
        "run": None if cfg.run is None else str(Path(cfg.run).expanduser()),
        "state": None if cfg.run is None else "base" if cfg.base else cfg.ckpt or "end",
        "split_point_1": plan.split_point_1,
        "split_point_2": plan.split_point_2,
        "boundary": plain(measured.settings.get("boundary")),
        "defence": plain(measured.settings.get("defence")),
        "data": str(plain(source)),
    }
