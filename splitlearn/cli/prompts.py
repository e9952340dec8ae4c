"""Prompts as they are typed: as arguments, in a file, or on standard input."""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches

from omegaconf import DictConfig

from splitlearn.settings import SettingError, quoted, setting_names

_NAME = re.compile(r"[+~]*[\w./@]+")
# How alike two names are before the one is taken for a misspelling of the other, from 0 to 1.
_ALIKE = 0.7


def with_prompts(overrides: list[str], texts: list[str]) -> list[str]:
    """Return the settings among the arguments of ``generate``, with its prompts as one of them.

    An argument is a prompt if it has no ``=``, or if what stands before the ``=`` cannot be a setting's name; ``-`` is standard
    input. What comes after ``--`` is always a prompt. Where no prompt is given, standard input is read unless it is a terminal.

    Args:
        overrides: the arguments without options.
        texts: those after ``--``.

    Raises:
        SettingError: there are prompts in two places, or one is empty.
    """
    settings = [each for each in overrides if not _is_prompt(each)]
    prompts = [sys.stdin.read().removesuffix("\n") if each == "-" else each for each in overrides if _is_prompt(each)]
    prompts += texts
    values = dict(each.lstrip("+").partition("=")[::2] for each in settings)
    elsewhere = [name for name in ("prompt", "prompt_file") if values.get(name, "null") != "null"]
    if len(elsewhere) > 1 or (prompts and elsewhere):
        raise SettingError(f"prompts are given as {elsewhere[-1]} and in another way; give them in one")
    is_chat = values.get("chat", "").lower() == "true"
    if not prompts and not elsewhere and not is_chat and not sys.stdin.isatty():
        piped = sys.stdin.read().removesuffix("\n")
        prompts = [piped] if piped else []
    if prompts and not all(prompts):
        raise SettingError("prompt is empty; give the model something to go on from")
    if prompts:
        several = ",".join(map(quoted, prompts))
        return [*settings, f"prompt=[{several}]" if len(prompts) > 1 else f"prompt={several}"]
    return settings


def require_prompt(cfg: DictConfig) -> None:
    """Refuse a configuration of ``generate`` that has nothing to go on from.

    Raises:
        SettingError: it has not.
    """
    if cfg.prompt is None and cfg.prompt_file is None and cfg.chat is not True:
        raise SettingError(
            "prompt is not set; give a text, prompt_file=PATH, - for standard input, or chat=true to talk at the terminal"
        )


def _is_prompt(argument: str) -> bool:
    before, equals, value = argument.partition("=")
    if not equals:
        return not argument.startswith("~")
    name = before.lstrip("+~")
    known = {each for full in setting_names("generate") for each in (full, full.partition(".")[0])}
    if name in known or name.partition(".")[0] in known | {"hydra"}:
        return False
    if not _NAME.fullmatch(before):
        return True
    # A name that is none, before a sentence: `x=5 is what?`. One that is almost a setting's is taken for a misspelling.
    return " " in value.strip() and not get_close_matches(name, known, n=1, cutoff=_ALIKE)
