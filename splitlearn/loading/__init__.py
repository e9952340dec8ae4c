"""Opening a checkpoint and filling the parts of its model from it."""

from splitlearn.loading.configuration import read_config
from splitlearn.loading.dtypes import dtype_in_full, loaded_dtype
from splitlearn.loading.factory import ModelFactory, save_parts
from splitlearn.loading.loaded_parts import LoadedParts
from splitlearn.loading.part_loader import PartLoader
from splitlearn.loading.quantization import quantization_config, quantized_names
from splitlearn.loading.request import ModelRequest, OpenedModel
from splitlearn.loading.unexpected import describe_left_out

__all__ = [
    "LoadedParts",
    "ModelFactory",
    "ModelRequest",
    "OpenedModel",
    "PartLoader",
    "describe_left_out",
    "dtype_in_full",
    "loaded_dtype",
    "quantization_config",
    "quantized_names",
    "read_config",
    "save_parts",
]
