#!/usr/bin/env bash
# Sets up what the project needs inside its own folder: uv, .venv, Kafka's jars. The Makefile calls it, step by step.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.8
UV_OLDEST=0.5.0
JARS=.riskflow/kafka-libs
COPY_JARS=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies

stop() {
    printf 'setup: %s\n' "$@" >&2
    exit 3
}

# The first Python that pyproject.toml allows; RISKFLOW_PYTHON names another one.
find_python() {
    for candidate in "${RISKFLOW_PYTHON:-}" python3 python3.12 python3.11; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
            command -v "$candidate"
            return
        fi
    done
    stop "Python 3.11 or 3.12 is needed, found: $(python3 --version 2>&1 || echo none)." \
        "Install it (Debian: apt-get install python3 python3-venv) or name one: make setup RISKFLOW_PYTHON=/path/to/python3.12"
}

check_java() {
    local found
    found=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1) || true
    [ "${found:-0}" -ge 17 ] || stop "Java 17 or newer is needed for Kafka, found: ${found:-none}." \
        "Install it (Debian: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17)."
}

check_maven() {
    command -v mvn >/dev/null || stop "Maven is needed once, to fetch Kafka's jars." \
        "Install it (Debian: apt-get install maven; macOS: brew install maven)."
}

# A uv on the PATH that knows --require-hashes does; else one of our own, in the project.
find_uv() {
    local found
    found=$(uv --version 2>/dev/null | cut -d' ' -f2) || true
    if [ -n "$found" ] && [ "$(printf '%s\n' "$UV_OLDEST" "$found" | sort -V | head -1)" = "$UV_OLDEST" ]; then
        command -v uv
        return
    fi
    if [ ! -x .uv/bin/uv ]; then
        echo "setup: installing uv $UV_VERSION into .uv" >&2
        "$PYTHON" -m venv .uv >&2 || stop "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)."
        .uv/bin/python -m pip install --quiet "uv==$UV_VERSION" >&2
    fi
    echo .uv/bin/uv
}

make_environment() {
    local lock_sum
    lock_sum=$(cat requirements/all.txt pyproject.toml | cksum)
    if [ -x .venv/bin/riskflow ] && [ "$(cat .venv/.installed 2>/dev/null)" = "$lock_sum" ]; then
        touch .venv/.installed
        return
    fi
    local uv
    uv=$(find_uv)
    echo "setup: installing the locked packages into .venv" >&2
    [ -x .venv/bin/python ] || "$uv" venv --quiet --python "$PYTHON" .venv
    export VIRTUAL_ENV="$PWD/.venv"
    "$uv" pip sync --quiet --require-hashes requirements/all.txt
    "$uv" pip install --quiet --no-deps -e .
    echo "$lock_sum" >.venv/.installed
}

fetch_jars() {
    check_java
    check_maven
    echo "setup: fetching Kafka's jars into $JARS" >&2
    rm -rf "$JARS" && mkdir -p "$JARS"
    mvn --quiet --batch-mode --file ops/jars/pom.xml "$COPY_JARS" -DincludeScope=runtime -DoutputDirectory="$PWD/$JARS" 2>&1 |
        sed $'s/\033\\[0m//g' >&2 # Maven resets the colours of a terminal, four times, even where there is none
    touch "$JARS/.installed"
}

case "${1:-}" in
uv)
    PYTHON=$(find_python)
    find_uv
    ;;
environment)
    PYTHON=$(find_python)
    make_environment
    ;;
jars) fetch_jars ;;
*) stop "usage: ops/setup.sh uv|environment|jars" ;;
esac
