"""The columns of a table of runs: their names, headings and units."""

from __future__ import annotations

from dataclasses import dataclass

from splitlearn.redaction import without_queries

# Text from a record that is longer is cut.
MOST_CHARACTERS = 600
# By which cuts are compared, in every table that is short.
COMPARED = (
    "loss",
    "client_gib",
    "server_gib",
    "bytes_per_step",
    "step_s",
    "link_step_s",
    "waiting_share",
    "token_recovery",
)


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: for people.
        unit: of its numbers; empty for counts and text.
        kind: ``"text"``, ``"count"`` (whole numbers) or ``"figure"``.
    """

    heading: str
    unit: str = ""
    kind: str = "figure"


COLUMNS: dict[str, Column] = {
    "run": Column("run", kind="text"),
    "status": Column("status", kind="text"),
    "reason": Column("reason", kind="text"),
    "model": Column("model", kind="text"),
    "split_point_1": Column("first cut", kind="count"),
    "split_point_2": Column("second cut", kind="count"),
    "seed": Column("seed", kind="count"),
    "loss": Column("held-out loss", "nats a token"),
    "loss_before": Column("held-out loss before", "nats a token"),
    "perplexity": Column("perplexity"),
    "client_gib": Column("client memory", "GiB"),
    "server_gib": Column("server memory", "GiB"),
    "planned_client_gib": Column("client memory, planned", "GiB"),
    "planned_server_gib": Column("server memory, planned", "GiB"),
    "bytes_per_step": Column("bytes a step", "bytes"),
    "uplink_bytes_per_step": Column("bytes up a step", "bytes"),
    "downlink_bytes_per_step": Column("bytes down a step", "bytes"),
    "step_s": Column("step time", "s"),
    "step_p95_s": Column("step time, P95", "s"),
    "step_p99_s": Column("step time, P99", "s"),
    "link_step_s": Column("step time over the link", "s"),
    "waiting_share": Column("waiting for the link", "share"),
    "token_recovery": Column("token recovery", "share"),
    "rouge_l": Column("ROUGE-L of the best attack"),
    "best_attack": Column("best attack", kind="text"),
    "tokens_per_s": Column("tokens a second"),
    "train_s": Column("training time", "s"),
    "train_steps": Column("steps", kind="count"),
    "train_tokens": Column("tokens", kind="count"),
    "peak_rss_gib": Column("peak RAM", "GiB"),
    "peak_anonymous_gib": Column("peak anonymous RAM", "GiB"),
    "peak_gpu_gib": Column("peak GPU memory", "GiB"),
    "learning_rate": Column("learning rate"),
    "batch_size": Column("rows of a batch", kind="count"),
    "settings": Column("settings besides cut and seed", kind="text"),
    "overrides": Column("overrides", kind="text"),
    "tags": Column("tags", kind="text"),
    "sweep": Column("sweep", kind="text"),
    "folder": Column("folder", kind="text"),
}
TEXTS = [name for name, column in COLUMNS.items() if column.kind == "text"]
COUNTS = [name for name, column in COLUMNS.items() if column.kind == "count"]
FIGURES = [name for name, column in COLUMNS.items() if column.kind == "figure"]


def plain_text(value: object, most: int = MOST_CHARACTERS) -> str:
    """Return a text of a record as one printable line.

    Records, tags and names of folders may be anybody's: characters that steer a terminal or turn the direction of writing
    become question marks. Addresses lose their queries, which may be signatures.
    """
    words = " ".join(without_queries(str(value)).split())
    shown = "".join(character if character.isprintable() else "?" for character in words[:most])
    return shown if len(words) <= most else f"{shown}..."
