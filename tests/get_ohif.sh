#!/usr/bin/env bash
# Gets OHIF's built pages (npm @ohif/app, MIT) into .tools/ohif, once: a package of 48 MB, none of whose scripts run.
# Prints the folder of the pages.
set -euo pipefail
version=3.12.10
digest=sha512-0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==
tools=$(cd "$(dirname "$0")/.." && pwd)/.tools
pages=$tools/ohif-$version/package/dist
if [ ! -f "$pages/index.html" ]; then
    command -v npm >/dev/null || { echo "make ohif needs npm: apt-get install --no-install-recommends npm" >&2; exit 1; }
    made=$(mktemp -d)
    trap 'rm -rf "$made"' EXIT
    (cd "$made" && npm pack --silent "@ohif/app@$version" >/dev/null)
    found=sha512-$(openssl dgst -sha512 -binary "$made"/*.tgz | base64 -w0)
    [ "$found" = "$digest" ] || { echo "@ohif/app $version is not what it was: $found" >&2; exit 1; }
    mkdir -p "$tools/ohif-$version"
    tar -xzf "$made"/*.tgz -C "$tools/ohif-$version"
fi
echo "$pages"
