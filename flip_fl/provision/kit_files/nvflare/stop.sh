#!/bin/sh
# Stop what start.sh runs, and wait for its end. Harmless when nothing runs.
cd "$(dirname "$0")/.." || exit 1
startup/status.sh >/dev/null || { echo "{{name}} does not run"; exit 0; }
: > shutdown.fl
seconds=0
while startup/status.sh >/dev/null; do
  [ "$seconds" -ge 40 ] && { echo "{{name}} still runs after 40 s" >&2; exit 1; }
  seconds=$((seconds + 1))
  sleep 1
done
echo "{{name}} is stopped"
