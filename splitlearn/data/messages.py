"""Messages of conversations, from the ways in which data sets write them to that of chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from splitlearn.redaction import reason_of

Message = dict[str, Any]
# What ShareGPT files call the speakers.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "function_call": "assistant",
}


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """Return messages with ``role`` and ``content``, as chat templates take them.

    Args:
        messages: each with ``role`` and ``content`` (a text, or OpenAI's list of parts of the type text), or with ShareGPT's
            ``from`` and ``value``. Fields without a value are left out.

    Raises:
        ValueError: one is neither, or has a part that is no text.
    """
    return [_read_message(message) for message in messages]


def read_tools(tools: Any) -> list[Any]:
    """Return descriptions of functions from a list, or from a text with one as JSON.

    Raises:
        ValueError: it is neither.
    """
    if not tools:
        return []
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"'tools' is a text that is not JSON ({reason_of(error)})") from error
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, list):
        raise ValueError(f"'tools' is {str(tools)[:40]!r}; give a list of functions' descriptions")
    return [_without_none(tool) for tool in tools]


def _read_message(message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise ValueError(f"a message is {str(message)[:40]!r}; give its role and content")
    # Where messages differ in their fields, tables fill up with None, which templates would take for content.
    read: Message = {name: value for name, value in message.items() if value is not None}
    if "role" not in read and "from" in read:
        read = _from_sharegpt(read)
    if "tool_calls" in read:
        read["tool_calls"] = [_read_call(call) for call in read["tool_calls"]]
    if isinstance(read.get("content"), Sequence) and not isinstance(read["content"], str):
        read["content"] = "".join(_text_of(part) for part in read["content"])
    if not isinstance(read.get("role"), str):
        raise ValueError(f"a message has no role but {', '.join(map(str, read)) or 'nothing'}; give its role and content")
    if not isinstance(read.get("content"), str) and not read.get("tool_calls"):
        raise ValueError(f"a message of {read['role']} has no text as content but {read.get('content')!r}")
    return read


def _from_sharegpt(message: Message) -> Message:
    speaker, said = str(message["from"]).lower(), message.get("value")
    if speaker not in _SPEAKERS:
        raise ValueError(f"a message is from {message['from']!r}; known are {', '.join(_SPEAKERS)}")
    if not isinstance(said, str):
        raise ValueError(f"a message from {message['from']} has no text as value but {said!r}")
    if speaker != "function_call":
        return {"role": _SPEAKERS[speaker], "content": said}
    try:
        calls = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a message from function_call is not JSON ({reason_of(error)})") from error
    calls = calls if isinstance(calls, list) else [calls]
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": call} for call in calls]}


def _read_call(call: Any) -> Any:
    """Return a call with its arguments as an object: OpenAI writes them as JSON in a text, templates write JSON themselves."""
    call = _without_none(call)
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if (
        not isinstance(part, Mapping)
        or kind not in ("text", "input_text", "output_text")
        or not isinstance(part.get("text"), str)
    ):
        raise ValueError(f"a message has a part of the type {kind!r}; only text can be learned here")
    return str(part["text"])


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
