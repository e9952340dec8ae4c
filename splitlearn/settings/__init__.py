"""The commands' settings: schemas, and composing them. Neither torch nor transformers is imported: an answer comes at once."""

from splitlearn.settings.checking import SettingError, check, setting_names
from splitlearn.settings.commands import SCHEMAS
from splitlearn.settings.composing import compose, conf_folder

__all__ = ["SCHEMAS", "SettingError", "check", "compose", "conf_folder", "setting_names"]
