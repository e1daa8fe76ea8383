#!/bin/sh
# Runs a program with secrets in its environment: each file here whose name is a variable's becomes that variable.
# So no secret stands in the definition of a container, where `docker inspect` would show it.
set -eu
for file in "${SECRETS_DIR:-/run/secrets}"/[A-Z]*; do
    if [ -s "$file" ]; then export "$(basename "$file")=$(cat "$file")"; fi
done
exec "$@"
