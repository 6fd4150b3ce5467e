#!/usr/bin/env bash
# Prepares Multi30k (task 1) for fairseq: text, joint BPE, binarised data.
#
#   bash scripts/multi30k/prepare.sh [options]
#
#   --from FOLDER   take the corpus from FOLDER instead of downloading it; FOLDER must hold
#                   {train,val,test_2016_flickr}.{en,de,fr}.gz (raw text) and tok/ with files of
#                   the same names (lower-cased and tokenised text)
#   --mirror URL    download from URL, which has the layout of the repository multi30k/dataset;
#                   file:///path/to/a/clone works too
#   --pair PAIR     en-de (default), en-fr, de-en or fr-en
#   --raw           tokenise the raw, cased text with sacremoses; without this option, use the
#                   lower-cased tokenised text, on which published tables are computed
#   --merges N      number of BPE merges, learnt on both sides of train (default 10000)
#   --out DIR       folder for the results (default runs/multi30k/PAIR, or with --raw
#                   runs/multi30k/PAIR-raw)
#   --help          print this text
#
# DIR/text, DIR/bpe and DIR/bin appear only when they are complete. The same command resumes a run
# that was interrupted, and does nothing after a complete one. DIR/text also holds the untokenised
# sentences of valid and test (*.raw.*), which are the references for BLEU on detokenised text.
# The script uses the Python in $PYTHON, else .venv/bin/python of this project, else python3.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lib/corpus.sh"

from='' mirror=https://raw.githubusercontent.com/multi30k/dataset/master
pair=en-de kind=tok merges=10000 out=''
while [[ $# -gt 0 ]]; do
  case $1 in
    --from) need_value "$@"; from=$2; shift 2 ;;
    --mirror) need_value "$@"; mirror=${2%/}; shift 2 ;;
    --pair) need_value "$@"; pair=$2; shift 2 ;;
    --merges) need_value "$@"; need_integer "$1" "$2"; merges=$2; shift 2 ;;
    --out) need_value "$@"; out=$2; shift 2 ;;
    --raw) kind=raw; shift ;;
    --help | -h) show_help "$0" ;;
    *) die "unknown option '$1'; --help lists the options" ;;
  esac
done

[[ $pair =~ ^(en-de|en-fr|de-en|fr-en)$ ]] ||
  die "--pair must be en-de, en-fr, de-en or fr-en, not '$pair'"
[[ -z $from || -d $from ]] || die "--from: there is no folder $from"
src=${pair%-*} tgt=${pair#*-}
default_out=$ROOT/runs/multi30k/$pair
[[ $kind == tok ]] || default_out+=-raw
out=${out:-$default_out}

declare -A corpus_name=([train]=train [valid]=val [test]=test_2016_flickr)
declare -A corpus_size=([train]=29000 [valid]=1014 [test]=1000)

# download ADDRESS FILE: resumes from FILE.part and retries; FILE appears only when it is complete.
download() {
  local address=$1 file=$2
  if [[ -e $file ]]; then return; fi
  if command -v curl >/dev/null; then
    curl --fail --location --silent --retry 3 --retry-connrefused --connect-timeout 20 \
      --continue-at - --output "$file.part" "$address" ||
      die "could not download $(basename "$file") from $address"
  elif command -v wget >/dev/null; then
    wget --quiet --tries=5 --timeout=20 --continue --output-document="$file.part" "$address" ||
      die "could not download $(basename "$file") from $address"
  else
    die "downloading needs curl or wget; or name a folder with --from"
  fi
  mv "$file.part" "$file"
}

# find_corpus_file KIND SPLIT LANGUAGE: prints the path of that file, and downloads it if necessary.
find_corpus_file() {
  local kind=$1 name=${corpus_name[$2]} lang=$3 file
  if [[ -n $from ]]; then
    file=$from/$name.$lang.gz
    [[ $kind == raw ]] || file=$from/tok/$name.$lang.gz
    [[ -f $file ]] || die "--from lacks the file $file"
  else
    local remote=raw/$name.$lang.gz
    [[ $kind == raw ]] || remote=tok/$name.lc.norm.tok.$lang
    mkdir -p "$out/download"
    file=$out/download/$(basename "$remote")
    download "$mirror/data/task1/$remote" "$file"
  fi
  printf '%s\n' "$file"
}

# unpack FILE TEXT: writes FILE, gzipped or not, to TEXT; refuses text that is not UTF-8.
unpack() {
  if [[ $1 == *.gz ]]; then
    gzip -dc "$1" >"$2" 2>/dev/null || die "this gzip file is truncated or damaged: $1"
  else
    cp "$1" "$2"
  fi
  iconv -f UTF-8 -t UTF-8 "$2" >/dev/null 2>&1 || die "this file is not valid UTF-8: $1"
}

make_text() {
  local dir=$1 split lang file count
  for split in train valid test; do
    for lang in "$src" "$tgt"; do
      if [[ $kind == raw || $split != train ]]; then
        file=$(find_corpus_file raw "$split" "$lang")
        unpack "$file" "$dir/$split.raw.$lang"
      fi
      if [[ $kind == tok ]]; then
        file=$(find_corpus_file tok "$split" "$lang")
        unpack "$file" "$dir/$split.$lang"
      else
        "$PY" -m sacremoses --quiet --language "$lang" --processes 1 tokenize \
          <"$dir/$split.raw.$lang" >"$dir/$split.$lang" || die "sacremoses failed on $split.$lang"
      fi
    done
    check_line_counts "$dir/$split."*
    count=$(count_lines "$dir/$split.$src")
    [[ $count -eq ${corpus_size[$split]} ]] ||
      say "note: $split has $count sentence pairs where Multi30k has ${corpus_size[$split]}"
  done
}

need_modules fairseq subword_nmt
[[ $kind == tok ]] || need_modules sacremoses
mkdir -p "$out"
exec {lock}<"$out"
flock --nonblock "$lock" || die "another run is preparing $out"

[[ -z $from ]] || from=$(realpath "$from")
check_settings "$out/settings" "pair $pair, $kind text, $merges merges, from ${from:-$mirror}"
make_stage text
make_stage bpe
make_stage bin
