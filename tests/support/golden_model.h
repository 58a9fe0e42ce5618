// Loads a model of the golden data by case name, for tests of the pass and the engine.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/model_loader.h"

namespace sluice::test {

inline std::string golden_path(const std::string& name, const std::string& file) {
  return std::string(SLUICE_SOURCE_DIR) + "/tests/golden/public/" + name + "/" + file;
}

inline std::shared_ptr<const Model> load_model(const std::string& path) {
  auto checked = check_model(path);
  if (!checked) {
    ADD_FAILURE() << error_line(checked.error());
    return nullptr;
  }
  auto model = Model::load(std::move(checked.value()));
  if (!model) {
    ADD_FAILURE() << error_line(model.error());
    return nullptr;
  }
  return model.value();
}

// The file with the F32 matrices of its blocks cut to BF16, in place: what is left behind each is a gap.
inline void write_as_bf16(const std::string& from, const std::string& to) {
  constexpr uint32_t kF32 = 0, kBF16 = 30;
  auto checked = check_model(from);
  ASSERT_TRUE(checked);
  std::ifstream in(from, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
  int n_cut = 0;
  for (const GgufTensor& t : checked.value()->file.tensors()) {
    if (t.type_id != kF32 || t.n_dims < 2 || !t.name.starts_with("blk.")) continue;
    char* type = bytes.data() + t.info_offset + 8 + t.name.size() + 4 + 8 * t.n_dims;
    ASSERT_EQ(std::memcmp(type, &kF32, 4), 0);
    std::memcpy(type, &kBF16, 4);
    char* data = bytes.data() + t.file_offset;
    for (uint64_t i = 0; i < t.n_bytes / 4; ++i) std::memmove(data + 2 * i, data + 4 * i + 2, 2);
    ++n_cut;
  }
  ASSERT_GT(n_cut, 0);
  std::ofstream(to, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A case; with "-as-bf16" behind its name, a case of F32 weights turned into BF16.
inline std::shared_ptr<const Model> load_golden_model(const std::string& name) {
  const std::string suffix = "-as-bf16";
  if (name.ends_with(suffix)) {
    const std::string path = testing::TempDir() + "sluice-" + name + std::to_string(::getpid()) + ".gguf";
    write_as_bf16(golden_path(name.substr(0, name.size() - suffix.size()), "model.gguf"), path);
    auto model = load_model(path);
    std::filesystem::remove(path);       // the mapping keeps it
    return model;
  }
  return load_model(golden_path(name, "model.gguf"));
}

// Every model case: all architectures, RoPE kinds and weight types.
inline std::vector<std::string> golden_model_cases() {
  return {"llama-tiny",
          "llama-tiny-llama3rope",
          "llama-tiny-q8_0",
          "qwen2-rope-dynamic",
          "qwen2-rope-linear",
          "qwen2-rope-yarn",
          "qwen2-swa",
          "qwen2-tiny-f32",
          "qwen2-tiny-untied-bf16",
          "qwen2-tiny-untied-f16",
          "qwen2-tiny-untied-iq4_nl",
          "qwen2-tiny-untied-iq4_xs",
          "qwen2-tiny-untied-mxfp4",
          "qwen2-tiny-untied-q2_k",
          "qwen2-tiny-untied-q3_k",
          "qwen2-tiny-untied-q4_0",
          "qwen2-tiny-untied-q4_1",
          "qwen2-tiny-untied-q4_k_m",
          "qwen2-tiny-untied-q5_0",
          "qwen2-tiny-untied-q5_1",
          "qwen2-tiny-untied-q5_k",
          "qwen2-tiny-untied-q6_k",
          "qwen3-tiny-tied",
          "qwen3-tiny-untied",
          "qwen3moe-tiny",
          "qwen3moe-tiny-q4_k",
          "qwen3moe-tiny-q8_0"};
}

}  // namespace sluice::test
