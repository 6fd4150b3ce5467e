# Sourced by all scripts: error messages, options, and the choice of the Python.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

if [[ -n ${PYTHON:-} ]]; then
  PY=$PYTHON
elif [[ -x $ROOT/.venv/bin/python ]]; then
  PY=$ROOT/.venv/bin/python
else
  PY=python3
fi

# "python -m" finds the modules of this project from any folder. With PYTHONSAFEPATH, it does not
# take a folder "data" or "scripts" in the working directory for one of them.
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 PYTHONUTF8=1

# say SENTENCE: prints to standard error.
say() { printf '%s\n' "$*" >&2; }

# die SENTENCE: prints an error and ends the script with 2, the exit status of bad input.
die() {
  say "error: $*"
  exit 2
}

# show_help FILE...: prints the comments at the head of these scripts, and ends.
show_help() {
  sed -sn '2,/^[^#]/ s/^# \{0,1\}//p' "$@"
  exit 0
}

# need_value OPTION [VALUE...]: refuses OPTION without a value. Call it with all remaining arguments.
need_value() { [[ $# -ge 2 && -n $2 && $2 != --* ]] || die "option $1 needs a value"; }

# need_integer OPTION VALUE: refuses a VALUE that is not a whole number above 0.
need_integer() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || die "option $1 needs a whole number above 0, not '$2'"
}

# need_number OPTION VALUE: refuses a VALUE that is not a decimal number, 0 or more.
need_number() { [[ $2 =~ ^[0-9]*\.?[0-9]+$ ]] || die "option $1 needs a number, not '$2'"; }

# need_modules MODULE...: refuses a Python that lacks one of these modules.
need_modules() {
  command -v "$PY" >/dev/null || die "there is no Python at '$PY'; set PYTHON to one with fairseq"
  local module
  for module in "$@"; do
    "$PY" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$module') is None)" ||
      die "the Python package '$module' is missing from '$PY'"
  done
}

has_gpu() { "$PY" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

# run_child COMMAND...: runs COMMAND so that it ends with this script, even by kill -9.
# COMMAND does not inherit descriptor 9, on which a script may hold the lock of its folder.
run_child() { setpriv --pdeathsig KILL -- "$@" 9<&-; }

# run_logged LOG COMMAND...: runs COMMAND with its output in the file LOG.
run_logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || die "this command failed, and $log says why: $*"
}

# check_settings FILE SETTINGS: writes SETTINGS to FILE if it does not exist, and refuses SETTINGS
# that differ from those in FILE.
check_settings() {
  local file=$1 settings=$2 part
  if [[ ! -e $file ]]; then
    part=$file.$(hostname).$$ # several machines may start at once
    printf '%s\n' "$settings" >"$part"
    mv "$part" "$file"
  fi
  if [[ $(<"$file") != "$settings" ]]; then
    die "$(dirname "$file") was made with other settings ($(<"$file")) than these ($settings):" \
      "choose another --out, or remove that folder"
  fi
}
