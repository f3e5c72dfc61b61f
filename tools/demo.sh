#!/bin/sh
# The demonstration behind `make demo`: a local session of its own, one real workflow, and nothing left running.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
# A data directory of its own, removed at the end. As root the database runs as another user, who must reach it.
FLAKES_DATA_DIR=$(mktemp -d "${TMPDIR:-/tmp}/flakes-demo.XXXXXX")
chmod 711 "$FLAKES_DATA_DIR"
FLAKES_SESSION=demo
export PATH FLAKES_DATA_DIR FLAKES_SESSION
unset FLAKES_SERVER FLAKES_TOKEN || true

say() { printf '\n$ %s\n' "$*"; }
finish() {
    status=$?
    trap - EXIT INT TERM
    say flakes down
    flakes down || true
    rm -rf "$FLAKES_DATA_DIR"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

say flakes up
flakes up
say flakes run examples/repository-report.md
flakes run examples/repository-report.md
say flakes runs list
flakes runs list
cat <<'TEXT'

Where to look next
  flakes run "echo hello" --adapter command     one task, on a session that it starts for you
  flakes run --check examples/repository-report.md
  flakes inspect RUN, flakes logs RUN/TASK --follow, flakes tasks result RUN/TASK
  docs/guide/                                   the guide
TEXT
