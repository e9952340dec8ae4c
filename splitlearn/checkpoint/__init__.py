"""Reading and writing weights: finding and opening a checkpoint's files, and parts on disk."""

from splitlearn.checkpoint.config_file import MAX_LAYERS, parse_config, read_config_file, refuse_kernels
from splitlearn.checkpoint.errors import CheckpointError, name_some
from splitlearn.checkpoint.main_file import CONFIG_FILE, INDEX_FILE
from splitlearn.checkpoint.part_file import read_part_file, write_part_file
from splitlearn.checkpoint.prefetch import is_on_network, prefetch
from splitlearn.checkpoint.prepare import prepare_checkpoint
from splitlearn.checkpoint.reading import TensorRead, read_tensors
from splitlearn.checkpoint.receipt import LoadReceipt, PartReceipt
from splitlearn.checkpoint.shard import LazyTensor, Shard
from splitlearn.checkpoint.shard_loader import ShardLoader
from splitlearn.checkpoint.source import CheckpointSource
from splitlearn.checkpoint.tensor_file import read_tensor_file, verify_tensor_file, write_tensor_file
from splitlearn.checkpoint.torch_file import write_torch_file
from splitlearn.checkpoint.torch_reading import check_plain, read_torch_file, verify_torch_file

__all__ = [
    "CONFIG_FILE",
    "INDEX_FILE",
    "MAX_LAYERS",
    "CheckpointError",
    "CheckpointSource",
    "LazyTensor",
    "LoadReceipt",
    "PartReceipt",
    "Shard",
    "ShardLoader",
    "TensorRead",
    "check_plain",
    "is_on_network",
    "name_some",
    "parse_config",
    "prefetch",
    "prepare_checkpoint",
    "read_config_file",
    "read_part_file",
    "read_tensor_file",
    "read_tensors",
    "read_torch_file",
    "refuse_kernels",
    "verify_tensor_file",
    "verify_torch_file",
    "write_part_file",
    "write_tensor_file",
    "write_torch_file",
]
