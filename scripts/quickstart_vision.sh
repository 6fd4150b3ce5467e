#!/usr/bin/env bash
# From nothing to a trained and validated RevCol-ViT, on handwritten digits, in minutes.
#
#   bash scripts/quickstart_vision.sh [options]
#
#   --out DIR     receives everything that is made (default runs/digits)
#   --model NAME  any model of timm's that takes images of 8 pixels (default test_revcol_vit)
#   --epochs N    (default 20)
#
# Makes the environment in .venv, writes scikit-learn's digits as folders of images, trains a small
# model on them, and validates it. Downloads packages only, no data. A second run reuses what is
# there, and one that was cut off goes on.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

out='' model=test_revcol_vit epochs=20
while [[ $# -gt 0 ]]; do
  case $1 in
    --out) need_value "$@"; out=$2; shift 2 ;;
    --model) need_value "$@"; model=$2; shift 2 ;;
    --epochs) need_value "$@"; need_integer "$1" "$2"; epochs=$2; shift 2 ;;
    --help | -h) show_help ;;
    *) die "unknown option '$1'; --help lists them" ;;
  esac
done
[[ $epochs -gt 2 ]] || die "--epochs must be above the 2 of the warm-up"
source "$ROOT/scripts/lib/environment.sh"

# One core trains and another reads images: for so small a model, threads would only wait.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
out=${out:-$ROOT/runs/digits} images=$out/images run=$out/$model
if [[ -d $images ]]; then
  say "$images: there already"
else
  rm -rf "$images.part"
  mkdir -p "$out"
  "$PY" -m data.make_digits "$images.part" >/dev/null
  mv -T "$images.part" "$images"
  say "$images: made"
fi

"$PY" -m vision.train "$images" --output "$run" --model "$model" \
  --img-size 8 --model-kwargs patch_size=2 --crop-pct 1 \
  --epochs "$epochs" --warmup-epochs 2 --batch-size 32 --lr 0.001 --workers 1 \
  --scale 0.8 1 --ratio 0.9 1.1 --hflip 0 --train-interpolation bicubic

printf '\nThe best checkpoint, validated on its own:\n'
"$PY" -m vision.validate "$images" --checkpoint "$run/model_best.pth.tar" --workers 1
