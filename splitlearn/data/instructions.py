"""Prompts with completions, and conversations, as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from splitlearn.data.bad_rows import Column
from splitlearn.data.conversations import Message, end_of_answers, mark_conversation, text_of
from splitlearn.data.datamodule import BlockDataModule
from splitlearn.data.examples import MarkedText, encode, mark_completion, merges_at_border, num_supervised
from splitlearn.data.packing import TOKENS, fit_rows
from splitlearn.data.prompt_format import PromptFormat
from splitlearn.data.tokenizer import TEMPLATE_FILE

# Enough to see whether prompts and completions have tokens in common.
_ROWS_LOOKED_AT = 100


class InstructionDataModule(BlockDataModule):
    """Rows with a prompt and its completion, or with the messages of a conversation; by default only answers are supervised.

    With a chat template a prompt becomes the user's message and its completion the assistant's; without one they are put one
    after the other, ended by the end-of-text token. Prompts and completions may themselves be lists of messages. Answers in a
    prompt are examples: only the completion is supervised.

    Args:
        tokenizer_name_or_path: the model's tokenizer, a local folder or a hub id.
        source: see `Source`.
        prompt_field: the column of prompts.
        completion_field: the column of completions.
        messages_field: the column of conversations; None takes prompts and completions.
        system: a system message to begin every conversation with that has none; None adds none.
        chat_template: a file with a template instead of the tokenizer's own; ``"none"`` uses no template.
        completion_only: supervise only completions and answers; otherwise everything.
        too_long: what becomes of rows longer than a block: ``"error"``, ``"cut"`` or ``"drop"``.
        **settings: what every `BlockDataModule` takes; rows are isolated unless ``packing`` says otherwise.
    """

    def __init__(
        self,
        tokenizer_name_or_path: str,
        source: str | Sequence[str],
        prompt_field: str = "prompt",
        completion_field: str = "completion",
        messages_field: str | None = None,
        system: str | None = None,
        chat_template: str | None = None,
        completion_only: bool = True,
        too_long: str = "error",
        packing: str = "isolated",
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer_name_or_path, source, packing=packing, **settings)
        self.prompt_field = prompt_field
        self.completion_field = completion_field
        self.messages_field = messages_field
        self.system = system
        self.chat_template = chat_template
        self.completion_only = completion_only
        self.too_long = too_long
        self._prompt_format: PromptFormat | None = None

    @property
    def columns(self) -> list[Column]:
        """The columns that rows must have."""
        if self.messages_field is not None:
            return [Column(self.messages_field, "messages_field", (list,))]
        names = {"prompt_field": self.prompt_field, "completion_field": self.completion_field}
        return [Column(name, setting, (str, list)) for setting, name in names.items()]

    def prepare(self, rows: Dataset) -> Dataset:
        """Return the rows with the number each has in the source, from 1."""
        return rows.add_column("number", list(range(1, len(rows) + 1)))

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return rows as the columns ``input_ids`` and ``labels``.

        Raises:
            ValueError: a row cannot be written out, none of its tokens would be supervised, or it is too long.
            FileNotFoundError: the chat template does not exist.
        """
        self._choose_template(tokenizer)
        if self._prompt_format is None:
            self._prompt_format = self._learn_format(rows, tokenizer)

        def encode_row(row: dict[str, Any]) -> dict[str, list[int]]:
            try:
                return encode(tokenizer, self._mark(row, tokenizer))
            except ValueError as error:
                raise ValueError(f"{self.source} row {row['number']}: {error}") from error

        features = Features({"number": Value("int64"), "input_ids": TOKENS, "labels": TOKENS})
        kept = [name for name in rows.column_names if name != "number"]
        encoded = rows.map(encode_row, remove_columns=kept, features=features)
        fitting = fit_rows(encoded, self.block_size, self.too_long)
        if len(fitting) == 0:
            raise ValueError(f"{self.source}: every row is longer than data.block_size={self.block_size} tokens")
        for number, labels in zip(fitting["number"], fitting["labels"], strict=True):
            if num_supervised(labels) == 0:
                raise ValueError(
                    f"{self.source} row {number} has no supervised token within data.block_size={self.block_size}; remove the "
                    "row, give it an answer, choose a larger block or data.too_long=drop"
                )
        return fitting.remove_columns("number")

    @property
    def prompt_format(self) -> PromptFormat:
        """How rows were written out, once `setup` has run."""
        return self._prompt_format or PromptFormat()

    def save_prompt_format(self, folder: Path) -> None:
        """Write how rows were written out, and the template that stood in for the tokenizer's own, if any."""
        super().save_prompt_format(folder)
        if self.tokenizer is not None and self.chat_template is not None:
            (folder / TEMPLATE_FILE).write_text(str(self.tokenizer.chat_template or ""), encoding="utf-8")

    def _learn_format(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """Return how rows are written out, as the first ones show."""
        row = rows[0]
        messages, num_asked = self._conversation(row, tokenizer)
        if messages is None:
            ends = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
            looked_at = rows.select(range(min(len(rows), _ROWS_LOOKED_AT)))
            merges = tokenizer.is_fast and any(merges_at_border(tokenizer, self._mark(row, tokenizer)) for row in looked_at)
            return PromptFormat(end_token_ids=ends, merges_at_border=merges)
        answers = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
        if not answers or not text_of(messages[answers[-1]]).strip():
            return PromptFormat(self.system)
        until_answer = messages[: answers[-1] + 1]
        try:
            marked = mark_conversation(tokenizer, until_answer, self.completion_only, min(num_asked, answers[-1]))
        except ValueError as error:
            raise ValueError(f"{self.source} row {row['number']}: {error}") from error
        end_token_ids, end_text = end_of_answers(tokenizer, marked, text_of(until_answer[-1]))
        return PromptFormat(self.system, end_token_ids=tuple(end_token_ids), end_text=end_text)

    def _choose_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if self.chat_template == "none":
            tokenizer.chat_template = None
        elif self.chat_template is not None:
            path = Path(self.chat_template).expanduser()
            if not path.is_file():
                raise FileNotFoundError(f"data.chat_template is {self.chat_template}, which does not exist")
            tokenizer.chat_template = path.read_text(encoding="utf-8")

    def _mark(self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> MarkedText:
        messages, num_asked = self._conversation(row, tokenizer)
        if messages is None:
            return mark_completion(row[self.prompt_field], row[self.completion_field], self.completion_only)
        return mark_conversation(tokenizer, messages, self.completion_only, num_asked)

    def _conversation(self, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[list[Message] | None, int]:
        """Return a row's messages and how many of them are its prompt; None for texts that no template is put around."""
        if self.system is not None and tokenizer.chat_template is None:
            raise ValueError("data.system is set, but there is no chat template to write it out with; leave it out")
        if self.messages_field is not None:
            return self._begun(row[self.messages_field]), 0
        prompt, completion = row[self.prompt_field], row[self.completion_field]
        if isinstance(prompt, str) and isinstance(completion, str) and tokenizer.chat_template is None:
            return None, 0
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        answered = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        messages = self._begun([*asked, *answered])
        return messages, len(messages) - len(answered)

    def _begun(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            if not isinstance(message, dict):
                raise ValueError(f"a message is {message!r}; give its role and content")
            if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
                raise ValueError(f"a message of {message.get('role')} has no text as content but {message.get('content')!r}")
        # Where messages differ in their fields, `datasets` fills up with None, which templates would take for content.
        told = [{name: value for name, value in message.items() if value is not None} for message in messages]
        if self.system is None or (told and told[0].get("role") == "system"):
            return told
        return [{"role": "system", "content": self.system}, *told]
