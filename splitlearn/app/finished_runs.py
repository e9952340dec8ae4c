"""Exporting the model of a completed run, and generating with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from lightning.pytorch import seed_everything
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase, TextStreamer

from splitlearn.app.checking import check_positions
from splitlearn.app.checkpoints import find_checkpoint
from splitlearn.app.measured_models import MeasuredModel
from splitlearn.app.opening_runs import crossing_of, defend, open_run
from splitlearn.app.prompts import Message, Question, ask, read_prompts
from splitlearn.data import PromptFormat, read_tokenizer
from splitlearn.export import RunRecord, export_run, restore, saved_files
from splitlearn.loading import OpenedModel
from splitlearn.model import ComposedCausalLM
from splitlearn.settings import check
from splitlearn.training import parse_dtype
from splitlearn.verification import verify_saved_file


def export(cfg: DictConfig) -> Path:
    """Write a run's model as one ordinary Hugging Face folder.

    Args:
        cfg: a configuration like ``conf/export.yaml``.

    Returns:
        The folder.

    Raises:
        ValueError: the folder exists already, or a setting or the checkpoint cannot be used.
        FileNotFoundError: the run's folder is none, or lacks what was trained.
    """
    check(cfg, "export")
    record, opened = open_run(cfg.run, cfg.ckpt)
    dtype = parse_dtype(cfg.dtype)
    checkpoint = find_checkpoint(cfg.ckpt, record.folder, "ckpt")
    for path in saved_files(record) if checkpoint is None else [Path(checkpoint)]:
        verify_saved_file(path)
    return export_run(record, opened, Path(cfg.out).expanduser(), cfg.max_shard_size, cfg.adapters, dtype)


def generate(cfg: DictConfig, stream: bool = False) -> list[str]:
    """Have a run's model go on from one or several prompts, with transformers' own ``generate``.

    Args:
        cfg: a configuration like ``conf/generate.yaml``.
        stream: print the text as it comes, under headings if two models are compared or there are several prompts.

    Returns:
        The trained model's answer to each prompt; with ``cfg.compare`` the base model's answers come first.

    Raises:
        ValueError: a setting or the checkpoint cannot be used.
        FileNotFoundError: the run's folder is none, or lacks what was trained, or there is no prompt file.
    """
    check(cfg, "generate")
    prompts = read_prompts(cfg)
    speaker = _Speaker(cfg)
    if cfg.compare and speaker.has_servers:
        raise ValueError("compare is true, but a server's part has one state; leave compare=false")
    questions = [speaker.ask(prompt) for prompt in prompts]
    said = []
    for title, record in (("base model", None), ("trained model", speaker.record)) if cfg.compare else (("", speaker.record),):
        if stream and title:
            print(f"== {title}", flush=True)
        with speaker.model(record) as model:
            for prompt, question in zip(prompts, questions, strict=True):
                if stream and len(prompts) > 1:
                    print(f"== {prompt}", flush=True)
                said.append(speaker.say(model, question, stream))
    return said


def converse(cfg: DictConfig, turns: Iterable[str], stream: bool = False) -> Iterator[str]:
    """Answer one turn of a conversation after the other; each answer knows what was said before.

    Args:
        cfg: a configuration like ``conf/generate.yaml``, without a prompt.
        turns: what the user says; they are taken as they are answered.
        stream: print each answer as it comes.

    Yields:
        The trained model's answers.

    Raises:
        ValueError: a setting or the checkpoint cannot be used, or the conversation has become too long for the model.
        FileNotFoundError: the run's folder is none, or lacks what was trained.
    """
    check(cfg, "generate")
    if cfg.compare:
        raise ValueError("compare is true, but one conversation has one model; leave compare=false")
    speaker = _Speaker(cfg)
    # A model without a chat template is refused before weights are read.
    speaker.ask([{"role": "user", "content": "?"}])
    messages: list[Message] = []
    with speaker.model(speaker.record) as model:
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            answer = speaker.say(model, speaker.ask(messages), stream)
            messages.append({"role": "assistant", "content": answer})
            yield answer


class _Speaker:
    """A run with its tokenizer, as ``conf/generate.yaml`` has it speak."""

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self._served: MeasuredModel | None = None
        if cfg.server is None:
            record, opened = open_run(cfg.run, cfg.ckpt)
        else:
            self._served = MeasuredModel.of_run(cfg.run, cfg.ckpt, "cpu", "cpu", cfg.server, cfg.certificates)
            record, opened = cast(RunRecord, self._served.record), self._served.opened
        self.record: RunRecord = record
        self._opened: OpenedModel = opened
        # The base model is asked over the same boundaries as the trained one.
        self._crossing = crossing_of(record)
        self._tokenizer = read_tokenizer(opened.source.name, opened.source.commit, record.folder)
        self._format = PromptFormat.read(record.folder)

    def ask(self, prompt: str | Sequence[Message]) -> Question:
        """Return a prompt as tokens.

        Raises:
            ValueError: it is empty, or with its answer longer than the model can be.
        """
        base_config, cfg = self._opened.blueprint.generation_config, self._cfg
        question = ask(self._tokenizer, prompt, self._format, chat=cfg.chat, system=cfg.system, base_config=base_config)
        num_tokens = question.num_tokens + cfg.max_new_tokens
        check_positions(self._opened.config, num_tokens, "prompt and max_new_tokens")
        return question

    @property
    def has_servers(self) -> bool:
        """Whether parts of the run stay at servers."""
        return self._served is not None

    @contextmanager
    def model(self, record: RunRecord | None) -> Iterator[ComposedCausalLM]:
        """Yield the model that was trained, or the base model for None."""
        if self._served is not None:
            with self._served.loaded() as module, module.composed.evaluating():
                yield module.composed
            return
        model = restore(self._opened, record, *self._crossing)
        defend(model, self.record)
        yield model

    def say(self, model: ComposedCausalLM, question: Question, stream: bool) -> str:
        """Return a model's answer; print it too as it comes if ``stream``."""
        cfg, tokenizer = self._cfg, self._tokenizer
        sampling = {"temperature": cfg.temperature, "top_p": cfg.top_p} if cfg.do_sample else {}
        seed_everything(cfg.seed, verbose=False)
        ids_BT = model.generate(
            question.ids,
            attention_mask=question.mask,
            max_new_tokens=cfg.max_new_tokens,
            do_sample=cfg.do_sample,
            pad_token_id=_pad_token_id(tokenizer, self._opened.config.get_text_config(decoder=True).vocab_size),
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if stream else None,
            **sampling,
            **question.settings,
        )
        return question.answer(tokenizer, ids_BT)


def _pad_token_id(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> int | None:
    """Return what fills up finished answers: one that the model has, which added padding tokens may not be."""
    usable = (token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None and token < vocab_size)
    return next(usable, None)
