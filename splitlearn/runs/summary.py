"""The record of a run: ``summary.json``, written as the run begins to write its folder, and again when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from splitlearn.files import write_json
from splitlearn.json_text import JsonError, read_json_object
from splitlearn.runs.forms import BASE_FORM, METRICS_FORM, misfit
from splitlearn.runs.stamp import Stamp

SUMMARY_FILE = "summary.json"
RUNNING = "running"
# Raised when a key changes its meaning or goes; a new key does not raise it.
VERSION = 1


@dataclass(frozen=True)
class RunSummary:
    """What is known of a run. None stands for what is not known (yet), and for what an older release did not write.

    Attributes:
        version: of the record's keys; None in records of releases that did not number them.
        run_id: of this start of the run; None in records of releases that gave none.
        earlier_starts: the ids of the run's starts before this one, the first one first.
        step: the optimizer step of the saved parts and adapters.
        status: ``"running"`` from the run's first file until its last; then ``"completed"``, ``"refused"`` (no cut of this
            model), ``"failed"``, ``"interrupted"`` or ``"diverged"``. A run that was killed stays ``"running"``.
        reason: why the run did not complete.
        model: the base model, as it was named.
        commit: the commit of the hub's repository that the model came from.
        folder: the run's folder.
        split_point_1: first layer of the trunk.
        split_point_2: first layer of the top.
        seed: the run's seed; None in records of releases that did not note it.
        placement: parties with their parts and devices, and which data cross each cut.
        threat_model: what an attacker is taken to be and to know, what each party holds, trains, knows and receives, and what
            could be recovered from that.
        tags: words of the user's own.
        rows: how many rows were read, are used, and were left out, by reason.
        metrics: held-out loss and perplexity before and after, steps, tokens, seconds, tokens per second, and peaks in GiB.
        traffic: bytes over each cut in training, by payload and direction, in all and per optimizer step; and in evaluation.
        privacy: of ``train`` and ``held_out`` examples, where a codec clips them: ``epsilon`` and ``delta`` of one example,
            over all that was sent of it; ``mechanisms``, with their settings and how often an example was sent;
            ``in_the_clear``, whatever else was sent, which leaves ``epsilon`` unknown; and ``noise_is_secret``. If it is not,
            ``epsilon`` is None, and ``epsilon_if_secret`` is what it would be.
        defence: by the name of each defence that needs it after training, what it measured: ``mid`` has the ``width`` of each
            number of the smashed data, by which its noise is scaled. Of ``dchi`` it is ``noise_is_secret``: if it is false,
            its epsilon does not hold; and with ``nearest`` also ``replaced_share``, the share of the tokens for which others
            were sent, since the run was last started.
        memory: bytes as measured in training: ``parts`` has for each part ``parameter_bytes``, ``gradient_bytes``,
            ``optimizer_bytes`` and ``activation_bytes`` (kept for the backward pass); ``parties`` has for each party the sum
            over its parts; ``planned_parties`` has the same sums as reckoned before training.
        phases: seconds of a training step by phase (``data``, ``bottom``, ``cut_1``, ``trunk``, ``cut_2``, ``top``,
            ``backward``, ``optimizer``, and ``step`` for the whole; with servers also ``waiting_for_servers``, within the
            others, and ``at_servers``, what servers computed), each with ``median_s``, ``p95_s`` and ``p99_s``; and
            ``num_steps``, the steps they are of.
        link: what an optimizer step would take over the network that the settings describe: ``bandwidth_mbps``, ``rtt_ms``,
            ``bytes`` and ``trips`` of a step, ``link_s``, ``compute_s`` (the median step of this run), ``step_s`` for both
            together, and ``waiting_share``; None if no network was described.
        server: of parts that a server held: its ``address``; ``sent_bytes`` and ``received_bytes`` of all messages;
            ``state_bytes``, those of them that are states for checkpoints; ``waited_s``, the seconds in which this process
            waited for it, and ``waiting_share`` of the seconds of training; ``computed_s``, the seconds that it computed;
            ``peak_rss_bytes``, the most memory that its process had resident by its last step; ``reconnects``; and its
            ``loading``. Of several servers it has the sums, and ``parties`` has the same of each by the party's name. None if
            all parts were here.
        attacks: what attacks recovered of the text from what crosses the cuts: ``headline`` has the best attack's ``attack``,
            ``cut``, ``direction``, ``token_recovery`` and ``rouge_l``; ``attacks`` lists all of them; None if none were run.
        overrides: the swept overrides of this job, such as ``["split.point_1=2", "seed=1"]``; None for a single run.
        sweep: the folder of the sweep that the run is a job of; None for a single run.
        best: the best held-out loss, with its step, epoch and checkpoint file.
        stopped_early: why the run stopped before its last step.
        parts: for each part its layers, device, dtype, numbers of parameters and bytes.
        loading: for each part what loading it cost.
        trained: for each part what of it was trained.
        learning_rate: highest learning rate.
        batch_size: rows of a batch.
        saved_parts: the folder of the saved parts.
        adapters: the folder of the saved adapters.
        versions: of Python and the libraries.
        base: which model the run began from, with digests of what was not trained.
        others: keys that this release does not know.
    """

    version: int | None = VERSION
    run_id: str | None = None
    earlier_starts: list[Any] | None = None
    step: int | None = None
    status: str | None = None
    reason: str | None = None
    model: str | None = None
    commit: str | None = None
    folder: str | None = None
    split_point_1: int | None = None
    split_point_2: int | None = None
    seed: int | None = None
    placement: dict[str, Any] | None = None
    threat_model: dict[str, Any] | None = None
    tags: list[Any] | None = None
    rows: dict[str, int] | None = None
    metrics: dict[str, Any] | None = None
    traffic: dict[str, Any] | None = None
    privacy: dict[str, Any] | None = None
    defence: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    phases: dict[str, Any] | None = None
    link: dict[str, Any] | None = None
    server: dict[str, Any] | None = None
    attacks: dict[str, Any] | None = None
    overrides: list[Any] | None = None
    sweep: str | None = None
    best: dict[str, Any] | None = None
    stopped_early: str | None = None
    parts: list[dict[str, Any]] | None = None
    loading: list[dict[str, Any]] | None = None
    trained: dict[str, str] | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    saved_parts: str | None = None
    adapters: str | None = None
    versions: dict[str, str] | None = None
    base: dict[str, Any] | None = None
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def is_completed(self) -> bool:
        """Whether the run did all that it was to do."""
        return self.status == "completed"

    @property
    def is_final(self) -> bool:
        """Whether another start of the run would come to the same end: it completed, was refused or diverged."""
        return self.status in ("completed", "refused", "diverged")

    @property
    def stamp(self) -> Stamp | None:
        """The mark that the saved parts and adapters carry; None in records of releases that gave none."""
        return None if self.run_id is None or self.step is None else Stamp(self.run_id, self.step)

    @property
    def starts(self) -> list[Any]:
        """The ids of all starts of the run, the first one first; empty in records of releases that gave none."""
        return [] if self.run_id is None else [*(self.earlier_starts or ()), self.run_id]

    def owns(self, run_id: str | None) -> bool:
        """Whether a checkpoint that carries ``run_id`` is of this run, from whichever of its starts.

        A checkpoint without an id, of an older release, is taken for one: it is a whole state by itself.
        """
        return run_id is None or run_id in self.starts

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSummary:
        """Make a record from plain values. Keys that are missing are None; unknown ones are kept in ``others``.

        Raises:
            ValueError: the record is of a newer version, or a value is not of its key's kind.
        """
        forms = _forms()
        known = {name: values.get(name) for name in forms}
        version = known["version"]
        for name, form in forms.items():
            if (words := misfit(known[name], form, name)) is not None:
                raise ValueError(words)
        if version is not None and version > VERSION:
            raise ValueError(f"it is of version {version}, and this release reads up to {VERSION}")
        return cls(**known, others={name: value for name, value in values.items() if name not in forms})

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values, with all keys."""
        return {name: getattr(self, name) for name in _forms()} | self.others


def read_summary(folder: Path) -> RunSummary | None:
    """Read the record of a run; None if the folder holds none.

    Raises:
        ValueError: the file is damaged, or a newer release wrote it.
    """
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    try:
        return RunSummary.from_dict(read_json_object(path))
    except ValueError as error:
        # Errors of JSON begin with the file.
        fault = str(error) if isinstance(error, JsonError) else f"{path} cannot be read: {error}"
        raise ValueError(f"{fault}; delete it, and use the run by its checkpoints with ckpt=last or ckpt=best") from error


def write_summary(folder: Path, summary: RunSummary) -> Path:
    """Write the record of a run into its folder, whole or not at all.

    Returns:
        The file's path.

    Raises:
        OSError: the folder cannot be written or the disk is full; an older record is left as it was.
    """
    return write_json(folder / SUMMARY_FILE, summary.to_dict())


@cache
def _forms() -> dict[str, Any]:
    """Return for each key the form that its value has."""
    hints = get_type_hints(RunSummary)
    own = {"metrics": METRICS_FORM, "base": BASE_FORM, "parts": list[dict[str, Any]]}
    return {
        attribute.name: own.get(attribute.name, hints[attribute.name])
        for attribute in fields(RunSummary)
        if attribute.name != "others"
    }
