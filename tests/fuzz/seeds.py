"""Make the fuzzer's seeds anew: a tiny model and the folder of a run of it, as other people would send them.

    python -m tests.fuzz.seeds

They are kept in the repository, so that an input that was found once stays the same. Make them anew when the form of a file
changes; tests/fuzz/test_seeds.py says when that is.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "seeds"
# Stands in the seeds for the folder in which they were made.
PLACE = "/models"
_END = "<end>"
_SETTINGS = ["model=pretrained", "model.name_or_path=model", "split=points", "split.point_1=1", "split.point_2=2"]
_SETTINGS += ["data=text_files", "data.source=text.txt", "data.block_size=8", "data.batch_size=2", "data.sample_by=line"]
_SETTINGS += ["data.val_fraction=0.5", "trainer.max_steps=2", "trainer.enable_progress_bar=false", "verbose=false"]
_SETTINGS += ["peft=lora", "peft.settings.r=1", "peft.settings.target_modules=[q_proj]", "peft.parts.bottom=false"]
_SETTINGS += ["peft.parts.top=false", "optimizer.parts.bottom.train=false", "optimizer.parts.top.train=norms", "logger=none"]
_KEPT = ("config.yaml", "summary.json", "prompt_format.json", "parts/top.pt", "checkpoints/last.ckpt", "adapters/*")


def write_model(folder: Path) -> None:
    """Write a model of three layers in two shards, with the bytes as its tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate([_END, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=_END, eos_token=_END).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1 + len(alphabet),
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, temperature=0.7, do_sample=True)
    model.save_pretrained(folder, max_shard_size="5KB")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)


def write_run(folder: Path) -> None:
    """Train the model in the folder for two steps: adapters in the trunk, norms in the top."""
    from splitlearn.app import compose, train

    (folder / "text.txt").write_text("\n".join(f"line {number} of a text" for number in range(12)))
    with contextlib.chdir(folder):
        train(compose(*_SETTINGS), folder=Path("run"))


def write_seeds(out: Path) -> None:
    """Write the folders ``model`` and ``run`` anew."""
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary).resolve()
        write_model(made / "model")
        write_run(made)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made / "model", out / "model")
        for path in (path for pattern in _KEPT for path in sorted((made / "run").glob(pattern))):
            target = out / "run" / path.relative_to(made / "run")
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target, str(made))


def write_other_forms(model: Path) -> Iterator[Path]:
    """Write a model's weights as one safetensors file and as one torch file, each in a folder of its own beside it.

    Yields:
        The two files.
    """
    weights = {name: tensor for path in sorted(model.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    for folder, file in (("single", "model.safetensors"), ("older", "pytorch_model.bin")):
        path = model.parent / folder / file
        path.parent.mkdir()
        shutil.copyfile(model / "config.json", path.parent / "config.json")
        save_file(weights, path, {"format": "pt"}) if path.suffix == ".safetensors" else torch.save(weights, path)
        yield path


def _copy(path: Path, target: Path, made: str) -> None:
    """Copy a file without the name of the folder in which it was made."""
    if path.suffix in (".pt", ".ckpt"):
        content = _elsewhere(torch.load(path, weights_only=True), made)
        if path.suffix == ".pt":
            # A part of a model in a folder names that folder, and goes with no other.
            content["description"]["origin"] = {}
        with target.open("wb") as file:
            torch.save(content, file)
    elif path.suffix == ".safetensors":
        shutil.copyfile(path, target)
    else:
        target.write_text(path.read_text(encoding="utf-8").replace(made, PLACE), encoding="utf-8")


def _elsewhere(value: Any, made: str) -> Any:
    if isinstance(value, str):
        return value.replace(made, PLACE)
    if isinstance(value, dict):
        return type(value)((_elsewhere(name, made), _elsewhere(entry, made)) for name, entry in value.items())
    if type(value) in (list, tuple):
        return type(value)(_elsewhere(entry, made) for entry in value)
    return value


if __name__ == "__main__":
    write_seeds(FOLDER)
