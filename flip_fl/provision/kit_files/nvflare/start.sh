#!/bin/sh
# Run this kit's part of the federation in the background; returns when it runs. FLIP_PYTHON: a Python that has flip_fl.
cd "$(dirname "$0")/.." && exec "${FLIP_PYTHON:-python3}" -m flip_fl.provision.serve . --background
