#!/usr/bin/env bash
# Tells how many lines of src/io and src/tokenizer their tests and the fuzz corpora run:
#   tools/coverage.sh [PERCENT]
# A line for every file, then the totals; fails where one is below PERCENT (90).
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
least=${1:-90}

if [ -z "${TESSERA_SHARED:-}" ] && [ -d ../shared ]; then
  TESSERA_SHARED=$(cd ../shared && pwd)
  export TESSERA_SHARED
fi
tools/install_packages.sh build test
programs=(io_test tokenizer_test)
for target in safetensors config checkpoint tokenizer_json tokenizer_model tokenizer_files text_byte_level \
  text_byte_fallback text_word_piece text_unigram text_sentence_piece; do
  programs+=("fuzz_corpus_$target")
done
tools/build.sh coverage "${programs[@]}"

folder=build/coverage
find "$folder" -name '*.gcda' -delete
for program in "${programs[@]}"; do
  # A bound on time says nothing of code that counts its lines.
  arguments=("--gtest_filter=-*InBoundedTime")
  [[ $program != fuzz_corpus_* ]] || arguments=("fuzz/corpus/${program#fuzz_corpus_}")
  "$folder/bin/$program" "${arguments[@]}" >"$folder/$program.log" 2>&1 ||
    { tail -n 40 "$folder/$program.log" >&2 && exit 1; }
done

# gcov tells of each object file which lines of each source ran; a line of a header counts once.
find "$folder/src" -path '*_test.dir*' -prune -o -name '*.gcda' -print0 |
  xargs -0 gcov --json-format --stdout 2>"$folder/gcov.log" |
  python3 tools/line_coverage.py --least "$least" src/io src/tokenizer
