"""Data for training: reading rows, writing them out as tokens with labels, packing them into blocks."""

from splitlearn.data.conversations import mark_conversation
from splitlearn.data.datamodule import BlockDataModule
from splitlearn.data.documents import read_documents
from splitlearn.data.examples import IGNORED_LABEL, encode, mark_completion, mark_document, show_example
from splitlearn.data.instructions import InstructionDataModule
from splitlearn.data.packing import isolate, join, pack
from splitlearn.data.prompt_format import PROMPT_FORMAT_FILE, PromptFormat, with_learned_ends
from splitlearn.data.prompt_template import PromptTemplate
from splitlearn.data.reading import remove_abandoned_rows
from splitlearn.data.sources import Source
from splitlearn.data.text import TextDataModule
from splitlearn.data.tokenizer import TEMPLATE_FILE, base_tokenizer_digest, read_tokenizer

__all__ = [
    "IGNORED_LABEL",
    "PROMPT_FORMAT_FILE",
    "TEMPLATE_FILE",
    "BlockDataModule",
    "InstructionDataModule",
    "PromptFormat",
    "PromptTemplate",
    "Source",
    "TextDataModule",
    "base_tokenizer_digest",
    "encode",
    "isolate",
    "join",
    "mark_completion",
    "mark_conversation",
    "mark_document",
    "pack",
    "read_documents",
    "read_tokenizer",
    "remove_abandoned_rows",
    "show_example",
    "with_learned_ends",
]
