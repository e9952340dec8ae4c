"""Text for training: reading it, cutting it into tokens, packing it into blocks."""

from splitlearn.data.datamodule import TextDataModule
from splitlearn.data.documents import read_documents
from splitlearn.data.packing import pack

__all__ = ["TextDataModule", "pack", "read_documents"]
