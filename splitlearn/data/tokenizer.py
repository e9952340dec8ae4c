"""A model's tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from splitlearn.redaction import reason_of

# In a run's folder: the chat template that the run was given instead of the tokenizer's own; empty for none.
TEMPLATE_FILE = "chat_template.jinja"

# Words, numbers, signs and letters that tokenizers divide in different ways.
_SAMPLE = "Unhappily, the 1,234 naïve cafés' résumés (été 2020)\n\tdef f(x):\n        return x ** 2  # größer 日本語 🙂"


def read_tokenizer(name_or_path: str, revision: str | None = None, run_folder: Path | None = None) -> PreTrainedTokenizerBase:
    """Read a tokenizer, with the chat template that a run taught its model.

    Args:
        name_or_path: a local folder or a hub id.
        revision: of a hub's repository the branch, tag or commit.
        run_folder: the run's folder; None for the base model.

    Raises:
        FileNotFoundError: there is none, or its files cannot be used.
        ValueError: the run's chat template is no text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False, revision=revision or "main")
        # Some wrong settings show only in use, such as a length that is a text.
        tokenizer(_SAMPLE)
    except Exception as error:
        # Its files are settings of a class that transformers chooses by them, and it raises what it likes.
        raise FileNotFoundError(f"no tokenizer in {name_or_path}: {reason_of(error)}") from error
    template = None if run_folder is None else run_folder / TEMPLATE_FILE
    if template is not None and template.is_file():
        try:
            tokenizer.chat_template = template.read_text(encoding="utf-8") or None
        except UnicodeDecodeError as error:
            raise ValueError(f"{template} holds no UTF-8 text") from error
    return tokenizer


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of what decides how a tokenizer writes texts and conversations."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template]
    return hashlib.sha256(json.dumps([rules, special], default=str).encode()).hexdigest()


def base_tokenizer_digest(name_or_path: str, revision: str | None = None) -> str | None:
    """Return a digest of a tokenizer's vocabulary and of how it divides a text; None if there is none.

    Args:
        name_or_path: a local folder or a hub id.
        revision: of a hub's repository the branch, tag or commit.
    """
    try:
        tokenizer = read_tokenizer(name_or_path, revision)
    except FileNotFoundError:
        return None
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr((vocabulary, tokenizer(_SAMPLE)["input_ids"])).encode()).hexdigest()
