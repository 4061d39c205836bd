#!/usr/bin/env bash
# Checks what can be read off the files: clang-format, length, shell scripts.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."

max_lines=800
failed=0
mapfile -t sources < <(find include src apps examples tests bench fuzz \( -name '*.h' -o -name '*.cc' \) 2>/dev/null | sort)
scripts=(quickstart test .ci/run tools/*.sh examples/recipes/fetch)

clang-format --dry-run -Werror "${sources[@]}" || failed=1
for file in "${sources[@]}" "${scripts[@]}" tools/*.py; do
  lines=$(wc -l <"$file")
  if [ "$lines" -gt $max_lines ]; then
    echo "$file: expected at most $max_lines lines, found $lines"
    failed=1
  fi
done
shellcheck "${scripts[@]}" || failed=1
exit $failed
