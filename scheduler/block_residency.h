// Where one block's weights are and what they cost: what people see of slices.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/model_loader.h"
#include "storage/slice_store.h"

namespace sluice {

enum class BlockKind : uint8_t { kEmbed, kLayer, kOutput };
const char* block_kind_name(BlockKind kind);

struct BlockResidency {
  uint32_t id = 0;       // layers 0..n-1, then the embedding, then the output head
  BlockKind kind{};
  std::string name;      // "blk.8", "token_embd", "output"
  SliceBlockStats stats;
};

// The block of every slice. A tied output head is the output's; the embedding then has no slices.
std::vector<uint32_t> blocks_of_slices(const Model& model);

// In the order of a pass: embedding (unless it is the head), layers, output.
std::vector<BlockResidency> describe_blocks(const Model& model, std::vector<SliceBlockStats> stats);

}  // namespace sluice
