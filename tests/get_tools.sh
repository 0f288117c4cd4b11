#!/usr/bin/env bash
# Gets what the tests need from Debian: Orthanc with its DICOMweb plugin, DCMTK, Prometheus with promtool, Chromium,
# systemd (for systemd-analyze).
# As root they are installed, with a policy-rc.d for this run only, so that no service starts. Without root they are
# unpacked below .tools/ where that works. `bench` gets the peers of the benchmark too; `--path` prints the folders
# to put before PATH.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
tools=$top/.tools
packages=(orthanc orthanc-dicomweb dcmtk prometheus chromium systemd)
commands=(Orthanc storescu findscu dcmqrscp prometheus promtool chromium systemd-analyze)
if [ "${1:-}" = bench ]; then
    packages+=(haproxy nginx libnginx-mod-stream caddy wrk)
    commands+=(haproxy nginx caddy wrk)
fi

path="$tools/usr/bin:$tools/usr/sbin:/usr/sbin:/usr/bin"
if [ "${1:-}" = --path ]; then
    echo "$path"
    exit 0
fi

missing() {
    for command in "${commands[@]}"; do
        PATH="$path:$PATH" command -v "$command" >/dev/null || return 0
    done
    [ -z "$(find /usr/share/orthanc/plugins /usr/lib/orthanc "$tools"/usr -name '*DicomWeb*.so*' 2>/dev/null | head -1)" ]
}

missing || exit 0
if ! command -v apt-get >/dev/null; then
    echo "the tests need Debian's packages: ${packages[*]}" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    made=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        made=yes
    fi
    trap '[ -z "$made" ] || rm -f /usr/sbin/policy-rc.d' EXIT
    apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=900 -o Acquire::Retries=3)
    # `update` takes another lock, for which apt has no option: try for up to 15 minutes.
    for _ in $(seq 90); do "${apt[@]}" update && break || read -rt 10 <> <(:) || true; done
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null
else
    mkdir -p "$tools/debs"
    (
        cd "$tools/debs"
        mapfile -t wanted < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
            --no-replaces --no-enhances "${packages[@]}" | grep -E '^[a-z0-9]' | sort -u)
        for package in "${wanted[@]}"; do
            dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || apt-get -qq download "$package" || true
        done
        for deb in *.deb; do dpkg -x "$deb" "$tools"; done
    ) || true
    if missing; then
        echo "could not unpack them without root; as root: apt-get install --no-install-recommends ${packages[*]}" >&2
        exit 1
    fi
fi
