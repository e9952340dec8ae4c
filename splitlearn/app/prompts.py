"""Asking a run's model in the way that it learned: chat template, system message, and where its answers end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from splitlearn.data import PromptFormat, PromptTemplate, with_learned_ends
from splitlearn.redaction import reason_of

Message = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A prompt as tokens.

    Attributes:
        ids: token ids of shape (1, T).
        mask: ones of the same shape.
        first_text: the last character of the prompt, if it was taken off; the answer has to begin with it.
        settings: further arguments of transformers' ``generate``.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    first_text: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """How many tokens it has."""
        return self.ids.shape[1]

    def answer(self, tokenizer: PreTrainedTokenizerBase, ids_BT: torch.Tensor) -> str:
        """Return what a model said after this question, of its ``generate``'s token ids (1, T): only what is new."""
        text = str(tokenizer.decode(ids_BT[0, self.num_tokens :], skip_special_tokens=True))
        for end_text in self.settings.get("stop_strings", ()):
            text = text.removesuffix(end_text)
        return text.removeprefix(self.first_text)


def read_prompts(cfg: DictConfig) -> list[str]:
    """Return the prompts of a configuration like ``conf/generate.yaml``, from its ``prompt`` or its ``prompt_file``.

    Raises:
        ValueError: there is none, or both are set.
        FileNotFoundError: the file does not exist.
    """
    if cfg.prompt is None and cfg.prompt_file is None:
        raise ValueError("prompt is not set; give a text, or prompt_file=PATH")
    if cfg.prompt is not None and cfg.prompt_file is not None:
        raise ValueError("prompt and prompt_file are both set; give one of them")
    if cfg.prompt_file is None:
        return [str(prompt) for prompt in cfg.prompt] if OmegaConf.is_list(cfg.prompt) else [str(cfg.prompt)]
    path = Path(cfg.prompt_file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"prompt_file is {path}, which is no file")
    try:
        return [path.read_text(encoding="utf-8-sig").removesuffix("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt_file is {path}, which holds no UTF-8 text") from error


def ask(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    prompt_format: PromptFormat,
    *,
    chat: bool | None = None,
    system: str | None = None,
    base_config: GenerationConfig | None = None,
) -> Question:
    """Return a prompt as tokens, written out as the run's rows were.

    Args:
        tokenizer: the tokenizer, with the run's chat template.
        prompt: a text, or the messages of a conversation.
        prompt_format: what the run taught.
        chat: put the prompt into the chat template; None does so where there is one.
        system: a system message; None takes the one that the run was taught with, ``""`` leaves it out.
        base_config: how the base model generates.

    Returns:
        The tokens, with settings for where an answer ends.

    Raises:
        ValueError: the prompt is empty, there is no chat template though one is needed, or the template refuses the messages.
    """
    if chat and tokenizer.chat_template is None:
        raise ValueError("chat is true, but the tokenizer of this run has no chat template; leave chat=null")
    is_chat = tokenizer.chat_template is not None if chat is None else chat
    if not is_chat and not isinstance(prompt, str):
        raise ValueError("messages need a chat template, which the tokenizer of this run has not got; give a text")
    if not is_chat and system:
        raise ValueError("system is set, but there is no chat template to write it out with; leave it out")
    settings = _endings(tokenizer, prompt_format, base_config)
    if isinstance(prompt, str) and prompt_format.prompt_template is not None:
        prompt = _fill_template(prompt_format.prompt_template, prompt)
    if is_chat:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        inputs = _render(tokenizer, messages, prompt_format.system if system is None else system)
        return Question(inputs["input_ids"], inputs["attention_mask"], settings=settings)
    return _ask_text(tokenizer, str(prompt), prompt_format.merges_at_border, settings)


def _fill_template(template: str, prompt: str) -> str:
    """Return a prompt as the run's template writes it; for several placeholders the prompt is a JSON object of them."""
    filled = PromptTemplate(template)
    if len(filled.columns) == 1:
        return filled.fill({filled.columns[0]: prompt})
    try:
        row = json.loads(prompt)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or set(row) != set(filled.columns):
        example = json.dumps(dict.fromkeys(filled.columns, "..."))
        raise ValueError(
            f"prompt is {prompt[:40]!r}, but the run made its prompts of {', '.join(filled.columns)}; give them as {example}"
        )
    return filled.fill(row)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], system: str | None) -> Any:
    if system and messages[0].get("role") != "system":
        messages = [{"role": "system", "content": system}, *messages]
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    except Exception as error:
        # A template is a program of the model's authors and raises what it likes.
        raise ValueError(f"the chat template refuses the prompt: {reason_of(error)}") from error


def _ask_text(tokenizer: PreTrainedTokenizerBase, prompt: str, merges: bool, settings: dict[str, Any]) -> Question:
    # A space at a prompt's end is learned with the first word of the answer, as `mark_completion` has it. So it is taken off,
    # and the first token has to bring it back.
    # Likewise with any other last character, where rows have shown that it merges with what follows.
    stripped = prompt[:-1] if merges else prompt.removesuffix(" ")
    first_text = prompt[len(stripped) :] if stripped else ""
    ids_BT = _encode_prompt(tokenizer, stripped or prompt)
    if first_text and ids_BT.shape[1]:
        allowed = _tokens_that_begin_with(tokenizer, first_text, int(ids_BT[0, -1]))
        if allowed:
            first_token = _FirstToken(allowed, num_prompt_tokens=ids_BT.shape[1])
            settings = settings | {"logits_processor": LogitsProcessorList([first_token])}
        else:
            ids_BT, first_text = _encode_prompt(tokenizer, prompt), ""
    if not ids_BT.shape[1]:
        raise ValueError("prompt is empty; give the model something to go on from")
    return Question(ids_BT, torch.ones_like(ids_BT), first_text, settings)


def _encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> torch.Tensor:
    """Return token ids of shape (1, T)."""
    encoded = tokenizer(prompt, return_special_tokens_mask=True)
    ids, are_added = list(encoded["input_ids"]), encoded["special_tokens_mask"]
    # A closing token of the tokenizer would tell the model that the text is over.
    while len(ids) > 1 and are_added[len(ids) - 1]:
        ids.pop()
    return torch.tensor([ids], dtype=torch.long)


def _tokens_that_begin_with(tokenizer: PreTrainedTokenizerBase, text: str, before: int) -> list[int]:
    """Return the tokens whose text behind the token ``before`` begins with ``text``."""
    # Decoded behind another token, since some tokenizers drop the space of a text's first token.
    skipped = len(tokenizer.decode([before]))
    texts = tokenizer.batch_decode([[before, token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    special = set(tokenizer.all_special_ids)
    return [token for token, decoded in enumerate(texts) if decoded[skipped:].startswith(text) and token not in special]


class _FirstToken(LogitsProcessor):
    """Lets only some tokens follow a prompt."""

    def __init__(self, allowed: Sequence[int], num_prompt_tokens: int) -> None:
        self._allowed = torch.tensor(allowed)
        self._num_prompt_tokens = num_prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] != self._num_prompt_tokens:
            return scores
        allowed = self._allowed[self._allowed < scores.shape[-1]].to(scores.device)
        constrained_BV = torch.full_like(scores, -torch.inf)
        constrained_BV[:, allowed] = scores[:, allowed]
        return constrained_BV


def _endings(
    tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, base_config: GenerationConfig | None
) -> dict[str, Any]:
    extended = with_learned_ends(base_config, prompt_format)
    settings: dict[str, Any] = {}
    if extended is not None and extended.eos_token_id is not None:
        settings["eos_token_id"] = extended.eos_token_id
    if prompt_format.end_text is not None:
        settings |= {"stop_strings": [prompt_format.end_text], "tokenizer": tokenizer}
    return settings
