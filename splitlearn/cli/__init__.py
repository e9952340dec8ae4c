"""The command line: ``python -m splitlearn COMMAND [key=value ...]``."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

from splitlearn.cli.signals import end_at_once

COMMANDS = {
    "train": "cut a model, load it part by part, fine-tune it (add -m to sweep)",
    "plan": "say what a cut will read, need and send, without touching weights",
    "verify": "show that a checkpoint's parts are the unsplit model",
    "generate": "have a run's model go on from a prompt",
    "export": "write a run's model as one ordinary Hugging Face folder",
    "prepare": "turn a GGUF file or a single-file checkpoint into a sharded safetensors folder",
}


# transformers and PEFT import these where they are installed, which then tell of kernels for other machines.
for _name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def main() -> None:
    """Run the command that the first argument names; the rest are Hydra's.

    Raises:
        SystemExit: always, with 0 on success and not 0 otherwise.
    """
    end_at_once()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m splitlearn COMMAND [key=value ...]\n")
        for command, purpose in COMMANDS.items():
            print(f"  {command:<10}{purpose}")
        print("\n`python -m splitlearn COMMAND --help` shows a command's settings")
        raise SystemExit(0)
    if name not in COMMANDS:
        print(f"error: {name!r} is no command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [f"python -m splitlearn {name}", *sys.argv[2:]]
    import_module(f"splitlearn.cli.{name}").main()
    raise SystemExit(0)
