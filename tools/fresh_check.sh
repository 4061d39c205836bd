#!/usr/bin/env bash
# Runs ./quickstart and ./test as a new user would: on a minimal Debian 12 with git and nothing else, in a clone
# of what is committed here.
#   sudo tools/fresh_check.sh [FOLDER]     FOLDER (/tmp/fresh) gets the system, and keeps it for the next time
# Needs root and the package debootstrap.
set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.."

system=${1:-/tmp/fresh}
mirror=${MIRROR:-http://deb.debian.org/debian}
if [ ! -e "$system/usr/bin/git" ]; then
  debootstrap --variant=minbase --include=git bookworm "$system" "$mirror"
fi
cp /etc/resolv.conf /etc/hosts "$system/etc/"
rm -rf "$system/root/tessera"
git clone -q --no-hardlinks . "$system/root/tessera"

mounted=()
trap 'for at in "${mounted[@]}"; do umount -l "$at"; done' EXIT
for at in proc sys dev; do
  mount --rbind --make-rslave "/$at" "$system/$at"
  mounted+=("$system/$at")
done
inside() {
  local started=$SECONDS
  chroot "$system" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 "$@" </dev/null
  echo "-- ${*: -1}: $((SECONDS - started)) s"
}
inside root/tessera/quickstart
inside root/tessera/quickstart
inside root/tessera/test
