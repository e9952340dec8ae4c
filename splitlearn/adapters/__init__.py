"""PEFT's adapters on the parts of a model."""

from splitlearn.adapters.folder import ADAPTER_FILE, copy_adapter, load_adapters, read_stamp, save_adapters
from splitlearn.adapters.layers import merge_adapters
from splitlearn.adapters.parts import add_adapters
from splitlearn.adapters.refusals import check_layers_run
from splitlearn.adapters.settings import AdapterSettings
from splitlearn.adapters.unsplit_config import unsplit_config

__all__ = [
    "ADAPTER_FILE",
    "AdapterSettings",
    "add_adapters",
    "check_layers_run",
    "copy_adapter",
    "load_adapters",
    "merge_adapters",
    "read_stamp",
    "save_adapters",
    "unsplit_config",
]
