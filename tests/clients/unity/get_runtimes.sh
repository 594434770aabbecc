#!/usr/bin/env bash
# Installs what the Unity package's tests run on: Mono with its compiler (apt), and a CoreCLR runtime (PyPI's dotnetcore2)
# below .venv. Does nothing when they are there.
set -euo pipefail
cd "$(dirname "$0")/../../.."

if ! command -v mcs >/dev/null || ! command -v mono >/dev/null; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "Mono is missing: install mono-devel and mono-mcs, or run this as root where there is apt-get" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mono-devel mono-mcs >/dev/null
fi
if [ ! -x .venv/dotnet/dotnetcore2/bin/dotnet ] && [ -z "${DOTNET:-}" ]; then
    .venv/bin/python -m pip install --quiet --target .venv/dotnet dotnetcore2
fi
