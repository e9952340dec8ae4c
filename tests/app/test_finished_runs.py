"""What is done with a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from splitlearn.app import compose, converse, export, generate, train

SHORT = ["trainer.max_steps=2", "data.max_val_blocks=4", "trainer.enable_progress_bar=false", "verbose=false", "peft=lora"]


def test_a_chat_template_of_a_runs_own_stays_with_its_model(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {index}?", "completion": "A number."} for index in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (tmp_path / "mine.jinja").write_text(template)
    data = ["data=instructions", f"data.source={tmp_path / 'rows.jsonl'}", f"data.chat_template={tmp_path / 'mine.jinja'}"]
    result = train(compose(*SHORT, *data), folder=tmp_path / "run")
    assert "[user]What is" in result.datamodule.sample()  # type: ignore[attr-defined]
    (tmp_path / "mine.jinja").unlink()
    export(compose(f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", config_name="export"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template
    asked = compose(f"run={tmp_path / 'run'}", "prompt=What?", "chat=true", "max_new_tokens=2", config_name="generate")
    assert len(generate(asked)) == 1
    check_conversation(tmp_path / "run")


def check_conversation(run: Path) -> None:
    """The second answer of a conversation is that to all that was said before."""
    cfg = compose(f"run={run}", "chat=true", "max_new_tokens=4", config_name="generate")
    first, second = converse(cfg, iter(["It's one?", "And two?"]))
    text = f"[user]It's one?[assistant]{first}[user]And two?[assistant]"
    settings = [f"run={run}", "chat=false", "max_new_tokens=4"]
    assert [second] == generate(compose(*settings, f"prompt={text}", config_name="generate"))
    with pytest.raises(ValueError, match="compare is true, but one conversation has one model"):
        next(converse(compose(f"run={run}", "chat=true", "compare=true", config_name="generate"), iter(["a"])))


def test_several_prompts_and_one_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(compose(*SHORT, "data.max_train_blocks=16"), folder=tmp_path / "run")
    settings = [f"run={tmp_path / 'run'}", "max_new_tokens=3"]
    (tmp_path / "it's.txt").write_text("It's a test, isn't it?\n")
    cfg = compose(*settings, config_name="generate")
    cfg.prompt = ["for each of", "It's a test, isn't it?"]
    several = generate(cfg)
    (in_file,) = generate(compose(*settings, f"prompt_file={tmp_path / 'it'}'s.txt", config_name="generate"))
    assert several[1] == in_file
    assert several[:1] == generate(compose(*settings, "prompt=for each of", config_name="generate"))
    capsys.readouterr()
    cfg.compare = True
    assert len(generate(cfg, stream=True)) == 4
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("== ")]
    assert headings == ["== base model", *(two := ["== for each of", "== It's a test, isn't it?"]), "== trained model", *two]
    for more, message in ((["prompt_file=absent"], "prompt_file is absent, which is no file"), ([], "prompt is not set; give")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            generate(compose(*settings, *more, config_name="generate"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_new_tokens=abc", "max_new_tokens is 'abc'; give a whole number of at least 1"),
        ("max_new_tokens=5000", "prompt and max_new_tokens is 5.*, but the model has only"),
        ("compare=oui", "compare is oui; give true or false"),
        ("chat=true", "has no chat template; leave chat=null"),
    ],
)
def test_what_cannot_be_generated(setting: str, message: str, tmp_path: Path) -> None:
    train(compose(*SHORT, "data.max_train_blocks=16"), folder=tmp_path)
    assert generate(compose(f"run={tmp_path}", "prompt=5", "max_new_tokens=1", config_name="generate"))
    with pytest.raises(ValueError, match=message):
        generate(compose(f"run={tmp_path}", "prompt=a", setting, config_name="generate"))
