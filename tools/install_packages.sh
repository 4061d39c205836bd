#!/usr/bin/env bash
# Installs the Debian packages of the groups named as arguments that are not there yet:
#   tools/install_packages.sh build test
# Does nothing, and needs neither root nor a network, when nothing is missing.
set -euo pipefail

# ocl-icd-opencl-dev: CMake's file of libdnnl-dev looks for OpenCL, which the package does not bring.
declare -A groups=(
  [build]="g++ cmake ninja-build ccache pkg-config
           libdnnl-dev ocl-icd-opencl-dev libfmt-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev libedit-dev"
  [test]="libgtest-dev python3 python3-numpy"
  [dev]="libbenchmark-dev clang-format shellcheck"
  [fuzz]="clang libomp-dev"
  [tune]="libtorch-dev"
)

fail() {
  echo "$*" >&2
  exit 1
}

wanted=()
for group in "$@"; do
  [ -n "${groups[$group]:-}" ] || fail "Expected groups among: ${!groups[*]}; found: $group"
  read -r -d '' -a packages <<<"${groups[$group]}" || true
  wanted+=("${packages[@]}")
done

command -v dpkg-query >/dev/null ||
  fail "This system has no dpkg: install what these Debian packages hold (${wanted[*]}), then run" \
    "cmake --preset release && cmake --build --preset release."

missing=()
for package in "${wanted[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=none
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  by_hand="Ask an administrator to run: apt-get install ${missing[*]}"
  command -v sudo >/dev/null || fail "Installing packages needs root or sudo, and there is neither. $by_hand"
  as_root=(sudo)
  [ -t 0 ] || as_root+=(-n)
  "${as_root[@]}" true || fail "sudo does not let this user install packages. $by_hand"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  local command=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@")
  if [ -t 1 ]; then "${command[@]}"; else "${command[@]}" >"$log" 2>&1 </dev/null; fi
}

echo "Installing Debian packages: ${missing[*]}"
# A stale list may still do, so only the installation decides.
apt update || echo "apt-get update failed; trying with the package lists that are here." >&2
if ! apt install --no-install-recommends "${missing[@]}"; then
  tail -n 4 "$log" >&2
  fail "apt-get could not install: ${missing[*]}. Is there a network, and does /etc/apt name Debian 12 or newer?"
fi
