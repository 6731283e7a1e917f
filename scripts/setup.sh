#!/bin/sh
# Installs what package-lock.json names when that has changed since the last time; otherwise does and says nothing.
#
# A copy of the lock inside node_modules tells what is installed. It is written last, so that an interrupted install is done
# again. This runs on the machine's own Node, which may be older than the one that it installs (node_modules/.bin/node): it
# must not run `node` itself, and comes first in a line of commands, since a shell remembers which `node` it found.
set -eu
cd "$(dirname "$0")/.."

installed=node_modules/.installed-package-lock.json
cmp -s package-lock.json "$installed" && exit 0

echo "streamdisk: installing what package-lock.json names"
# The install replaces node_modules, so npm must not be run by the node that lies in there.
PATH=$(printf '%s' "$PATH" | sed 's#[^:]*/node_modules/\.bin:##g')
npm ci --loglevel=error --no-audit --no-fund --engine-strict=false
cp package-lock.json "$installed"
