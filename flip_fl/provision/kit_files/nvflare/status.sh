#!/bin/sh
# Whether start.sh's processes run: 0 they do, 1 they do not.
cd "$(dirname "$0")/.." || exit 1
for file in daemon_pid.fl pid.fl; do
  if [ -f "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null; then
    echo "{{name}} runs (process $(cat "$file"))"
    exit 0
  fi
done
echo "{{name}} does not run"
exit 1
