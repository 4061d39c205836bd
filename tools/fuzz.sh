#!/usr/bin/env bash
# Builds and runs every fuzz target for so many seconds: tools/fuzz.sh SECONDS
# What it finds interesting is kept in build/fuzz/corpus, and an input that fails in build/fuzz.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."
seconds=${1:?expected the seconds for each target}

tools/install_packages.sh build fuzz
names=()
for file in fuzz/*.cc; do
  names+=("fuzz_$(basename "$file" .cc)")
done
tools/build.sh fuzz "${names[@]}"
for name in "${names[@]}"; do
  echo "Fuzzing: $name for $seconds s"
  corpus=build/fuzz/corpus/$name
  mkdir -p "$corpus"
  "build/fuzz/bin/$name" -max_total_time="$seconds" -print_final_stats=1 -verbosity=0 \
    -artifact_prefix=build/fuzz/ "$corpus"
done
