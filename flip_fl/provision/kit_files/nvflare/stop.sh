#!/bin/sh
# Stop what start.sh runs. Harmless when nothing runs.
cd "$(dirname "$0")/.." && exec "${FLIP_PYTHON:-python3}" -m flip_fl.provision.serve . --stop
