"""The model card of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from splitlearn.cut import PART_NAMES, PartTraining
from splitlearn.export.run_record import RunRecord
from splitlearn.loading import OpenedModel

_FIGURES = (("loss (nats a token)", "val_loss", 4), ("perplexity", "val_perplexity", 2))
_WORDS = {PartTraining.FULL: "trained", PartTraining.FROZEN: "as in the base model"}


def model_card(record: RunRecord, opened: OpenedModel, keeps_adapters: bool = False) -> str:
    """Return the card in Markdown: the base model, the cut, the data, and the held-out figures before and after.

    Args:
        record: the run.
        opened: its base model.
        keeps_adapters: whether adapters lie beside the weights instead of being merged.
    """
    of_adapters = "as in the base model, with adapters beside them" if keeps_adapters else "adapters, merged"
    words = {**_WORDS, PartTraining.ADAPTERS: of_adapters}
    config, metrics = record.config, record.metrics
    name, commit = config["model"]["name_or_path"], opened.source.commit
    plan = opened.plan
    steps, tokens = (metrics[what] or 0 for what in ("train_steps", "train_tokens"))
    rows = [
        f"| {part.name} | {part.describe()} | {words.get(record.trained[part.name], record.trained[part.name])} |"
        for part in plan.parts
    ]
    data = config.get("data") or {}
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *([f"base_model: {name}"] if commit else []),
        "---",
        "",
        f"# {name}, fine-tuned in {len(PART_NAMES)} parts",
        "",
        f"Base model: {name}{f' at commit {commit}' if commit else ''}, "
        f"cut at layers {plan.split_point_1} and {plan.split_point_2}.",
        "",
        "| part | holds | weights |",
        "|---|---|---|",
        *rows,
        "",
        f"Data: {data.get('source')}, blocks of {data.get('block_size')} tokens.",
        "",
        *_quality(metrics),
        "",
        f"{steps} steps, {tokens:,} tokens. Made with splitlearn {version('splitlearn')}.",
        "",
    ]
    return "\n".join(lines)


def _quality(metrics: Mapping[str, Any]) -> list[str]:
    if metrics["val_loss_before"] is None and metrics["val_loss_after"] is None:
        return ["No text was held out, so nothing was measured on text that was not learned."]
    rows = [_row(label, metrics, name, digits) for label, name, digits in _FIGURES]
    return ["| held-out text | before | after |", "|---|---|---|", *rows]


def _row(label: str, metrics: Mapping[str, Any], name: str, digits: int) -> str:
    values = [metrics[f"{name}_{when}"] for when in ("before", "after")]
    cells = ["not measured" if value is None else f"{value:.{digits}f}" for value in values]
    return f"| {label} | {cells[0]} | {cells[1]} |"
