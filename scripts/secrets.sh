#!/bin/sh
# Writes the secrets that docker-compose.yml reads, into the folder secrets of this project: random ones, each only
# if it is not there. The folder is its owner's alone; the files are not, because the containers' users read them.
set -eu
umask 077
mkdir -p secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write() { # a file, from standard input, unless it is there; readable by whoever it is mounted for
    if [ ! -e "secrets/$1" ]; then cat >"secrets/$1.new" && chmod 644 "secrets/$1.new" && mv "secrets/$1.new" "secrets/$1"; fi
}
key_of() { sed -n "s/^$1://p" secrets/api-keys; }

write api-keys <<KEYS
# name:key, one a line; the name owns the runs that are made with the key
operator:sk-heartline-$(random)
open-webui:sk-heartline-$(random)
KEYS
write valkey.conf <<CONF
requirepass $(random)
CONF
password=$(sed -n 's/^requirepass //p' secrets/valkey.conf)
write HEARTLINE_REDIS_URL <<URL
redis://:$password@valkey:6379/0
URL
write open-webui.env <<ENV
OPENAI_API_KEYS=$(key_of open-webui)
WEBUI_SECRET_KEY=$(random)
ENV
write grafana-password <<PASSWORD
$(random)
PASSWORD
write metrics_token <<TOKEN
$(random)
TOKEN
write ANTHROPIC_API_KEY </dev/null
if [ ! -s secrets/ANTHROPIC_API_KEY ]; then
    echo "heartline: put your key for Anthropic's API into secrets/ANTHROPIC_API_KEY, if your models need it" >&2
fi
echo "heartline: the operator's API key is $(key_of operator)"
