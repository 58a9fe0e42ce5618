// `sluiced check FILE`: validates a model file without mapping or computing anything.
#pragma once

#include <string>

namespace sluice {

// One line `FILE: ok: ARCHITECTURE, QUANTIZATION, N blocks, ...` and a line for each warning on
// stdout, and 0; or one error line on stderr, and 1. `json`: one document on stdout instead, schema
// sluice.check.v1:
//   {"schema", "ok": true, "file", "architecture", "quantization", "blocks", "context_length",
//   "vocab_size", "tensors",
//    "parts", "file_bytes", "warnings": [...]}
//   {"schema", "ok": false, "error": {"code", "message", "file", "offset", "field"}}
int check_command(const std::string& path, bool json);

}  // namespace sluice
