#!/bin/sh
# Makes the secrets of deploy/compose.yaml, once: $1/failover/tokens (`name token` lines), $1/prometheus/token (the
# bare one) and $1/grafana/password. What is there stays. As root each belongs to the user that reads it alone.
set -eu
umask 077
folder=${1:?usage: make_tokens.sh FOLDER}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
own() { [ "$(id -u)" != 0 ] || chown -R "$1" "$2"; }

for part in failover prometheus grafana; do
    mkdir -p "$folder/$part"
    chmod 700 "$folder/$part"
done
if [ ! -s "$folder/failover/tokens" ] || [ ! -s "$folder/prometheus/token" ]; then
    scrape=$(random)
    printf 'admin %s\nprometheus %s\n' "$(random)" "$scrape" >"$folder/failover/tokens"
    printf '%s' "$scrape" >"$folder/prometheus/token"
fi
[ -s "$folder/grafana/password" ] || random >"$folder/grafana/password"
chmod 600 "$folder/failover/tokens" "$folder/prometheus/token" "$folder/grafana/password"
own 10001:10001 "$folder/failover"
own 65534:65534 "$folder/prometheus"
own 472:0 "$folder/grafana"
