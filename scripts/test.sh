#!/usr/bin/env bash
# Every test, from a bare Debian 12 or Ubuntu 24.04 on: installs what is missing, builds, makes Python environments under
# build/, fetches a real model if it can, runs ctest. Ends with ctest's summary and exit status. What cannot run here is
# skipped aloud, with the command that would let it run.
#
#   scripts/test.sh               everything
#   scripts/test.sh -R golden     arguments go to ctest
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec </dev/null
cd "$sluice_root"

sluice_setup test
sluice_build release

# The parsers of foreign bytes once more under AddressSanitizer and UBSan; run by the ctest `asan` below, which skips
# without it. On request: it doubles the build.
if [ -n "${SLUICE_ASAN:-}" ]; then
  sluice_build asan asan-tests
fi

# make_venv FOLDER CHECK REQUIREMENT..: made once; says so and fails if PyPI cannot be reached. CHECK is Python that must run.
make_venv() {
  local folder=$sluice_root/build/$1 check=$2
  shift 2
  if [ -x "$folder/bin/python" ] && "$folder/bin/python" -c "$check" 2>/dev/null; then return 0; fi
  rm -rf "$folder"
  # System packages are seen: numpy comes from apt where PyPI is out of reach.
  python3 -m venv --system-site-packages "$folder" || { sluice_warn "test: python3 -m venv $folder failed"; return 1; }
  if timeout 300 "$folder/bin/python" -m pip install -q --disable-pip-version-check --retries 2 --timeout 15 "$@" \
      >"$folder/pip.log" 2>&1 && "$folder/bin/python" -c "$check"; then
    return 0
  fi
  tail -n 3 "$folder/pip.log" >&2
  return 1
}

sluice_say "Python environments under build/"
if make_venv venv 'import numpy, gguf' numpy gguf; then
  echo "venv: numpy, gguf"
else
  sluice_warn "test: no gguf package (is PyPI reachable?); tests that need it skip. Later: build/venv/bin/pip install gguf"
fi
export SLUICE_PYTHON=$sluice_root/build/venv/bin/python
[ -x "$SLUICE_PYTHON" ] || export SLUICE_PYTHON=python3
for major in 2 3; do
  if make_venv "venv-openai$major" "import openai; assert openai.__version__.startswith('$major.')" \
      "openai>=$major,<$((major + 1))"; then
    export "SLUICE_OPENAI${major}_PYTHON=$sluice_root/build/venv-openai$major/bin/python"
    echo "venv-openai$major: $("$sluice_root/build/venv-openai$major/bin/python" -c 'import openai; print(openai.__version__)')"
  else
    sluice_warn "test: SKIPPED: no openai $major.x client (is PyPI reachable?). Later: rm -r build/venv-openai$major; scripts/test.sh -R openai"
  fi
done

sluice_say "Real model (469 MiB, once; \$SLUICE_MODELS or ~/.cache/sluice-models)"
if ! timeout 600 "$SLUICE_PYTHON" tests/tools/fetch_models.py qwen2.5-coder-0.5b; then
  sluice_warn "test: SKIPPED: tests of a real model. Later: python3 tests/tools/fetch_models.py qwen2.5-coder-0.5b; scripts/test.sh -R real"
fi

sluice_say "ctest"
# As it comes, but the summary is held back until the reasons of what was skipped are shown.
summary=$(mktemp)
trap 'rm -f "$summary"' EXIT
status=0
ctest --test-dir build/release --output-on-failure --timeout 600 "$@" 2>&1 | {
  held=
  while IFS= read -r line; do
    case $line in *"% tests passed"*) held=1 ;; esac
    if [ -n "$held" ]; then printf '%s\n' "$line" >>"$summary"; else printf '%s\n' "$line"; fi
  done
} || status=$?
grep -A 1 -h '^SKIPPED:' build/release/Testing/Temporary/LastTest.log 2>/dev/null | grep -v '^--$' | awk '!seen[$0]++' || true
cat "$summary"
exit $status
