"""What is done with a completed run: exporting its model, and having it go on from a prompt."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import seed_everything
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase, TextStreamer

from splitlearn.app.checking import check_positions
from splitlearn.app.prompts import ask
from splitlearn.checkpoint import CheckpointSource
from splitlearn.data import PromptFormat, read_tokenizer
from splitlearn.embedded import resolve_model
from splitlearn.export import RunRecord, export_run, restore
from splitlearn.model import open_checkpoint, plan_cut, read_config
from splitlearn.model.part_loading import PartLoader
from splitlearn.settings import check
from splitlearn.training.module import parse_dtype


def export(cfg: DictConfig) -> Path:
    """Write a completed run's model as one ordinary Hugging Face folder.

    Args:
        cfg: a configuration like ``conf/export.yaml``.

    Returns:
        The folder.

    Raises:
        ValueError: the folder exists already, or a setting or the checkpoint cannot be used.
        FileNotFoundError: the run's folder is none, or lacks what was trained.
    """
    check(cfg, "export")
    record, loader = _open_run(cfg.run)
    dtype = parse_dtype(cfg.dtype, "dtype")
    return export_run(record, loader, Path(cfg.out).expanduser(), cfg.max_shard_size, cfg.adapters, dtype)


def _open_run(folder: str) -> tuple[RunRecord, PartLoader]:
    """Read a run's folder and open its base checkpoint."""
    record = RunRecord.read(folder)
    model = record.config["model"]
    name = resolve_model(model["name_or_path"])
    # The commit that the run began from, also if the branch has moved since.
    source = CheckpointSource(name, record.summary.get("commit"))
    config = read_config(name, model["type"], source.commit)
    # Runs of older releases do not say; what they left out was known to transformers.
    unexpected = model.get("unexpected_tensors", "auto")
    return record, open_checkpoint(config, source, parse_dtype(model["dtype"]), unexpected_tensors=unexpected)


def generate(cfg: DictConfig, stream: bool = False) -> list[str]:
    """Have a completed run's model go on from a prompt, with transformers' own ``generate``.

    Args:
        cfg: a configuration like ``conf/generate.yaml``.
        stream: print the text as it comes, each model's under a heading if two are compared.

    Returns:
        What the trained model said, after what the base model said if ``cfg.compare``.

    Raises:
        ValueError: a setting or the checkpoint cannot be used.
        FileNotFoundError: the run's folder is none, or lacks what was trained.
    """
    check(cfg, "generate")
    record, loader = _open_run(cfg.run)
    tokenizer = read_tokenizer(loader.source.name, loader.source.commit, record.folder)
    question = ask(
        tokenizer,
        str(cfg.prompt),
        PromptFormat.read(record.folder),
        chat=cfg.chat,
        system=cfg.system,
        base_config=loader.blueprint.generation_config,
    )
    check_positions(loader.blueprint.config, question.num_tokens + cfg.max_new_tokens, "prompt and max_new_tokens")
    sampling = {"temperature": cfg.temperature, "top_p": cfg.top_p} if cfg.do_sample else {}
    plan = plan_cut(loader.blueprint.config, *record.split_points)
    said = []
    for title, each in (("base model", None), ("trained model", record)) if cfg.compare else (("", record),):
        if stream and title:
            print(f"== {title}", flush=True)
        seed_everything(cfg.seed, verbose=False)
        ids_BT = restore(loader, plan, each).generate(
            question.ids,
            attention_mask=question.mask,
            max_new_tokens=cfg.max_new_tokens,
            do_sample=cfg.do_sample,
            pad_token_id=_pad_token_id(tokenizer, loader.blueprint.config.get_text_config(decoder=True).vocab_size),
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if stream else None,
            **sampling,
            **question.settings,
        )
        said.append(question.answer(tokenizer, ids_BT))
    return said


def _pad_token_id(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> int | None:
    """Return what fills up finished answers: one that the model has, which added padding tokens may not be."""
    known = (token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None and token < vocab_size)
    return next(known, None)
