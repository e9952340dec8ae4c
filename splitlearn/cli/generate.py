"""``python -m splitlearn generate``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from omegaconf import DictConfig

from splitlearn.cli.command import command

_ENDS = ("exit", "quit")


@command("generate")
def main(cfg: DictConfig) -> None:
    """Stream what the model says to the terminal, to the prompts or in a conversation."""
    from splitlearn.app import converse, generate

    if cfg.chat and cfg.prompt is None and cfg.prompt_file is None:
        for _ in converse(cfg, typed_turns(), stream=True):
            pass
    else:
        generate(cfg, stream=True)


def typed_turns() -> Iterator[str]:
    """Yield what is typed, line by line, until the end of standard input (Ctrl-D), ``exit`` or ``quit``."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        # Arrow keys and earlier lines, where Python was built with it.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        print("Ctrl-D or exit ends the conversation", flush=True)
    while True:
        try:
            turn = input("> " if is_terminal else "").strip()
        except EOFError:
            return
        if turn in _ENDS:
            return
        if turn:
            yield turn
