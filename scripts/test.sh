#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [options of pytest]. Makes the environment if it is not there.
#
# Slow tests run with -m slow. REVCOL_MULTI30K and REVCOL_WMT_SAMPLE name folders with
# real text, for the tests that read it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
cd "$ROOT"
"$PY" -m ruff format --check .
"$PY" -m ruff check .
# Two processes of one thread each: most tests wait for a command of fairseq to start.
OMP_NUM_THREADS=1 exec "$PY" -m pytest -q -n 2 --dist loadfile "$@"
