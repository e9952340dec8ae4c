"""Conversations as a chat template writes them, with the stretches of text that are supervised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from splitlearn.data.examples import MarkedText

Message = dict[str, Any]
# Roles whose content templates write as it is. Tool results and calls are often written as JSON.
_PLAIN_ROLES = ("system", "developer", "user", "assistant")
_SHOWN_CHARACTERS = 60


def mark_conversation(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    completion_only: bool = True,
    num_asked: int = 0,
    tools: Sequence[Any] | None = None,
) -> MarkedText:
    """Write out a conversation by the tokenizer's chat template.

    Args:
        tokenizer: the model's tokenizer.
        messages: each with ``role`` and ``content``, as `apply_chat_template` takes them.
        completion_only: supervise only what the assistant says and the mark that ends it; otherwise everything.
        num_asked: how many of the first messages are a prompt. Answers in it are examples, which are not supervised.
        tools: JSON schemas of functions that the template describes to the model.

    Returns:
        The text, with one supervised stretch for each answer.

    Raises:
        ValueError: the tokenizer has no chat template, the template refuses the messages, no message is the assistant's, the
            template leaves out or changes a message, or it writes a conversation's beginning in another way once it goes on, so
            that turns cannot be told apart.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template; give data.chat_template, or rows of prompt and completion")
    render = partial(_render, tokenizer, messages, tools)
    try:
        answers = [index for index in range(num_asked, len(messages)) if messages[index].get("role") == "assistant"]
        text = render(len(messages), begins_answer=False)
        turns = [(render(index, begins_answer=True), render(index + 1, begins_answer=False)) for index in answers]
    except Exception as error:
        # A template is a program of the model's authors and raises what it likes.
        raise ValueError(f"the chat template refuses the messages: {error}") from error
    if not completion_only:
        # Templates of reasoning models leave thoughts out of earlier answers, so only the last answer is looked for.
        earlier = set(answers[:-1])
        _check_written([message for index, message in enumerate(messages) if index not in earlier], text)
        return MarkedText(text, ((0, len(text)),), is_whole=True)
    if not turns:
        raise ValueError("no message has the role 'assistant', so there is nothing to learn")
    _check_written([message for message in messages if message.get("role") != "assistant"], text)
    for index, (before, after) in zip(answers, turns, strict=True):
        _check_turn(text, before, after, asked=render(index, begins_answer=False), answer=messages[index])
    return MarkedText(text, tuple((len(before), len(after)) for before, after in turns), is_whole=True)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    number: int,
    begins_answer: bool,
) -> str:
    """Return the first ``number`` messages as the chat template writes them."""
    if number == 0:
        return ""
    text: Any = tokenizer.apply_chat_template(
        list(messages[:number]), tools=list(tools) if tools else None, tokenize=False, add_generation_prompt=begins_answer
    )
    return str(text)


def _check_turn(text: str, before: str, after: str, asked: str, answer: Message) -> None:
    """Refuse an answer that cannot be told from the written-out conversation.

    Args:
        text: the whole conversation.
        before: its beginning up to the answer, with what the template writes to ask for one.
        after: its beginning with the answer.
        asked: its beginning up to the answer, without what asks for one, which may be the beginning of the answer itself.
        answer: the answer's message.
    """
    if not text.startswith(after):
        raise ValueError(
            "the chat template writes earlier turns anew as a conversation goes on, so answers cannot be told from it; end "
            "rows at the first answer, give the turns before the last answer as the prompt and that answer as the completion, "
            "or set data.completion_only=false"
        )
    if not after.startswith(before):
        _refuse_opening(before, after, asked)
    _check_written([answer], after.removeprefix(asked))


def text_of(message: Mapping[str, Any]) -> str:
    """Return a message's text: its content, or the text of its content's parts; empty if it has none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def end_of_answers(tokenizer: PreTrainedTokenizerBase, marked: MarkedText, last_answer: str) -> tuple[list[int], str | None]:
    """Return what ends an answer in a conversation: the token that stands for it, or else a text.

    Args:
        tokenizer: the model's tokenizer.
        marked: a conversation whose last message is an answer.
        last_answer: what that message says.

    Returns:
        The id of the first special token after the answer, in a list, and None; or an empty list and the text after the answer,
        None if that is white space.
    """
    tail = marked.text[marked.text.rfind(last_answer.strip()) + len(last_answer.strip()) :]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special} | set(
        tokenizer.all_special_ids
    )
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    end = next((token for token in ids if token in special), None)
    if end is not None:
        return [end], None
    return [], tail.strip() or None


def _check_written(messages: Sequence[Message], text: str) -> None:
    """Refuse messages whose words are not in the text, white space aside, which templates trim."""
    written = "".join(text.split())
    for message in messages:
        content = text_of(message)
        if message.get("role") in _PLAIN_ROLES and "".join(content.split()) not in written:
            raise ValueError(
                f"the chat template leaves out or changes part of what the {message['role']} says: "
                f"{_shortened(content)!r} is not in {_shortened(text)!r}; write the rows as the template does, or give "
                "data.chat_template one that keeps it"
            )


def _refuse_opening(before: str, after: str, asked: str) -> None:
    opening, answer = before.removeprefix(asked), after.removeprefix(asked)
    raise ValueError(
        f"to ask for an answer the chat template writes {_shortened(opening)!r}, but it writes the answers themselves without "
        f"that ({_shortened(answer)!r}), so the model would be asked in another way than it learned; begin the "
        "answers as the template does, or give data.chat_template one whose add_generation_prompt fits them"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
