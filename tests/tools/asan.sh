#!/bin/sh
# Runs the unit tests of a build with AddressSanitizer and UBSan.   asan.sh BUILD_FOLDER
if ! [ -f "$1/CTestTestfile.cmake" ] || ! ls "$1"/bin/*_tests >/dev/null 2>&1; then
  echo "SKIPPED: no sanitizer build in $1"
  echo "  to run it: cmake --preset asan && cmake --build build/asan --target asan-tests"
  exit 77
fi
# What was not built there (daemon, client) is not run there; the rest of the labels need those or take long.
exec ctest --test-dir "$1" --output-on-failure --timeout 600 -LE 'slow|e2e|golden|model' -E '^(layers|repo|headers|.*_NOT_BUILT)'
