// GGUF metadata -> checked HParams, Vocab and tensor tables; then the weights are mapped from the very fd that was
// checked. The one place that knows GGUF's key and tensor names. Everything is validated before a weight is mapped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kernels/transformer/hparams.h"
#include "storage/gguf_reader.h"
#include "storage/mapped_file.h"
#include "storage/slice_index.h"

namespace sluice {

using TokenId = int32_t;

// What the tokenizer needs, as views into the header: valid while the GgufFile lives.
struct VocabSource {
  std::string_view model;                  // "gpt2" (byte-level BPE) or "llama" (SentencePiece)
  std::string_view pre;                    // "qwen2", "llama-bpe", "gpt-2", "default", ...
  const GgufValue* tokens = nullptr;       // string array
  const GgufValue* merges = nullptr;       // string array or null
  const GgufValue* scores = nullptr;       // f32 array or null
  const GgufValue* token_types = nullptr;  // i32/u32 array or null
  TokenId bos = -1, eos = -1, eot = -1, unk = -1, pad = -1;
  bool add_bos = false, add_eos = false, add_space_prefix = true;
  std::string_view chat_template;
};

// A file that passed every check; nothing mapped yet. Whoever needs the vocabulary (the tokenizer, the chat template)
// builds it from here and copies, before Model::load takes the whole: load drops the header.
struct CheckedModel {
  GgufFile file;
  kernels::HParams hparams;
  VocabSource vocab;
};

// Opens and validates: header, hyper-parameters, tensor shapes and types, tokenizer. Errors: gguf.*,
// model_unsupported (architecture, tokenizer or tensor type named).
Result<std::unique_ptr<CheckedModel>> check_model(const std::string& path);

// The vocabulary alone, of a file that may hold no tensors at all. The views live as long as `file`.
// Errors: gguf.*, model_unsupported (tokenizer named).
Result<VocabSource> check_vocab(const GgufFile& file);

// "Q4_K_M": general.file_type by llama.cpp's table, or the type that most of the bytes have.
std::string quantization_name(const GgufFile& file);
const char* architecture_name(kernels::Architecture arch);   // "qwen2"

// Where the matrices of a checked model lie and how they are cut; nothing is read or mapped, vectors are null.
struct ModelLayout {
  std::vector<kernels::BlockWeights> blocks;
  kernels::MatrixRef embedding, head;      // the head is the embedding when tied
  std::vector<SlicedTensor> sliced;        // by tensor; no rows: not a matrix that a pass reads
  std::unique_ptr<SliceIndex> slices;
};
ModelLayout layout_of(const GgufFile& file, const kernels::HParams& hparams);

// One line of `models show --tensors`.
struct TensorListing {
  std::string name;
  const char* type = "";              // "Q4_K"
  uint32_t n_dims = 0;
  uint64_t dims[4] = {1, 1, 1, 1};    // dims[0] is the row length
  uint64_t n_bytes = 0;
};

// A model whose weights are reachable. Immutable after load; shared by everything that computes with it.
class Model {
 public:
  // Takes the checked file, maps it, widens the small tensors to f32. Errors: io.map, io.read, model_changed.
  static Result<std::shared_ptr<const Model>> load(std::unique_ptr<CheckedModel> checked);

  const std::string& path() const { return path_; }
  const std::string& name() const { return name_; }             // general.name or the file's stem
  const std::string& quantization() const { return quant_; }    // "Q4_K_M": general.file_type, or the main type
  const kernels::HParams& hparams() const { return hparams_; }
  const std::vector<kernels::BlockWeights>& blocks() const { return blocks_; }
  const kernels::MatrixRef& token_embedding() const { return embedding_; }
  const kernels::MatrixRef& output_head() const { return head_; }        // the embedding when tied
  const float* output_norm() const { return output_norm_; }
  const float* rope_factors() const { return rope_factors_; }            // rope_freqs.weight (rope_dim/2) or null
  const SliceIndex& slices() const { return *slices_; }
  uint64_t file_bytes() const { return file_bytes_; }
  uint64_t weight_bytes() const { return weight_bytes_; }
  uint64_t identity_hash() const { return header_hash_; }

  // The bytes of a slice in the mapping.
  const std::byte* slice_data(SliceId id) const;
  // Bytes of one row of a tensor.
  const std::byte* row_data(uint32_t tensor, uint64_t row) const;
  uint64_t row_bytes(uint32_t tensor) const { return sliced_[tensor].row_bytes; }
  // The mapped parts, for madvise and residency.
  const std::vector<MappedFile>& mappings() const { return mappings_; }
  // The parts' descriptors, those that were checked; reads of slices go through them.
  const std::vector<File>& files() const { return files_; }
  // Whether the file is still the one that was loaded. Errors: io.changed (written to since: what is mapped is not
  // what was checked), model_changed (another file has its path now; the mapped one is whole and usable).
  Result<void> still_unchanged() const;

  // Copies for listings. Metadata: scalars as text, strings cut at 1 KiB, arrays as their count; at most 64 KiB.
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  const std::vector<TensorListing>& tensors() const { return tensors_; }
  // Not errors, but worth a line: see GgufFile::warnings().
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  Model() = default;
  std::string path_, name_, quant_;
  kernels::HParams hparams_;
  std::vector<kernels::BlockWeights> blocks_;
  kernels::MatrixRef embedding_, head_;
  const float* output_norm_ = nullptr;
  const float* rope_factors_ = nullptr;
  std::vector<std::vector<float>> small_;          // owns the f32 vectors
  std::vector<SlicedTensor> sliced_;
  std::unique_ptr<SliceIndex> slices_;
  std::vector<File> files_;
  std::vector<FileIdentity> identities_;
  std::vector<MappedFile> mappings_;
  std::vector<std::string> part_paths_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::vector<TensorListing> tensors_;
  std::vector<std::string> warnings_;
  uint64_t file_bytes_ = 0, weight_bytes_ = 0, header_hash_ = 0;

  friend class ModelLoader;
};

}  // namespace sluice
