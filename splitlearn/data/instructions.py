"""Prompts with completions, and conversations, as a Lightning data module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerBase

from splitlearn.data.conversations import end_of_answers, mark_conversation, text_of
from splitlearn.data.datamodule import BlockDataModule
from splitlearn.data.examples import (
    MarkedText,
    encode,
    mark_completion,
    mark_document,
    merges_at_border,
    num_supervised,
)
from splitlearn.data.formats import ALPACA_PROMPT, Example, FormatSettings, check_format, choose_format
from splitlearn.data.messages import Message
from splitlearn.data.packing import TOKENS, TooLittleError, fit_rows
from splitlearn.data.prompt_format import PromptFormat
from splitlearn.data.reading import Layout
from splitlearn.data.tokenizer import TEMPLATE_FILE
from splitlearn.files import write_text

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
        format: how rows are written, one of `FORMATS`; ``"auto"`` tells it by their columns.
        prompt_field: the column of prompts.
        completion_field: the column of completions.
        messages_field: the column of conversations; None leaves it to the format.
        prompt_template: makes prompts of several columns, such as ``"{instruction} {input}"``; None takes them as they are.
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
        format: str = "auto",  # noqa: A002 - the setting's name is data.format
        prompt_template: str | None = None,
        system: str | None = None,
        chat_template: str | None = None,
        completion_only: bool = True,
        too_long: str = "error",
        packing: str = "isolated",
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer_name_or_path, source, packing=packing, **settings)
        self.format_settings = FormatSettings(format, prompt_field, completion_field, messages_field, prompt_template)
        check_format(self.format_settings)
        self.system = system
        self.chat_template = chat_template
        self.completion_only = completion_only
        self.too_long = too_long
        self._prompt_format: PromptFormat | None = None

    def choose_layout(self, columns: Sequence[str], source: str) -> Layout:
        """Return how rows are read, by their columns or as the settings say."""
        return choose_format(columns, source, self.format_settings)

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Return rows as the columns ``input_ids`` and ``labels``.

        Raises:
            ValueError: a row cannot be written out, none of its tokens would be supervised, or it is too long.
            FileNotFoundError: the chat template does not exist.
        """
        self._choose_template(tokenizer)
        if self._prompt_format is None:
            self._prompt_format = self._learn_format(rows, tokenizer)

        def encode_row(row: dict[str, Any]) -> dict[str, Any]:
            try:
                return {"place": row["place"], **encode(tokenizer, self._mark(json.loads(row["example"]), tokenizer))}
            except ValueError as error:
                raise ValueError(f"{row['place']}: {error}") from error

        features = Features(place=Value("string"), input_ids=TOKENS, labels=TOKENS)
        encoded = rows.map(encode_row, remove_columns=rows.column_names, features=features)
        fitting = fit_rows(encoded, self.block_size, self.too_long)
        if len(fitting) < len(encoded):
            self.left_out["dropped_as_too_long"] = len(encoded) - len(fitting)
        if len(fitting) == 0:
            raise TooLittleError(f"all {len(encoded)} rows are longer than data.block_size={self.block_size} tokens")
        for place, labels in zip(fitting["place"], fitting["labels"], strict=True):
            if num_supervised(labels) == 0:
                raise ValueError(
                    f"{place} has no supervised token within data.block_size={self.block_size}; remove the "
                    "row, give it an answer, choose a larger block or data.too_long=drop"
                )
        return fitting.remove_columns("place")

    @property
    def prompt_format(self) -> PromptFormat:
        """How rows were written out, once `setup` has run."""
        return self._prompt_format or PromptFormat()

    def save_prompt_format(self, folder: Path) -> None:
        """Write how rows were written out, and the template that stood in for the tokenizer's own, if any."""
        super().save_prompt_format(folder)
        if self.tokenizer is not None and self.chat_template is not None:
            write_text(folder / TEMPLATE_FILE, str(self.tokenizer.chat_template or ""))

    def _learn_format(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """Return how rows are written out, as the first ones show."""
        template = self.format_settings.prompt_template
        place, row = rows[0]["place"], json.loads(rows[0]["example"])
        messages, num_asked = self._conversation(row, tokenizer)
        if messages is None:
            ends = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
            looked_at = rows.select(range(min(len(rows), _ROWS_LOOKED_AT)))
            examples = map(json.loads, looked_at["example"])
            merges = tokenizer.is_fast and any(merges_at_border(tokenizer, self._mark(each, tokenizer)) for each in examples)
            written = ALPACA_PROMPT if "plain_prompt" in row else template
            return PromptFormat(prompt_template=written, end_token_ids=ends, merges_at_border=merges)
        answers = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
        system = self._common_system(rows, tokenizer)
        if not answers or not text_of(messages[answers[-1]]).strip():
            return PromptFormat(system, template)
        until_answer = messages[: answers[-1] + 1]
        try:
            tools = row.get("tools")
            marked = mark_conversation(tokenizer, until_answer, self.completion_only, min(num_asked, answers[-1]), tools)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        end_token_ids, end_text = end_of_answers(tokenizer, marked, text_of(until_answer[-1]))
        return PromptFormat(system, template, end_token_ids=tuple(end_token_ids), end_text=end_text)

    def _common_system(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """Return the system message that the first rows begin with, if it is the same in all of them."""
        texts = set()
        for example in rows.select(range(min(len(rows), _ROWS_LOOKED_AT)))["example"]:
            messages, _ = self._conversation(json.loads(example), tokenizer)
            first = messages[0] if messages else {}
            texts.add(text_of(first) if first.get("role") == "system" else None)
        return texts.pop() if len(texts) == 1 else self.system

    def _choose_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if self.chat_template == "none":
            tokenizer.chat_template = None
        elif self.chat_template is not None:
            path = Path(self.chat_template).expanduser()
            if not path.is_file():
                raise FileNotFoundError(f"data.chat_template is {self.chat_template}, which does not exist")
            tokenizer.chat_template = path.read_text(encoding="utf-8")

    def _mark(self, example: Example, tokenizer: PreTrainedTokenizerBase) -> MarkedText:
        if "text" in example:
            return mark_document(example["text"])
        messages, num_asked = self._conversation(example, tokenizer)
        if messages is None:
            prompt: str = example["plain_prompt"] if "plain_prompt" in example else example["prompt"]
            return mark_completion(prompt, example["completion"], self.completion_only)
        return mark_conversation(tokenizer, messages, self.completion_only, num_asked, example.get("tools"))

    def _conversation(self, example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Message] | None, int]:
        """Return a row's messages and how many of them are its prompt; None for texts that no template is put around."""
        if self.system is not None and tokenizer.chat_template is None:
            raise ValueError("data.system is set, but there is no chat template to write it out with; leave it out")
        if "messages" in example:
            return self._begun(example["messages"], example), 0
        if "text" in example:
            return None, 0
        prompt, completion = example["prompt"], example["completion"]
        if isinstance(prompt, str) and isinstance(completion, str) and tokenizer.chat_template is None:
            return None, 0
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        answered = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        messages = self._begun([*asked, *answered], example)
        return messages, len(messages) - len(answered)

    def _begun(self, messages: list[Message], example: Example) -> list[Message]:
        """Return messages with the row's system message, or else that of the settings, if they begin with none."""
        system = example.get("system", self.system)
        if system is None or (messages and messages[0].get("role") == "system"):
            return messages
        return [{"role": "system", "content": system}, *messages]
