# Sourced: makes fairseq's binarised data from parallel text in stages. Each stage is a folder that
# appears only when it is complete.
#
# The caller sets `out`, `src`, `tgt` and `merges`, and defines make_text DIR, which writes
# {train,valid,test}.{$src,$tgt} to DIR. Then `make_stage text; make_stage bpe; make_stage bin` makes
# the folders $out/text, $out/bpe and $out/bin, and skips those that exist. The caller may extend
# `preprocess_options`.
# shellcheck shell=bash
# shellcheck disable=SC2154

preprocess_options=(--workers 2) # options of fairseq-preprocess

# count_lines FILE: prints the number of lines.
count_lines() { run_child grep -c '' "$1" || true; }

# check_line_counts FILE...: refuses files of different numbers of lines, and empty ones.
check_line_counts() {
  local file
  [[ $(count_lines "$1") -gt 0 ]] || die "$(basename "$1") has no lines"
  for file in "${@:2}"; do
    [[ $(count_lines "$file") -eq $(count_lines "$1") ]] ||
      die "$(basename "$1") has $(count_lines "$1") lines and $(basename "$file") has" \
        "$(count_lines "$file")"
  done
}

make_bpe() {
  local dir=$1 text=$out/text split lang
  cat "$text/train.$src" "$text/train.$tgt" >"$dir/train.both"
  run_logged "$out/learn-bpe.log" "$PY" -m subword_nmt.learn_bpe --symbols "$merges" \
    --input "$dir/train.both" --output "$dir/codes"
  rm "$dir/train.both"
  for split in train valid test; do
    for lang in "$src" "$tgt"; do
      run_logged "$out/apply-bpe.log" "$PY" -m subword_nmt.apply_bpe --codes "$dir/codes" \
        --input "$text/$split.$lang" --output "$dir/$split.$lang"
      check_line_counts "$text/$split.$lang" "$dir/$split.$lang"
    done
  done
}

make_bin() {
  run_logged "$out/preprocess.log" run_child "$PY" -m fairseq_cli.preprocess \
    --source-lang "$src" --target-lang "$tgt" --joined-dictionary "${preprocess_options[@]}" \
    --trainpref "$out/bpe/train" --validpref "$out/bpe/valid" --testpref "$out/bpe/test" \
    --destdir "$1"
}

# make_stage NAME [COMMAND...]: makes the folder $out/NAME, if it does not exist, with COMMAND DIR or
# make_NAME DIR.
make_stage() {
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
