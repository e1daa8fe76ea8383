#!/bin/sh
# Makes sure that there is a Claude CLI of this version or newer: the one at HEARTLINE_CLAUDE_BIN, the one on
# PATH, or else one installed with npm into .cli of this project.
set -eu
wanted=$1
newest() { printf '%s\n%s\n' "$1" "$2" | sort -t. -k1,1n -k2,2n -k3,3n | tail -n 1; }
good() { # a program that names a version that is not older than the wanted one
    found=$("$1" --version 2>/dev/null | sed -n '1s/^\([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p') || return 1
    [ -n "$found" ] && [ "$(newest "$found" "$wanted")" = "$found" ]
}
# Where the operator names one, the worker checks it and says what is wrong.
if [ -n "${HEARTLINE_CLAUDE_BIN:-}" ] || grep -qs '^ *HEARTLINE_CLAUDE_BIN=..*' .env; then exit 0; fi
if path=$(command -v claude) && good "$path"; then exit 0; fi
if [ -x .cli/node_modules/.bin/claude ] && good .cli/node_modules/.bin/claude; then exit 0; fi
if ! command -v npm >/dev/null; then
    echo "heartline: no Claude CLI >= $wanted on PATH, and no npm to install it: install Node.js 18 or newer" \
         "with npm, or the CLI itself, or set HEARTLINE_CLAUDE_BIN" >&2
    exit 1
fi
echo "heartline: installing the Claude CLI $wanted into .cli" >&2
npm install --prefix .cli --no-audit --no-fund --loglevel=error "@anthropic-ai/claude-code@$wanted" >&2
good .cli/node_modules/.bin/claude || (cd .cli/node_modules/@anthropic-ai/claude-code && node install.cjs) >&2
good .cli/node_modules/.bin/claude || { echo "heartline: npm installed a CLI that does not run" >&2; exit 1; }
