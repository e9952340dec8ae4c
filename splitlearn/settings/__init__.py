"""The commands' settings: schemas, and composing them. Neither torch nor transformers is imported: an answer comes at once."""

from splitlearn.settings.checking import SettingError, check, setting_names
from splitlearn.settings.commands import SCHEMAS
from splitlearn.settings.composing import compose, compose_for, conf_folder, forced
from splitlearn.settings.suggestions import suggestion
from splitlearn.settings.sweeps import fixed_keys, in_sweep, key_of, run_overrides, sweep_folder, swept
from splitlearn.settings.targets import TARGETS
from splitlearn.settings.typed import parse_override, quoted, with_literal_text, without_interpolation

__all__ = [
    "SCHEMAS",
    "TARGETS",
    "SettingError",
    "check",
    "compose",
    "compose_for",
    "conf_folder",
    "fixed_keys",
    "forced",
    "in_sweep",
    "key_of",
    "parse_override",
    "quoted",
    "run_overrides",
    "setting_names",
    "suggestion",
    "sweep_folder",
    "swept",
    "with_literal_text",
    "without_interpolation",
]
