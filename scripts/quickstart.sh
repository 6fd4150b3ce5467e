#!/usr/bin/env bash
# Trains and scores a small RevCol-Transformer on a generated corpus, in minutes.
#
#   bash scripts/quickstart.sh [options]
#
#   --pair PAIR         en-de (default) or en-fr
#   --out DIR           folder for all results (default runs/quickstart-PAIR)
#   --train N           number of training pairs (default 12000); valid and test get a 24th of it
#   --max-update N      number of updates, of 1024 tokens each (default 1000)
#   --help              print this text
#
# The script makes the environment in .venv, generates sentence pairs, trains a small model,
# translates the test set by beam search, and prints BLEU, the BLEU of a word-by-word dictionary for
# comparison, and some translations. It downloads packages but no data. The same command resumes a
# run that was interrupted, and reuses what an earlier run has made.
# If the variable PYTHON is set, the script uses that Python and makes no environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

pair=en-de out='' train=12000 max_update=1000
while [[ $# -gt 0 ]]; do
  case $1 in
    --pair) need_value "$@"; pair=$2; shift 2 ;;
    --out) need_value "$@"; out=$2; shift 2 ;;
    --train) need_value "$@"; need_integer "$1" "$2"; train=$2; shift 2 ;;
    --max-update) need_value "$@"; need_integer "$1" "$2"; max_update=$2; shift 2 ;;
    --help | -h) show_help "$0" ;;
    *) die "unknown option '$1'; --help lists the options" ;;
  esac
done
[[ $pair == en-de || $pair == en-fr ]] || die "--pair must be en-de or en-fr, not '$pair'"
[[ $train -ge 480 ]] || die "--train must be at least 480, so that valid and test get 20 pairs each"
source "$ROOT/scripts/lib/environment.sh"
# The model is small: a second thread helps little, and where cores are busy it waits for them.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
source "$ROOT/scripts/lib/corpus.sh"

out=${out:-$ROOT/runs/quickstart-$pair} src=${pair%-*} tgt=${pair#*-} merges=2000
mkdir -p "$out"
corpus=$(cat "$ROOT"/data/make_corpus.py "$ROOT"/data/grammar/*.py | cksum)
check_settings "$out/settings" \
  "pair $pair, $merges merges, $max_update updates, $train pairs, corpus $corpus"

make_text() {
  "$PY" -m data.make_corpus --pair "$pair" --out "$1" \
    --train "$train" --valid $((train / 24)) --test $((train / 24))
}
make_stage text
make_stage bpe
make_stage bin

checkpoints=$out/checkpoints
if [[ -e $out/trained ]]; then
  say "$checkpoints: trained already"
else
  say "training for $max_update updates (log: $out/train.log) ..."
  device=()
  has_gpu || device=(--cpu --num-workers 0)
  "$PY" -m fairseq_cli.train "$out/bin" --user-dir "$ROOT/revcol_nlp" --save-dir "$checkpoints" \
    --arch revcol_transformer_tiny --decoder-layers 2 --dropout 0.05 \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' \
    --lr 0.005 --lr-scheduler polynomial_decay --warmup-updates 200 \
    --total-num-update "$max_update" --max-update "$max_update" --max-tokens 1024 \
    --no-epoch-checkpoints --disable-validation \
    --required-batch-size-multiple 1 --update-epoch-batch-itr True "${device[@]}" \
    --log-format simple --log-interval 50 --log-file "$out/train.log" 2>"$out/train.err" |
    sed -un 's/.*| epoch.* loss=\([0-9.]*\),.* num_updates=\([0-9]*\),.*/  update \2  loss \1/p' ||
    die "fairseq-train failed, and $out/train.err says why; run the same command again to resume"
  touch "$out/trained"
fi

bash "$ROOT/scripts/translation/evaluate.sh" --data "$out/bin" \
  --checkpoint "$checkpoints/checkpoint_last.pt" --beam 4 --out "$out/test"
printf '\nA word-by-word dictionary learnt from the same pairs:\n'
"$PY" -m data.lookup_baseline --pair "$pair" --data "$out/text"

printf '\nSome translations:\n'
print_first() { head -n 5 "$1"; }
paste -d '\n' <(print_first "$out/text/test.$src") <(print_first "$out/test/hyp.tok") \
  <(print_first "$out/test/ref.tok") |
  awk '{ print (NR % 3 == 1 ? "\n  source     " : NR % 3 == 2 ? "  model      " : "  reference  ") $0 }'
printf '\nThe model is %s\nAll other results are in %s\n' "$checkpoints/checkpoint_last.pt" "$out"
