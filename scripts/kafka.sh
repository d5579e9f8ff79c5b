#!/usr/bin/env bash
# A real single-node Kafka broker (KRaft) on 127.0.0.1 for development and tests. Needs Java 17+ and Maven, which
# fetches the jars once. Idempotent: starting what runs and stopping what does not run are fine.
#
#   scripts/kafka.sh start [--fresh] | stop | status
#
#   KAFKA_HOME   jars, data and log of the broker (default ./.kafka)
#   KAFKA_PORT           clients' port (default 9092); KAFKA_CONTROLLER_PORT defaults to the next one
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
home=${KAFKA_HOME:-$PWD/.kafka}
port=${KAFKA_PORT:-9092}
controller_port=${KAFKA_CONTROLLER_PORT:-$((port + 1))}
start_limit_s=60
stop_limit_s=20

die() { echo "kafka: $*" >&2; exit 1; }

# The id of our running broker, or nothing. The command line is compared because process ids are used again.
running_pid() {
  local pid
  pid=$(cat "$home/broker.pid" 2>/dev/null) || return 0
  if ps -p "$pid" -o args= 2>/dev/null | grep -qF "kafka.Kafka $home/server.properties"; then echo "$pid"; fi
}

# Succeeds once the broker answers an ApiVersions request (key 18, version 0): an open port alone proves nothing.
answers() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
    printf '\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff' >&3
    [ "$(timeout 2 head -c 8 <&3 | wc -c)" -eq 8 ]
  ) 2>/dev/null
}

fetch_jars() {
  [ -e "$home/libs/.complete" ] && return
  command -v mvn >/dev/null || die "mvn is needed once, to fetch the broker's jars; install Maven"
  mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$home/libs" >"$home/maven.log" 2>&1 ||
    die "fetching the jars failed, see $home/maven.log"
  touch "$home/libs/.complete"
}

write_settings() {
  cat >"$home/server.properties" <<SETTINGS
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:$controller_port
log.dirs=$home/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
SETTINGS
}

format_storage() {
  [ -e "$home/data/meta.properties" ] && return
  local cluster_id
  cluster_id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
  java -Xmx128m -cp "$home/libs/*" kafka.tools.StorageTool format --standalone \
    --cluster-id "$cluster_id" --config "$home/server.properties" >"$home/format.log" 2>&1 ||
    die "formatting $home/data failed, see $home/format.log"
}

await_answer() {
  local pid=$1 deadline=$((SECONDS + start_limit_s))
  until answers; do
    kill -0 "$pid" 2>/dev/null || die "the broker ended, see $home/broker.log"
    [ "$SECONDS" -lt "$deadline" ] || die "no answer on port $port after $start_limit_s s, see $home/broker.log"
    sleep 0.2
  done
}

start() {
  local pid
  pid=$(running_pid)
  if [ -n "$pid" ] && [ "${1:-}" != --fresh ]; then
    await_answer "$pid"
    echo "kafka: already running on 127.0.0.1:$port (process $pid)"
    return
  fi
  [ -z "$pid" ] || stop >/dev/null
  command -v java >/dev/null || die "java 17 or newer is needed"
  answers && die "something else answers on 127.0.0.1:$port; set KAFKA_PORT"
  mkdir -p "$home"
  [ "${1:-}" != --fresh ] || rm -rf "$home/data"
  fetch_jars
  write_settings
  format_storage
  # the quick compiler alone: a broker for tests starts often and runs briefly.
  # setsid: a Ctrl-C in this terminal must not reach the broker.
  setsid nohup java -Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true -cp "$home/libs/*" \
    kafka.Kafka "$home/server.properties" >"$home/broker.log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$home/broker.pid"
  await_answer "$pid"
  echo "kafka: running on 127.0.0.1:$port (process $pid)"
}

stop() {
  local pid deadline=$((SECONDS + stop_limit_s))
  pid=$(running_pid)
  if [ -z "$pid" ]; then
    echo "kafka: not running"
    return
  fi
  kill "$pid"
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then kill -KILL "$pid"; fi
    sleep 0.1
  done
  rm -f "$home/broker.pid"
  echo "kafka: stopped"
}

status() {
  local pid
  pid=$(running_pid)
  if [ -n "$pid" ] && answers; then
    echo "kafka: running on 127.0.0.1:$port (process $pid)"
  else
    echo "kafka: not running"
    return 3
  fi
}

case "${1:-}" in
  start) start "${2:-}" ;;
  stop) stop ;;
  status) status ;;
  *) die "usage: $0 start [--fresh] | stop | status" ;;
esac
