#!/usr/bin/env bash
# Prepares WMT'16 English-German for fairseq: text, joint BPE and binarised data.
#
#   bash scripts/wmt/prepare_en_de.sh [options]
#
# The training set is Europarl v7, Common Crawl and News Commentary v11 (4,562,102 sentence pairs
# before cleaning), the validation set newstest2013, the test set newstest2014 (all 3,003
# sentences). The dictionary holds the 32,768 most frequent symbols of 32,000 joint merges, as in
# Ott et al. 2018. They trained on 4.5M pairs, more than the defaults keep; --max-length 80
# --ratio 9 keeps as many. The script needs some 8 GB of disk.
#
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

src=en tgt=de merges=32000 disk=8
preprocess_options+=(--nwordssrc 32768 --nwordstgt 32768)
corpora=(
  "training-parallel-europarl-v7.tgz europarl-v7.de-en 1920209"
  "training-parallel-commoncrawl.tgz commoncrawl.de-en 2399123"
  "training-parallel-nc-v11.tgz news-commentary-v11.de-en 242770"
)
test_set=newstest2014-deen
prepare_pair runs/wmt16_en_de "$@"
