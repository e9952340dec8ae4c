import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from splitlearn.data import InstructionDataModule, PromptFormat, TextDataModule, with_learned_ends
from splitlearn.embedded import resolve_model

ROWS = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(20)]
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
UNMARKED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}|\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def taught(folder: Path, rows: list[Any], template: str | None = None, **settings: Any) -> PromptFormat:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if template is not None:
        (folder / "t.jinja").write_text(template)
        settings["chat_template"] = str(folder / "t.jinja")
    module = InstructionDataModule(resolve_model("embedded:qwen2_tiny"), str(folder / "rows.jsonl"), packing="none", **settings)
    module.setup()
    module.save_prompt_format(folder)
    return PromptFormat.read(folder)


def test_the_token_that_ends_answers_is_learned(tmp_path: Path) -> None:
    prompt_format = taught(tmp_path, ROWS, MARKED, system="Be kind.")
    assert (prompt_format.end_token_ids, prompt_format.end_text, prompt_format.system) == ((0,), None, "Be kind.")


def test_where_no_token_ends_answers_a_text_does(tmp_path: Path) -> None:
    prompt_format = taught(tmp_path, ROWS, UNMARKED)
    assert (prompt_format.end_token_ids, prompt_format.end_text) == ((), "|")


@pytest.mark.parametrize(("ends", "merges"), [(("f(", "x"), False), (("f(", ")"), True)])
def test_tokens_on_the_border_are_noticed(tmp_path: Path, ends: tuple[str, str], merges: bool) -> None:
    rows = [{"prompt": f"{number} {ends[0]}", "completion": ends[1]} for number in range(20)]
    assert taught(tmp_path, rows).merges_at_border is merges


def test_documents_end_with_the_end_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {number} of a text" for number in range(40)))
    module = TextDataModule(resolve_model("embedded:qwen2_tiny"), str(tmp_path / "a.txt"), block_size=16)
    module.setup()
    assert module.prompt_format == PromptFormat(end_token_ids=(0,))


@pytest.mark.parametrize(
    ("own", "learned", "ends"),
    [(None, (), None), (5, (5,), 5), (5, (6,), [5, 6]), ([5, 7], (6, 7), [5, 7, 6]), (None, (6,), 6)],
)
def test_generation_also_stops_at_what_was_learned(own: Any, learned: tuple[int, ...], ends: Any) -> None:
    base = GenerationConfig(eos_token_id=own)
    extended = with_learned_ends(base, PromptFormat(end_token_ids=learned))
    assert extended is not None
    assert extended.eos_token_id == ends
    assert base.eos_token_id == own


def test_a_base_model_without_settings() -> None:
    assert with_learned_ends(None, PromptFormat()) is None
    extended = with_learned_ends(None, PromptFormat(end_token_ids=(3,)))
    assert extended is not None
    assert extended.eos_token_id == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"system": 3}', '{"end_token_ids": ["x"]}', '{"end_token_ids": 4}'])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "prompt_format.json").write_text(text)
    with pytest.raises(ValueError, match=r"prompt_format\.json is damaged"):
        PromptFormat.read(tmp_path)


def test_a_run_without_the_file_taught_nothing_of_its_own(tmp_path: Path) -> None:
    assert PromptFormat.read(tmp_path) == PromptFormat()


def test_a_system_message_that_all_rows_have_is_kept(tmp_path: Path) -> None:
    def conversation(system: str, number: int) -> dict[str, Any]:
        turns = [("system", system), ("user", f"{number}?"), ("assistant", "Yes.")]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    template = UNMARKED
    assert taught(tmp_path, [conversation("Be kind.", number) for number in range(20)], template).system == "Be kind."
    assert taught(tmp_path, [conversation(f"Be {number}.", number) for number in range(20)], template).system is None


def test_prompts_of_alpaca_are_asked_in_its_text(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {number}", "input": "", "output": str(number)} for number in range(20)]
    prompt_template = taught(tmp_path, rows).prompt_template
    assert prompt_template is not None
    assert prompt_template.endswith("### Instruction:\n{instruction}\n\n### Response:\n")
    assert taught(tmp_path, rows, UNMARKED).prompt_template is None
