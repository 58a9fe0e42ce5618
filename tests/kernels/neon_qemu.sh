#!/bin/sh
# Builds the kernels and their tests for 64-bit ARM and runs them under qemu-user.   neon_qemu.sh SOURCE BUILD_FOLDER
source=$1 build=$2
tests=$build/bin/kernels_tests
skip() {
  echo "SKIPPED: $1"
  echo "  to run it: apt-get install g++-aarch64-linux-gnu qemu-user googletest"
  exit 77
}
fail() {
  echo "FAILED: $1"
  exit 1
}
command -v aarch64-linux-gnu-g++ >/dev/null || skip "no cross compiler aarch64-linux-gnu-g++"
command -v qemu-aarch64 >/dev/null || skip "no qemu-aarch64"
[ -f /usr/src/googletest/CMakeLists.txt ] || skip "no sources of GoogleTest in /usr/src/googletest"

cmake -S "$source" --preset aarch64 -B "$build" >"$build.log" 2>&1 ||
  cmake -S "$source" --preset aarch64 -B "$build" --fresh >"$build.log" 2>&1 ||
  { cat "$build.log"; fail "cmake --preset aarch64"; }
cmake --build "$build" -j 2 >"$build.log" 2>&1 || { tail -n 60 "$build.log"; fail "the cross build"; }

# Left out: the portable table against itself, and neon_i8mm where it is neon.
ctest --test-dir "$build" -j 2 --output-on-failure --no-tests=error --timeout 600 \
  -E '(Attention|Elementwise|Dequant).*/neon_i8mm|EqualsScalar.*/scalar' || fail "ctest under qemu"

# CPUs that lack instructions: nothing may use them, and the tables that need them must not be there.
on_cpu() {
  qemu-aarch64 -cpu "$1" -L /usr/aarch64-linux-gnu "$tests" --gtest_filter="$2" >"$build.cpu.log" 2>&1 ||
    { cat "$build.cpu.log"; fail "on a $1"; }
}
on_cpu cortex-a57 'Dispatch.*:*ExtremeQuantsDoNotSaturate/neon*'
grep -q 'this CPU has no neon;' "$build.cpu.log" || fail "a cortex-a57 has no sdot, yet the table neon is there"
on_cpu neoverse-n1 'Dispatch.*:*ExtremeQuantsDoNotSaturate/neon*:*RopeEqualsScalar*/neon:*StoredRows*/neon'
grep -q 'OK.*ExtremeQuantsDoNotSaturate/neon ' "$build.cpu.log" || fail "a neoverse-n1 has sdot, yet no table neon"
grep -q 'this CPU has no neon_i8mm;' "$build.cpu.log" || fail "a neoverse-n1 has no smmla, yet the table is there"
echo "neon and neon_i8mm equal the portable kernels under qemu"
