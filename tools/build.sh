#!/usr/bin/env bash
# Configures and builds a preset: tools/build.sh PRESET [-DNAME=VALUE]... [TARGET]...
# On a terminal ninja's status is the progress line; elsewhere the output goes to a log, shown on failure.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."

preset=$1
shift
settings=()
targets=()
for argument in "$@"; do
  case $argument in
    -D*) settings+=("$argument") ;;
    *) targets+=(--target "$argument") ;;
  esac
done

folder=build/$preset
log=$folder/build.log
mkdir -p "$folder"
fail() {
  tail -n 60 "$log" >&2
  echo "$1 failed; all of its output is in $log." >&2
  exit 1
}

started=$SECONDS
echo "Configuring $folder"
cmake --preset "$preset" "${settings[@]}" >"$log" 2>&1 || fail "Configuring"
echo "Building $folder on $(nproc) CPUs"
build=(cmake --build "$folder" --parallel "$(nproc)" "${targets[@]}")
if [ -t 1 ]; then
  "${build[@]}"
else
  "${build[@]}" >"$log" 2>&1 || fail "Building"
fi
echo "Built in $((SECONDS - started)) s"
