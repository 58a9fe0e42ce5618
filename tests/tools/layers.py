#!/usr/bin/env python3
"""Fails on an include that the rooms do not allow (ARCHITECTURE.md), because one include root would let it through.

  layers.py ROOT          check the tree
  layers.py --self-test   plant forbidden includes in a copy made of nothing, and see each found

  client -> daemon/protocol -> base
  daemon -> scheduler -> storage -> base
            scheduler -> kernels            kernels: themselves and the C/C++ standard headers only
"""
import os
import re
import sys
import tempfile

SOURCES = (".h", ".cc", ".inc")
# A room is the longest prefix that matches. Its files may include: itself, and what stands here.
MAY_INCLUDE = {
    "base": [],
    "storage": ["base"],
    "kernels": [],
    "scheduler": ["storage", "kernels", "base"],
    "daemon/protocol": ["base"],
    "daemon/text": ["scheduler", "storage", "base"],   # the vocabulary comes from model_loader
    "daemon": ["daemon/protocol", "daemon/text", "scheduler", "storage", "kernels", "base"],
    "client": ["daemon/protocol", "daemon/asio.h", "base"],
    "bench": ["scheduler", "storage", "kernels", "base"],
    "tests": ["base", "storage", "kernels", "scheduler", "daemon", "daemon/protocol", "daemon/text", "client", "bench"],
}
TOP = sorted({room.split("/")[0] for room in MAY_INCLUDE})

# What kernels may include with <>: the C and C++ standard libraries and the compiler's intrinsics.
STANDARD = set("""algorithm any array atomic barrier bit bitset cassert ccomplex cctype cerrno cfenv cfloat charconv chrono
cinttypes climits clocale cmath compare complex concepts condition_variable coroutine csetjmp csignal cstdarg cstddef
cstdint cstdio cstdlib cstring ctime cuchar cwchar cwctype deque exception execution filesystem forward_list fstream
functional future initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map memory
memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex scoped_allocator semaphore set
shared_mutex source_location span sstream stack stdexcept stop_token streambuf string string_view syncstream
system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility valarray variant vector
version assert.h errno.h fenv.h float.h inttypes.h limits.h math.h stddef.h stdint.h stdio.h stdlib.h string.h
immintrin.h x86intrin.h cpuid.h arm_neon.h arm_sve.h sys/auxv.h asm/hwcap.h unistd.h sys/syscall.h""".split())
HEAVY = re.compile(r"boost/(asio|beast)(/|\.hpp)")   # about ten seconds of compile time: through daemon/asio.h only

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def room_of(path):
    while path:
        if path in MAY_INCLUDE:
            return path
        path = os.path.dirname(path)
    return None


def violations(root):
    """Yields (file, line number, header, why)."""
    for top in TOP:
        for folder, dirs, files in os.walk(os.path.join(root, top)):
            dirs.sort()
            for name in sorted(files):
                if not name.endswith(SOURCES):
                    continue
                path = os.path.relpath(os.path.join(folder, name), root)
                with open(os.path.join(root, path), encoding="utf-8") as f:
                    for number, line in enumerate(f, 1):
                        match = INCLUDE.match(line)
                        why = match and forbidden(root, path, match.group(1), match.group(2))
                        if why:
                            yield path, number, match.group(2), why


def forbidden(root, path, bracket, header):
    room = room_of(os.path.dirname(path))
    if HEAVY.match(header) and path != "daemon/asio.h":
        return "Asio and Beast come through daemon/asio.h"
    if bracket == "<":
        if room == "kernels" and header not in STANDARD:
            return "kernels include only themselves and standard headers"
        return "our own headers are included with quotes" if header.split("/")[0] in TOP else None
    if os.path.normpath(header) != header or header.startswith("."):
        return "includes are written from the repository root"
    if header.split("/")[0] not in TOP:
        return "includes are written from the repository root; other people's headers with <>"
    if not os.path.exists(os.path.join(root, header)):
        return "no such file"
    target = room_of(os.path.dirname(header))
    allowed = MAY_INCLUDE[room]
    if target == room or header in allowed:
        return None
    if target not in allowed:
        return f"{room} may include {', '.join(allowed) or 'nothing'} and itself"
    return None


def self_test():
    def find(files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in {"base/a.h": "", "storage/a.h": "", "kernels/a.h": "", "scheduler/a.h": "", "daemon/a.h": "",
                               "daemon/asio.h": "#include <boost/asio.hpp>\n", "daemon/protocol/a.h": "", **files}.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w") as f:
                    f.write(text)
            return list(violations(root))

    clean = {"client/x.cc": '#include "daemon/protocol/a.h"\n#include "base/a.h"\n#include <string>\n#include "daemon/asio.h"\n',
             "daemon/x.cc": '#include "scheduler/a.h"\n#include <boost/json.hpp>\n',
             "scheduler/x.cc": '#include "kernels/a.h"\n', "kernels/x.cc": '#include "kernels/a.h"\n#include <cmath>\n'}
    assert find(clean) == [], find(clean)
    planted = [("client/x.cc", '"scheduler/a.h"'), ("client/x.cc", '"daemon/a.h"'), ("storage/x.h", '"scheduler/a.h"'),
               ("storage/x.h", '"kernels/a.h"'), ("kernels/x.cc", '"base/a.h"'), ("kernels/deep/x.cc", "<boost/json.hpp>"),
               ("kernels/x.cc", "<spdlog/spdlog.h>"), ("base/x.h", '"storage/a.h"'), ("daemon/protocol/x.h", '"daemon/a.h"'),
               ("daemon/protocol/x.h", '"storage/a.h"'), ("scheduler/x.h", '"daemon/protocol/a.h"'),
               ("daemon/x.cc", "<boost/asio/ip/tcp.hpp>"), ("client/x.cc", "<boost/beast.hpp>"), ("base/x.h", '"../base/a.h"'),
               ("base/x.h", '"a.h"'), ("daemon/x.h", "<base/a.h>"), ("daemon/text/x.cc", '"daemon/a.h"'),
               ("daemon/x.h", '"base/gone.h"')]
    for path, header in planted:
        for line in (f"#include {header}\n", f"  #  include {header}  // why not\n"):
            found = find({path: "// a comment\n" + line})
            assert [(p, n) for p, n, _, _ in found] == [(path, 2)], (path, header, found)
    print(f"{len(planted)} planted includes found")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root, bad = sys.argv[1], 0
    for path, number, header, why in violations(root):
        print(f"{path}:{number}: includes {header}: {why}")
        bad += 1
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
