#!/usr/bin/env bash
# Translates a split with a checkpoint and scores the translations.
#
#   bash scripts/translation/evaluate.sh --data BIN --checkpoint FILE [options]
#
#   --data BIN         folder that fairseq-preprocess made
#   --checkpoint FILE  fairseq checkpoint
#   --subset NAME      split to translate: test (default), valid, ...
#   --reference FILE   untokenised references; with them, BLEU on detokenised text is computed too
#   --beam N           beam size (default 5)
#   --lenpen X         length penalty (default 1.0)
#   --user-dir DIR     fairseq plugin (default: revcol_nlp of this project)
#   --out DIR          folder for the results (default: NAME.SUBSET beside the checkpoint NAME.pt)
#   --help             print this text
#
# The script writes to DIR generate.txt, the texts that it compares (hyp.tok and ref.tok; with
# --reference also hyp.detok and ref.detok) and, last of all, scores.json.
# "python -m scripts.translation.compare" compares such folders.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

data='' checkpoint='' subset=test reference='' beam=5 lenpen=1.0 user_dir=$ROOT/revcol_nlp out=''
while [[ $# -gt 0 ]]; do
  case $1 in
    --data) need_value "$@"; data=$2; shift 2 ;;
    --checkpoint) need_value "$@"; checkpoint=$2; shift 2 ;;
    --subset) need_value "$@"; subset=$2; shift 2 ;;
    --reference) need_value "$@"; reference=$2; shift 2 ;;
    --beam) need_value "$@"; need_integer "$1" "$2"; beam=$2; shift 2 ;;
    --lenpen) need_value "$@"; need_number "$1" "$2"; lenpen=$2; shift 2 ;;
    --user-dir) need_value "$@"; user_dir=$2; shift 2 ;;
    --out) need_value "$@"; out=$2; shift 2 ;;
    --help | -h) show_help "$0" ;;
    *) die "unknown option '$1'; --help lists the options" ;;
  esac
done

[[ -n $data && -n $checkpoint ]] || die "--data and --checkpoint are required; --help explains them"
[[ -d $data ]] || die "--data: there is no folder $data"
[[ -f $checkpoint ]] || die "--checkpoint: there is no file $checkpoint"
[[ -z $reference || -f $reference ]] || die "--reference: there is no file $reference"
[[ -d $user_dir ]] || die "--user-dir: there is no folder $user_dir"
need_modules fairseq sacrebleu sacremoses

out=${out:-${checkpoint%.pt}.$subset}
mkdir -p "$out"
rm -f "$out/scores.json"
device=()
has_gpu || device=(--cpu --num-workers 0)

# With its default batch-size multiple of 8, fairseq drops the last, longest sentences. revcol_nlp
# repairs that, but another --user-dir does not.
"$PY" -m fairseq_cli.generate "$data" --user-dir "$user_dir" --path "$checkpoint" \
  --gen-subset "$subset" --beam "$beam" --lenpen "$lenpen" --remove-bpe --max-tokens 4096 \
  --required-batch-size-multiple 1 "${device[@]}" >"$out/generate.txt" 2>"$out/generate.log" ||
  die "fairseq-generate failed, and $out/generate.log says why"

scoring=(--generated "$out/generate.txt" --data "$data" --subset "$subset" --out "$out"
  --checkpoint "$checkpoint" --beam "$beam" --lenpen "$lenpen")
[[ -z $reference ]] || scoring+=(--reference "$reference")
"$PY" -m scripts.translation.score "${scoring[@]}"
