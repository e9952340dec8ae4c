import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from splitlearn.data import encode, mark_completion, mark_conversation, mark_document, show_example
from splitlearn.data.examples import IGNORED_LABEL, MarkedText, num_supervised
from splitlearn.embedded import resolve_model

# Begins each message with its role and ends it with a mark, as most templates do.
TEMPLATE = """\
{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}|
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
# Forgets what the assistant thought once the conversation goes on.
FORGETFUL = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' and not loop.last %}...{% else %}{{ m['content'] }}"
    "{% endif %}|{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = [
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three?"},
    {"role": "assistant", "content": "Seven, of course."},
]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    found = AutoTokenizer.from_pretrained(resolve_model("embedded:qwen2_tiny"))
    found.chat_template = TEMPLATE
    return found


def supervised(tokenizer: PreTrainedTokenizerBase, row: dict[str, list[int]]) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORED_LABEL]))


def test_documents_are_supervised_to_their_end(tokenizer: PreTrainedTokenizerBase) -> None:
    row = encode(tokenizer, mark_document("one two"))
    assert row["labels"] == row["input_ids"]
    assert row["input_ids"][-1] == tokenizer.eos_token_id
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1


def test_tokens_of_white_space_are_supervised_with_the_text_they_are_in(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "one   two\n\n\n    three  \t\n  "
    row = encode(tokenizer, mark_document(text))
    assert row["labels"] == row["input_ids"]
    row = encode(tokenizer, mark_completion("Why?", "\n   Because. \n\n "))
    assert supervised(tokenizer, row) == f"\n   Because. \n\n {tokenizer.eos_token}"


def test_of_a_prompt_with_completion_only_the_completion_is_supervised(tokenizer: PreTrainedTokenizerBase) -> None:
    row = encode(tokenizer, mark_completion("Question: why?", " Because."))
    assert tokenizer.decode(row["input_ids"]) == f"Question: why? Because.{tokenizer.eos_token}"
    assert supervised(tokenizer, row) == f" Because.{tokenizer.eos_token}"
    everything = encode(tokenizer, mark_completion("Question: why?", " Because.", completion_only=False))
    assert everything["labels"] == everything["input_ids"] == row["input_ids"]


def test_of_a_conversation_each_answer_and_its_end_are_supervised(tokenizer: PreTrainedTokenizerBase) -> None:
    row = encode(tokenizer, mark_conversation(tokenizer, TURNS))
    text = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert tokenizer.decode(row["input_ids"]) == text
    assert supervised(tokenizer, row) == "Four.|\nSeven, of course.|\n"
    assert row["input_ids"] == tokenizer(text)["input_ids"]
    shown = show_example(tokenizer, row)
    assert shown == ("<user>What is two and two?|\n<assistant>»Four.|\n«<user>And three?|\n<assistant>»Seven, of course.|\n«")
    everything = encode(tokenizer, mark_conversation(tokenizer, TURNS, completion_only=False))
    assert everything["labels"] == row["input_ids"]


def test_what_cannot_be_written_out_says_why(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="no message has the role 'assistant'"):
        mark_conversation(tokenizer, TURNS[:1])
    with pytest.raises(ValueError, match="the chat template refuses the messages"):
        mark_conversation(tokenizer, [{"speaker": "me"}, {"role": "assistant", "content": None}, 3])  # type: ignore[list-item]
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(ValueError, match="writes earlier turns anew"):
        mark_conversation(tokenizer, TURNS)
    assert mark_conversation(tokenizer, TURNS[:2]).supervised
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"has no chat template; give data\.chat_template"):
        mark_conversation(tokenizer, TURNS)


def test_the_end_is_learned_only_with_an_answer_that_reaches_it(tokenizer: PreTrainedTokenizerBase) -> None:
    text, answer = "Why? Because. And then?", (4, 13)
    for stretches in ((answer,), ()):
        row = encode(tokenizer, MarkedText(text, stretches))
        assert row["input_ids"][-1] == tokenizer.eos_token_id
        assert supervised(tokenizer, row) == "".join(text[start:end] for start, end in stretches)


def test_a_text_without_an_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        encode(tokenizer, mark_document("text"))


def test_special_tokens_at_both_ends_are_there_once(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.save_pretrained(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    end = tokenizer.eos_token
    mark = {"SpecialToken": {"id": end, "type_id": 0}}
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [mark, {"Sequence": {"id": "A", "type_id": 0}}, mark],
        "pair": [mark, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {end: {"id": end, "ids": [tokenizer.eos_token_id], "tokens": [end]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    marking = AutoTokenizer.from_pretrained(tmp_path)
    row = encode(marking, mark_completion("Why?", " Because."))
    assert marking.decode(row["input_ids"]) == f"{end}Why? Because.{end}"
    assert supervised(marking, row) == f" Because.{end}"
    document = encode(marking, mark_document("text"))
    assert marking.decode(document["input_ids"]) == f"{end}text{end}"
    assert supervised(marking, document) == f"text{end}"


def test_a_space_between_prompt_and_completion_is_the_completions(tokenizer: PreTrainedTokenizerBase) -> None:
    assert supervised(tokenizer, encode(tokenizer, mark_completion("It is a ", "class"))) == f" class{tokenizer.eos_token}"
    # Digits have tokens of their own, so the space stands alone.
    assert supervised(tokenizer, encode(tokenizer, mark_completion("It is ", "5"))) == f" 5{tokenizer.eos_token}"
    assert supervised(tokenizer, encode(tokenizer, mark_completion("It is\n", "5"))) == f"5{tokenizer.eos_token}"


def test_a_tokenizer_written_in_python_learns_whole_texts_only() -> None:
    tokenizer = ByT5Tokenizer()
    row = encode(tokenizer, mark_document("ab"))
    assert row["labels"] == row["input_ids"]
    assert tokenizer.decode(row["input_ids"]) == "ab</s>"
    assert encode(tokenizer, mark_completion("a", "b", completion_only=False))["labels"] == row["labels"]
    with pytest.raises(ValueError, match=r"written in Python.*data\.completion_only=false"):
        encode(tokenizer, mark_completion("a", "b"))


def test_the_first_token_is_not_counted() -> None:
    assert num_supervised([5, IGNORED_LABEL, 6]) == 1
    assert num_supervised([5]) == 0
