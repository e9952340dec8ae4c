"""Whether a checkpoint is one of a run: only what was trained is in it, and of which model it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from splitlearn.adapters import AdapterSettings
from splitlearn.boundary import BoundaryCodecs, PrivacySettings
from splitlearn.checkpoint import CheckpointError, name_some
from splitlearn.model import SplitModel, compare_configs
from splitlearn.naming import named, naming_group
from splitlearn.training.optimization import Optimization

_WEIGHTS = "base_weights"


def describe_base(
    parts: Sequence[SplitModel], adapters: AdapterSettings, quantization: Any, weights: Mapping[str, str]
) -> dict[str, Any]:
    """Return, as plain values, which model the parts are of and what stands beside its weights.

    Args:
        parts: the parts.
        adapters: which adapters it has.
        quantization: plain settings of how frozen weights are quantized.
        weights: of each part that is not trained as a whole the digest of its weights in the base checkpoint.
    """
    blueprint = parts[0].blueprint
    origin = blueprint.origin
    commit = origin.commit if origin else None
    return {
        "model": origin.model if origin and commit else None,
        "commit": commit,
        # One word where all parts have one dtype.
        "dtype": " / ".join(dict.fromkeys(str(part.blueprint.dtype).removeprefix("torch.") for part in parts)),
        "quantization": quantization,
        # Their learning rate is the optimizer's.
        "adapters": {name: value for name, value in asdict(adapters).items() if name != "learning_rate"},
        "config": json.loads(blueprint.config.to_json_string(use_diff=False)),
        "part_dtypes": {part.spec.name: str(part.blueprint.dtype).removeprefix("torch.") for part in parts},
        _WEIGHTS: dict(weights),
    }


def compare_bases(saved: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Return how a base model differs from another; what an older checkpoint does not say is passed over.

    Args:
        saved: the one that a run was of, from `describe_base`.
        base: the other.
    """
    known = [name for name in ("model", "commit", "dtype") if saved.get(name) is not None and base[name] is not None]
    # None says that nothing was quantized.
    known += [name for name in ("quantization",) if name in saved]
    differences = [f"{name} is {saved[name]} and {base[name]}" for name in known if saved[name] != base[name]]
    for name, setting in (saved.get("adapters") or {}).items():
        if setting != base["adapters"].get(name):
            differences.append(f"peft.{name} is {setting} and {base['adapters'].get(name)}")
    differences += compare_configs(saved["config"], base["config"]) if saved.get("config") else []
    weights = base[_WEIGHTS] if saved.get(_WEIGHTS) is None else saved[_WEIGHTS]
    if not differences and weights != base[_WEIGHTS]:
        parts = [name for name, value in weights.items() if value != base[_WEIGHTS].get(name)]
        differences.append(
            f"the configurations are equal, but the weights that are not trained have other values (in {', '.join(parts)})"
        )
    return differences


def check_checkpoint(
    checkpoint: Mapping[str, Any], settings: Mapping[str, Any], base: Mapping[str, Any], trained: set[str]
) -> None:
    """Refuse a checkpoint that a run cannot go on from.

    Args:
        checkpoint: what Lightning keeps in it, with the module's settings and ``base``.
        settings: the run's module's.
        base: the run's model, from `describe_base`.
        trained: the names of the tensors that the run trains.

    Raises:
        CheckpointError: cut, trained tensors, model, adapters, codecs or rates differ; the message shows how.
    """
    saved = checkpoint.get("hyper_parameters", {})
    for name in ("split_point_1", "split_point_2"):
        if name in saved and saved[name] != settings[name]:
            raise CheckpointError(f"the checkpoint was saved with {name}={saved[name]}, this run has {settings[name]}")
    stored = set(checkpoint["state_dict"])
    for names, problem in ((trained - stored, "lacks trained tensors"), (stored - trained, "holds tensors not trained here")):
        if names:
            raise CheckpointError(f"the checkpoint {problem}: {name_some(list(names))}")
    differences = compare_bases(checkpoint.get("base", {}), base)
    if differences:
        raise CheckpointError(f"the checkpoint was saved of another model than this run's: {'; '.join(differences[:5])}")
    with naming_group("boundary"):
        earlier, codecs = (BoundaryCodecs.from_plain(values.get("boundary")) for values in (saved, settings))
        if codecs != earlier:
            changed = codecs.differences(earlier)
            raise CheckpointError(f"a run goes on with the codecs of its checkpoint, but {'; '.join(changed)}")
    if saved.get("optimizer") is not None:
        # Lightning puts them back with the optimizer's state, whatever the run's settings say.
        with naming_group("optimizer"):
            before, now = (Optimization.from_plain(values["optimizer"] or {}).rates for values in (saved, settings))
            changed = [f"{named(name)} was {before[name]} and is {now[name]}" for name in now if before[name] != now[name]]
        if changed:
            raise CheckpointError(f"a run goes on with the rates of its checkpoint, but {'; '.join(changed)}")


def check_noise(generators: Mapping[str, Any], with_epsilon: Collection[str], privacy: PrivacySettings) -> None:
    """Refuse a checkpoint whose noise is a secret where the run's is not to be, or the other way round.

    Args:
        generators: what the checkpoint has of `NamedGenerators`.
        with_epsilon: the generators of the run's noise of which an epsilon is claimed.
        privacy: how the run makes it.

    Raises:
        CheckpointError: they differ; the message says what to set.
    """
    was_secret = "key" in generators
    if with_epsilon and was_secret == privacy.reproducible_noise:
        how = "is a secret" if was_secret else "follows from the run's seed, so that no epsilon holds"
        with naming_group("privacy"):
            setting = f"{named('reproducible_noise')}={str(not was_secret).lower()}"
        raise CheckpointError(f"the noise of the checkpoint {how}; go on with {setting}, or begin a new run")
