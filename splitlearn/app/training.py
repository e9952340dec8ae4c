"""One run: compose the objects that a configuration names, train, and say what came of it."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from omegaconf import DictConfig

from splitlearn.app.attacks_in_training import finish_attacks, prepare_attacks
from splitlearn.app.checking import check_settings
from splitlearn.app.checkpoints import check_fit_of, find_checkpoint, read_checkpoint, refuse_finished
from splitlearn.app.configuration import make, naming_settings
from splitlearn.app.connecting import connected, server_figures
from splitlearn.app.disk_checks import check_disk
from splitlearn.app.fitting import fit, step_of_end
from splitlearn.app.held_out import measure_before
from splitlearn.app.loggers import ending_logged_runs
from splitlearn.app.making import make_module, make_trainer
from splitlearn.app.models import open_model
from splitlearn.app.placing import describe_placement, resolve_placement
from splitlearn.app.process import leaving_no_trace
from splitlearn.app.rates import rate_of_adapters
from splitlearn.app.recorder import Recorder
from splitlearn.app.run_checks import check_data, check_examples, check_memory, check_watched
from splitlearn.app.run_folder import earlier_starts, keeping_metrics, refuse_second_run
from splitlearn.app.run_settings import settle_settings
from splitlearn.app.saving import save_prompt_format, save_trained
from splitlearn.app.simulating import averages, hand_out_in_turn, make_rounds, save_clients
from splitlearn.app.step_figures import log_figures, measured_memory, measured_phases, predicted_step
from splitlearn.app.sweeping import describe_job, refuse_done_job, settle_job
from splitlearn.cut import describe_threats
from splitlearn.data import BlockDataModule, remove_abandoned_rows
from splitlearn.runs import Stamp, hold_run_folder, open_run_folder, read_summary
from splitlearn.settings import check, without_interpolation
from splitlearn.silence import without_lightning_advice
from splitlearn.training import SplitCausalLM
from splitlearn.training.callbacks import PrivacyLoss, RunFigures, RunIdentity, Traffic


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Attributes:
        metrics: the figures of ``summary.json``.
        module: the trained module with its three parts.
        datamodule: the data.
        trainer: Lightning's trainer.
        folder: the run's folder.
    """

    metrics: dict[str, float]
    module: SplitCausalLM
    datamodule: LightningDataModule
    trainer: Trainer
    folder: Path


@leaving_no_trace
@naming_settings()
def train(cfg: DictConfig, folder: str | Path | None = None) -> TrainResult:
    """Cut, load, train, evaluate and save one model.

    Cut, devices, data and settings are checked before any weights are read. Whatever happens, ``summary.json`` in the run's
    folder says so: its ``status`` is ``running`` from the run's first file on, and then ``completed``, ``refused`` (no cut of
    this model, or more than this machine's memory), ``failed``, ``interrupted`` or ``diverged``, the last four with a
    ``reason``. A folder that holds another run is left as it is.

    Args:
        cfg: a configuration like ``conf/train.yaml``.
        folder: the run's folder; None takes ``cfg.run_folder``, which only the command line sets.

    Returns:
        The figures and the objects of the run.

    Raises:
        CutError: the split points do not cut the model.
        FinishedRunError: ``ckpt_path`` is of a run that has nothing left to do, or a sweep has this run done.
        ValueError: a setting, the data or the checkpoint cannot be used, or the folder holds another run, or one that goes on.
        FileNotFoundError: a file or folder does not exist.
    """
    if folder is None and not HydraConfig.initialized():
        raise ValueError("outside the command line train() needs to know the run's folder: train(cfg, folder=...)")
    check(cfg, "train")
    cfg = copy.deepcopy(cfg)
    if folder is not None:
        cfg.run_folder = without_interpolation(str(folder))
    settle_job(cfg)
    with hold_run_folder(open_run_folder(cfg.run_folder)):
        # Also if this run has nothing left to do and so reads none of its own.
        remove_abandoned_rows()
        recorder = Recorder(cfg, Path(cfg.run_folder))
        try:
            with ExitStack() as stack:
                return _train(cfg, recorder, stack)
        except BaseException as error:
            recorder.end_badly(error)
            raise


def _train(cfg: DictConfig, recorder: Recorder, stack: ExitStack) -> TrainResult:
    run_folder = recorder.folder
    recorder.note(**describe_job())
    refuse_done_job(run_folder, cfg.overwrite)
    ckpt_path = find_checkpoint(cfg.ckpt_path, run_folder)
    refuse_second_run(run_folder, ckpt_path, cfg.overwrite, starts_if_empty=cfg.ckpt_path == "auto")
    checkpoint = None if ckpt_path is None else read_checkpoint(ckpt_path)
    starts = earlier_starts(run_folder, ckpt_path, checkpoint, cfg.overwrite)
    recorder.note(earlier_starts=starts)
    seed_everything(cfg.seed, workers=True, verbose=False)
    settle_settings(cfg)
    placement = resolve_placement(cfg, elsewhere=True)
    opened = open_model(cfg)
    plan, commit = opened.plan, opened.source.commit
    recorder.note(commit=commit, split_point_1=plan.split_point_1, split_point_2=plan.split_point_2)
    recorder.note(placement=describe_placement(placement))
    check_settings(cfg, opened.config)
    if checkpoint is not None and run_folder.resolve() in Path(str(ckpt_path)).resolve().parents:
        refuse_finished(checkpoint, str(ckpt_path), cfg, read_summary(run_folder))
    held = opened.only(placement.parts_here())
    module = make_module(cfg, held, placement, simulates=True)
    recorder.note(threat_model=describe_threats(placement, module.trained, averages(cfg)))
    check_memory(opened, module)
    if cfg.verbose and module.adapters.method is not None:
        print(f"learning rate of adapters: {rate_of_adapters(module):g}")
    datamodule: LightningDataModule = make(cfg.data, tokenizer_name_or_path=opened.source.name, tokenizer_revision=commit)
    hand_out_in_turn(cfg, datamodule)
    figures = RunFigures()
    own_callbacks = [figures, Traffic(), PrivacyLoss(), RunIdentity(recorder.run_id, starts), *make_rounds(cfg)]
    trainer = make_trainer(cfg, run_folder, own_callbacks, placement)
    stack.enter_context(ending_logged_runs(trainer))
    check_disk(opened, module, trainer, run_folder, cfg.save_parts)
    # Bad data are found here, before weights are read.
    datamodule.setup("fit")
    check_data(datamodule, opened, cfg.verbose)
    check_examples(module.settings.codecs, datamodule)
    check_watched(cfg, datamodule)
    prepare_attacks(cfg, opened, placement, datamodule, trainer)
    recorder.note(rows=datamodule.counts if isinstance(datamodule, BlockDataModule) else None)
    # Whether servers have the same model is known before weights are read.
    servers = stack.enter_context(connected(cfg, placement, module, held, recorder.run_id))
    with keeping_metrics(run_folder, lambda: recorder.has_begun), without_lightning_advice(), module.tracker:
        if checkpoint is not None:
            check_fit_of(checkpoint, str(ckpt_path), module, datamodule, trainer)
        measure_before(figures, trainer, module, datamodule, checkpoint)
        # All validation is done; from here on the run owns this folder.
        recorder.begin(cfg, trainer, replaces=ckpt_path is None or cfg.overwrite)
        save_prompt_format(datamodule, run_folder)
        metrics = fit(trainer, module, datamodule, figures, ckpt_path, cfg.load_best_model_at_end)
        recorder.note(attacks=finish_attacks(trainer, module))
    memory = measured_memory(trainer, module, opened)
    link = predicted_step(cfg, trainer)
    recorder.note(server=server_figures(servers, metrics["train_s"]))
    recorder.note(memory=memory, phases=measured_phases(trainer), link=link)
    log_figures(trainer, metrics, memory, link)
    stamp = Stamp(recorder.run_id, step_of_end(trainer, cfg.load_best_model_at_end))
    recorder.note(step=stamp.step)
    saved = save_trained(cfg, module, run_folder, stamp)
    save_clients(cfg, module, run_folder, stamp)
    recorder.complete(cfg, metrics, module, datamodule, trainer, saved)
    return TrainResult(metrics, module, datamodule, trainer, run_folder)
