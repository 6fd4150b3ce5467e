# shellcheck shell=bash disable=SC2154
#   --mirror WHERE    take the archives from WHERE, a folder or an address that has them all side by
#                     side under their official names; if the option is given several times, mirrors
#                     are tried in order (default: the addresses in scripts/wmt/archives.txt)
#   --archives FILE   read names, sizes, checksums and addresses from FILE instead of
#                     scripts/wmt/archives.txt
#   --out DIR         folder for all results (default runs/wmt16_en_de or runs/wmt14_en_fr)
#   --workers N       processes that tokenise, clean and encode (default: one for each core)
#   --merges N        number of BPE merges, learnt on both sides of train (default 32000 for En-De,
#                     40000 for En-Fr)
#   --max-length N    drop pairs in which a sentence has more than N tokens (default 250)
#   --ratio X         drop pairs in which one sentence is more than X times as long as the other
#                     (default 1.5)
#   --help            print this text
#
# DIR gets download/, text/ (tokenised and cleaned; *.raw.* are the untokenised sentences of valid
# and test, which are the references for BLEU on detokenised text), bpe/, bin/ and report.json,
# whose numbers are printed. Each appears only when it is complete. The same command resumes a run
# that was interrupted at any point, and does nothing after a complete one. Once report.json exists,
# you may delete download/, text/train.* and bpe/train.*.
# The script uses the Python in $PYTHON, else .venv/bin/python of this project, else python3.
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/corpus.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || die "run prepare_en_de.sh or prepare_en_fr.sh instead of $0"

# The script of a language pair sources this file. It sets src, tgt, merges, disk (GB), test_set and
# corpora (archive, name, number of pairs), changes `dashes` and `preprocess_options` if necessary,
# and calls prepare_pair.
mirrors=() dashes=() archives=$ROOT/scripts/wmt/archives.txt workers=$(nproc)
max_length=250 ratio=1.5

process_text() { run_child "$PY" -m scripts.wmt.text "$@"; }

# download ADDRESS FILE: resumes FILE, and retries as long as each attempt brings more of it.
download() {
  local address=$1 file=$2 before status look=(--silent --show-error)
  command -v curl >/dev/null || die "downloading needs curl; or name a folder with --mirror"
  [[ ! -t 2 ]] || look=(--progress-bar)
  for _ in {1..20}; do
    before=$(stat -c %s "$file" 2>/dev/null || echo 0)
    run_child curl --fail --location "${look[@]}" --retry 2 --retry-delay 1 --connect-timeout 20 \
      --speed-limit 1000 --speed-time 60 --continue-at - --output "$file" "$address" && return
    status=$?
    if [[ $status -eq 33 ]]; then # this server cannot resume
      rm -f "$file"
    elif [[ $(stat -c %s "$file" 2>/dev/null || echo 0) -le $before ]]; then
      return 1
    fi
  done
  return 1
}

# look_up ARCHIVE: prints its size, checksum and address.
look_up() {
  awk -v name="$1" '$1 == name { print $2, $3, $4; found = 1 } END { exit !found }' "$archives" ||
    die "$archives does not list $1"
}

# compare_archive FILE SIZE SUM: prints how FILE differs from that size or checksum, if it does.
compare_archive() {
  local size tool=sha256sum
  size=$(stat -Lc %s "$1")
  [[ ${#3} -ne 32 ]] || tool=md5sum
  if [[ $2 != - && $2 -ne $size ]]; then
    echo "it has $size bytes, not $2"
  elif [[ $3 != - && $(run_child "$tool" <"$1") != "$3 "* ]]; then
    echo "its $tool is not $3"
  fi
}

# fetch_archive ARCHIVE: puts the archive, complete and checked, into $out/download, from the first
# mirror that has it.
fetch_archive() {
  local name=$1 file=$out/download/$1 part=$out/download/$1.part
  local known size sum home mirror address wrong resumed tried=()
  [[ ! -e $file ]] || return 0
  known=$(look_up "$name")
  read -r size sum home <<<"$known"
  for mirror in "${mirrors[@]:-$home}"; do
    address=$mirror/$name tried+=("$mirror/$name")
    if [[ $mirror != *://* ]]; then
      if [[ ! -f $address ]]; then
        say "note: there is no $address"
      elif wrong=$(compare_archive "$address" "$size" "$sum") && [[ -n $wrong ]]; then
        say "note: $address is not the right archive: $wrong"
      else
        ln -sfn "$address" "$file"
        return
      fi
      continue
    fi
    [[ $size != - ]] || rm -f "$part" # nothing shows whether it is complete
    for _ in 1 2; do
      resumed=no
      [[ ! -s $part ]] || resumed=yes
      if [[ $resumed == no || $(stat -c %s "$part") -lt $size ]]; then
        say "$name: downloading $address"
        if ! download "$address" "$part"; then
          say "note: could not download $name from $address"
          break
        fi
      fi
      wrong=$(compare_archive "$part" "$size" "$sum")
      if [[ -z $wrong ]]; then
        mv "$part" "$file"
        return
      fi
      say "note: the download from $address is not the right archive: $wrong"
      rm -f "$part"
      [[ $resumed == yes ]] || break # else the start of the file may be of another archive
    done
  done
  die "no mirror has $name; these were tried: ${tried[*]}"
}

clean_corpus() {
  local archive name pairs
  read -r archive name pairs <<<"$1"
  process_text clean --archive "$out/download/$archive" --name "$name" --expected "$pairs" \
    --languages "$src" "$tgt" "${dashes[@]}" --max-length "$max_length" --ratio "$ratio" \
    --workers "$workers" --out "$2"
}

make_text() {
  local dir=$1 common=(--languages "$src" "$tgt" "${dashes[@]}" --out "$1") name lang
  process_text test-set --archive "$out/download/dev.tgz" --name newstest2013 --split valid \
    --expected 3000 "${common[@]}"
  process_text test-set --archive "$out/download/test-full.tgz" --name "$test_set" --split test \
    --expected 3003 "${common[@]}"
  for name in "${names[@]}"; do
    cp "$out/clean-$name/counts.json" "$dir/$name.json"
    for lang in "$src" "$tgt"; do
      run_child cat "$out/clean-$name/train.$lang" >>"$dir/train.$lang"
    done
  done
  check_line_counts "$dir/train."*
}

make_codes() {
  local text=$out/text
  process_text count-words --inputs "$text/train.$src" "$text/train.$tgt" --workers "$workers" \
    --output "$1/words"
  say "learning $merges merges from $(count_lines "$1/words") words ($out/learn-bpe.log) ..."
  run_logged "$out/learn-bpe.log" run_child "$PY" -m subword_nmt.learn_bpe --dict-input \
    --symbols "$merges" --input "$1/words" --output "$1/codes"
}

make_bpe() {
  local text=$out/text
  cp "$out/codes/codes" "$1/codes"
  process_text encode --codes "$1/codes" --out "$1" --workers "$workers" \
    --inputs "$text/"{train,valid,test}".$src" "$text/"{train,valid,test}".$tgt"
}

# resolve_mirror WHERE: prints the absolute path of a local folder, and an address unchanged.
resolve_mirror() {
  local folder=${1#file://}
  if [[ $folder == *://* ]]; then
    printf '%s\n' "${folder%/}"
  else
    [[ -d $folder ]] || die "--mirror: there is no folder $folder"
    realpath "$folder"
  fi
}

# prepare_pair FOLDER OPTION...: makes all stages in FOLDER of this project, or in that of --out.
prepare_pair() {
  local out=$ROOT/$1 mirror corpus free names=()
  shift
  while [[ $# -gt 0 ]]; do
    case $1 in
      --mirror) need_value "$@"; mirror=$(resolve_mirror "$2"); mirrors+=("$mirror"); shift 2 ;;
      --archives) need_value "$@"; archives=$2; shift 2 ;;
      --out) need_value "$@"; out=$2; shift 2 ;;
      --workers) need_value "$@"; need_integer "$1" "$2"; workers=$2; shift 2 ;;
      --merges) need_value "$@"; need_integer "$1" "$2"; merges=$2; shift 2 ;;
      --max-length) need_value "$@"; need_integer "$1" "$2"; max_length=$2; shift 2 ;;
      --ratio) need_value "$@"; need_number "$1" "$2"; ratio=$2; shift 2 ;;
      --help | -h) show_help "$0" "${BASH_SOURCE[0]}" ;;
      *) die "unknown option '$1'; --help lists the options" ;;
    esac
  done
  [[ -f $archives ]] || die "--archives: there is no file $archives"
  need_modules fairseq subword_nmt sacremoses tqdm
  mkdir -p "$out/download"
  exec 9<"$out"
  flock --nonblock 9 || die "another run is preparing $out"

  check_settings "$out/settings" \
    "pair $src-$tgt, $merges merges, length 1-$max_length, ratio $ratio"
  for corpus in "${corpora[@]}"; do
    names+=("$(cut -d ' ' -f 2 <<<"$corpus")")
  done
  if [[ ! -d $out/text ]]; then
    free=$(df --output=avail --block-size=1G "$out" | tail -n 1)
    [[ $free -ge $disk ]] || say "note: this needs some $disk GB, and $out has $free GB free"
    for corpus in "${corpora[@]}"; do
      fetch_archive "${corpus%% *}"
    done
    fetch_archive dev.tgz
    fetch_archive test-full.tgz
    for corpus in "${corpora[@]}"; do
      make_stage "clean-$(cut -d ' ' -f 2 <<<"$corpus")" clean_corpus "$corpus"
    done
  fi
  make_stage text
  rm -rf "$out/clean-"*
  make_stage codes
  make_stage bpe
  preprocess_options+=(--workers "$workers")
  make_stage bin
  process_text report --out "$out" --languages "$src" "$tgt" --corpora "${names[@]}" \
    --workers "$workers"
}
