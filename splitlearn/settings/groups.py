"""Schemas of the groups in ``conf/``: one dataclass each, one field for each setting, commented in the YAML files.

Values are in the YAML files alone, so the fields have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from splitlearn.settings.fields import Rule


@dataclass
class ModelSettings:
    """``conf/model``."""

    name_or_path: str
    revision: str | None
    type: str | None
    low_memory: bool
    dtype: str | None
    quantization: Any
    unexpected_tensors: str
    untie: bool
    learning_rate: float | None


@dataclass
class PartLimits:
    """``split.max_gib``."""

    bottom: float | None
    trunk: float | None
    top: float | None


@dataclass
class SplitSettings:
    """``conf/split``."""

    # Points are checked against the model's layers, whatever they are.
    fractions: Any
    point_1: Any
    point_2: Any
    balance: str | None
    max_gib: PartLimits


@dataclass
class PartySettings:
    """``placement.parties.NAME``."""

    # Parts and devices are checked together, when the placement is resolved.
    parts: Any
    devices: Any
    address: str | None


@dataclass
class PatienceSettings:
    """``placement.patience``: seconds."""

    connect: Annotated[float, Rule(above=0)]
    answer: Annotated[float, Rule(above=0)]
    reconnect: Annotated[float, Rule(least=0)]
    keepalive: Annotated[float, Rule(above=0)]
    keepalive_timeout: Annotated[float, Rule(above=0)]


@dataclass
class RoundsSettings:
    """``placement.rounds``."""

    folder: str | None
    wait: Annotated[float, Rule(above=0)]


@dataclass
class PlacementSettings:
    """``conf/placement``; parties have names of their own."""

    parties: Annotated[Any, Rule(each=PartySettings)]
    data: str
    labels: str
    server: str | None
    certificates: str | None
    patience: PatienceSettings
    microbatches: Annotated[int, Rule(least=1)]
    clients: Any
    order: str | None
    average_every: Annotated[int | None, Rule(least=1)]
    rounds: RoundsSettings


@dataclass
class CutCodecSettings:
    """``boundary.cut_1`` and ``boundary.cut_2``."""

    # Codecs check their own settings.
    forward: Any
    backward: Any


@dataclass
class BoundarySettings:
    """``conf/boundary``."""

    forward: Any
    backward: Any
    cut_1: CutCodecSettings
    cut_2: CutCodecSettings


@dataclass
class NoPeekSettings:
    """``defence.nopeek``."""

    weight: Annotated[float, Rule(least=0)]
    positions: Annotated[int, Rule(least=1)]


@dataclass
class AdversarialSettings:
    """``defence.adversarial``."""

    weight: Annotated[float, Rule(least=0)]
    positions: Annotated[int, Rule(least=1)]
    width: Annotated[int, Rule(least=1)]
    learning_rate: Annotated[float, Rule(above=0)]


@dataclass
class MidSettings:
    """``defence.mid``."""

    weight: Annotated[float, Rule(least=0)]
    noise: Annotated[float, Rule(above=0)]


@dataclass
class DchiSettings:
    """``defence.dchi``."""

    epsilon: Annotated[float, Rule(above=0)]
    nearest: bool


@dataclass
class DefenceSettings:
    """``conf/defence``; null leaves one out."""

    nopeek: NoPeekSettings
    adversarial: AdversarialSettings
    mid: MidSettings
    dchi: DchiSettings


@dataclass
class PrivacySettings:
    """``privacy``."""

    reproducible_noise: bool
    accountant: Annotated[str, Rule(choices=("rdp", "prv"))]


@dataclass
class LinkSettings:
    """``link``."""

    bandwidth_mbps: Annotated[float | None, Rule(above=0)]
    rtt_ms: Annotated[float | None, Rule(least=0)]


@dataclass
class PartOptimizerSettings:
    """``optimizer.parts.NAME``."""

    train: Any
    learning_rate: float | None
    weight_decay: float | None


@dataclass
class OptimizerParts:
    """``optimizer.parts``."""

    bottom: PartOptimizerSettings
    trunk: PartOptimizerSettings
    top: PartOptimizerSettings


@dataclass
class OptimizerSettings:
    """``conf/optimizer``."""

    learning_rate: float
    weight_decay: float
    betas: Any
    schedule: str
    warmup_fraction: float
    parts: OptimizerParts


@dataclass
class PeftParts:
    """``peft.parts``: each part's are settings of PEFT's, false or null."""

    bottom: Any
    trunk: Any
    top: Any


@dataclass
class PeftSettings:
    """``conf/peft``; ``settings`` are checked by PEFT's own class."""

    method: str | None
    settings: Any
    learning_rate: float | None
    parts: PeftParts


@dataclass
class ActivationCacheSettings:
    """``conf/activation_cache``."""

    keep: str
    max_gib: float
    codec: str


@dataclass
class AttackBudgetSettings:
    """``attack.budgets.NAME``."""

    pieces: Annotated[int | None, Rule(least=1)]
    steps: Annotated[int | None, Rule(least=0)]
    seconds: Annotated[float | None, Rule(least=0)]


@dataclass
class AttackBudgets:
    """``attack.budgets``: one for each attack that there is."""

    nearest_embedding: AttackBudgetSettings
    ridge: AttackBudgetSettings
    mlp: AttackBudgetSettings
    transformer: AttackBudgetSettings
    prefix_search: AttackBudgetSettings
    responses: AttackBudgetSettings
    labels: AttackBudgetSettings
    labels_cg: AttackBudgetSettings
    bag_of_tokens: AttackBudgetSettings


@dataclass
class AttackPlanSettings:
    """``conf/attack``; the lists are checked by `splitlearn.attacks.AttackPlan`."""

    attacks: Any
    cuts: Any
    directions: Any
    base_weights: Annotated[str, Rule(choices=("public", "private"))]
    tokens: Annotated[int, Rule(least=2)]
    auxiliary_pieces: Annotated[int, Rule(least=1)]
    validation_pieces: Annotated[int, Rule(least=1)]
    test_pieces: Annotated[int, Rule(least=1)]
    prompts: Annotated[int, Rule(least=1)]
    prompt_tokens: Annotated[int, Rule(least=1)]
    recording_seconds: Annotated[float | None, Rule(above=0)]
    clean_trained: Any
    seed: Annotated[int, Rule(least=0)]
    budgets: AttackBudgets


@dataclass
class BlockSettings:
    """What all data have; what lies beyond a type is checked by the data modules themselves."""

    _target_: str
    source: Any
    subset: str | None
    split: str
    revision: str | None
    packing: str
    block_size: int
    batch_size: int
    val_fraction: float
    val_source: Any
    max_train_rows: int | None
    max_val_rows: int | None
    max_train_blocks: int | None
    max_val_blocks: int | None
    num_workers: Annotated[int, Rule(least=0)]
    seed: Annotated[int, Rule(least=0)]
    streaming: bool
    val_rows: int
    rows_at_once: int
    partition: str | None
    num_shares: Annotated[int | None, Rule(least=2)]
    share: Annotated[int | None, Rule(least=1)]
    concentration: Annotated[float, Rule(above=0)]


@dataclass
class TextSettings(BlockSettings):
    """Data of plain text."""

    text_field: str
    sample_by: str


@dataclass
class InstructionSettings(BlockSettings):
    """Data of prompts with completions, or of conversations."""

    format: str
    prompt_template: str | None
    prompt_field: str
    completion_field: str
    messages_field: str | None
    too_long: str
    completion_only: bool
    chat_template: str | None
    system: str | None
