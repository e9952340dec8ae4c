"""Rows as token ids, with a label for each token that the loss is to count.

A row is first written out as one text with marked stretches; a token is supervised if it lies in one of them. So documents,
prompts with completions and conversations are the same thing, whatever a chat template puts around the messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100


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
    """Return a prompt with its completion, of which only the latter is supervised unless ``completion_only`` is false.

    A space at the prompt's end counts as the completion's: most tokenizers put it into the token of the completion's first
    word, and where it stands alone it is learned too, so that one way of asking fits both.
    """
    text = prompt + completion
    start = len(prompt.removesuffix(" ")) if completion_only else 0
    return MarkedText(text, ((start, len(text)),))


def encode(tokenizer: PreTrainedTokenizerBase, marked: MarkedText) -> dict[str, list[int]]:
    """Return the token ids of a marked text, and its labels: the ids where it is supervised, `IGNORED_LABEL` elsewhere.

    A text that is not whole begins with the special tokens that the tokenizer puts before texts, which are not supervised. It
    ends with the end-of-text token, which is supervised if the text's last stretch reaches its end.

    Args:
        tokenizer: the model's tokenizer.
        marked: the text.

    Returns:
        ``input_ids`` and ``labels``, lists of T integers.

    Raises:
        ValueError: the tokenizer has no end-of-text token, and the text needs one; or only part of the text is supervised,
            and the tokenizer does not tell where in the text a token is.
    """
    is_all_supervised = marked.supervised == ((0, len(marked.text)),)
    if not tokenizer.is_fast and not is_all_supervised:
        raise ValueError(
            f"this tokenizer ({type(tokenizer).__name__}, written in Python) does not tell where in a text a token is, so "
            "answers cannot be told from prompts; take a model with a tokenizer.json, or learn everything with "
            "data.completion_only=false"
        )
    # The length warning is about feeding whole texts to the model, which is checked later.
    encoded = tokenizer(
        marked.text,
        add_special_tokens=not marked.is_whole,
        return_offsets_mapping=tokenizer.is_fast,
        return_special_tokens_mask=not tokenizer.is_fast,
        verbose=False,
    )
    ids = list(encoded["input_ids"])
    if tokenizer.is_fast:
        offsets = encoded["offset_mapping"]
        are_added = [offset == (0, 0) for offset in offsets]
        are_supervised = [any(_lies_in(offset, stretch) for stretch in marked.supervised) for offset in offsets]
    else:
        are_added = [bool(added) for added in encoded["special_tokens_mask"]]
        are_supervised = [not added for added in are_added]
    labels = [token if supervised else IGNORED_LABEL for token, supervised in zip(ids, are_supervised, strict=True)]
    if not marked.is_whole:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-text token to put between documents")
        # What the tokenizer itself puts behind a text gives way to one end-of-text token.
        while len(ids) > 1 and are_added[len(ids) - 1]:
            del ids[-1], labels[-1]
        is_supervised = bool(marked.supervised) and marked.supervised[-1][1] == len(marked.text)
        ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id if is_supervised else IGNORED_LABEL)
    return {"input_ids": ids, "labels": labels}


def merges_at_border(tokenizer: PreTrainedTokenizerBase, marked: MarkedText) -> bool:
    """Return whether a token lies on both sides of where a text's first supervised stretch begins."""
    border = marked.supervised[0][0]
    offsets = tokenizer(marked.text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return any(start < border < end for start, end in offsets)


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
