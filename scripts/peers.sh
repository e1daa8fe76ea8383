#!/bin/sh
# Installs the two peers that `make bench` measures Heartline beside, each into a folder of its own below .bench. What
# cannot be installed is left out: the benchmark says so, and why.
set -u
mkdir -p .bench
peer() { # name, command …: once, with its output kept for the reason
    name=$1; shift
    if [ -e ".bench/$name/.made" ]; then return; fi
    echo "heartline: installing $name into .bench, to measure beside it" >&2
    rm -rf ".bench/$name"
    if "$@" >".bench/$name.log" 2>&1; then touch ".bench/$name/.made"; else rm -rf ".bench/$name"; fi
}
npm_peer() { # neither it nor what it needs has anything to build: no scripts
    npm install --prefix ".bench/$name" --ignore-scripts --no-audit --no-fund --loglevel=error "$1"
}
pypi_peer() {
    "${PYTHON:-python3}" -m venv ".bench/$name" &&
        ".bench/$name/bin/python" -m pip install --quiet --only-binary :all: "$1"
}
peer claude-max-api-proxy npm_peer claude-max-api-proxy@1.0.0
peer claude-code-openai pypi_peer claude-code-openai==0.1.1
