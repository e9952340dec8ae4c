"""Reading and writing weights: where a checkpoint's files are, what is in them, and parts on disk."""

from splitlearn.checkpoint.errors import CheckpointError
from splitlearn.checkpoint.part_file import read_part_file, write_part_file
from splitlearn.checkpoint.prepare import prepare_checkpoint
from splitlearn.checkpoint.receipt import LoadReceipt, PartReceipt
from splitlearn.checkpoint.shard import LazyTensor, Shard
from splitlearn.checkpoint.shard_loader import ShardLoader
from splitlearn.checkpoint.source import CheckpointSource
from splitlearn.checkpoint.torch_file import write_torch_file

__all__ = [
    "CheckpointError",
    "CheckpointSource",
    "LazyTensor",
    "LoadReceipt",
    "PartReceipt",
    "Shard",
    "ShardLoader",
    "prepare_checkpoint",
    "read_part_file",
    "write_part_file",
    "write_torch_file",
]
