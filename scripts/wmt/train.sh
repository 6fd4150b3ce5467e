#!/usr/bin/env bash
# Trains a row of Table 10 by the paper's schedule, averages its last checkpoints, and evaluates
# the average on newstest2014.
#
#   bash scripts/wmt/train.sh {en-de,en-fr} {revcol,transformer-big} [options] [-- overrides]
#
#   --data BIN         folder made by prepare_wmt16_en_de.sh or prepare_wmt14_en_fr.sh (default:
#                      bin/ in the folder that these make)
#   --out DIR          default: beside BIN, named after the model
#   --devices N        devices of this machine, and of each other one (default: all its GPUs; where
#                      there is none, one process on the CPU)
#   --max-tokens N     tokens that a device takes at once, at most (default: 3,584 per 16 GiB of
#                      its memory, as Ott et al. had)
#   --max-update N     steps (default: the paper's, 300,000 and 200,000)
#   --nodes N          machines that train together; run this same command on each (default 1)
#   --node-rank N      number of this machine, from 0 (default: $SLURM_NODEID, or 0)
#   --master HOST:PORT address of machine 0, with --nodes
#   --help             this text
#
# Overrides are options of fairseq's configuration, such as common.fp16=false optimization.lr=[0.001].
#
# A step is 28,672 tokens (En-De) or 86,016 (En-Fr), whatever the devices: each takes as many tokens
# at once as fit, and as often as it needs. GPUs compute in fp16. Started again, a training that was
# cut off goes on where its last checkpoint stands, on other devices if need be. Where
# several machines train, DIR must be a folder that all of them see.
#
# Slurm, 2 machines of 8 GPUs:
#   srun --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 bash scripts/wmt/train.sh en-fr revcol \
#     --nodes 2 --master "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500"
#
# DIR receives checkpoints/ (the last 10, one each 2,000 steps), train.log (JSON lines), train.err,
# tensorboard/, and test/ with the translations and scores.json.
# The recipes are the files of scripts/wmt/table10, for fairseq-hydra-train.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"
source "$ROOT/scripts/lib/training.sh"

[[ ${1:-} != --help && ${1:-} != -h ]] || show_help
pair=${1:-} model=${2:-}
case $pair in
  en-de) data=$ROOT/runs/wmt16_en_de/bin tokens=28672 max_update=300000 ;;
  en-fr) data=$ROOT/runs/wmt14_en_fr/bin tokens=86016 max_update=200000 ;;
  *) die "the first argument is en-de or en-fr, not '$pair'; --help says more" ;;
esac
[[ $model == revcol || $model == transformer-big ]] ||
  die "the second argument is revcol or transformer-big, not '$model'; --help says more"
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
    --help | -h) show_help ;;
    --) shift; overrides=("$@"); break ;;
    *) die "unknown option '$1'; --help lists them, and overrides follow --" ;;
  esac
done
if [[ $nodes -gt 1 ]]; then
  [[ $master =~ ^.+:[0-9]+$ ]] || die "several machines need --master HOST:PORT, not '$master'"
  [[ $node_rank =~ ^[0-9]+$ && $node_rank -lt $nodes ]] ||
    die "--node-rank is a number from 0 to $((nodes - 1)), not '$node_rank'"
else
  [[ -z $master ]] || die "--master has no use without --nodes"
  node_rank=0
fi
[[ -f $data/dict.${pair#*-}.txt ]] || die "no binarised data in $data; --data names its folder," \
  "and scripts/prepare_wmt*.sh make it"
need_modules fairseq sacrebleu sacremoses tensorboard

# Number of GPUs (0: the CPU) and GiB of memory of the smallest, or of the machine.
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

# path OPTION FILE: prints them as hydra takes them, whatever is in the name.
path() { printf "%s='%s'" "$1" "$(realpath "$2")"; }

# divisor_below SHARE LIMIT: prints the largest divisor of SHARE that is not above LIMIT.
divisor_below() {
  local found=$2
  while [[ $(($1 % found)) -ne 0 ]]; do
    found=$((found - 1))
  done
  echo "$found"
}

# The largest number of tokens that fits and makes a step without a rest.
world=$((devices * nodes))
[[ $((tokens % world)) -eq 0 ]] ||
  die "a step of $tokens tokens cannot be shared evenly by $world devices; take 1, 2, 4, 8 or 16"
share=$((tokens / world))
limit=${max_tokens:-$((3584 * memory / 16))}
[[ $limit -le $share ]] || limit=$share
limit=$(divisor_below "$share" "$limit")
[[ $limit -ge 512 ]] || die "$limit tokens at once, which would share a step evenly, are too few" \
  "for the longest sentences, some 500 tokens; ask for more with --max-tokens"

out=${out:-$(dirname "$data")/$model}
mkdir -p "$out/checkpoints"
settle "$out/settings" "$pair $model, data $(realpath "$data")"

# The place in an epoch is counted in batches, so a training goes on with those it began with.
before=$(cat "$out/max-tokens" 2>/dev/null || true)
if [[ -n $before && -z $max_tokens && $before -ne $limit ]]; then
  [[ $before -lt $limit && $((share % before)) -eq 0 ]] ||
    die "$out was trained with $before tokens at once, and these $world devices would take $limit;" \
      "to begin its epoch anew with them, add --max-tokens $limit -- checkpoint.reset_dataloader=true"
  limit=$before
fi
printf '%s\n' "$limit" >"$out/max-tokens"
say "$tokens tokens a step: $world devices x $limit tokens x $((share / limit)) times"

launcher=("$PY")
if [[ $world -eq 1 ]]; then
  device+=(distributed_training.distributed_world_size=1) # else fairseq takes all GPUs
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
  "$(path hydra.run.dir "$out/hydra")" hydra.job.chdir=false
  "$(path common.user_dir "$ROOT/revcol_nlp")" "$(path task.data "$data")"
  dataset.max_tokens="$limit" optimization.update_freq=["$((share / limit))"]
  optimization.max_update="$max_update" "$(path checkpoint.save_dir "$out/checkpoints")"
  "$(path common.log_file "$out/train.log")" "$(path common.tensorboard_logdir "$out/tensorboard")"
  "${device[@]}" "${overrides[@]}")

if [[ -e $out/finished && $(<"$out/finished") -ge $max_update ]]; then
  say "$out: trained already"
else
  "${launcher[@]}" -m fairseq_cli.hydra_train "${recipe[@]}" 2>>"$out/train.err" |
    "$PY" -m scripts.translation.follow_training --max-update "$max_update" ||
    die "fairseq-hydra-train failed, and $out/train.err says why; run this again to go on from" \
      "the last checkpoint"
fi
[[ $node_rank -eq 0 ]] || exit 0
printf '%s\n' "$max_update" >"$out/finished"

average=$(average_last "$out/checkpoints" update 10)
reference=$(dirname "$data")/text/test.raw.${pair#*-}
scoring=(--data "$data" --checkpoint "$average" --beam 4 --lenpen 0.6 --out "$out/test")
[[ ! -f $reference ]] || scoring+=(--reference "$reference")
bash "$ROOT/scripts/translation/evaluate.sh" "${scoring[@]}"
