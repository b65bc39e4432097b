#!/bin/sh
# Bring the database up to date, then serve. A secret may come as a file: NAME_FILE is read into NAME.
set -eu
for name in FLIP_HUB_DATABASE_URL INTERNAL_SERVICE_KEY_HASH; do
  eval "file=\${${name}_FILE:-}"
  if [ -n "$file" ]; then
    value=$(cat "$file")
    export "$name=$value"
  fi
done
python -c '
from flip_fl.hub import admin
from flip_fl.settings import HubSettings, load
admin.init_database(load(HubSettings).database_url)
'
exec python -m flip_fl.hub --port "${FLIP_HUB_PORT:-8000}" "$@"
