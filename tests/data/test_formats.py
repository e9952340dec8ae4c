import json
from pathlib import Path
from typing import Any

import pytest

from splitlearn.data import InstructionDataModule
from splitlearn.data.formats import Example, FormatSettings, choose_format
from splitlearn.data.messages import read_messages
from splitlearn.data.prompt_template import PromptTemplate
from splitlearn.embedded import resolve_model
from tests.data.test_examples import TEMPLATE

TURNS = [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Four."}]


def read(row: dict[str, Any], **settings: Any) -> Example:
    layout = choose_format(list(row), "rows.jsonl", FormatSettings(**settings))
    found: Example = json.loads((layout.read(row) or {})["example"])
    return found


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Two?", "completion": "Four.", "id": 1}, {"prompt": "Two?", "completion": "Four."}),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, {"prompt": TURNS[:1], "completion": TURNS[1:]}),
        ({"messages": TURNS, "tools": '[{"name": "f"}]'}, {"messages": TURNS, "tools": [{"name": "f"}]}),
        ({"conversations": TURNS, "tools": None, "system": ""}, {"messages": TURNS}),
        (
            {"conversations": [{"from": "human", "value": "Two?"}, {"from": "gpt", "value": "Four."}], "system": "Count."},
            {"messages": TURNS, "system": "Count."},
        ),
        (
            {
                "conversations": [
                    {"from": "gpt", "value": "So."},
                    {"from": "user", "value": "Two?"},
                    {"from": "gpt", "value": "Four."},
                ]
            },
            {"messages": TURNS},
        ),
    ],
)
def test_formats_are_told_by_their_columns(row: dict[str, Any], expected: Example) -> None:
    assert read(row) == expected


def test_alpaca() -> None:
    row = {"instruction": "Add {input}.", "input": "1 2", "output": "3", "text": "Below ... 3", "system": "Be brief."}
    found = read(row)
    assert found["prompt"] == "Add {input}.\n\n1 2" and found["completion"] == "3" and found["system"] == "Be brief."
    assert "### Instruction:\nAdd {input}.\n\n### Input:\n1 2\n\n### Response:\n" in found["plain_prompt"]
    for empty in ({"input": ""}, {"input": None}, {"input": " "}):
        found = read({**row, **empty})
        assert found["prompt"] == "Add {input}." and "### Input" not in found["plain_prompt"]


def test_parts_calls_and_tools_of_openai_messages() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Add "}, {"type": "text", "text": "them."}], "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    found = read_messages(messages)
    assert found[0] == {"role": "user", "content": "Add them."}
    assert found[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}} and "content" not in found[1]
    assert found[2] == messages[2]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "part of the type 'image_url'"),
        ({"role": "user"}, "has no text as content"),
        ({"content": "x"}, "has no role"),
        ({"from": "narrator", "value": "x"}, "from 'narrator'; known are human"),
        ("x", "a message is 'x'"),
    ],
)
def test_messages_that_cannot_be_used(message: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_messages([message])


@pytest.mark.parametrize(
    ("columns", "settings", "problem"),
    [
        (["question", "answer"], {}, r"has the columns question, answer, which fit no format: prompt_completion \(prompt"),
        (["messages", "prompt", "completion"], {}, "fits several formats: prompt_completion, messages; choose one"),
        (["a"], {"format": "chatml"}, "data.format is 'chatml'; use auto or one of prompt_completion"),
        (["a"], {"prompt_template": "{b}"}, r"has \{b\}, but rows.jsonl has no column 'b' but a"),
        (["a"], {"prompt_template": "{a.real}"}, r"has no column 'a.real'"),
        (["a"], {"prompt_template": "{a[0]}"}, r"has no column 'a\[0\]'"),
        (["a"], {"prompt_template": "{a!r}"}, "only the name of a column"),
        (["a"], {"prompt_template": "{}"}, "only the name of a column"),
        (["a"], {"prompt_template": "{a"}, "write a brace as {{"),
        (["a"], {"prompt_template": "a"}, "names no column"),
        (["a"], {"prompt_template": "{a}", "messages_field": "m"}, "leave one out"),
        (["a"], {"format": "alpaca", "messages_field": "m"}, "leave one out"),
    ],
)
def test_what_cannot_be_chosen(columns: list[str], settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        choose_format(columns, "rows.jsonl", FormatSettings(**settings))


def test_several_formats_fit_and_one_is_named() -> None:
    row = {"prompt": "Two?", "completion": "Four.", "messages": TURNS}
    assert read(row, format="messages") == {"messages": TURNS}
    assert read(row, messages_field="messages") == {"messages": TURNS}
    assert read({"a": "x", "b": "y"}, prompt_field="a", completion_field="b") == {"prompt": "x", "completion": "y"}
    assert read({"text": "x"}, format="text") == {"text": "x"}


def test_a_prompt_template_names_columns_only() -> None:
    template = PromptTemplate("{{{a}}}\\n{b b}:{a}")
    assert template.columns == ["a", "b b"]
    assert template.fill({"a": "{b b}", "b b": 3}) == "{{b b}}\n3:{b b}"
    assert template.fill({"a": None}) == "{}\n:"
    with pytest.raises(ValueError, match="cannot write"):
        template.fill({"a": ["x"]})
    assert read({"instruction": "Add", "input": "1", "output": "2"}, prompt_template="{instruction}: {input}\n") == {
        "prompt": "Add: 1\n",
        "completion": "2",
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_formats_are_learned_from_files(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    rows: dict[str, list[dict[str, Any]]] = {
        "alpaca": [{"instruction": f"Add {i}", "input": "1" if i % 2 else "", "output": f"It is {i + 1}."} for i in range(20)],
        "sharegpt": [
            {"conversations": [{"from": "human", "value": f"Add {i}"}, {"from": "gpt", "value": f"It is {i + 1}."}], "id": i}
            for i in range(20)
        ],
    }
    for name, each in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in each))
        settings: dict[str, Any] = {"streaming": True, "val_rows": 4, "rows_at_once": 8} if streaming else {}
        module = InstructionDataModule(
            resolve_model("embedded:qwen2_tiny"), str(path), chat_template=str(tmp_path / "template.jinja"), **settings
        )
        module.setup()
        assert "»It is " in module.sample()
        assert f"as {name} (" in module.describe()
        assert ("not used: id" in module.describe()) == (name == "sharegpt")
