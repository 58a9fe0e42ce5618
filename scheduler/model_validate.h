// The steps of check_model(): what the numbers of a GGUF header mean, and whether they agree with
// each other. Internal to model_loader; each step is pure and maps nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kernels/transformer/hparams.h"
#include "scheduler/model_loader.h"
#include "storage/gguf_reader.h"

namespace sluice {

// Things that are well-formed but that this program cannot compute. They are refused only after
// every structural check has passed: a broken file is called broken, not unsupported. The first one
// found is reported.
class Unsupported {
 public:
  void note(Error e) {
    if (!first_) first_ = std::move(e);
  }
  const std::optional<Error>& first() const { return first_; }

 private:
  std::optional<Error> first_;
};

// Typed reads of metadata with ranges. Every error names the key and its offset.
class KeyReader {
 public:
  explicit KeyReader(const GgufFile& file) : file_(file) {}

  // Absent keys give nullopt. Errors: gguf.key_type, gguf.value_range.
  Result<std::optional<uint64_t>> whole(const std::string& key, uint64_t lo, uint64_t hi) const;
  Result<std::optional<double>> real(const std::string& key, double lo, double hi) const;
  Result<std::optional<bool>> boolean(const std::string& key) const;
  Result<std::optional<std::string_view>> string(const std::string& key) const;
  // A whole number, or an array of one for each block, all equal. Errors: also model_unsupported
  // for unequal ones.
  Result<std::optional<uint64_t>> per_block(const std::string& key,
                                            uint64_t n_blocks,
                                            uint64_t lo,
                                            uint64_t hi) const;
  // One error for all keys of the list that the file lacks: gguf.missing_key.
  Result<void> require(const std::vector<std::string>& keys) const;

 private:
  Error wrong_type(const GgufValue& v, const char* allowed) const;
  const GgufFile& file_;
};

// The sizes that tensor shapes are made of, besides those of HParams.
struct ModelSizes {
  kernels::HParams hparams;
  int64_t value_dim =
      0;  // rows of V for each head; differs from head_dim only in unsupported models
};

Result<ModelSizes> read_hparams(const GgufFile& file, Unsupported& unsupported);
Result<VocabSource> read_vocab(const GgufFile& file, Unsupported& unsupported);
Result<void> check_tensors(const GgufFile& file,
                           const ModelSizes& sizes,
                           uint64_t n_tokens,
                           Unsupported& unsupported);

// GGUF's tensor names. One table serves the checks and the loading.
enum class TensorRole : uint8_t { kNorm, kBias, kMatrix, kExpertStack };
enum class TensorNeed : uint8_t {
  kRequired,
  kAllOrNone,  // in every block, or in none
};
enum class TensorSize : uint8_t {
  kDim,
  kHidden,
  kQueryRows,
  kKeyRows,
  kValueRows,
  kAttentionCols,
  kHeadDim,
  kExperts,
  kExpertHidden,
};
struct BlockTensor {
  const char* suffix;  // after "blk.N."
  TensorRole role;
  TensorSize cols;
  TensorSize rows;  // matrices and stacks
  TensorNeed need;
  kernels::MatrixRef kernels::BlockWeights::*matrix = nullptr;
  const float* kernels::BlockWeights::*vector = nullptr;
};
std::vector<BlockTensor> block_tensors(const kernels::HParams& h);
std::string block_tensor_name(int64_t block, const char* suffix);

// The weight type of the kernels for a GGUF tensor type; nullopt when there is none.
std::optional<kernels::WeightType> weight_type(uint32_t gguf_type_id);
// F32, F16, BF16, F64: what norms, biases and rope factors may be.
bool is_float_type(uint32_t gguf_type_id);
// A small float tensor read from its checked file and widened to f32. Errors: io.read.
Result<std::vector<float>> read_float_tensor(const GgufFile& file, const GgufTensor& t);

}  // namespace sluice
