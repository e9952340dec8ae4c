"""The folder by which a run and the app of its rounds meet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from splitlearn.rounds import Ends, NoRunError, RoundFolder


def ends(number: int) -> Ends:
    return Ends(number, {"weight": np.full((2, 3), float(number), np.float32)}, 5, 7 - number)


def test_what_one_side_writes_the_other_reads(tmp_path: Path) -> None:
    run, app = RoundFolder(tmp_path / "a" / "b"), RoundFolder(tmp_path / "a" / "b")
    with run.held(), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.ends, 10.0)
        run.offer(ends(0))
        offered = waiting.result()
        assert (offered.number, offered.num_examples, offered.rounds_left) == (0, 5, 7)
        assert np.array_equal(offered.tensors["weight"], np.zeros((2, 3)))
        taking = pool.submit(run.take, 0, 10.0)
        # Not contiguous: the bytes of the whole array would be others.
        app.bring(0, {"weight": np.arange(6.0, dtype=np.float32).reshape(3, 2).T, "scale": np.ones(())})
        mean = taking.result()
        assert np.array_equal(mean["weight"], [[0, 2, 4], [1, 3, 5]])
        assert mean["scale"].shape == ()
        assert not list(run.path.glob("ends-*"))


def test_an_app_that_is_asked_twice_does_nothing_twice(tmp_path: Path) -> None:
    folder = RoundFolder(tmp_path)
    with folder.held():
        folder.offer(ends(0))
        folder.offer(ends(1))
        # Whoever averages comes late: what the run began with still stands there.
        assert (folder.ends(1.0).number, folder.ends(1.0, at_least=1).number) == (0, 1)
        folder.bring(1, {"weight": np.ones(1)})
        folder.take(1, 1.0)
        folder.offer(ends(2))
        # The mean of the round before is not that of this one.
        folder.bring(1, {"weight": np.ones(1)})
        with pytest.raises(TimeoutError, match=r"no mean of round 2 has come to .* in 0\.2 s; start whoever averages"):
            folder.take(2, 0.2)
        assert folder.ends(1.0, at_least=2).number == 2
        with pytest.raises(TimeoutError, match=r"has not been through round 3 in 0\.2 s"):
            folder.ends(0.2, at_least=3)


def test_the_app_knows_whether_there_is_a_run(tmp_path: Path) -> None:
    folder = RoundFolder(tmp_path)
    with pytest.raises(
        NoRunError, match=r"no run takes part in rounds in .*; start the client's with this folder for its rounds"
    ):
        folder.ends(5.0)
    with folder.held():
        assert folder.has_run()
        folder.offer(ends(3))
    assert not folder.has_run()
    with pytest.raises(NoRunError, match=r"the run in .* has ended"), ThreadPoolExecutor(1) as pool:
        with folder.held():
            # Nothing that an earlier run has left is taken for this one's.
            waiting = pool.submit(folder.ends, 20.0, 4)
            folder.offer(ends(3))
        waiting.result()


def test_a_second_run_and_a_broken_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitlearn.rounds.round_folder._LOCK_SECONDS", 0.0)
    folder = RoundFolder(tmp_path)
    with folder.held():
        with pytest.raises(ValueError, match="another run takes part in rounds in"), RoundFolder(tmp_path).held():
            pass
        (tmp_path / "mean.safetensors").write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=r"mean\.safetensors is no file of a round .*; remove it"):
            folder.take(0, 1.0)


def test_a_run_that_waits_is_told_of_the_end(tmp_path: Path) -> None:
    folder = RoundFolder(tmp_path)
    folder.end("what an earlier run was told")
    with folder.held(), ThreadPoolExecutor(1) as pool:
        folder.offer(ends(1))
        taking = pool.submit(folder.take, 1, 20.0)
        folder.end("the client of the node 5 failed")
        with pytest.raises(ValueError, match="ended before round 1 was averaged: the client of the node 5 failed"):
            taking.result()
        # It may have come while the run was in the middle of its round.
        folder.offer(ends(1))
        with pytest.raises(ValueError, match="ended before round 1"):
            folder.take(1, 1.0)
