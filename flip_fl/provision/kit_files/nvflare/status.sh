#!/bin/sh
# Whether this kit runs (0 it does, 1 it does not), and of a site whether it is connected to its server.
cd "$(dirname "$0")/.." && exec "${FLIP_PYTHON:-python3}" -m flip_fl.provision.serve . --status
