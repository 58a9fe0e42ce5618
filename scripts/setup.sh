#!/usr/bin/env bash
# What building and testing Sluice needs on Debian 12 or Ubuntu 24.04. Sourced by demo.sh and test.sh; alone it installs
# everything:   bash scripts/setup.sh
#
#   sluice_setup build|test      installs what is missing with apt, as root or through sudo; nothing missing, nothing done
#   sluice_build PRESET TARGET.. configures and builds build/PRESET; output goes to a log that is shown on failure

sluice_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

sluice_say() { printf '\n== %s\n' "$*"; }
sluice_warn() { printf '%s\n' "$*" >&2; }

# Debian's `ii`: wanted and installed.
sluice_installed() { [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

# Sluice needs Boost 1.81 or later: Debian 12 has it beside its default 1.74, Ubuntu 24.04 has 1.83.
sluice_boost_version() {
  local v id='' VERSION_ID=''
  local known='1.81 1.83 1.88 1.90 1.91'
  for v in $known; do
    if sluice_installed "libboost$v-dev" && sluice_installed "libboost-json$v-dev"; then echo "$v"; return; fi
  done
  for v in $known; do
    if [ -n "$(apt-cache show "libboost-json$v-dev" 2>/dev/null)" ]; then echo "$v"; return; fi
  done
  # The package lists may be empty on a fresh machine.
  id=$(. /etc/os-release 2>/dev/null && echo "$ID $VERSION_ID")
  case $id in "debian 12") echo 1.81 ;; *) echo 1.83 ;; esac
}

sluice_missing_packages() {
  local boost package
  boost=$(sluice_boost_version)
  local packages="g++ cmake ninja-build pkg-config libboost$boost-dev libboost-json$boost-dev libspdlog-dev libfmt-dev
    libcli11-dev libtomlplusplus-dev libpcre2-dev libutf8proc-dev libxxhash-dev libedit-dev libgtest-dev"
  if [ "$1" != build ]; then
    packages="$packages python3 python3-venv python3-numpy ca-certificates libbenchmark-dev"
    # The kernels for ARM, built across and run under an emulator.
    case $(dpkg --print-architecture) in amd64) packages="$packages g++-aarch64-linux-gnu qemu-user googletest" ;; esac
  fi
  for package in $packages; do sluice_installed "$package" || echo "$package"; done
}

sluice_setup() {
  local what=$1 missing root_command='' log
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    sluice_warn "setup: no apt here; going on with what is installed (the list is in scripts/setup.sh)"
    return 0
  fi
  missing=$(sluice_missing_packages "$what" | tr '\n' ' ')
  if [ -z "$missing" ]; then
    echo "setup: every package is there"
    return 0
  fi
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null || { [ ! -t 0 ] && ! sudo -n true 2>/dev/null; }; then
      sluice_warn "setup: packages are missing, and only root may install them. As root:"
      sluice_warn "  apt-get update && apt-get install -y --no-install-recommends $missing"
      return 1
    fi
    root_command=sudo
  fi
  log=$(mktemp)
  sluice_say "Installing with apt${root_command:+ (sudo)}: $missing"
  local apt="$root_command env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
  local start=$SECONDS
  if ! $apt update >"$log" 2>&1; then
    sluice_warn "setup: apt-get update failed, trying with the lists that are there:"
    tail -n 5 "$log" >&2
  fi
  missing=$(sluice_missing_packages "$what" | tr '\n' ' ')   # Boost's version may only be known now
  if ! $apt install --no-install-recommends $missing >"$log" 2>&1; then
    sluice_warn "setup: apt-get install $missing failed:"
    tail -n 25 "$log" >&2
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
  echo "setup: installed in $((SECONDS - start)) s"
}

# One compiler per CPU, but not more than memory allows: the heaviest file takes about 1.5 GiB.
sluice_jobs() {
  local cpus memory
  cpus=$(nproc 2>/dev/null || echo 1)
  memory=$(awk '/^MemAvailable:/ {print int($2 / 1572864)}' /proc/meminfo 2>/dev/null)
  [ "${memory:-1}" -ge 1 ] || memory=1
  [ "$cpus" -le "${memory:-1}" ] && echo "$cpus" || echo "$memory"
}

# Appends what ninja says to a log and shows how far it is: in place on a terminal, else at each quarter.
sluice_progress() {
  local line step done total shown=0
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$1"
    case $line in "["*/*"]"*) ;; *) continue ;; esac
    step=${line#[} && step=${step%%]*} && done=${step%/*} && total=${step#*/}
    case $done$total in *[!0-9]* | '') continue ;; esac
    if [ -t 1 ]; then
      printf '\r  %s of %s ' "$done" "$total"
    elif [ $((done * 4 / total)) -gt "$shown" ]; then
      shown=$((done * 4 / total))
      printf '  %s of %s\n' "$done" "$total"
    fi
  done
  [ ! -t 1 ] || printf '\r\033[K'
}

sluice_build() {
  local preset=$1 folder="$sluice_root/build/$1" start=$SECONDS log
  shift
  log="$folder/build.log"
  mkdir -p "$folder"
  # A checkout that was moved: CMake refuses a cache of another folder.
  if [ -f "$folder/CMakeCache.txt" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$sluice_root" "$folder/CMakeCache.txt"; then
    rm -rf "$folder/CMakeCache.txt" "$folder/CMakeFiles"
  fi
  sluice_say "Building $preset${*:+ ($*)} with $(sluice_jobs) jobs; a first time takes some minutes"
  if ! (cd "$sluice_root" && cmake --preset "$preset") >"$log" 2>&1 ||
    ! (set -o pipefail; cmake --build "$folder" -j "$(sluice_jobs)" ${*:+--target "$@"} 2>&1 | sluice_progress "$log"); then
    sluice_warn "build: failed; the end of $log:"
    grep -n -m 5 -A 6 -E 'error:|CMake Error' "$log" >&2 || tail -n 40 "$log" >&2
    return 1
  fi
  echo "build: $preset ready in $((SECONDS - start)) s"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  sluice_setup test
fi
