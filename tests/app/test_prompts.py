import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from splitlearn.app.prompts import ask
from splitlearn.data import PromptFormat
from splitlearn.embedded import resolve_model

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}|\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny"))


@pytest.fixture
def chatting(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize(
    ("taught", "given", "begins"),
    [
        (None, None, "<user>Hi"),
        ("Be kind.", None, "<system>Be kind.|"),
        ("Be kind.", "", "<user>Hi"),
        (None, "No.", "<system>No.|"),
    ],
)
def test_the_system_message_of_the_run_comes_first(
    chatting: PreTrainedTokenizerBase, taught: str | None, given: str | None, begins: str
) -> None:
    question = ask(chatting, "Hi", PromptFormat(system=taught), system=given)
    text = str(chatting.decode(question.ids[0]))
    assert text.startswith(begins)
    assert text.endswith("<assistant>")


def test_messages_keep_a_system_message_of_their_own(chatting: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]
    question = ask(chatting, messages, PromptFormat(system="Be kind."))
    assert str(chatting.decode(question.ids[0])).startswith("<system>Mine.|\n<user>Hi")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chat": True}, "chat is true, but"),
        ({"system": "Be kind."}, "system is set, but there is no chat template"),
    ],
)
def test_without_a_template(tokenizer: PreTrainedTokenizerBase, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(tokenizer, "Hi", PromptFormat(), **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="messages need a chat template"):
        ask(tokenizer, [{"role": "user", "content": "Hi"}], PromptFormat())
    with pytest.raises(ValueError, match="prompt is empty"):
        ask(tokenizer, "", PromptFormat())


def test_a_template_that_refuses_a_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ raise_exception('no chats here') }}"
    with pytest.raises(ValueError, match="the chat template refuses the prompt: no chats here"):
        ask(tokenizer, "Hi", PromptFormat())


def test_answers_end_where_they_did_in_the_rows(tokenizer: PreTrainedTokenizerBase) -> None:
    base = GenerationConfig(eos_token_id=5)
    assert ask(tokenizer, "Hi", PromptFormat(end_token_ids=(7,)), base_config=base).settings["eos_token_id"] == [5, 7]
    question = ask(tokenizer, "Hi", PromptFormat(end_text="|"), base_config=base)
    assert question.settings["stop_strings"] == ["|"]
    ids = torch.cat([question.ids, torch.tensor([tokenizer("Ho|")["input_ids"]])], 1)
    assert question.answer(tokenizer, ids) == "Ho"


def first_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, **taught: bool) -> set[str]:
    """Return the texts of the tokens that may follow a prompt; empty if all may."""
    question = ask(tokenizer, prompt, PromptFormat(**taught))  # type: ignore[arg-type]
    processors = question.settings.get("logits_processor")
    if processors is None:
        return set()
    scores = processors(question.ids, torch.zeros(1, len(tokenizer)))
    return {str(tokenizer.decode([token])) for token in torch.isfinite(scores[0]).nonzero().flatten().tolist()}


def test_a_space_at_the_end_belongs_to_the_first_word(tokenizer: PreTrainedTokenizerBase) -> None:
    question = ask(tokenizer, "It is a ", PromptFormat())
    assert question.ids[0].tolist() == tokenizer("It is a")["input_ids"]
    allowed = first_tokens(tokenizer, "It is a ")
    assert " class" in allowed
    assert all(text.startswith(" ") for text in allowed)
    ids = torch.cat([question.ids, torch.tensor([tokenizer(" class")["input_ids"]])], 1)
    assert question.answer(tokenizer, ids) == "class"
    assert not first_tokens(tokenizer, "It is a")


def test_a_character_that_merged_in_the_rows_is_given_again(tokenizer: PreTrainedTokenizerBase) -> None:
    assert not first_tokens(tokenizer, "f(")
    allowed = first_tokens(tokenizer, "f(", merges_at_border=True)
    assert {"(", "()"} <= allowed
    assert all(text.startswith("(") for text in allowed)


def test_only_the_first_token_is_constrained(tokenizer: PreTrainedTokenizerBase) -> None:
    question = ask(tokenizer, "It is a ", PromptFormat())
    scores = torch.zeros(1, len(tokenizer))
    longer = torch.cat([question.ids, question.ids[:, :1]], 1)
    assert torch.equal(question.settings["logits_processor"](longer, scores), scores)


def test_a_prompt_is_put_into_the_template_of_the_run(tokenizer: PreTrainedTokenizerBase) -> None:
    question = ask(tokenizer, "Why {not}?", PromptFormat(prompt_template="Q: {question}\nA:"))
    assert tokenizer.decode(question.ids[0]) == "Q: Why {not}?\nA:"
    several = PromptFormat(prompt_template="{instruction}: {input}")
    question = ask(tokenizer, '{"instruction": "Add", "input": "2, 3"}', several)
    assert tokenizer.decode(question.ids[0]) == "Add: 2, 3"
    for prompt in ("Add 2, 3", '{"instruction": "Add"}', "[1]"):
        with pytest.raises(ValueError, match=r"made its prompts of instruction, input; give them as \{"):
            ask(tokenizer, prompt, several)
