#!/bin/sh
# Runs the unit tests of a build with AddressSanitizer and UBSan.   asan.sh BUILD_FOLDER
how="cmake --preset asan && cmake --build build/asan --target asan-tests    (or SLUICE_ASAN=1 scripts/test.sh)"
skip() {
  echo "SKIPPED: $1"
  echo "  to run it: $how"
  exit 77
}
[ -f "$1/CTestTestfile.cmake" ] || skip "no sanitizer build in $1"
# Old binaries would say nothing about this source.
plan=$(cmake --build "$1" --target asan-tests -- -n 2>&1) || skip "the sanitizer build in $1 is broken: $plan"
case $plan in *"no work to do"*) ;; *) skip "the sanitizer build in $1 is older than the source" ;; esac
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
# What was not built there (daemon, client) is not run there; the rest of the labels need those or take long.
exec ctest --test-dir "$1" --output-on-failure --no-tests=error --timeout 600 -j "$(nproc)" \
  -LE 'slow|e2e|golden|model' -E '^(layers|repo|headers|golden|.*_NOT_BUILT)'
