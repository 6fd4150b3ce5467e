#!/usr/bin/env bash
# Prepares Multi30k (task 1) for fairseq: text, joint BPE, binarised data.
#
#   bash scripts/multi30k/prepare.sh [options]
#
#   --from FOLDER   take the corpus from FOLDER instead of downloading it; it holds
#                   {train,val,test_2016_flickr}.{en,de,fr}.gz (raw), and the same names
#                   under tok/ (lower-cased and tokenised)
#   --mirror URL    download from URL, laid out as the repository multi30k/dataset is;
#                   file:///path/to/a/clone works too
#   --pair PAIR     en-de (default), en-fr, de-en or fr-en
#   --raw           tokenise the raw, cased text with sacremoses, instead of taking the
#                   lower-cased tokenised files that published tables are computed on
#   --merges N      number of BPE merges, learnt on both sides of train (default 10000)
#   --out DIR       default runs/multi30k/PAIR (with --raw: runs/multi30k/PAIR-raw)
#   --help          this text
#
# DIR/text, DIR/bpe and DIR/bin appear only when whole, so a run that was cut off is simply
# started again, and one that is finished does nothing. DIR/text also keeps the untokenised
# sentences of valid and test (*.raw.*), the references for BLEU on detokenised text.
# Scripts use the Python in $PYTHON, else .venv/bin/python of this project, else python3.
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
    --help | -h) show_help ;;
    *) die "unknown option '$1'; --help lists them" ;;
  esac
done

[[ $pair =~ ^(en-de|en-fr|de-en|fr-en)$ ]] ||
  die "--pair is en-de, en-fr, de-en or fr-en, not '$pair'"
[[ -z $from || -d $from ]] || die "--from names no folder: $from"
src=${pair%-*} tgt=${pair#*-}
default_out=$ROOT/runs/multi30k/$pair
[[ $kind == tok ]] || default_out+=-raw
out=${out:-$default_out}

declare -A corpus_name=([train]=train [valid]=val [test]=test_2016_flickr)
declare -A corpus_size=([train]=29000 [valid]=1014 [test]=1000)

# download ADDRESS FILE: resumes FILE.part, tries again on passing faults; FILE is always whole.
download() {
  local address=$1 file=$2
  if [[ -e $file ]]; then return; fi
  if command -v curl >/dev/null; then
    curl --fail --location --silent --retry 3 --retry-connrefused --connect-timeout 20 \
      --continue-at - --output "$file.part" "$address" || die "could not download $(basename "$file") from $address"
  elif command -v wget >/dev/null; then
    wget --quiet --tries=5 --timeout=20 --continue --output-document="$file.part" "$address" ||
      die "could not download $(basename "$file") from $address"
  else
    die "downloading needs curl or wget; or give a folder with --from"
  fi
  mv "$file.part" "$file"
}

# corpus_file KIND SPLIT LANGUAGE: prints the path of that file, downloaded when need be.
corpus_file() {
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

# unpack FILE TEXT: writes FILE, gzipped or not, to TEXT, and refuses what is not UTF-8.
unpack() {
  if [[ $1 == *.gz ]]; then
    gzip -dc "$1" >"$2" 2>/dev/null || die "not a whole gzip file: $1"
  else
    cp "$1" "$2"
  fi
  iconv -f UTF-8 -t UTF-8 "$2" >/dev/null 2>&1 || die "not valid UTF-8: $1"
}

make_text() {
  local dir=$1 split lang file count
  for split in train valid test; do
    for lang in "$src" "$tgt"; do
      if [[ $kind == raw || $split != train ]]; then
        file=$(corpus_file raw "$split" "$lang")
        unpack "$file" "$dir/$split.raw.$lang"
      fi
      if [[ $kind == tok ]]; then
        file=$(corpus_file tok "$split" "$lang")
        unpack "$file" "$dir/$split.$lang"
      else
        "$PY" -m sacremoses --quiet --language "$lang" --processes 1 tokenize \
          <"$dir/$split.raw.$lang" >"$dir/$split.$lang" || die "sacremoses failed on $split.$lang"
      fi
    done
    same_lines "$dir/$split."*
    count=$(lines "$dir/$split.$src")
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
settle "$out/settings" "pair $pair, $kind text, $merges merges, from ${from:-$mirror}"
build text
build bpe
build bin
