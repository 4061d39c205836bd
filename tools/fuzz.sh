#!/usr/bin/env bash
# Builds the fuzz targets and runs each for so many seconds: tools/fuzz.sh [--jobs N] SECONDS [TARGET]...
#   --jobs     so many targets at a time (one a CPU)
#   TARGET     only these: the names of fuzz/*.cc
# Inputs that reach new code are kept in build/fuzz/corpus, from where the next run goes on; an input that
# fails is in build/fuzz/findings. A long run: tools/fuzz.sh 3600
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."

usage() {
  sed -n '2,6s/^# //p' tools/fuzz.sh
  exit "$1"
}

jobs=$(nproc)
positional=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage 0 ;;
    --jobs) jobs=${2:?--jobs needs a number} && shift 2 ;;
    -*) usage 2 >&2 ;;
    *) positional+=("$1") && shift ;;
  esac
done
[ ${#positional[@]} -gt 0 ] || usage 2 >&2
seconds=${positional[0]}
targets=("${positional[@]:1}")
if [ ${#targets[@]} = 0 ]; then
  for file in fuzz/*.cc; do
    targets+=("$(basename "$file" .cc)")
  done
fi

tools/install_packages.sh build test fuzz
tools/build.sh fuzz "${targets[@]/#/fuzz_}"
folder=build/fuzz
mkdir -p "$folder/findings" "$folder/logs"

# Hangs and leaks are findings too.
fuzz() {
  local name=$1 options=(-timeout=60 -rss_limit_mb=3000 -print_final_stats=1 -verbosity=0)
  mkdir -p "$folder/corpus/$name"
  [ ! -f "fuzz/dictionaries/$name.dict" ] || options+=(-dict="fuzz/dictionaries/$name.dict")
  "$folder/bin/fuzz_$name" "${options[@]}" -max_total_time="$seconds" \
    -artifact_prefix="$folder/findings/$name-" "$folder/corpus/$name" "fuzz/corpus/$name" \
    >"$folder/logs/$name" 2>&1
}

report() {
  local name=$1 status=$2 executions
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/logs/$name")
  if [ "$status" = 0 ]; then
    echo "$name: ${executions:-no} executions, no finding"
    return 0
  fi
  grep -av NEW_FUNC "$folder/logs/$name" | tail -n 40 >&2
  echo "$name: FAILED; all of its output is in $folder/logs/$name." >&2
}

echo "Fuzzing ${#targets[@]} targets for $seconds s each, $jobs at a time"
declare -A running=()
failed=0
collect() {
  local pid status=0
  wait -n -p pid || status=$?
  report "${running[$pid]}" "$status" || true
  [ "$status" = 0 ] || failed=$((failed + 1))
  unset "running[$pid]"
}
for name in "${targets[@]}"; do
  [ "${#running[@]}" -lt "$jobs" ] || collect
  fuzz "$name" &
  running[$!]=$name
done
while [ "${#running[@]}" -gt 0 ]; do collect; done
[ "$failed" = 0 ]
