"""Attacks on the terminal: how far they are, and what they recovered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from splitlearn.redaction import printable
from splitlearn.terminal import make_console

if TYPE_CHECKING:
    from splitlearn.attacks import AttackResult, LeftOut, Watch

# Characters of a text that are shown, and pieces of the best attack.
_MOST_CHARACTERS = 400
_MOST_SHOWN = 3


class AttackProgress:
    """Shows which attack runs, and what each one recovered, on standard error: a line each, and a clock on a terminal.

    Args:
        stream: where it is shown.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("opening the model")

    def __enter__(self) -> AttackProgress:
        """Begin to show it."""
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the clock away."""
        self._progress.stop()

    @property
    def watch(self) -> Watch:
        """The functions that `splitlearn.attacks.run_attacks` tells."""
        from splitlearn.attacks import Watch

        return Watch(self._begins, self._ends, self._skips)

    def _begins(self, words: str, seconds: float | None) -> None:
        limit = "" if seconds is None else f", {seconds:g} s at most"
        self._progress.reset(self._task, description=f"{words}{limit}")
        if not self._console.is_terminal:
            self._say(f"{words}{limit}")

    def _ends(self, result: AttackResult) -> None:
        self._say(result_line(result.to_dict()))

    def _skips(self, attack: LeftOut) -> None:
        self._say(f"{attack.attack} at cut {attack.cut}, {attack.direction}: left out: {attack.reason}")

    def _say(self, words: str) -> None:
        self._console.print(Text(printable(words)), soft_wrap=True)


def result_line(result: Mapping[str, Any]) -> str:
    """Return in one line what an attack recovered, and whether its budget ended it.

    Args:
        result: from `splitlearn.attacks.AttackResult.to_dict`.
    """
    used = result["budget"]
    ended = "" if used["ended_by"] is None else f", ended by its budget of {used['ended_by']}"
    return (
        f"{result['attack']} at cut {result['cut']}, {result['direction']}: {result['token_recovery']:.3f} of the tokens in "
        f"{used['seconds']:.0f} s{ended}"
    )


def print_attacks(found: Mapping[str, Any]) -> None:
    """Print the headline, a table of the attacks, and text as it was reconstructed beside the original.

    Args:
        found: from `splitlearn.app.attack`.
    """
    console = make_console()
    console.print(Text(printable(_headline(found))))
    console.print(_table(found))
    for line in _notes(found):
        console.print(Text(printable(line)))
    best = _best(found)
    for reconstruction in best["reconstructions"][:_MOST_SHOWN]:
        console.print(Text(f"\noriginal       {shown(reconstruction['original'])}"))
        console.print(Text(f"reconstructed  {shown(reconstruction['reconstructed'])}"))


def shown(text: str) -> str:
    """Return a text as one line that no terminal takes for a command to itself, cut if it is long.

    Args:
        text: anybody's.
    """
    escaped = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text[:_MOST_CHARACTERS])
    return escaped if len(text) <= _MOST_CHARACTERS else f"{escaped}..."


def _headline(found: Mapping[str, Any]) -> str:
    best = found["headline"]
    rouge = "" if best["rouge_l"] is None else f", ROUGE-L {best['rouge_l']:.3f}"
    return (
        f"{found['model']} cut at {found['split_point_1']} / {found['split_point_2']}: the attack {best['attack']} recovers "
        f"{best['token_recovery']:.1%} of the tokens at cut {best['cut']}, {best['direction']}{rouge}"
    )


def _table(found: Mapping[str, Any]) -> Table:
    table = Table(title="attacks", title_justify="left")
    for heading in ("attack", "cut", "direction"):
        table.add_column(heading)
    for heading in ("recovery", "ROUGE-L", "baseline", "pieces", "own pieces", "steps", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("ended by")
    for attack in found["attacks"]:
        used = attack["budget"]
        table.add_row(
            *(Text(printable(str(attack[name]))) for name in ("attack", "cut", "direction")),
            *(_share(value) for value in (attack["token_recovery"], attack["rouge_l"], attack["baseline"]["token_recovery"])),
            *(f"{count:,}" for count in (attack["num_pieces"], used["pieces"], used["steps"])),
            f"{used['seconds']:.1f}",
            used["ended_by"] or "",
        )
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    weights = "has the base model's weights" if found["base_weights"] == "public" else "has no weights"
    yield f"the attacker {weights}; {found['token_overlap']:.1%} of the attacked tokens occur in its own texts"
    yield f"baseline: guessing without looking ({_best(found)['baseline']['guess']})"
    for attack in found["attacks"]:
        clean = attack["details"].get("clean_trained_recovery")
        if clean is not None:
            yield f"{attack['attack']} at cut {attack['cut']}: {clean:.3f} if it was trained on undefended data"
    for attack in found["left_out"]:
        yield f"left out: {attack['attack']} at cut {attack['cut']}, {attack['direction']}: {attack['reason']}"


def _best(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the attack of the headline with all its figures."""
    headline = found["headline"]
    attacks: list[Mapping[str, Any]] = found["attacks"]
    return next(attack for attack in attacks if all(attack[name] == value for name, value in headline.items()))
