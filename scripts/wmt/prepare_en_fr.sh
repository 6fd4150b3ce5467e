#!/usr/bin/env bash
# Prepares WMT'14 English-French for fairseq: text, joint BPE and binarised data.
#
#   bash scripts/wmt/prepare_en_fr.sh [options]
#
# The training set is Europarl v7, Common Crawl, the UN corpus, News Commentary v9 and the 10^9
# corpus (40,842,333 sentence pairs before cleaning, 36M after), the validation set newstest2013,
# the test set newstest2014 (3,003 sentences). The script splits words at hyphens (@-@), and the
# dictionary holds all symbols of 40,000 joint merges, as in Ott et al. 2018, who validated on
# newstest2012 as well. The script needs some 50 GB of disk.
#
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

src=en tgt=fr merges=40000 disk=50 dashes=(--dashes)
corpora=(
  "training-parallel-europarl-v7.tgz europarl-v7.fr-en 2007723"
  "training-parallel-commoncrawl.tgz commoncrawl.fr-en 3244152"
  "training-parallel-un.tgz undoc.2000.fr-en 12886831"
  "training-parallel-nc-v9.tgz news-commentary-v9.fr-en 183251"
  "training-giga-fren.tar giga-fren.release2.fixed 22520376"
)
test_set=newstest2014-fren
prepare_pair runs/wmt14_en_fr "$@"
