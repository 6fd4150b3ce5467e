#!/usr/bin/env bash
# Trains and validates a small RevCol-ViT on handwritten digits, in minutes.
#
#   bash scripts/quickstart_vision.sh [options]
#
#   --out DIR     folder for all results (default runs/digits)
#   --model NAME  any timm model that takes images of 8 x 8 pixels (default test_revcol_vit)
#   --epochs N    number of epochs, above 2 (default 20)
#   --help        print this text
#
# The script makes the environment in .venv, writes scikit-learn's digits as folders of images,
# trains a small model on them and validates it. It downloads packages but no data. The same command
# resumes a run that was interrupted, and reuses what an earlier run has made.
# If the variable PYTHON is set, the script uses that Python and makes no environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

out='' model=test_revcol_vit epochs=20
while [[ $# -gt 0 ]]; do
  case $1 in
    --out) need_value "$@"; out=$2; shift 2 ;;
    --model) need_value "$@"; model=$2; shift 2 ;;
    --epochs) need_value "$@"; need_integer "$1" "$2"; epochs=$2; shift 2 ;;
    --help | -h) show_help "$0" ;;
    *) die "unknown option '$1'; --help lists the options" ;;
  esac
done
[[ $epochs -gt 2 ]] || die "--epochs must be above 2, the number of warm-up epochs"
source "$ROOT/scripts/lib/environment.sh"

# One core trains and another one reads images. Threads would not speed up so small a model.
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

printf '\nValidation of the best checkpoint:\n'
"$PY" -m vision.validate "$images" --checkpoint "$run/model_best.pth.tar" --workers 1
