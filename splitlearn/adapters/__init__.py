"""PEFT's adapters on the parts of a model."""

from splitlearn.adapters.folder import copy_adapter, load_adapters, save_adapters
from splitlearn.adapters.parts import add_adapters
from splitlearn.adapters.settings import AdapterSettings

__all__ = ["AdapterSettings", "add_adapters", "copy_adapter", "load_adapters", "save_adapters"]
