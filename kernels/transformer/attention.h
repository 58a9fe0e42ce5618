// Attention of a walk's tokens over their sequences' KV pages.
#pragma once

#include "kernels/transformer/block.h"

namespace sluice::kernels {

// ws.ctx[t] = attention of ws.q[t] over keys [max(0, position - window + 1), position] of its sequence.
// Each query is computed run by run at absolute positions and merged in order: the result does not depend on how
// the walk is cut or on how many threads compute it.
void attend(WalkContext& c, int64_t layer, const WalkTokens& tokens) noexcept;

}  // namespace sluice::kernels
