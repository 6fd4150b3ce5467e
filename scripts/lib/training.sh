# Sourced by the scripts that train: averages checkpoints after the training.
# shellcheck shell=bash

# average_last_checkpoints FOLDER KIND N: averages the last N checkpoints of KIND (epoch or update)
# in FOLDER, or all if there are fewer, and prints the path of the average. If there are none, it
# prints the path of checkpoint_last.pt.
average_last_checkpoints() {
  local folder=$1 kind=$2 count=$3 found name='checkpoint[0-9]+\.pt'
  [[ $kind != update ]] || name='checkpoint_[0-9]+_[0-9]+\.pt'
  found=$(find "$folder" -regex ".*/$name" | wc -l)
  if [[ $found -eq 0 ]]; then
    say "there is no $kind checkpoint to average: taking checkpoint_last.pt"
    echo "$folder/checkpoint_last.pt"
    return
  fi
  if [[ $found -lt $count ]]; then
    say "averaging all $found $kind checkpoints; the recipe averages $count"
    count=$found
  fi
  "$PY" -m scripts.translation.average_checkpoints --inputs "$folder" \
    "--num-$kind-checkpoints" "$count" --output "$folder/checkpoint_average.pt" >&2
  echo "$folder/checkpoint_average.pt"
}
