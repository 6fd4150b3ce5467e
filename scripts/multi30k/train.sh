#!/usr/bin/env bash
# Trains a small translation model on Multi30k with the published recipe of Transformer-Tiny,
# averages its last checkpoints, and evaluates the average on valid and test.
#
#   bash scripts/multi30k/train.sh [options] [-- options of fairseq-train]
#
#   --arch NAME       revcol_transformer_tiny (default), another revcol_* architecture, or
#                     transformer, which is Transformer-Tiny: 4+4 layers, width 128, FFN 256,
#                     4 heads
#   --data BIN        folder that scripts/multi30k/prepare.sh made
#                     (default runs/multi30k/en-de/bin)
#   --out DIR         folder for the results (default: ARCH-seedN beside BIN)
#   --max-update N    maximal number of updates (default 8000)
#   --seed N          random seed (default 1)
#   --update-freq N   batches of 4096 tokens per update (default 2)
#   --eval-bleu       also compute BLEU on valid after each epoch (beam 5; slow without a GPU)
#   --help            print this text
#
# The script uses the first GPU, in mixed precision (CUDA_VISIBLE_DEVICES chooses another one), or
# the CPU where there is no GPU. The same command resumes an interrupted training from its last
# checkpoint; after a complete training, it only averages and evaluates again.
# DIR gets checkpoints/, train.log (its JSON lines are the learning curve), and the folders valid/
# and test/ with the translations of the average and scores.json.
# The script uses the Python in $PYTHON, else .venv/bin/python of this project, else python3.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$ROOT/scripts/lib/training.sh"

arch=revcol_transformer_tiny data=$ROOT/runs/multi30k/en-de/bin out='' averaged=10
max_update=8000 seed=1 update_freq=2 eval_bleu=() extra=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --arch) need_value "$@"; arch=$2; shift 2 ;;
    --data) need_value "$@"; data=${2%/}; shift 2 ;;
    --out) need_value "$@"; out=$2; shift 2 ;;
    --max-update) need_value "$@"; need_integer "$1" "$2"; max_update=$2; shift 2 ;;
    --seed) need_value "$@"; need_integer "$1" "$2"; seed=$2; shift 2 ;;
    --update-freq) need_value "$@"; need_integer "$1" "$2"; update_freq=$2; shift 2 ;;
    --eval-bleu)
      eval_bleu=(--eval-bleu --eval-bleu-args '{"beam": 5}' --eval-bleu-remove-bpe
        --eval-tokenized-bleu)
      shift
      ;;
    --help | -h) show_help "$0" ;;
    --) shift; extra=("$@"); break ;;
    *) die "unknown option '$1'; --help lists the options; options of fairseq-train go after --" ;;
  esac
done

case $arch in
  transformer)
    model=(--encoder-layers 4 --decoder-layers 4
      --encoder-embed-dim 128 --decoder-embed-dim 128
      --encoder-ffn-embed-dim 256 --decoder-ffn-embed-dim 256
      --encoder-attention-heads 4 --decoder-attention-heads 4)
    ;;
  revcol_*) model=() ;;
  *) die "--arch must be transformer or a revcol_* architecture, not '$arch'" ;;
esac

[[ -d $data ]] || die "there is no folder $data; bash scripts/multi30k/prepare.sh makes it"
index=$(find "$data" -name 'test.*-*.*.idx' | sort | head -n 1)
[[ -n $index ]] || die "$data holds no binarised test split"
pair=$(basename "$index" | cut -d . -f 2)
need_modules fairseq sacrebleu sacremoses

if has_gpu; then
  export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
  device=(--amp --num-workers 2)
else
  device=(--cpu --num-workers 0)
fi

out=${out:-$(dirname "$data")/$arch-seed$seed}
checkpoints=$out/checkpoints
mkdir -p "$checkpoints"
check_settings "$out/settings" "arch $arch, data $(realpath "$data"), seed $seed, update-freq $update_freq"

# As for the published figures, batches have any number of sentences, not only multiples of 8, and
# each epoch has new batches.
recipe=(--task translation --arch "$arch" "${model[@]}" --share-all-embeddings --dropout 0.3
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1
  --optimizer adam --adam-betas '(0.9, 0.98)'
  --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 2000 --warmup-init-lr 1e-7
  --max-tokens 4096 --update-freq "$update_freq" --max-update "$max_update"
  --patience 10 --keep-last-epochs "$averaged" --seed "$seed"
  --required-batch-size-multiple 1 --update-epoch-batch-itr True)

if [[ -e $out/finished && $(<"$out/finished") -ge $max_update ]]; then
  say "$out: trained already"
else
  rm -f "$out/finished"
  "$PY" -m fairseq_cli.train "$data" --user-dir "$ROOT/revcol_nlp" --save-dir "$checkpoints" \
    "${recipe[@]}" "${eval_bleu[@]}" "${device[@]}" \
    --log-format json --log-interval 100 --log-file "$out/train.log" "${extra[@]}" ||
    die "fairseq-train failed; run the same command again to resume from the last checkpoint"
  printf '%s\n' "$max_update" >"$out/finished"
fi

result=$(average_last_checkpoints "$checkpoints" epoch "$averaged")
for split in valid test; do
  reference=$(dirname "$data")/text/$split.raw.${pair#*-}
  scoring=(--data "$data" --checkpoint "$result" --subset "$split" --beam 5 --out "$out/$split")
  [[ ! -f $reference ]] || scoring+=(--reference "$reference")
  bash "$ROOT/scripts/translation/evaluate.sh" "${scoring[@]}"
done
