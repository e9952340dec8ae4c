from __future__ import annotations

import fcntl
import importlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.end_to_end

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_load_prints_every_loader(tmp_path: Path) -> None:
    command: list[str | Path] = [
        sys.executable,
        BENCHMARKS / "load.py",
        "--shape",
        "tiny",
        "--runs",
        "1",
        "--folder",
        tmp_path / "model",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 14, "a heading and a row for each loader"
    assert "1.00x |" in rows[1]


def test_scale_prints_every_shape() -> None:
    command: list[str | Path] = [sys.executable, BENCHMARKS / "scale.py", "--shapes", "tiny", "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 1, "a heading and the shape"
    assert "| 1.000x |" in rows[1], "the part's bytes are read, no others"


def test_report_runs_prints_every_number_of_folders() -> None:
    command: list[str | Path] = [sys.executable, BENCHMARKS / "report_runs.py", "--counts", "3", "12"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["folders", "3", "12"]


def test_privacy_puts_recovery_beside_loss_and_goes_on(tmp_path: Path) -> None:
    few = ["data.max_train_blocks=16", "data.max_val_blocks=8", "attack.auxiliary_pieces=40", "attack.test_pieces=4"]
    few += [f"attack.budgets.{name}.seconds=1" for name in ("mlp", "transformer", "prefix_search")]
    command: list[str | Path] = [sys.executable, BENCHMARKS / "privacy.py", "--steps", "2", "--folder", tmp_path / "runs"]
    command += ["--defences", "none", "--settings", *few]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    cells = [cell.strip() for cell in rows[1].split("|")[1:-1]]
    assert len(rows) == 2 and cells[0] == "none" and float(cells[1]) > 1
    *recovered, clean_trained = (float(cell.rstrip("*")) for cell in cells[2:9])
    assert recovered[-1] == max(recovered) > 0.3, "the best attack's"
    assert 0 < clean_trained < recovered[1], "the base model's layers are no longer the run's"
    # As if it had been stopped in the last attack.
    kept, record = tmp_path / "runs" / "none" / "attacks.json", tmp_path / "runs" / "none" / "summary.json"
    found, trained = json.loads(kept.read_text()), record.read_bytes()
    del found["attacks"]["prefix_search"]
    kept.write_text(json.dumps(found))
    again = subprocess.run(command, capture_output=True, text=True)
    assert "none: prefix_search" in again.stdout and "none: ridge" not in again.stdout, "attacks that are done are left alone"
    attacks = json.loads(kept.read_text())["attacks"]
    assert len(attacks) == 5 and {name: attacks[name] for name in found["attacks"]} == found["attacks"]
    assert record.read_bytes() == trained, "the run is done and left alone"


def test_train_prints_every_runner() -> None:
    command: list[str | Path] = [sys.executable, BENCHMARKS / "train.py", "--model", "embedded:qwen2_tiny", "--cut", "2", "6"]
    done = subprocess.run([*command, "--blocks", "6", "--runs", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8, "a heading and a row for each runner"
    assert any("| 1.00x |" in row for row in rows[1:3])


def test_generate_prints_both_models() -> None:
    command: list[str | Path] = [
        sys.executable,
        BENCHMARKS / "generate.py",
        "--model",
        "embedded:qwen2_tiny",
        "--cut",
        "2",
        "6",
        "--runs",
        "1",
    ]
    done = subprocess.run([*command, "--tokens", "8", "--prompt", "8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2, "a heading, transformers and the parts"
    assert rows[1].endswith("| 1.00x |")


def test_kill_prints_where_signals_came_and_that_nothing_is_lost() -> None:
    command: list[str | Path] = [sys.executable, BENCHMARKS / "kill.py", "2", "--phases", "checkpoint", "export"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[0][:2] == ["| where the signal came", "rounds"] and rows[-1][:2] == ["| all", "2"]
    assert rows[-1][-3:] == ["2", "0", "0 |"]


@pytest.fixture
def rounds_of_kill(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of benchmarks/kill.py that judges."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kill_rounds")


def test_kill_tells_what_is_left_over(rounds_of_kill: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".run.lock", ".run.json", "model.tmp", "model"):
        (tmp_path / name).touch()
    assert sorted(rounds_of_kill.leftovers_within(tmp_path)) == [".run.json", "model.tmp"]
    with (tmp_path / ".run.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "the lock .run.lock is held" in rounds_of_kill.leftovers_within(tmp_path)
    monkeypatch.setattr(rounds_of_kill, "_NOTICES_S", 0.5)
    program = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
    assert [name.split()[:2] for name in rounds_of_kill.processes_of([child.pid])] == [["process", str(child.pid)]]
    child.communicate()
    assert rounds_of_kill.processes_of([child.pid]) == []


def test_kill_tells_what_is_lost(rounds_of_kill: Any, tmp_path: Path) -> None:
    world, children = (importlib.import_module(name) for name in ("kill_world", "kill_children"))
    ended = children.run_command(["prepare"], tmp_path / "output")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").write_text("whole")
    whole = world.Whole(ended, world.digest_of_end(tmp_path / "out"))
    look = (None, None, whole, ended, tmp_path / "out")
    assert list(rounds_of_kill.look_at_folder(*look)) == []
    (tmp_path / "out" / "model").write_text("half")
    assert list(rounds_of_kill.look_at_folder(*look)) == ["out is there, but not whole: ['model']"]
    assert list(rounds_of_kill.look_at_end(whole, tmp_path / "out")) == [
        "the weights differ from those of the run that was never struck"
    ]
    struck = children.Ended(1, "Traceback", ended.marks, "load", 0)
    assert len(list(rounds_of_kill.problems_of_status(struck, signal.SIGTERM))) == 2
    struck = children.Ended(143, "interrupted by SIGTERM", ended.marks, "load", 0)
    assert list(rounds_of_kill.problems_of_status(struck, signal.SIGTERM)) == []


def test_sweep_prints_time_and_memory() -> None:
    command: list[str | Path] = [sys.executable, BENCHMARKS / "sweep.py", "--runs", "2", "--steps", "2", "--blocks", "16"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8, "a heading and a row for each figure"
    assert rows[1] == "| runs, steps each | 2, 2 |"


def test_a_short_soak_grows_by_nothing() -> None:
    """Runs, checkpoints, exports and resumes in one process leak no handles, threads, processes, files or memory."""
    command: list[str | Path] = [
        sys.executable,
        BENCHMARKS / "soak.py",
        "0",
        "--rounds",
        "4",
        "--warm-up",
        "2",
        "--bound",
        "30",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 6, "a heading, four counts and two kinds of memory"


def test_soak_tells_what_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    soak = importlib.import_module("soak")
    rounds = [soak.Figures(number, 7, 3, 0, 17, 400.0 + 2 * number, 600.0) for number in range(5)]
    assert soak.slope(rounds, "anonymous_mib") == 2.0 and soak.problems(rounds, bound_mib=3.0) == []
    assert soak.problems(rounds, bound_mib=1.0) == ["anonymous memory: 2.00 MiB more with each round, more than 1.0 MiB"]
    for place, name in enumerate(("open files", "threads", "processes", "temporary files")):
        counts = [7, 3, 0, 17]
        counts[place] += 1
        grown = [*rounds, soak.Figures(5.0, *counts, 410.0, 600.0)]
        told = soak.problems(grown, bound_mib=3.0)
        assert len(told) == 1 and told[0].startswith(f"{name}: ")


@pytest.fixture
def train_parties(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("train_parties")


def test_train_parties_compares_two_processes_with_one(tmp_path: Path) -> None:
    short = [
        "trainer.max_steps=4",
        "trainer.log_every_n_steps=1",
        "data.max_train_blocks=16",
        "data.max_val_blocks=8",
        "save_parts=false",
    ]
    command: list[str | Path] = [sys.executable, BENCHMARKS / "train_parties.py", tmp_path / "parties", *short, "verbose=false"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    last = done.stdout.strip().splitlines()[-1]
    assert last.endswith("the largest difference of a loss from one process is 0.0")
    assert all(str(tmp_path / "parties" / name) in last for name in ("server", "client"))


def test_train_parties_sees_a_loss_that_differs(train_parties: Any, tmp_path: Path) -> None:
    for name, loss in {"one": "1.5", "other": "1.25", "shorter": None}.items():
        (tmp_path / name).mkdir()
        rows = [] if loss is None else [f"0,{loss}"]
        (tmp_path / name / "metrics.csv").write_text("\n".join(["step,train_loss", *rows]) + "\n")
    assert train_parties.largest_difference(tmp_path / "one", tmp_path / "one") == 0.0
    assert train_parties.largest_difference(tmp_path / "one", tmp_path / "other") == 0.25
    assert train_parties.largest_difference(tmp_path / "one", tmp_path / "shorter") == float("inf")


@pytest.fixture
def parties(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("parties")


def test_parties_reckons_what_two_parties_can_do_at_the_same_time(parties: Any) -> None:
    table = importlib.import_module("parties_table")
    alike = dict.fromkeys(table.STAGES, 1.0)
    # One waits for the other, forward and back.
    assert table.schedule(alike, 1) == (6.0, 2.0)
    assert table.schedule(alike, 2) == (8.0, 0.0)
    slow_server = {**alike, "trunk": 4.0, "trunk_back": 4.0}
    assert table.schedule(slow_server, 2) == (18.0, 10.0)


def test_parties_keeps_each_case_and_prints_all(
    parties: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, measured = importlib.import_module("parties_table"), []
    stages = {str(count): dict.fromkeys(table.STAGES, 0.5 / count) for count in table.MICROBATCHES}
    messages = {str(count): {"exact": 0.01 / count, "int8": 0.005 / count} for count in table.MICROBATCHES}
    of_run = {"step": 2.0, "data": 0.0, "optimizer": 0.0, "link_s": 0.5, "client_gib": 1.0, "server_gib": 0.5}
    of_run |= {"waited": 0.5, "computed": 0.4, "wire_bytes": 1001.0, "counted_bytes": 1000, "reconnects": 0}

    def run(case: Any, folder: Path, title: str, args: Any) -> dict[str, Any]:
        measured.append(title)
        if title == "far-4-0" and len(measured) == 1 + list(parties.CASES).index("far-4"):
            raise KeyboardInterrupt
        return {**of_run, "step": 2.0 if case.microbatches else 1.6}

    monkeypatch.setattr(parties, "run", run)
    monkeypatch.setattr(parties, "generate", lambda *_: {"tokens_per_s": 12.5})
    of_stages = {"stages": stages, "messages": messages, "client_step": 0.1, "server_step": 0.2}
    monkeypatch.setattr(parties, "child", lambda *_, **__: of_stages)
    monkeypatch.setattr(sys, "argv", ["parties.py", "--folder", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        parties.main()
    parties.main()
    # Only the case that was interrupted is run again.
    assert len(measured) == len(parties.CASES) + 1 and measured.count("far-4-0") == 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "|" in line]
    (plain,) = (row for row in rows if row[:2] == ["mutual TLS", "1"] and len(row) == 12)
    ideal_s, waiting = 6 * 0.5 + 0.2, 1.0
    assert plain[2:6] == ["2.000", "1.25x", f"{ideal_s:.3f}", "25.0%"]
    assert plain[6:] == [f"{waiting / ideal_s:.1%}", "2.0%", "5.0%", "1.0010x", "1.00", "0.50"]
    assert ["mutual TLS, slow link", "4", "2.000", "2.500", "0.80x", "25.0%"] in rows
    assert ["one process", "12.5"] in rows
    # Figures of other settings are measured anew.
    monkeypatch.setattr(sys, "argv", ["parties.py", "--folder", str(tmp_path), "--steps", "5", "--cases", "one"])
    parties.main()
    assert measured[-1] == "one-0" and len(measured) == len(parties.CASES) + 2


@pytest.fixture
def slow_link(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("slow_link")


def test_a_slow_link_keeps_to_its_delay_and_its_bandwidth(slow_link: Any) -> None:
    sent = bytes(range(256)) * 400
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        with (
            slow_link.SlowLink(listener.getsockname()[1], bandwidth_mbps=8.0, rtt_ms=50.0) as link,
            socket.create_connection(("127.0.0.1", link.port)) as client,
        ):
            began = time.monotonic()
            client.sendall(b"?")
            assert client.recv(1) == b"?" and time.monotonic() - began >= 0.05
            # 102,400 bytes at a megabyte a second.
            began, got = time.monotonic(), bytearray()
            client.sendall(sent)
            while len(got) < len(sent):
                got += client.recv(1 << 16)
            assert bytes(got) == sent and time.monotonic() - began >= 0.1
