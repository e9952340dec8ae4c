"""The command line: ``python -m splitlearn COMMAND [key=value ...]``."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module

from splitlearn.cli.signals import end_at_once

COMMANDS = {
    "train": "cut a model, load it part by part, fine-tune it (add -m to sweep)",
    "plan": "say what a cut will read, need and send, without touching weights",
    "verify": "show that a checkpoint's parts are the unsplit model",
    "generate": "have a run's model go on from a prompt",
    "evaluate": "measure a run's model, or one of its checkpoints, on held-out text",
    "attack": "recover text from exactly what crosses the cuts, and say how much",
    "export": "write a run's model as one ordinary Hugging Face folder",
    "report": "put the runs of sweeps into one table and one page, and recommend a cut",
    "serve": "hold a part of a model for a train in another process",
    "prepare": "turn a GGUF file or a single-file checkpoint into a sharded safetensors folder",
    "certificates": "make keys and certificates, by which parties in processes of their own know each other",
}


def main() -> None:
    """Run the command that the first argument names; the rest are its settings.

    Raises:
        SystemExit: always, with 0 on success and not 0 otherwise.
    """
    end_at_once()
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help"):
        print("usage: python -m splitlearn COMMAND [NAME=VALUE ...]\n")
        for command, purpose in COMMANDS.items():
            print(f"  {command:<14}{purpose}")
        print("\n`python -m splitlearn COMMAND --help` shows a command's settings, `--version` what is installed")
        raise SystemExit(0)
    if name == "--version":
        from splitlearn.cli.information import print_version

        print_version()
        raise SystemExit(0)
    if name in ("-sc", "--shell-completion"):
        _complete(arguments)
    elif name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        meant = f"; {close[0]} was probably meant" if close else ""
        print(f"error: {name!r} is no command; there are {', '.join(COMMANDS)}{meant}", file=sys.stderr)
        raise SystemExit(2)
    else:
        if "-sc" not in arguments:
            sys.argv[0] = f"python -m splitlearn {name}"
        sys.argv[1:] = arguments
        import_module(f"splitlearn.cli.{name}").main()
    raise SystemExit(0)


def _complete(arguments: list[str]) -> None:
    """Answer the shell's question for completions of ``splitlearn ...``: the commands, or a command's settings."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if any(each.startswith("query=") for each in arguments) and (len(words) < 2 or line == " ".join(words[:2])):
        print(" ".join(command for command in COMMANDS if command.startswith("".join(words[1:2]))))
        return
    name = words[1] if len(words) > 1 and words[1] in COMMANDS else "train"
    # Hydra knows nothing of commands: it is shown the line without one.
    os.environ["COMP_LINE"] = line.replace(f" {name}", "", 1)
    sys.argv[1:] = ["-sc", *arguments]
    import_module(f"splitlearn.cli.{name}").main()
