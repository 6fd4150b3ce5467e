#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [options of pytest]. Makes the environment if it is not there.
#
# Slow tests run by name or with -m slow. REVCOL_MULTI30K and REVCOL_WMT_SAMPLE name folders with
# real text, for the tests that read it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
"$PY" -m ruff format --check .
"$PY" -m ruff check .
exec "$PY" -m pytest -q "$@"
