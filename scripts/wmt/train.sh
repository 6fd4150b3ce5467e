#!/usr/bin/env bash
# Trains a row of Table 10 with the paper's schedule, averages its last checkpoints, and evaluates
# the average on newstest2014.
#
#   bash scripts/wmt/train.sh {en-de,en-fr} {revcol,transformer-big} [options] [-- overrides]
#
#   --data BIN         folder that scripts/wmt/prepare_en_de.sh or prepare_en_fr.sh made (default:
#                      runs/wmt16_en_de/bin or runs/wmt14_en_fr/bin, as these scripts make it)
#   --out DIR          folder for the results (default: named after the model, beside BIN)
#   --devices N        devices of each machine (default: all GPUs, or one process on the CPU where
#                      there is no GPU)
#   --max-tokens N     maximal number of tokens in a microbatch of one device (default: 3,584 per
#                      16 GiB of its memory, as Ott et al. used)
#   --max-update N     number of steps (default: the paper's 300,000 for En-De, 200,000 for En-Fr)
#   --nodes N          machines that train together; run the same command on each one (default 1)
#   --node-rank N      number of this machine, from 0 (default: $SLURM_NODEID, or 0)
#   --master HOST:PORT address of machine 0; required with --nodes
#   --help             print this text
#
# Overrides are options of fairseq's configuration, such as common.fp16=false optimization.lr=[0.001].
#
# A step has 28,672 tokens (En-De) or 86,016 tokens (En-Fr) on any number of devices: the script
# chooses the largest microbatch that fits, and the number of microbatches per step. GPUs compute in
# fp16. The same command resumes an interrupted training from its last checkpoint, on other devices
# if necessary. If several machines train, all of them must share the folder DIR.
#
# Slurm, 2 machines of 8 GPUs:
#   srun --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 bash scripts/wmt/train.sh en-fr revcol \
#     --nodes 2 --master "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500"
#
# DIR gets checkpoints/ (the last 10, one every 2,000 steps), train.log (JSON lines), train.err,
# tensorboard/, and test/ with the translations and scores.json.
# The recipes are the configurations in scripts/wmt/table10, for fairseq-hydra-train.
# The script uses the Python in $PYTHON, else .venv/bin/python of this project, else python3.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$ROOT/scripts/lib/training.sh"

[[ ${1:-} != --help && ${1:-} != -h ]] || show_help "$0"
pair=${1:-} model=${2:-}
case $pair in
  en-de) data=$ROOT/runs/wmt16_en_de/bin tokens=28672 max_update=300000 ;;
  en-fr) data=$ROOT/runs/wmt14_en_fr/bin tokens=86016 max_update=200000 ;;
  *) die "the first argument must be en-de or en-fr, not '$pair'; --help explains it" ;;
esac
[[ $model == revcol || $model == transformer-big ]] ||
  die "the second argument must be revcol or transformer-big, not '$model'; --help explains it"
shift 2

out='' devices='' max_tokens='' nodes=1 node_rank=${SLURM_NODEID:-0} master='' overrides=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --data) need_value "$@"; data=${2%/}; shift 2 ;;
    --out) need_value "$@"; out=$2; shift 2 ;;
    --devices) need_value "$@"; need_integer "$1" "$2"; devices=$2; shift 2 ;;
    --max-tokens) need_value "$@"; need_integer "$1" "$2"; max_tokens=$2; shift 2 ;;
    --max-update) need_value "$@"; need_integer "$1" "$2"; max_update=$2; shift 2 ;;
    --nodes) need_value "$@"; need_integer "$1" "$2"; nodes=$2; shift 2 ;;
    --node-rank) need_value "$@"; node_rank=$2; shift 2 ;;
    --master) need_value "$@"; master=$2; shift 2 ;;
    --help | -h) show_help "$0" ;;
    --) shift; overrides=("$@"); break ;;
    *) die "unknown option '$1'; --help lists the options; overrides go after --" ;;
  esac
done
if [[ $nodes -gt 1 ]]; then
  [[ $master =~ ^.+:[0-9]+$ ]] || die "--nodes above 1 needs --master HOST:PORT, not '$master'"
  [[ $node_rank =~ ^[0-9]+$ && $node_rank -lt $nodes ]] ||
    die "--node-rank must be a number from 0 to $((nodes - 1)), not '$node_rank'"
else
  [[ -z $master ]] || die "--master has no effect without --nodes"
  node_rank=0
fi
[[ -f $data/dict.${pair#*-}.txt ]] || die "there is no binarised data in" \
  "$data; bash scripts/wmt/prepare_${pair/-/_}.sh makes it, and --data names its folder"
need_modules fairseq sacrebleu sacremoses tensorboard

# Number of GPUs (0: train on the CPU), and GiB of memory of the smallest GPU or of the machine.
read -r gpus memory < <("$PY" - <<'PYTHON'
import os, torch
gpus = range(torch.cuda.device_count())
pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
memory = min((torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus), default=pages)
print(len(gpus), round(memory / 2**30))
PYTHON
)
devices=${devices:-$((gpus > 0 ? gpus : 1))}
if [[ $gpus -gt 0 ]]; then
  [[ $devices -le $gpus ]] || die "--devices asks for $devices, and there are $gpus GPUs"
  device=(common.fp16=true dataset.num_workers=2)
else
  memory=$((memory / devices))
  device=(common.cpu=true dataset.num_workers=0)
fi

# override_path OPTION FILE: prints the override in quotes, so that hydra takes any file name.
override_path() { printf "%s='%s'" "$1" "$(realpath "$2")"; }

# find_divisor SHARE LIMIT: prints the largest divisor of SHARE that is not above LIMIT.
find_divisor() {
  local found=$2
  while [[ $(($1 % found)) -ne 0 ]]; do
    found=$((found - 1))
  done
  echo "$found"
}

# The largest microbatch that fits and divides the share of a device.
world=$((devices * nodes))
[[ $((tokens % world)) -eq 0 ]] ||
  die "$world devices cannot share a step of $tokens tokens evenly; use 1, 2, 4, 8 or 16 devices"
share=$((tokens / world))
limit=${max_tokens:-$((3584 * memory / 16))}
[[ $limit -le $share ]] || limit=$share
limit=$(find_divisor "$share" "$limit")
[[ $limit -ge 512 ]] || die "a microbatch of $limit tokens, which would divide a step evenly, is too" \
  "small for the longest sentences of some 500 tokens; raise --max-tokens"

out=${out:-$(dirname "$data")/$model}
mkdir -p "$out/checkpoints"
check_settings "$out/settings" "$pair $model, data $(realpath "$data")"

# fairseq counts its position in an epoch in batches, so a resumed training keeps its batches.
before=$(cat "$out/max-tokens" 2>/dev/null || true)
if [[ -n $before && -z $max_tokens && $before -ne $limit ]]; then
  [[ $before -lt $limit && $((share % before)) -eq 0 ]] ||
    die "$out was trained with microbatches of $before tokens, and $world devices would take $limit;" \
      "to restart the epoch with these, add --max-tokens $limit -- checkpoint.reset_dataloader=true"
  limit=$before
fi
printf '%s\n' "$limit" >"$out/max-tokens"
say "$tokens tokens per step: $world devices x $((share / limit)) microbatches x $limit tokens"

launcher=("$PY")
if [[ $world -eq 1 ]]; then
  device+=(distributed_training.distributed_world_size=1) # else fairseq uses all GPUs
else
  launcher+=(-m torch.distributed.run --nproc_per_node "$devices")
  if [[ $nodes -gt 1 ]]; then
    launcher+=(--nnodes "$nodes" --node_rank "$node_rank" --master_addr "${master%:*}"
      --master_port "${master##*:}")
  else
    launcher+=(--standalone)
  fi
fi
name=${model/-/_}_${pair/-/_}
recipe=(--config-dir "$ROOT/scripts/wmt/table10" --config-name "$name"
  "$(override_path hydra.run.dir "$out/hydra")" hydra.job.chdir=false
  "$(override_path common.user_dir "$ROOT/revcol_nlp")" "$(override_path task.data "$data")"
  dataset.max_tokens="$limit" optimization.update_freq=["$((share / limit))"]
  optimization.max_update="$max_update" "$(override_path checkpoint.save_dir "$out/checkpoints")"
  "$(override_path common.log_file "$out/train.log")" "$(override_path common.tensorboard_logdir "$out/tensorboard")"
  "${device[@]}" "${overrides[@]}")

if [[ -e $out/finished && $(<"$out/finished") -ge $max_update ]]; then
  say "$out: trained already"
else
  "${launcher[@]}" -m fairseq_cli.hydra_train "${recipe[@]}" 2>>"$out/train.err" |
    "$PY" -m scripts.translation.follow_training --max-update "$max_update" ||
    die "fairseq-hydra-train failed, and $out/train.err says why; run the same command again to" \
      "resume from the last checkpoint"
fi
[[ $node_rank -eq 0 ]] || exit 0
printf '%s\n' "$max_update" >"$out/finished"

average=$(average_last_checkpoints "$out/checkpoints" update 10)
reference=$(dirname "$data")/text/test.raw.${pair#*-}
scoring=(--data "$data" --checkpoint "$average" --beam 4 --lenpen 0.6 --out "$out/test")
[[ ! -f $reference ]] || scoring+=(--reference "$reference")
bash "$ROOT/scripts/translation/evaluate.sh" "${scoring[@]}"
