"""Rows as token ids, with a label for each token that the loss is to count.

A row is first written out as one text with marked stretches; a token is supervised if it lies in one of them. So documents,
prompts with completions and conversations are the same thing, whatever a chat template puts around the messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100
Message = dict[str, Any]


@dataclass(frozen=True)
class MarkedText:
    """A text and the stretches of it that are supervised.

    Attributes:
        text: the text.
        supervised: stretches as half-open ranges of characters.
        is_whole: whether it has all its special tokens already, as a chat template writes them.
    """

    text: str
    supervised: tuple[tuple[int, int], ...]
    is_whole: bool = False


def mark_document(text: str) -> MarkedText:
    """Return a document, all of which is supervised."""
    return MarkedText(text, ((0, len(text)),))


def mark_completion(prompt: str, completion: str, completion_only: bool = True) -> MarkedText:
    """Return a prompt with its completion, of which only the latter is supervised unless ``completion_only`` is false."""
    text = prompt + completion
    return MarkedText(text, ((len(prompt) if completion_only else 0, len(text)),))


def mark_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], completion_only: bool = True
) -> MarkedText:
    """Write out a conversation by the tokenizer's chat template.

    Args:
        tokenizer: the model's tokenizer.
        messages: each with ``role`` and ``content``, as `apply_chat_template` takes them.
        completion_only: supervise only what the assistant says and the mark that ends it; otherwise everything.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages, no message is the assistant's, or the
            template writes a conversation's beginning in another way once it goes on, so that turns cannot be told apart.
    """

    def render(number: int, begins_answer: bool) -> str:
        if number == 0:
            return ""
        begun: Any = tokenizer.apply_chat_template(list(messages[:number]), tokenize=False, add_generation_prompt=begins_answer)
        return str(begun)

    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template; give data.chat_template, or rows of prompt and completion")
    try:
        text = render(len(messages), begins_answer=False)
        if not completion_only:
            return MarkedText(text, ((0, len(text)),), is_whole=True)
        answers = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
        turns = [(render(index, begins_answer=True), render(index + 1, begins_answer=False)) for index in answers]
    except Exception as error:
        # A template is a program of the model's authors and raises what it likes.
        raise ValueError(f"the chat template refuses the messages: {error}") from error
    if not turns:
        raise ValueError("no message has the role 'assistant', so there is nothing to learn")
    for before, after in turns:
        if not (after.startswith(before) and text.startswith(after)):
            raise ValueError(
                "the chat template writes earlier turns anew as a conversation goes on, so answers cannot be told from it; "
                "end rows at the first answer, or set data.completion_only=false"
            )
    return MarkedText(text, tuple((len(before), len(after)) for before, after in turns), is_whole=True)


def encode(tokenizer: PreTrainedTokenizerBase, marked: MarkedText, begin: bool = True) -> dict[str, list[int]]:
    """Return the token ids of a marked text, and its labels: the ids where it is supervised, `IGNORED_LABEL` elsewhere.

    A text that is not whole gets the special tokens that the tokenizer begins with, and ends with the end-of-text token, which
    is supervised if the text's last stretch reaches its end.

    Args:
        tokenizer: the model's tokenizer, one that tells where in the text a token is.
        marked: the text.
        begin: whether a text that is not whole gets the special tokens that texts begin with.

    Raises:
        ValueError: the tokenizer has no end-of-text token, and the text needs one.
    """
    # The length warning is about feeding whole texts to the model, which is checked later.
    found = tokenizer(marked.text, add_special_tokens=begin and not marked.is_whole, return_offsets_mapping=True, verbose=False)
    ids, offsets = list(found["input_ids"]), found["offset_mapping"]
    labels = [
        token if any(_lies_in(offset, stretch) for stretch in marked.supervised) else IGNORED_LABEL
        for token, offset in zip(ids, offsets, strict=True)
    ]
    if not marked.is_whole:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-text token to put between documents")
        is_supervised = bool(marked.supervised) and marked.supervised[-1][1] == len(marked.text)
        if begin and ids and ids[-1] == tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
            del ids[-1], labels[-1]
        ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id if is_supervised else IGNORED_LABEL)
    return {"input_ids": ids, "labels": labels}


def _lies_in(offset: tuple[int, int], stretch: tuple[int, int]) -> bool:
    (start, end), (first, last) = offset, stretch
    if start == end:
        # Many tokenizers trim white space off their tokens' places; a token of nothing else is then where it ends. Those that
        # a tokenizer adds of its own are at 0.
        return first < start <= last
    return first < end and start < last


def num_supervised(labels: Sequence[int]) -> int:
    """Return how many tokens of one row the loss counts: its first token has nothing to predict it."""
    return sum(label != IGNORED_LABEL for label in labels[1:])


def show_example(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Sequence[int]]) -> str:
    """Decode one row; what is supervised stands between » and «.

    Args:
        tokenizer: the model's tokenizer.
        row: ``input_ids`` and ``labels``.
    """
    pieces = []
    for is_supervised, group in groupby(
        zip(row["input_ids"], row["labels"], strict=True), key=lambda each: each[1] != IGNORED_LABEL
    ):
        text = str(tokenizer.decode([token for token, _ in group]))
        pieces.append(f"»{text}«" if is_supervised else text)
    return "".join(pieces)
