import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from splitlearn.data import mark_conversation
from splitlearn.embedded import resolve_model

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}|\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASKED = [{"role": "user", "content": "What is 2 and 1?"}, {"role": "assistant", "content": " [plan]Count.[/plan] It is 3.\n"}]


def tokenizer_with(template: str) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny"))
    tokenizer.chat_template = template
    return tokenizer


def supervised(template: str, *arguments: object) -> list[str]:
    marked = mark_conversation(tokenizer_with(template), *arguments)  # type: ignore[arg-type]
    return [marked.text[start:end] for start, end in marked.supervised]


@pytest.mark.parametrize(
    ("expression", "is_told"),
    [
        ("m.content", False),
        ("m.content | trim", False),
        ("m.content.split('[/plan]')[-1]", True),
        ("m.content | lower", True),
        ("m.content[:9]", True),
    ],
)
def test_a_template_that_shortens_or_changes_answers_is_refused(expression: str, is_told: bool) -> None:
    template = PLAIN.replace("{{ m.content }}", "{{ (%s) if m.role == 'assistant' else m.content }}" % expression)  # noqa: UP031
    if not is_told:
        assert "".join(supervised(template, ASKED)[0].split()) == "[plan]Count.[/plan]Itis3.|"
        return
    with pytest.raises(ValueError, match="leaves out or changes part of what the assistant says"):
        supervised(template, ASKED)


def test_a_template_that_forgets_the_system_message_is_refused() -> None:
    template = PLAIN.replace("{{ m.content }}", "{{ '' if m.role == 'system' else m.content }}")
    with pytest.raises(ValueError, match="what the system says: 'Be kind'"):
        supervised(template, [{"role": "system", "content": "Be kind"}, *ASKED])


def test_a_generation_prompt_that_opens_a_thought_is_named() -> None:
    template = PLAIN.replace("<assistant>{% endif %}", "<assistant><think>\n{% endif %}")
    with pytest.raises(
        ValueError, match=r"the chat template writes '<assistant><think>\\n', but it writes the answers .* without"
    ):
        supervised(template, ASKED)
    thought = [ASKED[0], {"role": "assistant", "content": "<think>\nI count.\n</think>It is 3."}]
    assert supervised(template, thought) == ["I count.\n</think>It is 3.|\n"]


def test_answers_in_a_prompt_are_not_supervised() -> None:
    example = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "EXAMPLE"}]
    asked = [*example, {"role": "user", "content": "2?"}]
    answered = [{"role": "assistant", "content": "real"}]
    assert supervised(PLAIN, [*asked, *answered], True, len(asked)) == ["real|\n"]
    assert supervised(PLAIN, [*asked, *answered]) == ["EXAMPLE|\n", "real|\n"]
    with pytest.raises(ValueError, match="nothing to learn"):
        supervised(PLAIN, asked, True, len(asked))


def test_thoughts_left_out_of_earlier_answers_can_be_learned_last() -> None:
    """As templates of reasoning models do."""
    forgetful = PLAIN.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}")
    thinking = [{"role": "assistant", "content": f"<think>{word}</think>{word}"} for word in ("one", "two")]
    asked = [{"role": "user", "content": "1?"}, thinking[0], {"role": "user", "content": "2?"}]
    with pytest.raises(ValueError, match="give the turns before the last answer as the prompt"):
        supervised(forgetful, [*asked, thinking[1]])
    assert supervised(forgetful, [*asked, thinking[1]], True, len(asked)) == ["<think>two</think>two|\n"]
    assert "<think>one" not in supervised(forgetful, [*asked, thinking[1]], False)[0]


def test_parts_of_text_are_looked_for_too() -> None:
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "3."}]
    template = PLAIN.replace("{{ m.content }}", "{{ m.content if m.content is string else m.content[0].text }}")
    with pytest.raises(ValueError, match=r"'It is 3\.' is not in"):
        supervised(template, [ASKED[0], {"role": "assistant", "content": parts}])
