"""Settings of adapters: PEFT's own, and for each part those that differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from splitlearn.cut import PART_NAMES
from splitlearn.naming import named
from splitlearn.settings import conf_folder

_FIELDS = ("method", "settings", "learning_rate", "parts")
# Methods that need more than their layers: a mixture or tasks chosen for each batch, ranks allotted by their own trainer, or
# matrices that all layers share.
_REFUSED = ("adalora", "adaption_prompt", "poly", "randlora", "vblora", "vera", "xlora")


@dataclass(frozen=True)
class AdapterSettings:
    """Adapters of one PEFT method.

    Attributes:
        method: PEFT's name of the method, such as ``"lora"``; None puts adapters nowhere.
        settings: arguments of PEFT's configuration class for it. For ``"lora"`` the default is that of
            ``conf/peft/lora.yaml``.
        learning_rate: learning rate of parts with adapters, where the optimizer's settings name none; None is as for weights.
        parts: for each part the settings that differ, or False for a part without adapters; None is no difference.
    """

    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any] | bool | None] = field(default_factory=dict)
    # It is the optimizer's, so runs that differ in it have the same adapters.
    learning_rate: float | None = field(default=None, compare=False)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any] | None) -> AdapterSettings:
        """Make settings from plain values, for example a configuration file's.

        Args:
            values: attributes by name; absent ones take their defaults, and None takes all defaults.

        Returns:
            The checked settings.

        Raises:
            ValueError: an unknown method, part or setting, or a method that does not stand beside single layers.
        """
        values = values or {}
        unknown = [name for name in values if name not in _FIELDS]
        if unknown:
            raise ValueError(f"{named(unknown[0])} is not known; there are {', '.join(_FIELDS)}")
        for name in ("settings", "parts"):
            if values.get(name) is not None and not isinstance(values[name], Mapping):
                raise ValueError(
                    f"{named(name)} is {values[name]!r}; give names with values, such as {{target_modules: all-linear}}"
                )
        rate = values.get("learning_rate")
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or rate < 0):
            raise ValueError(f"{named('learning_rate')} is {rate!r}; it must be a number that is not negative")
        if values.get("method") == "lora" and values.get("settings") is None:
            values = {**_usual_lora(), **{name: value for name, value in values.items() if value is not None}}
        settings, parts = dict(values.get("settings") or {}), dict(values.get("parts") or {})
        made = cls(values.get("method"), settings, parts, values.get("learning_rate"))
        unknown = [name for name in made.parts if name not in PART_NAMES]
        if unknown:
            raise ValueError(f"{named('parts')} names {unknown[0]!r}; the parts are {', '.join(PART_NAMES)}")
        if made.method is not None and not any(made.adapts(name) for name in PART_NAMES):
            raise ValueError(f"{named('parts')} leaves bottom, trunk and top without adapters; set {named('method')} to null")
        for name in PART_NAMES:
            if made.adapts(name):
                made.config_of(name)
        return made

    def without(self, names: Collection[str]) -> AdapterSettings:
        """Return the same settings with no adapters in some parts.

        Args:
            names: names of those parts.
        """
        return replace(self, parts={**self.parts, **dict.fromkeys(names, False)})

    def adapts(self, name: str) -> bool:
        """Whether a part gets adapters.

        Args:
            name: the part's name.
        """
        return self.method is not None and self.parts.get(name) is not False

    def config_of(self, name: str) -> Any:
        """Return PEFT's configuration of a part's adapters.

        Args:
            name: the part's name.

        Raises:
            ValueError: the method or a setting is not known to PEFT, or cannot be used.
        """
        classes = _config_classes()
        if self.method not in classes:
            raise ValueError(f"{named('method')} is {self.method!r}; use one of {', '.join(sorted(classes))}")
        differing = self.parts.get(name) or {}
        if not isinstance(differing, Mapping):
            own = named(f"parts.{name}")
            raise ValueError(f"{own} is {differing!r}; give settings such as {{r: 4}}, false for none, or null")
        chosen = {**self.settings, **differing}
        if str(chosen.get("init_lora_weights")).startswith("pissa_niter"):
            # Its factors of the weights are drawn at random, and the remaining weights are not saved with an adapter.
            raise ValueError(
                f"{named('settings.init_lora_weights')}=pissa_niter_... cannot be repeated when adapters are read; take pissa"
            )
        if chosen.get("layer_replication"):
            raise ValueError(
                f"{named('settings.layer_replication')} makes layers anew, but the layers of a cut are fixed; leave it out"
            )
        try:
            return classes[self.method](task_type="CAUSAL_LM", **chosen)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the settings of {named('method')}={self.method} cannot be used: {' '.join(str(error).split())}"
            ) from error


@cache
def _usual_lora() -> dict[str, Any]:
    """Return the settings of ``peft=lora`` on the command line."""
    settings: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(conf_folder() / "peft" / "lora.yaml"))  # type: ignore[assignment]
    return settings


@cache
def _config_classes() -> dict[str, Any]:
    """Return PEFT's configuration classes of the methods that stand beside single layers, each by itself."""
    # Importing PEFT takes a second, so only runs with adapters do it.
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    classes = {}
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
        # Prompts before the text stand beside no layer, and state that all layers share belongs to no part.
        is_by_layer = tuner is not None and not issubclass(config, PromptLearningConfig)
        if is_by_layer and not getattr(tuner, "uses_shared_state", False) and str(kind.value).lower() not in _REFUSED:
            classes[str(kind.value).lower()] = config
    return classes
