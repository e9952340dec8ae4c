"""What is done with a completed run: exporting its model, and having it go on from a prompt."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import seed_everything
from omegaconf import DictConfig
from transformers import TextStreamer

from splitlearn.app.checking import check_positions
from splitlearn.checkpoint import CheckpointSource
from splitlearn.data import read_tokenizer
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
    return export_run(record, loader, Path(cfg.out).expanduser(), cfg.max_shard_size, cfg.adapters)


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
    if cfg.chat and tokenizer.chat_template is None:
        raise ValueError(f"chat is true, but the tokenizer of {loader.source.name} has no chat template; leave chat=null")
    is_chat = tokenizer.chat_template is not None if cfg.chat is None else cfg.chat
    if is_chat:
        message = [{"role": "user", "content": str(cfg.prompt)}]
        inputs = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    else:
        inputs = tokenizer(str(cfg.prompt), return_tensors="pt")
    if not inputs["input_ids"].shape[1]:
        raise ValueError("prompt is empty; give the model something to go on from")
    check_positions(loader.blueprint.config, inputs["input_ids"].shape[1] + cfg.max_new_tokens, "prompt and max_new_tokens")
    sampling = {"temperature": cfg.temperature, "top_p": cfg.top_p} if cfg.do_sample else {}
    plan = plan_cut(loader.blueprint.config, *record.split_points)
    said = []
    for title, each in (("base model", None), ("trained model", record)) if cfg.compare else (("", record),):
        if stream and title:
            print(f"== {title}", flush=True)
        seed_everything(cfg.seed, verbose=False)
        ids_BT = restore(loader, plan, each).generate(
            **{name: inputs[name] for name in ("input_ids", "attention_mask")},
            max_new_tokens=cfg.max_new_tokens,
            do_sample=cfg.do_sample,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if stream else None,
            **sampling,
        )
        said.append(tokenizer.decode(ids_BT[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return said
