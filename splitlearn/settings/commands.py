"""Schemas of the commands' settings: one dataclass for each YAML file in ``conf/`` itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from splitlearn.settings.fields import Rule
from splitlearn.settings.groups import (
    ActivationCacheSettings,
    AttackPlanSettings,
    BoundarySettings,
    DefenceSettings,
    LinkSettings,
    ModelSettings,
    OptimizerSettings,
    PeftSettings,
    PlacementSettings,
    PrivacySettings,
    SplitSettings,
)


@dataclass
class TrainSettings:
    """``conf/train.yaml``. What is suggested for a name that several groups have is the first group's."""

    optimizer: OptimizerSettings
    trainer: Annotated[Any, Rule(holds="object")]
    data: Annotated[Any, Rule(holds="object")]
    model: ModelSettings
    split: SplitSettings
    placement: PlacementSettings
    boundary: BoundarySettings
    defence: DefenceSettings
    privacy: PrivacySettings
    peft: PeftSettings
    activation_cache: ActivationCacheSettings
    attack: AttackPlanSettings
    callbacks: Annotated[Any, Rule(holds="objects")]
    logger: Annotated[Any, Rule(holds="objects")]
    device: str
    device_map: Any
    seed: Annotated[int, Rule(least=0)]
    gradient_checkpointing: bool
    compile: Any
    max_logits_mib: Annotated[float | None, Rule(above=0, words=("auto",))]
    link: LinkSettings
    ckpt_path: str | None
    overwrite: bool
    eval_steps: Annotated[int | None, Rule(least=1)]
    save_steps: Annotated[int | None, Rule(least=1)]
    save_top_k: Annotated[int, Rule(least=-1)]
    keep_steps: Annotated[int | None, Rule(least=1)]
    load_best_model_at_end: bool
    save_parts: bool
    tags: Any
    verbose: bool
    run_folder: str


@dataclass
class PlanSettings:
    """``conf/plan.yaml``."""

    model: ModelSettings
    split: SplitSettings
    placement: PlacementSettings
    boundary: BoundarySettings
    link: LinkSettings
    device: str
    device_map: Any
    rows: Annotated[int, Rule(least=1)]
    tokens: Annotated[int, Rule(least=1)]
    lora_rank: Annotated[int, Rule(least=1)]
    must_fit: Annotated[str | None, Rule(choices=("load", "lora", "full", None))]
    check: bool
    json: bool


@dataclass
class VerifySettings:
    """``conf/verify.yaml``."""

    run: str | None
    model: ModelSettings
    split: SplitSettings
    device: str
    rows: int
    tokens: int
    new_tokens: int
    gradients: bool
    streamed: bool
    tolerance: Annotated[float, Rule(least=0)]
    seed: Annotated[int, Rule(least=0)]


@dataclass
class GenerateSettings:
    """``conf/generate.yaml``."""

    run: str
    ckpt: str | None
    server: Any
    certificates: str | None
    prompt: Annotated[Any, Rule(literal=True)]
    prompt_file: str | None
    chat: bool | None
    system: Annotated[str | None, Rule(literal=True)]
    compare: bool
    max_new_tokens: Annotated[int, Rule(least=1)]
    do_sample: bool
    temperature: float
    top_p: float
    seed: Annotated[int, Rule(least=0)]


@dataclass
class ExportSettings:
    """``conf/export.yaml``."""

    run: str
    ckpt: str | None
    out: str
    adapters: str
    dtype: str | None
    max_shard_size: str


@dataclass
class EvaluateDataSettings:
    """What of a run's data is measured on instead."""

    source: Any
    subset: str | None
    split: str | None
    revision: str | None
    packing: str | None
    block_size: Annotated[int | None, Rule(least=1)]
    batch_size: Annotated[int | None, Rule(least=1)]
    max_val_rows: Annotated[int | None, Rule(least=1)]
    max_val_blocks: Annotated[int | None, Rule(least=1)]


@dataclass
class EvaluateSettings:
    """``conf/evaluate.yaml``."""

    run: str
    ckpt: str | None
    server: Any
    certificates: str | None
    base: bool
    json: bool
    device: str | None
    device_map: Any
    data: EvaluateDataSettings


@dataclass
class AttackDataSettings:
    """Which documents are attacked, and which are the attacker's own."""

    source: Any
    subset: str | None
    split: str | None
    revision: str | None
    val_fraction: Annotated[float | None, Rule(above=0)]
    max_train_rows: Annotated[int | None, Rule(least=1)]
    max_val_rows: Annotated[int | None, Rule(least=1)]


@dataclass
class AttackSettings:
    """``conf/attack.yaml``."""

    run: str | None
    ckpt: str | None
    base: bool
    model: ModelSettings
    split: SplitSettings
    placement: PlacementSettings
    boundary: BoundarySettings
    defence: DefenceSettings
    attack: AttackPlanSettings
    cuts: Any
    directions: Any
    base_weights: Annotated[str | None, Rule(choices=("public", "private", None))]
    json: bool
    out: str | None
    device: str | None
    device_map: Any
    data: AttackDataSettings


@dataclass
class ServeLimits:
    """``limits`` of ``conf/serve.yaml``."""

    rows: Annotated[int, Rule(least=1)]
    tokens: Annotated[int, Rule(least=1)]
    pending: Annotated[int, Rule(least=1)]
    generations: Annotated[int, Rule(least=1)]
    message_mib: Annotated[float, Rule(above=0)]
    state_mib: Annotated[float, Rule(above=0)]
    session_seconds: Annotated[float, Rule(above=0)]


@dataclass
class ServeSettings:
    """``conf/serve.yaml``."""

    model: ModelSettings
    split: SplitSettings
    boundary: BoundarySettings
    peft: PeftSettings
    optimizer: OptimizerSettings
    # A name or a list of names, which are checked where the parts are placed.
    part: Any
    host: str
    port: Annotated[int, Rule(least=0)]
    certificates: str | None
    clients: Any
    order: Annotated[str | None, Rule(choices=("sequential", "concurrent", None))]
    steps: Annotated[int | None, Rule(least=1)]
    seed: Annotated[int, Rule(least=0)]
    ready_file: str | None
    folder: str | None
    state: str | None
    device: str
    threads: Annotated[int | None, Rule(least=1)]
    gradient_checkpointing: bool
    max_logits_mib: Annotated[float | None, Rule(above=0, words=("auto",))]
    limits: ServeLimits
    verbose: bool


@dataclass
class PrepareSettings:
    """``conf/prepare.yaml``."""

    source: str
    out: str
    dtype: str
    max_shard_size: str


@dataclass
class ReportSettings:
    """``conf/report.yaml``."""

    folders: Any
    out: str | None
    max_client_gib: Annotated[float | None, Rule(above=0)]
    max_bytes_per_step: Annotated[float | None, Rule(least=0)]
    max_recovery: Annotated[float | None, Rule(least=0)]
    max_loss_increase: Annotated[float | None, Rule(least=0)]


@dataclass
class CertificatesSettings:
    """``conf/certificates.yaml``."""

    out: str
    parties: Any
    hosts: Any
    days: Annotated[int, Rule(least=1)]
    authority: str | None


SCHEMAS: dict[str, type] = {
    "train": TrainSettings,
    "plan": PlanSettings,
    "verify": VerifySettings,
    "generate": GenerateSettings,
    "export": ExportSettings,
    "evaluate": EvaluateSettings,
    "attack": AttackSettings,
    "serve": ServeSettings,
    "prepare": PrepareSettings,
    "certificates": CertificatesSettings,
    "report": ReportSettings,
}
