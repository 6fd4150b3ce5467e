#!/usr/bin/env bash
# From nothing to a trained and scored RevCol-Transformer, on a generated corpus, in minutes.
#
#   bash scripts/quickstart.sh [--pair en-de|en-fr] [--out DIR]
#
# Makes the environment in .venv, generates sentence pairs, trains a small model, translates the
# test set with beam search, and prints BLEU, the BLEU of a word-by-word dictionary beside it, and
# some translations. Downloads packages only, no data. A second run reuses what is there, and one
# that was cut off goes on. DIR (default runs/quickstart-PAIR) receives everything it makes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

pair=en-de out='' max_update=900
while [[ $# -gt 0 ]]; do
  case $1 in
    --pair) need_value "$@"; pair=$2; shift 2 ;;
    --out) need_value "$@"; out=$2; shift 2 ;;
    --help | -h) show_help ;;
    *) die "unknown option '$1'; --help lists them" ;;
  esac
done
[[ $pair == en-de || $pair == en-fr ]] || die "--pair is en-de or en-fr, not '$pair'"
source "$ROOT/scripts/environment.sh"
source "$ROOT/scripts/corpus.sh"

out=${out:-$ROOT/runs/quickstart-$pair} src=${pair%-*} tgt=${pair#*-} merges=2000
mkdir -p "$out"
settle "$out/settings" "pair $pair, $merges merges, corpus $(cat "$ROOT"/data/*.py | cksum)"

make_text() { "$PY" "$ROOT/data/make_corpus.py" --pair "$pair" --out "$1"; }
build text
build bpe
build bin

checkpoints=$out/checkpoints
if [[ -e $out/trained ]]; then
  say "$checkpoints: trained already"
else
  say "training for $max_update updates (the log is $out/train.log) ..."
  device=()
  has_gpu || device=(--cpu --num-workers 0)
  "$PY" -m fairseq_cli.train "$out/bin" --user-dir "$ROOT/revcol_nlp" --save-dir "$checkpoints" \
    --arch revcol_transformer_tiny --decoder-layers 2 --dropout 0.1 \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' \
    --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 200 --warmup-init-lr 1e-7 \
    --max-tokens 2048 --max-update "$max_update" --no-epoch-checkpoints \
    --required-batch-size-multiple 1 --update-epoch-batch-itr True "${device[@]}" \
    --log-format simple --log-interval 50 --log-file "$out/train.log" 2>"$out/train.err" |
    sed -un 's/.*| epoch.* loss=\([0-9.]*\),.* num_updates=\([0-9]*\),.*/  update \2  loss \1/p' ||
    die "fairseq-train failed, and $out/train.err says why; run this again to go on"
  touch "$out/trained"
fi

bash "$ROOT/scripts/evaluate.sh" --data "$out/bin" --checkpoint "$checkpoints/checkpoint_last.pt" \
  --beam 4 --out "$out/test"
printf '\nA word-by-word dictionary learnt from the same pairs:\n'
"$PY" "$ROOT/data/lookup_baseline.py" --pair "$pair" --data "$out/text"

printf '\nSome translations:\n'
paste -d '\n' "$out/text/test.$src" "$out/test/hyp.tok" "$out/test/ref.tok" | head -n 15 |
  awk '{ print (NR % 3 == 1 ? "\n  source     " : NR % 3 == 2 ? "  model      " : "  reference  ") $0 }'
printf '\nThe model is %s\nEverything else is in %s\n' "$checkpoints/checkpoint_last.pt" "$out"
