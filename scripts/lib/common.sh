# Sourced by the scripts of this folder: errors, options, which Python, which device.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

if [[ -n ${PYTHON:-} ]]; then
  PY=$PYTHON
elif [[ -x $ROOT/.venv/bin/python ]]; then
  PY=$ROOT/.venv/bin/python
else
  PY=python3
fi

# PYTHONSAFEPATH: a folder "data" or "scripts" where the user stands is not taken for ours.
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 PYTHONUTF8=1

say() { printf '%s\n' "$*" >&2; }

# die SENTENCE: ends the script; 2 is the exit status of bad input, whichever script meets it.
die() {
  say "error: $*"
  exit 2
}

# show_help [FILE...]: prints the comment at the head of the running script, or of FILEs; ends it.
show_help() {
  sed -sn '2,/^[^#]/ s/^# \{0,1\}//p' "${@:-$0}"
  exit 0
}

# need_value OPTION [VALUE...]: called with the remaining arguments, before "$2" is read.
need_value() { [[ $# -ge 2 && -n $2 && $2 != --* ]] || die "option $1 needs a value"; }

# need_integer OPTION VALUE: VALUE must be a whole number above zero.
need_integer() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || die "option $1 needs a whole number above 0, not '$2'"
}

# need_number OPTION VALUE: VALUE must be a decimal number, 0 or more.
need_number() { [[ $2 =~ ^[0-9]*\.?[0-9]+$ ]] || die "option $1 needs a number, not '$2'"; }

# need_modules MODULE...: each must be importable by the chosen Python.
need_modules() {
  command -v "$PY" >/dev/null || die "no Python at '$PY'; set PYTHON to one that has fairseq"
  local module
  for module in "$@"; do
    "$PY" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$module') is None)" ||
      die "the Python package '$module' is missing from '$PY'"
  done
}

has_gpu() { "$PY" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }

# bound COMMAND...: runs COMMAND, which ends with this script, even where that is killed outright.
# Descriptor 9, on which a script may hold the lock of its folder, stays with the script alone.
bound() { setpriv --pdeathsig KILL -- "$@" 9<&-; }

# logged LOG COMMAND...: runs COMMAND with its output in LOG, which is named when it fails.
logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || die "this command failed, and $log says why: $*"
}

# settle FILE SETTINGS: FILE keeps the settings its folder was made with; others are refused.
settle() {
  local file=$1 settings=$2
  if [[ ! -e $file ]]; then
    local part=$file.$(hostname).$$ # several machines may begin at once
    printf '%s\n' "$settings" >"$part"
    mv "$part" "$file"
  fi
  if [[ $(<"$file") != "$settings" ]]; then
    die "$(dirname "$file") was made with other settings ($(<"$file")) than these ($settings):" \
      "choose another --out, or remove that folder"
  fi
}
