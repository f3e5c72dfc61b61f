#!/bin/sh
# Makes .venv from one pinned and hashed requirement file: `tools/setup.sh base` or `tools/setup.sh dev`; with
# `tools/setup.sh agents` (or `browser`), puts the agents that the tests drive (or what the tests of the console use
# besides the browser) into .venv/agents (.venv/browser), by a lock file of their own.
# Nothing outside the checkout is touched, except that on Debian, as root, packages that are missing are installed:
# python3-venv, and for `dev` what some tests need and skip without (a browser, namespaces, network tools).
# When nothing has changed since the last time, it does nothing and needs no network.
set -eu
cd "$(dirname "$0")/.."
wanted=$1
requirements=requirements/$wanted.txt

# Where they cannot be installed, the file `skipped` says why, and the tests that need them are skipped.
install_packages() {
    place=.venv/$1
    lock=tests/$1/package-lock.json
    stamp=$(cksum <"$lock" | tr ' ' '-')
    [ "$(cat "$place/.stamp" 2>/dev/null)" = "$stamp" ] && return
    mkdir -p "$place"
    rm -rf "$place/node_modules" "$place/skipped"
    cp "tests/$1/package.json" "$lock" "$place"
    if ! command -v npm >/dev/null; then
        echo "there is no npm on the PATH" >"$place/skipped"
    elif echo "installing $2 (pinned and hashed)" >&2 &&
        ! (cd "$place" && npm ci --fetch-retries=1 --ignore-scripts --no-audit --no-fund --loglevel=error >npm.log 2>&1); then
        rm -rf "$place/node_modules"
        echo "npm ci failed: $(grep -m 1 -i 'error' "$place/npm.log" || tail -n 1 "$place/npm.log")" >"$place/skipped"
    else
        echo "$stamp" >"$place/.stamp"
        return
    fi
    echo "skipping them: $(cat "$place/skipped")" >&2
}
case $wanted in
agents) install_packages agents "the agents that the tests drive" && exit 0 ;;
browser) install_packages browser "what the tests of the console use" && exit 0 ;;
esac

find_python() {
    for name in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python3.14; do
        [ -n "$name" ] || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.11 or newer on PATH; install one, or name it: make PYTHON=/path/to/python3" >&2
    exit 1
}

# Best effort: a test that finds one of these missing says so and is skipped.
install_for_tests() {
    [ "$wanted" = dev ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    missing=
    command -v chromium >/dev/null || missing="$missing chromium"
    command -v bwrap >/dev/null || missing="$missing bubblewrap"
    command -v ip >/dev/null || missing="$missing iproute2"
    [ -n "$missing" ] || return 0
    echo "installing$missing (for tests)" >&2
    # shellcheck disable=SC2086 # one word a package
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing; } >/dev/null 2>&1 ||
        echo "note: could not install$missing; the tests that need it will be skipped" >&2
}
install_for_tests

# The stamp of `dev` serves `base` too: it holds everything that base does.
digest() { cat "requirements/$1.txt" pyproject.toml | cksum | tr ' ' '-'; }
for stamp in "$wanted" dev; do
    if [ -x .venv/bin/flakes ] && [ "$(cat ".venv/.stamp-$stamp" 2>/dev/null)" = "$(digest "$stamp")" ]; then
        exit 0
    fi
done

python=$(find_python)
if [ ! -x .venv/bin/python ]; then
    echo "making .venv with $("$python" --version)" >&2
    if ! "$python" -m venv .venv 2>/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null
            "$python" -m venv .venv
        else
            echo "error: this Python has no venv module; on Debian: apt-get install python3-venv" >&2
            exit 1
        fi
    fi
fi
echo "installing $requirements (pinned and hashed)" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --no-deps --no-build-isolation --no-index --editable .
digest "$wanted" >".venv/.stamp-$wanted"
