#!/usr/bin/env bash
# Sluice in one command: installs what is missing, builds, starts a daemon on a private socket, asks it for a story, shows
# where the memory went, stops the daemon. Nothing is left running, nothing is written outside build/ and a temporary folder.
#
#   scripts/demo.sh               with the small model that comes with the source
#   scripts/demo.sh MODEL.gguf    with yours
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

prompt="Tell me a story about a fox and a lantern."
model=$sluice_root/assets/demo.gguf
case ${1:-} in
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  -*) sluice_warn "demo: unknown option $1; usage: scripts/demo.sh [MODEL.gguf]"; exit 2 ;;
  ?*) model=$1 ;;
esac
if [ $# -gt 1 ]; then sluice_warn "demo: one model at most; usage: scripts/demo.sh [MODEL.gguf]"; exit 2; fi
if [ ! -f "$model" ]; then sluice_warn "demo: $model is not a file; usage: scripts/demo.sh [MODEL.gguf]"; exit 2; fi
if [ ! -r "$model" ]; then sluice_warn "demo: $model cannot be read"; exit 2; fi
model=$(realpath "$model")

sluice_setup build
sluice_build release sluiced sluice
bin=$sluice_root/build/release/bin

folder=$(mktemp -d "${TMPDIR:-/tmp}/sluice-demo.XXXXXX")
daemon=
stop_daemon() {
  [ -n "$daemon" ] || return 0
  kill -TERM "$daemon" 2>/dev/null || true
  local i
  for i in $(seq 100); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
  kill -KILL "$daemon" 2>/dev/null && sluice_warn "demo: the daemon did not stop within 10 s and was killed"
  wait "$daemon" 2>/dev/null || true
  daemon=
}
cleanup() { stop_daemon; rm -rf "$folder"; }
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Only this folder: no configuration, state or daemon of the user's own.
export XDG_CONFIG_HOME=$folder/config XDG_STATE_HOME=$folder/state XDG_RUNTIME_DIR=$folder/run
mkdir -m 700 "$XDG_RUNTIME_DIR"
export SLUICE_HOST=unix://$folder/sluice.sock
sluice_say "Starting sluiced with $(basename "$model") on $folder/sluice.sock"
# Its own session: Ctrl-C goes to the client, and the daemon is stopped below.
setsid "$bin/sluiced" run --listen "$SLUICE_HOST" --state-dir "$folder/state" --model "$model" --name demo \
  </dev/null >"$folder/log" 2>&1 &
daemon=$!
ready=
for i in $(seq 300); do
  if "$bin/sluice" api /health >/dev/null 2>&1; then ready=1; break; fi
  kill -0 "$daemon" 2>/dev/null || break
  sleep 0.1
done
if [ -z "$ready" ]; then
  sluice_warn "demo: the daemon did not come up; it says:"
  tail -n 20 "$folder/log" >&2
  exit 1
fi

sluice_say "sluice run demo \"$prompt\" --temp 0.5 --stats"
status=0
"$bin/sluice" run demo "$prompt" --temp 0.5 --seed 7 --max-tokens 256 --stats || status=$?
if [ $status != 0 ]; then
  sluice_warn "demo: sluice run ended with $status; the daemon's last lines:"
  tail -n 20 "$folder/log" >&2
  exit $status
fi

sluice_say "sluice status: where the memory went"
"$bin/sluice" status

sluice_say "Stopping the daemon"
stop_daemon
echo "done; the programs are in build/release/bin: sluiced, sluice"
