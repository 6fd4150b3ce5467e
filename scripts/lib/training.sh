# Sourced by the scripts that train: what happens behind a training.
# shellcheck shell=bash

# average_last FOLDER KIND N: prints the name of a checkpoint in FOLDER that is the average of its
# last N checkpoints of KIND (epoch or update), or of as many as there are; where there is none,
# that of the last checkpoint.
average_last() {
  local folder=$1 kind=$2 count=$3 there name='checkpoint[0-9]+\.pt'
  [[ $kind != update ]] || name='checkpoint_[0-9]+_[0-9]+\.pt'
  there=$(find "$folder" -regex ".*/$name" | wc -l)
  if [[ $there -eq 0 ]]; then
    say "no $kind was finished, so there is nothing to average: taking checkpoint_last.pt"
    echo "$folder/checkpoint_last.pt"
    return
  fi
  if [[ $there -lt $count ]]; then
    say "averaging the $there $kind checkpoints there are, where the recipe averages $count"
    count=$there
  fi
  "$PY" -m scripts.translation.average_checkpoints --inputs "$folder" \
    "--num-$kind-checkpoints" "$count" --output "$folder/checkpoint_average.pt" >&2
  echo "$folder/checkpoint_average.pt"
}
