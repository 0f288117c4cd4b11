#!/usr/bin/env bash
# Gets dcmjs-dimse (npm, MIT) into .tools/dcmjs, once: what tests/peers/dcmjs/package-lock.json names, each package by
# its hash; none of their scripts run. Without npm, or without its registry, it says so and the tests say it again.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
lock=$top/tests/peers/dcmjs
place=$top/.tools/dcmjs
if cmp -s "$lock/package-lock.json" "$place/package-lock.json" && [ -d "$place/node_modules/dcmjs-dimse" ]; then
    exit 0
fi
if ! command -v npm >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=900 install -y --no-install-recommends npm >/dev/null || true
fi
command -v npm >/dev/null || { echo "dcmjs-dimse needs npm: apt-get install --no-install-recommends npm" >&2; exit 0; }
rm -rf "$place"
mkdir -p "$place"
cp "$lock/package.json" "$place/"
made=$(mktemp)
trap 'rm -f "$made"' EXIT
cp "$lock/package-lock.json" "$made"
if (cd "$place" && cp "$made" package-lock.json && npm ci --silent --ignore-scripts --no-audit --no-fund >/dev/null); then
    exit 0
fi
rm -rf "$place"
echo "dcmjs-dimse could not be had from npm: the tests with it will not run" >&2
