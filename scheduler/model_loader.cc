#include "scheduler/model_loader.h"

#include <fmt/format.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/text_escape.h"
#include "scheduler/model_validate.h"

namespace sluice {
namespace {

using kernels::MatrixRef;

// general.file_type, as llama.cpp writes it.
struct FileType {
  uint64_t id;
  const char* name;
};
constexpr FileType kFileTypes[] = {
    {0, "F32"},      {1, "F16"},      {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},
    {8, "Q5_0"},     {9, "Q5_1"},     {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"},
    {13, "Q3_K_L"},  {14, "Q4_K_S"},  {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"},
    {18, "Q6_K"},    {19, "IQ2_XXS"}, {20, "IQ2_XS"}, {21, "Q2_K_S"}, {22, "IQ3_XS"},
    {23, "IQ3_XXS"}, {24, "IQ1_S"},   {25, "IQ4_NL"}, {26, "IQ3_S"},  {27, "IQ3_M"},
    {28, "IQ2_S"},   {29, "IQ2_M"},   {30, "IQ4_XS"}, {31, "IQ1_M"},  {32, "BF16"},
    {36, "TQ1_0"},   {37, "TQ2_0"},   {38, "MXFP4"},
};

std::string file_stem(const std::string& path) {
  const size_t slash = path.rfind('/');
  std::string stem = slash == std::string::npos ? path : path.substr(slash + 1);
  if (stem.ends_with(".gguf")) stem.resize(stem.size() - 5);
  return stem;
}

std::string value_text(const GgufFile& file, const GgufValue& v) {
  constexpr size_t kMaxText = 1024;
  switch (v.type) {
    case GgufValueType::kArray:
      return fmt::format("[{} {}]", v.count, gguf_value_type_name(v.elem_type));
    case GgufValueType::kString:
      return escape_text(*file.string(v.key), kMaxText);
    case GgufValueType::kBool:
      return *file.boolean(v.key) ? "true" : "false";
    case GgufValueType::kF32:
      return fmt::format("{}", static_cast<float>(*file.real(v.key)));
    case GgufValueType::kF64:
      return fmt::format("{}", *file.real(v.key));
    default:
      break;
  }
  if (const auto n = file.uint(v.key)) return std::to_string(*n);
  GgufValue as_array = v;  // a negative integer
  as_array.elem_type = v.type;
  return std::to_string(static_cast<int64_t>(GgufFile::array_uint(as_array, 0)));
}

std::vector<std::pair<std::string, std::string>> copy_metadata(const GgufFile& file) {
  constexpr size_t kMaxBytes = 64u << 10;
  std::vector<std::pair<std::string, std::string>> out;
  size_t bytes = 0;
  for (const GgufValue& v : file.values()) {
    std::pair<std::string, std::string> entry(v.key, value_text(file, v));
    bytes += sizeof entry + entry.first.size() + entry.second.size();
    if (bytes > kMaxBytes) {
      out.emplace_back("...", "more keys than are listed");
      break;
    }
    out.push_back(std::move(entry));
  }
  return out;
}

SlicedTensor sliced_matrix(const GgufTensor& t, bool stack) {
  SlicedTensor s;
  s.n_rows = t.dims[1];
  s.n_experts = stack ? static_cast<uint32_t>(t.dims[2]) : 1;
  s.is_expert_stack = stack;
  const GgufTensorTypeInfo type = gguf_tensor_type(t.type_id);
  s.row_bytes = t.dims[0] / type.group_size;
  s.row_bytes *= type.group_bytes;  // no more than the tensor's bytes, which the reader has checked
  s.part = t.part;
  s.file_offset = t.file_offset;
  return s;
}

MatrixRef lay_out_matrix(const GgufFile& file, const std::string& name, bool stack, ModelLayout& out) {
  const GgufTensor* t = file.find_tensor(name);
  SLUICE_CHECK(t != nullptr);  // check_tensors saw it
  const auto index = static_cast<size_t>(t - file.tensors().data());
  out.sliced[index] = sliced_matrix(*t, stack);
  return MatrixRef{.tensor = static_cast<int32_t>(index),
                   .type = *weight_type(t->type_id),
                   .n_rows = static_cast<int64_t>(t->dims[1]),
                   .n_cols = static_cast<int64_t>(t->dims[0])};
}

// HParams::bf16_blocks
bool has_bf16_blocks(const GgufFile& file) {
  return std::any_of(file.tensors().begin(), file.tensors().end(), [](const GgufTensor& t) {
    return t.name.starts_with("blk.") && t.n_dims > 1 && weight_type(t.type_id) == kernels::WeightType::kBF16;
  });
}

}  // namespace

// Only matrices are sliced: small tensors live on as f32, and tensors that nothing uses are never read.
ModelLayout layout_of(const GgufFile& file, const kernels::HParams& h) {
  ModelLayout out;
  out.sliced.resize(file.tensors().size());
  out.embedding = lay_out_matrix(file, "token_embd.weight", false, out);
  const bool tied = file.find_tensor("output.weight") == nullptr;
  out.head = tied ? out.embedding : lay_out_matrix(file, "output.weight", false, out);
  out.blocks.resize(static_cast<size_t>(h.n_layers));
  const std::vector<BlockTensor> rules = block_tensors(h);
  for (int64_t i = 0; i < h.n_layers; ++i) {
    for (const BlockTensor& rule : rules) {
      if (rule.matrix == nullptr) continue;
      const bool stack = rule.role == TensorRole::kExpertStack;
      out.blocks[static_cast<size_t>(i)].*rule.matrix = lay_out_matrix(file, block_tensor_name(i, rule.suffix), stack, out);
    }
  }
  out.slices = std::make_unique<SliceIndex>(out.sliced);
  return out;
}

const char* architecture_name(kernels::Architecture arch) {
  static const char* const kNames[] = {"llama", "qwen2", "qwen3", "qwen3moe"};
  return kNames[static_cast<size_t>(arch)];
}

std::string quantization_name(const GgufFile& file) {
  constexpr uint64_t kGuessed = 1024;  // a flag llama.cpp adds to types it inferred itself
  if (const auto id = file.uint("general.file_type")) {
    for (const FileType& t : kFileTypes) {
      if (t.id == (*id & ~kGuessed)) return t.name;
    }
  }
  std::array<uint64_t, 64> bytes{};
  for (const GgufTensor& t : file.tensors()) bytes[t.type_id % bytes.size()] += t.n_bytes;
  const auto most = std::max_element(bytes.begin(), bytes.end()) - bytes.begin();
  return gguf_tensor_type(static_cast<uint32_t>(most)).name;
}

Result<std::unique_ptr<CheckedModel>> check_model(const std::string& path) {
  auto model = std::make_unique<CheckedModel>();
  SLUICE_TRY(model->file, GgufFile::open(path));
  Unsupported unsupported;
  SLUICE_TRY(ModelSizes sizes, read_hparams(model->file, unsupported));
  SLUICE_TRY(model->vocab, read_vocab(model->file, unsupported));
  const uint64_t n_tokens = model->vocab.tokens->count;
  SLUICE_TRY(check_tensors(model->file, sizes, n_tokens, unsupported));
  if (unsupported.first()) return *unsupported.first();
  sizes.hparams.vocab_size = static_cast<int64_t>(n_tokens);
  sizes.hparams.bf16_blocks = has_bf16_blocks(model->file);
  model->hparams = sizes.hparams;
  return model;
}

// Builds a Model step by step from a checked file.
class ModelLoader {
 public:
  explicit ModelLoader(const CheckedModel& checked) : file_(checked.file), model_(new Model) {
    model_->hparams_ = checked.hparams;
  }

  Result<std::shared_ptr<const Model>> load() {
    describe();
    SLUICE_TRY(load_tensors());
    SLUICE_TRY(check_identity());
    return std::shared_ptr<const Model>(std::move(model_));
  }

  // The descriptors that were checked go over to the model, which maps them.
  static Result<void> map(Model& model, GgufFile& file) {
    for (const GgufPart& part : file.parts()) {
      auto mapped = MappedFile::map(part.file, part.file_bytes);
      if (!mapped) {
        Error e = std::move(mapped).error();
        e.file = part.path;
        return e;
      }
      model.mappings_.push_back(std::move(mapped).value());
      model.identities_.push_back(part.identity);
      model.part_paths_.push_back(part.path);
    }
    return success();
  }

 private:
  void describe() {
    Model& m = *model_;
    m.path_ = file_.path();
    const auto name = file_.string("general.name");
    m.name_ =
        name && !name->empty() ? to_valid_utf8(name->substr(0, 256)) : file_stem(file_.path());
    m.quant_ = quantization_name(file_);
    m.header_hash_ = file_.header_hash();
    for (const GgufPart& part : file_.parts()) m.file_bytes_ += part.file_bytes;
    m.metadata_ = copy_metadata(file_);
    m.warnings_.assign(file_.warnings().begin(), file_.warnings().end());
    m.tensors_.reserve(file_.tensors().size());
    for (const GgufTensor& t : file_.tensors()) {
      TensorListing listing{.name = std::string(t.name),
                            .type = gguf_tensor_type(t.type_id).name,
                            .n_dims = t.n_dims,
                            .n_bytes = t.n_bytes};
      std::copy(std::begin(t.dims), std::end(t.dims), std::begin(listing.dims));
      m.tensors_.push_back(std::move(listing));
    }
  }

  Result<void> load_tensors() {
    Model& m = *model_;
    const kernels::HParams& h = m.hparams_;
    ModelLayout layout = layout_of(file_, h);
    for (size_t i = 0; i < layout.sliced.size(); ++i) {
      if (layout.sliced[i].n_rows > 0) m.weight_bytes_ += file_.tensors()[i].n_bytes;
    }
    m.sliced_ = std::move(layout.sliced);
    m.slices_ = std::move(layout.slices);
    m.blocks_ = std::move(layout.blocks);
    m.embedding_ = layout.embedding;
    m.head_ = layout.head;
    SLUICE_TRY(m.output_norm_, vector("output_norm.weight"));
    SLUICE_TRY(m.rope_factors_, vector("rope_freqs.weight"));
    const std::vector<BlockTensor> rules = block_tensors(h);
    for (int64_t i = 0; i < h.n_layers; ++i) {
      kernels::BlockWeights& block = m.blocks_[static_cast<size_t>(i)];
      for (const BlockTensor& rule : rules) {
        if (rule.vector == nullptr) continue;
        SLUICE_TRY(block.*rule.vector, vector(block_tensor_name(i, rule.suffix)));
      }
    }
    return success();
  }

  // Null when there is no such tensor.
  Result<const float*> vector(const std::string& name) {
    const GgufTensor* t = file_.find_tensor(name);
    if (t == nullptr) return static_cast<const float*>(nullptr);
    SLUICE_TRY(std::vector<float> values, read_float_tensor(file_, *t));
    model_->weight_bytes_ += t->n_bytes;
    model_->small_.push_back(std::move(values));
    return static_cast<const float*>(
        model_->small_.back().data());  // moving the outer vector keeps it
  }

  // The header was read a while ago; a file written to since then is not the one that was checked.
  Result<void> check_identity() const {
    for (const GgufPart& part : file_.parts()) {
      SLUICE_TRY(const FileIdentity now, part.file.identity());
      if (now.size == part.identity.size && now.mtime_ns == part.identity.mtime_ns) continue;
      return Error{.code = "model_changed",
                   .what = "the file was written to while it was loaded",
                   .hint = "load it again",
                   .file = part.path};
    }
    return success();
  }

  const GgufFile& file_;
  std::shared_ptr<Model> model_;
};

Result<std::shared_ptr<const Model>> Model::load(std::unique_ptr<CheckedModel> checked) {
  SLUICE_TRY(std::shared_ptr<const Model> loaded, ModelLoader(*checked).load());
  // Nobody else has seen it yet; from here on it is immutable.
  auto& model = const_cast<Model&>(*loaded);
  SLUICE_TRY(ModelLoader::map(model, checked->file));
  std::vector<uint64_t> header_ends;
  for (const GgufPart& part : checked->file.parts()) header_ends.push_back(part.data_offset);
  model.files_ = checked->file.take_files();
  for (size_t i = 0; i < model.files_.size(); ++i) {
    // The header was copied and is not read again: its pages are charged to us while they stay. Faults in the mapping want
    // read-ahead again.
    ::posix_fadvise(model.files_[i].fd(), 0, static_cast<off_t>(header_ends[i]), POSIX_FADV_DONTNEED);
    ::posix_fadvise(model.files_[i].fd(), 0, 0, POSIX_FADV_NORMAL);
  }
  return loaded;
}

const std::byte* Model::slice_data(SliceId id) const {
  const Slice& slice = (*slices_)[id];
  return mappings_[slice.part].data() + slice.file_offset;
}

const std::byte* Model::row_data(uint32_t tensor, uint64_t row) const {
  const SlicedTensor& t = sliced_[tensor];
  SLUICE_DCHECK(row < t.n_rows * t.n_experts);
  return mappings_[t.part].data() + t.file_offset + row * t.row_bytes;
}

Result<void> Model::still_unchanged() const {
  for (size_t i = 0; i < files_.size(); ++i) {
    const FileIdentity& then = identities_[i];
    if (mappings_[i].cut_off()) return file_cut_off(part_paths_[i]);
    SLUICE_TRY(const FileIdentity now, files_[i].identity());
    // ctime is no sign: renaming or unlinking the file changes it and leaves the bytes alone.
    if (now.size != then.size || now.mtime_ns != then.mtime_ns) {
      return Error{
          .code = "io.changed",
          .what = fmt::format("the file was written to after it was loaded ({} bytes then, {} now)",
                              then.size,
                              now.size),
          .hint = "load the model again",
          .file = part_paths_[i]};
    }
    struct stat st {};
    if (::stat(part_paths_[i].c_str(), &st) == 0 && st.st_dev == then.dev && st.st_ino == then.ino)
      continue;
    return Error{.code = "model_changed",
                 .what = "replaced on disk: what is loaded stays as it was",
                 .hint = "load the model again to use the new file",
                 .file = part_paths_[i]};
  }
  return success();
}

}  // namespace sluice
