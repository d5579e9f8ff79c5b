#!/usr/bin/env bash
# A PostgreSQL of the project's own on 127.0.0.1 for development and tests. Idempotent: starting what runs and stopping
# what does not run are fine. It is made for speed: after a crash of the machine its data may be gone.
#
#   scripts/postgres.sh start | stop | status | url
#
#   POSTGRES_HOME   data and log of the server (default ./.postgres)
#   POSTGRES_PORT   its port (default 5433); `start` and `url` print the URL as their last line
set -euo pipefail

home=${POSTGRES_HOME:-$PWD/.postgres}
port=${POSTGRES_PORT:-5433}
url="postgresql+psycopg://ratchet:ratchet@127.0.0.1:$port/ratchet"

say() { echo "postgres: $*" >&2; }
die() { say "$*"; exit 1; }

# Debian keeps the server's programs out of PATH, a folder for each version.
find_programs() {
  local newest
  newest=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)
  if [ -n "$newest" ]; then
    echo "$newest"
  elif command -v pg_ctl >/dev/null; then
    dirname "$(command -v pg_ctl)"
  else
    die "no PostgreSQL is installed (on Debian: apt install postgresql)"
  fi
}

# PostgreSQL refuses to run as root; then it runs as the user that Debian's package makes.
as_server() {
  if [ "$(id -u)" -eq 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

# A clone below a closed folder (root's home, a temporary one) cannot be reached by that user: use a folder of its own.
choose_home() {
  [ "$(id -u)" -eq 0 ] || return 0
  getent passwd postgres >/dev/null || die "as root a user 'postgres' is needed (on Debian: apt install postgresql)"
  if ! as_server test -x "$(dirname "$home")"; then
    home=/var/lib/postgresql/ratchet-$port
  fi
}

is_running() { [ -e "$home/data/PG_VERSION" ] && as_server "$bin/pg_ctl" -D "$home/data" status >/dev/null 2>&1; }

initialise() {
  [ -e "$home/data/PG_VERSION" ] && return
  local password
  mkdir -p "$home"
  [ "$(id -u)" -ne 0 ] || chown postgres "$home"
  rm -rf "$home/data"
  password=$(as_server mktemp)
  echo ratchet | as_server tee "$password" >/dev/null
  as_server "$bin/initdb" -D "$home/data" -U ratchet --pwfile="$password" --auth=scram-sha-256 --encoding=UTF8 \
    --locale=C --no-sync >"$home/initdb.log" 2>&1 || die "initdb failed, see $home/initdb.log"
  rm -f "$password"
}

start() {
  if is_running; then
    say "already running on 127.0.0.1:$port"
    return
  fi
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    die "something else answers on 127.0.0.1:$port; set POSTGRES_PORT"
  fi
  initialise
  # setsid: a Ctrl-C in this terminal must not reach the server
  as_server setsid "$bin/pg_ctl" -D "$home/data" -l "$home/data/server.log" -w -t 60 start -o \
    "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=200" \
    >/dev/null || die "it did not start, see $home/data/server.log"
  if ! run_sql "SELECT 1 FROM pg_database WHERE datname = 'ratchet'" | grep -q 1; then
    run_sql "CREATE DATABASE ratchet" >/dev/null
  fi
  say "running on 127.0.0.1:$port"
}

run_sql() { PGPASSWORD=ratchet "$bin/psql" -h 127.0.0.1 -p "$port" -U ratchet -d postgres -qAtc "$1"; }

stop() {
  if ! is_running; then
    say "not running"
    return
  fi
  as_server "$bin/pg_ctl" -D "$home/data" -m fast -w stop >/dev/null
  say "stopped"
}

status() {
  if is_running; then say "running on 127.0.0.1:$port"; else say "not running"; return 3; fi
}

bin=$(find_programs)
choose_home
case "${1:-}" in
  start) start; echo "$url" ;;
  stop) stop ;;
  status) status ;;
  url) echo "$url" ;;
  *) die "usage: $0 start | stop | status | url" ;;
esac
