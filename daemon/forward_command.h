// `sluiced forward MODEL --ids ... -o OUT.safetensors`: token ids in, logits and intermediate tensors out, named and
// shaped as in tests/golden/README.md. No daemon, no text.
#pragma once

namespace sluice {

// argv holds what follows the word `forward`. Returns the exit code (0, 1, 2).
int forward_command(int argc, char** argv);

}  // namespace sluice
