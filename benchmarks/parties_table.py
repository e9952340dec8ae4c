"""Tables of the benchmark of parties, from the figures that were kept of its cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MICROBATCHES = (1, 2, 4)
STAGES = ("bottom", "trunk", "top", "top_back", "trunk_back", "bottom_back")
# Of the case with mutual TLS and 4 microbatches: step to one process, share of waiting, bytes to the meter's.
GOALS = {"step to one process": 1.05, "client waits": 0.10, "wire to meter": 1.001}
_GOAL_CASE = "tls-4"

Figures = Mapping[str, Any]


def schedule(seconds: Mapping[str, float], count: int) -> tuple[float, float]:
    """Return how long a step takes if the way between the parties takes no time, and for how long of it the client waits.

    The client sends all microbatches, runs the top forward and back on each answer, and then goes back through the bottom, each
    time in their order. The server does what comes, one after another.

    Args:
        seconds: of each stage of one microbatch.
        count: of microbatches.
    """
    client = server = waited = 0.0
    # What is under way, by the time at which it comes back to the client.
    answers = [0.0] * count
    for own, elsewhere in ((["bottom"], "trunk"), (["top", "top_back"], "trunk_back"), (["bottom_back"], None)):
        for number, answer in enumerate(answers):
            waited += max(answer - client, 0.0)
            client = max(client, answer) + sum(seconds[stage] for stage in own)
            if elsewhere is not None:
                server = max(server, client) + seconds[elsewhere]
                answers[number] = server
    return client, waited


def ideal(stages: Figures, count: int) -> tuple[float, float]:
    """Return the seconds of an ideal step, the optimizers of both parties included, and for how long the client waits."""
    step, waited = schedule(stages["stages"][str(count)], count)
    return step + max(stages["client_step"], stages["server_step"]), waited


def table_of_steps(cases: Mapping[str, Any], measured: Mapping[str, Figures], stages: Figures | None) -> list[str]:
    """Return the lines of the table of training steps.

    Args:
        cases: the ways to train by name.
        measured: their figures; those that were not run are missing.
        stages: from ``parties_measured.py``; None if they were not measured.
    """
    heads = (
        "case",
        "microbatches",
        "step s",
        "to one process",
        "ideal s",
        "client waits",
        "ideally",
        "serialising",
        "transport",
    )
    lines = [f"| {' | '.join((*heads, 'wire to meter', 'client GiB', 'server GiB'))} |", f"|{'---|' * 12}"]
    one = measured.get("one")
    for name, case in cases.items():
        if name not in measured:
            continue
        figures, count = measured[name], case.microbatches
        step = figures["step"]
        cells = [case.label, str(count or ""), f"{step:.3f}", "" if one is None else f"{step / one['step']:.2f}x"]
        if count:
            best, waited = ("", "") if stages is None else _ideal_cells(stages, count)
            written = "" if stages is None else f"{4 * count * stages['messages'][str(count)][case.boundary] / step:.1%}"
            # With one microbatch the client waits for all that the server computes; the rest is the way.
            way = f"{max(figures['waited'] - figures['computed'], 0.0) / step:.1%}" if count == 1 else ""
            cells += [best, f"{figures['waited'] / step:.1%}", waited, written, way, f"{_wire(figures):.4f}x"]
        else:
            cells += [""] * 6
        cells += [f"{figures['client_gib']:.2f}", f"{figures['server_gib']:.2f}" if count else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ideal_cells(stages: Figures, count: int) -> tuple[str, str]:
    step, waited = ideal(stages, count)
    return f"{step:.3f}", f"{waited / step:.1%}"


def table_of_link(cases: Mapping[str, Any], measured: Mapping[str, Figures]) -> list[str]:
    """Return the lines of the table of steps over the slow link, beside the link model; none if none was run.

    The model adds the link's time to a step of the same case without the link: it hides no transfer behind computing.
    """
    far = {name: case for name, case in cases.items() if case.near and {name, case.near} <= measured.keys()}
    if not far:
        return []
    lines = ["", "| over the slow link | microbatches | step s | link model s | measured to model | client waits |"]
    lines.append(f"|{'---|' * 6}")
    for name, case in far.items():
        step, waited = measured[name]["step"], measured[name]["waited"]
        model = measured[case.near]["step"] + measured[name]["link_s"]
        cells = [
            case.label,
            str(case.microbatches),
            f"{step:.3f}",
            f"{model:.3f}",
            f"{step / model:.2f}x",
            f"{waited / step:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table_of_generation(cases: Mapping[str, Any], measured: Mapping[str, Figures]) -> list[str]:
    """Return the lines of the table of generation; none if none was run."""
    there = {name: case for name, case in cases.items() if name in measured}
    if not there:
        return []
    lines = ["", "| generation | tokens/s |", "|---|---|"]
    return [*lines, *(f"| {case.label} | {measured[name]['tokens_per_s']:.1f} |" for name, case in there.items())]


def words_on_goals(measured: Mapping[str, Figures], stages: Figures | None) -> list[str]:
    """Return a line on the goals, and what the measured stages allow; none if their case was not run."""
    if _GOAL_CASE not in measured or "one" not in measured:
        return []
    figures, one = measured[_GOAL_CASE], measured["one"]["step"]
    reached = (figures["step"] / one, figures["waited"] / figures["step"], _wire(figures))
    words = [
        f"{name} {value:.4g} (at most {goal:g}: {'reached' if value <= goal else 'missed'})"
        for (name, goal), value in zip(GOALS.items(), reached, strict=True)
    ]
    lines = ["", f"Goals with mutual TLS and 4 microbatches: {', '.join(words)}."]
    if stages is not None:
        best, waited = ideal(stages, 4)
        whole = sum(stages["stages"]["4"].values()) * 4
        at_server = 4 * (stages["stages"]["4"]["trunk"] + stages["stages"]["4"]["trunk_back"])
        lines.append(
            f"By the measured stages the ideal is {best / one:.2f}x of one process with {waited / best:.1%} of waiting: the "
            f"server has {at_server / whole:.0%} of the work, and one process with two threads takes {one / whole:.2f} of the "
            "time that one thread takes for all stages."
        )
    return lines


def _wire(figures: Figures) -> float:
    return float(figures["wire_bytes"] / figures["counted_bytes"])
