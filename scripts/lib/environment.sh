# Sourced: makes the project's environment in .venv if it is missing or outdated, and sets PY to its
# Python. If PYTHON is set, that Python is used and nothing is installed.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# find_base_python: prints the name of a Python whose version fairseq supports.
find_base_python() {
  local name
  for name in python3.11 python3.12 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  die "this needs Python 3.11 or 3.12 (fairseq has wheels for these only); install one of them"
}

if [[ -z ${PYTHON:-} ]]; then
  venv=$ROOT/.venv
  stamp=$venv/installed-$(cksum <"$ROOT/setup.py" | cut -d ' ' -f 1)
  if [[ ! -e $stamp ]]; then
    base=$(find_base_python)
    say "making the environment in .venv (one to three minutes, some 6 GB with PyTorch) ..."
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear "$venv" ||
      die "$base could not make an environment in .venv (on Debian, install python3-venv)"
    run_logged "$venv/install.log" "$venv/bin/python" -m pip install --disable-pip-version-check \
      --editable "${ROOT}[test]"
    touch "$stamp"
  fi
  PY=$venv/bin/python
fi
