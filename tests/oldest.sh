#!/usr/bin/env bash
# Runs the quick tests with the oldest supported torch and transformers, in an environment of its own:
#
#   PYTHON=python3.12 tests/oldest.sh                  # the tests below
#   PYTHON=python3.12 tests/oldest.sh tests/adapters   # others, or pytest's own options
#
# Versions are read from pyproject.toml. TORCH=2.13.0 or TRANSFORMERS=5.20.0 takes another, for a machine that has no wheel of the
# oldest; FOLDER says where the environment is made, and one that is there is used again. All other packages are the newest that
# go with these.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3.12}
oldest() { "$PYTHON" - "$1" <<'PROGRAM'
import re, sys, tomllib
with open("pyproject.toml", "rb") as file:
    dependencies = tomllib.load(file)["project"]["dependencies"]
print(next(found[1] for entry in dependencies if (found := re.match(sys.argv[1] + r">=([\d.]+)", entry))))
PROGRAM
}
TORCH=${TORCH:-$(oldest torch)}
TRANSFORMERS=${TRANSFORMERS:-$(oldest transformers)}
FOLDER=${FOLDER:-.venv-oldest}
[[ -x $FOLDER/bin/python ]] || "$PYTHON" -m venv "$FOLDER"
"$FOLDER/bin/python" -m pip install --quiet --disable-pip-version-check \
    "torch==$TORCH" "transformers==$TRANSFORMERS" -e ".[gguf,quantization]" pytest pytest-xdist
"$FOLDER/bin/python" -c '
import sys, torch, transformers
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}", flush=True)'
if [[ $# -eq 0 ]]; then
    set -- tests/cut tests/internals tests/loading tests/model tests/training
fi
exec "$FOLDER/bin/python" -m pytest -m "not end_to_end" "$@"
