# Sourced: from parallel text to fairseq's binarised data, each stage appearing only when whole.
#
# The caller sets `out`, `src`, `tgt` and `merges` and defines make_text DIR, which writes
# {train,valid,test}.{$src,$tgt} to DIR; then `build text; build bpe; build bin` makes the folders
# $out/text, $out/bpe and $out/bin, and leaves alone what is there. It may change `binarising`.
# shellcheck shell=bash
# shellcheck disable=SC2154

binarising=(--workers 2) # options of fairseq-preprocess

lines() { bound grep -c '' "$1" || true; }

# same_lines FILE...: the files must hold the same number of lines, and some.
same_lines() {
  local file
  [[ $(lines "$1") -gt 0 ]] || die "no line in $(basename "$1")"
  for file in "${@:2}"; do
    [[ $(lines "$file") -eq $(lines "$1") ]] ||
      die "$(basename "$1") has $(lines "$1") lines and $(basename "$file") has $(lines "$file")"
  done
}

make_bpe() {
  local dir=$1 text=$out/text split lang
  cat "$text/train.$src" "$text/train.$tgt" >"$dir/train.both"
  logged "$out/learn-bpe.log" "$PY" -m subword_nmt.learn_bpe --symbols "$merges" \
    --input "$dir/train.both" --output "$dir/codes"
  rm "$dir/train.both"
  for split in train valid test; do
    for lang in "$src" "$tgt"; do
      logged "$out/apply-bpe.log" "$PY" -m subword_nmt.apply_bpe --codes "$dir/codes" \
        --input "$text/$split.$lang" --output "$dir/$split.$lang"
      same_lines "$text/$split.$lang" "$dir/$split.$lang"
    done
  done
}

make_bin() {
  logged "$out/preprocess.log" bound "$PY" -m fairseq_cli.preprocess \
    --source-lang "$src" --target-lang "$tgt" --joined-dictionary "${binarising[@]}" \
    --trainpref "$out/bpe/train" --validpref "$out/bpe/valid" --testpref "$out/bpe/test" \
    --destdir "$1"
}

# build NAME [COMMAND...]: makes the folder $out/NAME with COMMAND or make_NAME if it is not there.
build() {
  local name=$1 partial=$out/.partial-$1
  shift
  if [[ -d $out/$name ]]; then
    say "$out/$name: there already"
    return
  fi
  rm -rf "$partial"
  mkdir "$partial"
  "${@:-make_$name}" "$partial"
  mv -T "$partial" "$out/$name"
  say "$out/$name: made"
}
