"""Changes the package in small ways, one at a time, and names the changes that no test notices.

    python tests/mutants.py                    all of them
    python tests/mutants.py tie router         those whose names contain one of these words
    python tests/mutants.py --list             their names, files and reasons

Each mutant stands in ``tests/mutants.toml``. It is applied in a temporary copy of the package, in which its tests then run: a
survivor is a mutant whose tests all pass. The working tree is only read. The exit status is 0 if no mutant survived, 1 if one
did, and 2 if a mutant cannot be tried: its text is not in the code exactly once, or its tests fail without it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUTANTS_FILE = Path(__file__).with_suffix(".toml")
# All that the tests of a mutant read.
_COPIED = ("splitlearn", "hydra_plugins", "conf", "tests", "benchmarks", "pyproject.toml", "train.py")
# Importing these takes longer than most tests. It is done once, in a process from which those of the tests are forked.
_PRELOADED = ("torch", "transformers", "lightning.pytorch", "datasets", "peft", "hydra", "pytest", "torch.utils.checkpoint")
_CONTEXT = multiprocessing.get_context("forkserver")
# pytest's exit statuses.
_PASSED, _FAILED, _CANNOT_RUN = 0, 1, 3
# Endless loops are mutants, too. Where the machine is busy, tests that merely take long would look like them.
_TIMEOUT_S = 300
_TIMED_OUT = "not done after"


class MutantError(Exception):
    """A mutant that cannot be tried."""


@dataclass(frozen=True)
class Mutant:
    """One small change that a test must notice.

    Attributes:
        name: what to call it.
        file: the file to change, from the project's folder.
        old: a text that is in the file exactly once.
        new: what to put there.
        tests: what to give to pytest: files, or tests within files.
        why: why the change would matter.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str

    def apply(self, root: Path) -> None:
        """Change the file below ``root``.

        Raises:
            MutantError: the file is not there, or the old text is not in it exactly once.
        """
        path = root / self.file
        if not path.is_file():
            raise MutantError(f"{self.name}: {self.file} does not exist")
        code = path.read_text(encoding="utf-8")
        count = code.count(self.old)
        if count != 1:
            raise MutantError(f"{self.name}: the old text is {count} times in {self.file}, not once: {self.old!r}")
        path.write_text(code.replace(self.old, self.new), encoding="utf-8")
        # Python compares only sizes and whole seconds to tell whether compiled code is of this source.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


def read_mutants(file: Path = MUTANTS_FILE) -> list[Mutant]:
    """Read the list.

    Raises:
        MutantError: two mutants have one name, or one changes nothing.
    """
    with file.open("rb") as opened:
        entries = tomllib.load(opened)["mutants"]
    mutants = [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    names = [mutant.name for mutant in mutants]
    for mutant in mutants:
        if names.count(mutant.name) > 1:
            raise MutantError(f"two mutants are called {mutant.name}")
        if mutant.old == mutant.new:
            raise MutantError(f"{mutant.name} changes nothing")
    return mutants


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests in the copy at ``root``, up to the first failure, in a process of their own.

    Returns:
        pytest's exit status and what it printed. Tests that run too long count as failed.
    """
    output = root / "output.txt"
    process = _CONTEXT.Process(target=_run_pytest, args=(root, tests, output))
    process.start()
    # The unchanged code is tested with many files in one process.
    limit_s = _TIMEOUT_S * len(tests)
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        return _FAILED, f"{_TIMED_OUT} {limit_s} s"
    status = process.exitcode
    return _FAILED if status is None or status < 0 else status, output.read_text(encoding="utf-8", errors="replace")


def _run_pytest(root: Path, tests: Sequence[str], output: Path) -> None:
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    # Only this module has been imported from the working tree; from here on the copy is the project.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("splitlearn", "tests")]:
        del sys.modules[name]
    os.chdir(root)
    sys.path[:] = [str(root), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    os.environ |= {"PYTHONPATH": str(root), "SPLITLEARN_CACHE": str(root / "cache")}
    # Plugins of pytest that come with other packages need not be there, and warn that they have been imported already.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    arguments = ["-x", "-q", "--durations=0", "--durations-min=60", "-p", "no:cacheprovider", "--basetemp", str(root / "tmp")]
    try:
        status = int(pytest.main([*arguments, *tests]))
    except BaseException:
        # Python would exit with 1, which stands for a test that failed.
        traceback.print_exc()
        status = _CANNOT_RUN
    sys.stdout.flush()
    sys.stderr.flush()
    # Leftover threads of a mutant must not keep the process.
    os._exit(status)


def check_unchanged(root: Path, mutants: Sequence[Mutant], jobs: int) -> None:
    """Run the tests of all mutants without any mutant.

    Raises:
        MutantError: they fail, or are not there. They would then seem to notice every mutant.
    """
    files = sorted({test for mutant in mutants for test in mutant.tests})
    shares = [share for number in range(jobs) if (share := files[number::jobs])]
    roots = [_copy(root, root.with_name(f"unchanged_{number}")) for number in range(len(shares))]
    with ThreadPoolExecutor(jobs) as pool:
        for status, output in pool.map(run_tests, roots, shares):
            if status != _PASSED:
                raise MutantError(f"the tests fail without any mutant:\n{output}")
    # What tests made once and will only read, such as the embedded model.
    if (roots[0] / "cache").is_dir():
        shutil.copytree(roots[0] / "cache", root / "cache")


def survives(root: Path, mutant: Mutant) -> bool:
    """Return whether a mutant's tests pass all the same.

    Args:
        root: a copy of the project, which is copied again.
        mutant: the mutant.

    Raises:
        MutantError: it cannot be applied, or its tests cannot be run.
    """
    copy = _copy(root, root.with_name(mutant.name))
    try:
        mutant.apply(copy)
        begin = time.monotonic()
        status, output = run_tests(copy, mutant.tests)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    if status not in (_PASSED, _FAILED):
        raise MutantError(f"{mutant.name}: its tests cannot be run:\n{output}")
    took_s = time.monotonic() - begin
    verdict = "SURVIVED" if status == _PASSED else "timed out" if output.startswith(_TIMED_OUT) else "killed"
    print(f"{verdict:9} {mutant.name} ({took_s:.0f} s)", flush=True)
    return status == _PASSED


def _copy(source: Path, target: Path) -> Path:
    # Times are kept, so compiled code is used again.
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("tmp"))
    return target


def _copy_project(target: Path) -> Path:
    target.mkdir()
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name)
        else:
            shutil.copy2(source, target / name)
    return target


def _check_matches(root: Path, mutants: Sequence[Mutant]) -> None:
    """Find all mutants that cannot be applied, before any test is run."""
    errors = []
    for mutant in mutants:
        with tempfile.TemporaryDirectory(dir=root.parent) as folder:
            copy = Path(folder) / mutant.file
            copy.parent.mkdir(parents=True, exist_ok=True)
            if (root / mutant.file).is_file():
                shutil.copy2(root / mutant.file, copy)
            try:
                mutant.apply(Path(folder))
            except MutantError as error:
                errors.append(str(error))
    if errors:
        raise MutantError("\n".join(errors))


def _try_all(mutants: Sequence[Mutant], jobs: int, checks: bool) -> list[Mutant]:
    """Return the survivors."""
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        root = _copy_project(Path(folder) / "unchanged")
        _check_matches(root, mutants)
        if checks:
            check_unchanged(root, mutants, jobs)
        with ThreadPoolExecutor(jobs) as pool:
            are_alive = list(pool.map(lambda mutant: survives(root, mutant), mutants))
    return [mutant for mutant, is_alive in zip(mutants, are_alive, strict=True) if is_alive]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants that the arguments name, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="try only mutants whose names contain one of these words")
    parser.add_argument("--list", action="store_true", help="show the mutants and try none")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many to try at a time")
    parser.add_argument("--trust-tests", action="store_true", help="do not first run the tests on the unchanged code")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    # Read while the packages are imported; tests set them too late for that.
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    _CONTEXT.set_forkserver_preload(list(_PRELOADED))
    try:
        mutants = read_mutants()
        chosen = [mutant for mutant in mutants if not options.words or any(word in mutant.name for word in options.words)]
        if not chosen:
            raise MutantError(f"no mutant's name contains {' or '.join(options.words)}")
        if options.list:
            print("\n".join(f"{mutant.name:40} {mutant.file:40} {mutant.why}" for mutant in chosen))
            return 0
        survivors = _try_all(chosen, options.jobs, checks=not options.trust_tests)
    except MutantError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(survivors)} of {len(chosen)} mutants survived ({time.monotonic() - begin:.0f} s)")
    for mutant in survivors:
        print(f"  {mutant.name} in {mutant.file}: {mutant.why}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
