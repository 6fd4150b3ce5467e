# shellcheck shell=bash disable=SC2154
#   --mirror WHERE    where to take the archives from: a folder, or an address, under which they lie
#                     side by side by their official names; several are tried in order
#                     (default: the addresses of scripts/wmt/archives.txt)
#   --archives FILE   names, sizes, checksums and addresses to use instead of that file
#   --out DIR         where everything goes (default: named after the script, in runs/)
#   --workers N       processes that tokenise, clean and encode (default: one for each core)
#   --merges N        number of BPE merges, learnt on both sides of train
#   --max-length N    drop pairs with a sentence of more tokens (default 250)
#   --ratio X         drop pairs with one sentence more than X times as long (default 1.5)
#   --help            this text
#
# DIR receives download/, text/ (tokenised and clean; *.raw.* are the untokenised sentences of
# valid and test, the references for BLEU on detokenised text), bpe/, bin/ and report.json, whose
# numbers are printed. Each appears only when whole, so a run that was cut off, at any point, is
# simply started again, and one that is finished does nothing. Once report.json is there, download/,
# text/train.* and bpe/train.* may go.
# Scripts use the Python in $PYTHON, else .venv/bin/python of this project, else python3.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/corpus.sh"

# The script of a language pair sources this, sets src, tgt, merges, disk (GB), test_set and corpora
# (archive, name, number of pairs), changes `dashes` and `binarising` where need be, calls prepare.
mirrors=() dashes=() archives=$ROOT/scripts/wmt/archives.txt workers=$(nproc)
max_length=250 ratio=1.5

wmt_text() { bound "$PY" -m scripts.wmt.text "$@"; }

# transfer ADDRESS FILE: downloads to FILE, going on from what FILE holds, as long as more comes.
transfer() {
  local address=$1 file=$2 before status look=(--silent --show-error)
  command -v curl >/dev/null || die "downloading needs curl; or give a folder with --mirror"
  [[ ! -t 2 ]] || look=(--progress-bar)
  for _ in {1..20}; do
    before=$(stat -c %s "$file" 2>/dev/null || echo 0)
    bound curl --fail --location "${look[@]}" --retry 2 --retry-delay 1 --connect-timeout 20 \
      --speed-limit 1000 --speed-time 60 --continue-at - --output "$file" "$address" && return
    status=$?
    if [[ $status -eq 33 ]]; then # this server cannot go on from the middle
      rm -f "$file"
    elif [[ $(stat -c %s "$file" 2>/dev/null || echo 0) -le $before ]]; then
      return 1
    fi
  done
  return 1
}

# facts ARCHIVE: prints its size, checksum and address.
facts() {
  awk -v name="$1" '$1 == name { print $2, $3, $4; found = 1 } END { exit !found }' "$archives" ||
    die "$archives does not list $1"
}

# difference FILE SIZE SUM: says how FILE differs from the archive of that size and checksum, if so.
difference() {
  local size tool=sha256sum
  size=$(stat -Lc %s "$1")
  [[ ${#3} -ne 32 ]] || tool=md5sum
  if [[ $2 != - && $2 -ne $size ]]; then
    echo "it has $size bytes, not $2"
  elif [[ $3 != - && $(bound "$tool" <"$1") != "$3 "* ]]; then
    echo "its $tool is not $3"
  fi
}

# fetch ARCHIVE: puts it, whole and checked, into $out/download, from the first mirror that has it.
fetch() {
  local name=$1 file=$out/download/$1 part=$out/download/$1.part
  local known size sum home mirror address wrong resumed tried=()
  [[ ! -e $file ]] || return 0
  known=$(facts "$name")
  read -r size sum home <<<"$known"
  for mirror in "${mirrors[@]:-$home}"; do
    address=$mirror/$name tried+=("$mirror/$name")
    if [[ $mirror != *://* ]]; then
      if [[ ! -f $address ]]; then
        say "note: there is no $address"
      elif wrong=$(difference "$address" "$size" "$sum") && [[ -n $wrong ]]; then
        say "note: $address is not the archive it should be: $wrong"
      else
        ln -sfn "$address" "$file"
        return
      fi
      continue
    fi
    [[ $size != - ]] || rm -f "$part" # nothing tells whether it is whole
    for _ in 1 2; do
      resumed=no
      [[ ! -s $part ]] || resumed=yes
      if [[ $resumed == no || $(stat -c %s "$part") -lt $size ]]; then
        say "$name: downloading $address"
        if ! transfer "$address" "$part"; then
          say "note: could not download $name from $address"
          break
        fi
      fi
      wrong=$(difference "$part" "$size" "$sum")
      if [[ -z $wrong ]]; then
        mv "$part" "$file"
        return
      fi
      say "note: what came from $address is not the archive it should be: $wrong"
      rm -f "$part"
      [[ $resumed == yes ]] || break # else its beginning may have come from elsewhere
    done
  done
  die "no mirror gave $name; tried ${tried[*]}"
}

clean() {
  local archive name pairs
  read -r archive name pairs <<<"$1"
  wmt_text clean --archive "$out/download/$archive" --name "$name" --expected "$pairs" \
    --languages "$src" "$tgt" "${dashes[@]}" --max-length "$max_length" --ratio "$ratio" \
    --workers "$workers" --out "$2"
}

make_text() {
  local dir=$1 common=(--languages "$src" "$tgt" "${dashes[@]}" --out "$1") name lang
  wmt_text test-set --archive "$out/download/dev.tgz" --name newstest2013 --split valid \
    --expected 3000 "${common[@]}"
  wmt_text test-set --archive "$out/download/test-full.tgz" --name "$test_set" --split test \
    --expected 3003 "${common[@]}"
  for name in "${names[@]}"; do
    cp "$out/clean-$name/counts.json" "$dir/$name.json"
    for lang in "$src" "$tgt"; do
      bound cat "$out/clean-$name/train.$lang" >>"$dir/train.$lang"
    done
  done
  same_lines "$dir/train."*
}

make_codes() {
  local text=$out/text
  wmt_text count-words --inputs "$text/train.$src" "$text/train.$tgt" --workers "$workers" \
    --output "$1/words"
  say "learning $merges merges from $(lines "$1/words") words ($out/learn-bpe.log) ..."
  logged "$out/learn-bpe.log" bound "$PY" -m subword_nmt.learn_bpe --dict-input \
    --symbols "$merges" --input "$1/words" --output "$1/codes"
}

make_bpe() {
  local text=$out/text
  cp "$out/codes/codes" "$1/codes"
  wmt_text encode --codes "$1/codes" --out "$1" --workers "$workers" \
    --inputs "$text/"{train,valid,test}".$src" "$text/"{train,valid,test}".$tgt"
}

# mirror_of WHERE: prints the whole path of a local folder, and an address as it is.
mirror_of() {
  local folder=${1#file://}
  if [[ $folder == *://* ]]; then
    printf '%s\n' "${folder%/}"
  else
    [[ -d $folder ]] || die "--mirror names no folder: $folder"
    realpath "$folder"
  fi
}

# prepare FOLDER OPTION...: does everything, in FOLDER of this project unless --out is given.
prepare() {
  local out=$ROOT/$1 mirror corpus free names=()
  shift
  while [[ $# -gt 0 ]]; do
    case $1 in
      --mirror) need_value "$@"; mirror=$(mirror_of "$2"); mirrors+=("$mirror"); shift 2 ;;
      --archives) need_value "$@"; archives=$2; shift 2 ;;
      --out) need_value "$@"; out=$2; shift 2 ;;
      --workers) need_value "$@"; need_integer "$1" "$2"; workers=$2; shift 2 ;;
      --merges) need_value "$@"; need_integer "$1" "$2"; merges=$2; shift 2 ;;
      --max-length) need_value "$@"; need_integer "$1" "$2"; max_length=$2; shift 2 ;;
      --ratio) need_value "$@"; need_number "$1" "$2"; ratio=$2; shift 2 ;;
      --help | -h) show_help "$0" "${BASH_SOURCE[0]}" ;;
      *) die "unknown option '$1'; --help lists them" ;;
    esac
  done
  [[ -f $archives ]] || die "--archives names no file: $archives"
  need_modules fairseq subword_nmt sacremoses tqdm
  mkdir -p "$out/download"
  exec 9<"$out"
  flock --nonblock 9 || die "another run is preparing $out"

  settle "$out/settings" \
    "pair $src-$tgt, $merges merges, length 1-$max_length, ratio $ratio"
  for corpus in "${corpora[@]}"; do
    names+=("$(cut -d ' ' -f 2 <<<"$corpus")")
  done
  if [[ ! -d $out/text ]]; then
    free=$(df --output=avail --block-size=1G "$out" | tail -n 1)
    [[ $free -ge $disk ]] || say "note: all of this takes some $disk GB, and $out has $free GB free"
    for corpus in "${corpora[@]}"; do
      fetch "${corpus%% *}"
    done
    fetch dev.tgz
    fetch test-full.tgz
    for corpus in "${corpora[@]}"; do
      build "clean-$(cut -d ' ' -f 2 <<<"$corpus")" clean "$corpus"
    done
  fi
  build text
  rm -rf "$out/clean-"*
  build codes
  build bpe
  binarising+=(--workers "$workers")
  build bin
  wmt_text report --out "$out" --languages "$src" "$tgt" --corpora "${names[@]}" \
    --workers "$workers"
}
