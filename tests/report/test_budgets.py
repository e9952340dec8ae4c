"""Groups over seeds, the Pareto front, and the recommended cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from splitlearn.report import Budgets, group_runs, pareto_front, read_runs, recommend
from tests.report.written_runs import GIB, summary, write_run, write_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> pd.DataFrame:
    return read_runs(write_sweep(tmp_path))


def frame_of(folder: Path, *runs: tuple[int, int, int, float, float]) -> pd.DataFrame:
    """Runs given as split points, seed, loss and client memory in GiB."""
    for number, (first, second, seed, loss, client) in enumerate(runs):
        record = summary(first, second, seed)
        record["metrics"]["val_loss_after"] = loss
        record["memory"]["parties"]["client"] = int(client * GIB)
        write_run(folder / str(number), record)
    return read_runs(folder)


def test_groups_have_means_and_spread(sweep: pd.DataFrame) -> None:
    groups = group_runs(sweep)
    assert groups["label"].tolist() == ["3 / 7", "2 / 6", "1 / 6"] and groups["num_runs"].tolist() == [2, 2, 2]
    best = groups.iloc[0]
    assert best["loss"] == 3.25 + 0.03125 and best["loss_std"] == pytest.approx(0.0625 / math.sqrt(2))
    assert best["runs"] == [f"split.point_1=3,split.point_2=7,seed={seed}" for seed in (0, 1)]
    # Each costs the client more than the next, and has a lower loss.
    assert groups["is_pareto"].tolist() == [True, True, True]


def test_settings_tell_groups_apart(tmp_path: Path) -> None:
    for number, rate in enumerate((0.1, 0.2)):
        overrides = ["split.point_1=1", "data.batch_size=4", f"optimizer.learning_rate={rate}", "seed=0"]
        write_run(tmp_path / str(number), summary(1, 6, overrides=overrides))
    labels = group_runs(read_runs(tmp_path))["label"].tolist()
    assert labels == ["1 / 6 (optimizer.learning_rate=0.1)", "1 / 6 (optimizer.learning_rate=0.2)"]


def test_the_front() -> None:
    groups = pd.DataFrame({"loss": [1, 2, 2, 3, math.nan, 1], "client_gib": [3, 2, 2, 2, 1, math.nan]})
    assert pareto_front(groups, ["loss", "client_gib"]).tolist() == [True, True, True, False, False, False]
    assert pareto_front(groups, ["loss"]).tolist() == [True, False, False, False, False, True]


def test_without_budgets_the_lowest_loss(sweep: pd.DataFrame) -> None:
    found = recommend(sweep)
    assert (found.split_point_1, found.split_point_2) == (3, 7)
    assert (
        "Cut 3 / 7 is recommended. Its held-out loss is 3.2812 nats a token (2 runs, standard deviation 0.0442)" in found.reason
    )
    assert "2.000 GiB of client memory, 32.0 KiB over the cuts a step, 90 ms a step" in found.reason
    assert found.command is not None and found.command.startswith(
        "python -m splitlearn train model=embedded trainer.max_steps=20 seed=0"
    )
    assert found.command.endswith("split=points split.point_1=3 split.point_2=7")
    assert found.runs == tuple(f"split.point_1=3,split.point_2=7,seed={seed}" for seed in (0, 1))


@pytest.mark.parametrize(
    ("budgets", "cut"),
    [
        (Budgets(max_client_gib=1.9), (1, 6)),
        (Budgets(max_client_gib=2.0), (3, 7)),
        (Budgets(max_bytes_per_step=8 * 3 * 1024), (2, 6)),
        (Budgets(max_loss_increase=0.3), (2, 6)),
        (Budgets(max_loss_increase=0.6), (1, 6)),
        (Budgets(max_loss_increase=0), (3, 7)),
    ],
    ids=str,
)
def test_budgets(sweep: pd.DataFrame, budgets: Budgets, cut: tuple[int, int]) -> None:
    found = recommend(sweep, budgets)
    assert (found.split_point_1, found.split_point_2) == cut
    assert f"cuts meet the budgets ({budgets})" in found.reason


def test_budgets_that_no_cut_meets_give_a_sentence(sweep: pd.DataFrame) -> None:
    found = recommend(sweep, Budgets(max_client_gib=0.5, max_recovery=0.1, max_loss_increase=0.1))
    assert found.split_point_1 is None and found.split_point_2 is None and found.command is None and found.runs == ()
    assert found.reason == (
        "No cut meets the budgets: max_client_gib=0.5 is met by none (the least is 1.75, at cut 1 / 6); "
        "max_recovery=0.1 cannot be judged, since no run measured it; max_loss_increase=0.1 is met by 1 of 3."
    )


def test_seeds_that_do_not_tell_cuts_apart(tmp_path: Path) -> None:
    """Within one standard error of the lowest loss, the cheaper cut is better."""
    runs = [
        (4, 6, 0, 2.0, 3.0),
        (4, 6, 1, 2.2, 3.0),
        (2, 6, 0, 2.05, 1.0),
        (2, 6, 1, 2.25, 1.0),
        (1, 6, 0, 2.5, 0.5),
        (1, 6, 1, 2.7, 0.5),
    ]
    found = recommend(frame_of(tmp_path, *runs))
    assert (found.split_point_1, found.split_point_2) == (2, 6)
    assert "0.0500 above the lowest of all (cut 4 / 6)" in found.reason
    assert "2 cuts are within one standard error of the lowest" in found.reason


def test_with_one_seed_the_lowest_loss_wins(tmp_path: Path) -> None:
    found = recommend(frame_of(tmp_path, (4, 6, 0, 2.0, 3.0), (2, 6, 0, 2.0001, 1.0)))
    assert found.split_point_1 == 4 and "Each cut was trained once" in found.reason


def test_cuts_with_the_same_loss(tmp_path: Path) -> None:
    """Training all of a model gives the same loss wherever it is cut."""
    found = recommend(frame_of(tmp_path, (1, 6, 0, 2.0, 3.0), (2, 6, 0, 2.0, 1.0), (3, 6, 0, 2.5, 0.5)))
    assert found.split_point_1 == 2
    assert (
        "(one run), the lowest of all. 2 cuts are equally good, since they have the same loss; of these it costs"
        in found.reason
    )


def test_a_leak_is_judged_where_it_was_measured(tmp_path: Path) -> None:
    for number, (first, recovery) in enumerate([(1, 0.9), (2, 0.4), (3, None)]):
        record: Any = summary(first, 6)
        record["attacks"] = {"headline": {"token_recovery": recovery}}
        write_run(tmp_path / str(number), record)
    found = recommend(read_runs(tmp_path), Budgets(max_recovery=0.5))
    assert found.split_point_1 == 2 and "40.0% of the tokens recovered by the best attack" in found.reason


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    write_run(tmp_path / "0", summary(1, 6, status="failed", reason="no"))
    assert recommend(read_runs(tmp_path)).reason == "No run completed with a held-out loss, so there is nothing to choose from."


def test_losses_of_several_models_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "0", summary(1, 6))
    write_run(tmp_path / "1", summary(1, 6, model="other"))
    with pytest.raises(ValueError, match=r"the runs are of 2 models \(other, tiny\), whose losses cannot be compared"):
        recommend(read_runs(tmp_path))


def test_the_command_holds_settings_alone(tmp_path: Path) -> None:
    typed = [
        "--config-dir=/elsewhere",
        "seed=1",
        "tags=[$(touch x), 'a b']",
        "split=thirds",
        "hydra.run.dir=x",
        "run_folder=y",
        "a\x1b=1",
    ]
    write_run(tmp_path / "0", summary(1, 6), typed=typed)
    command = recommend(read_runs(tmp_path)).command
    quoted = "'tags=[$(touch x), '\"'\"'a b'\"'\"']'"
    assert command == f"python -m splitlearn train seed=1 {quoted} split=points split.point_1=1 split.point_2=6"


def test_the_command_without_a_record_of_what_was_typed(tmp_path: Path) -> None:
    write_run(tmp_path / "0", summary(1, 6, model="a b", overrides=["seed=1"]))
    command = recommend(read_runs(tmp_path)).command
    assert command == (
        "python -m splitlearn train model=pretrained 'model.name_or_path=a b' seed=1 "
        "split=points split.point_1=1 split.point_2=6"
    )
