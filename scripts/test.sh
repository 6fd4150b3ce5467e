#!/usr/bin/env bash
# Runs the formatter, the linter and the tests.
#
#   bash scripts/test.sh [options of pytest]
#
#   -m slow  runs the slow tests
#   --help   print this text
#
# The script makes the environment in .venv. If the variable PYTHON is set, it uses that Python.
# Tests on real text are skipped unless REVCOL_MULTI30K and REVCOL_WMT_SAMPLE name folders with it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
[[ ${1:-} != --help && ${1:-} != -h ]] || show_help "$0"
source "$ROOT/scripts/lib/environment.sh"
cd "$ROOT"
"$PY" -m ruff format --check .
"$PY" -m ruff check .
# Two processes of one thread each, because most tests wait for a fairseq command to start.
OMP_NUM_THREADS=1 exec "$PY" -m pytest -q -n 2 --dist loadfile "$@"
