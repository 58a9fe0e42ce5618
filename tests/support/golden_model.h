// Loads a model of the golden data by case name, for tests of the pass and the engine.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "scheduler/model_loader.h"

namespace sluice::test {

inline std::string golden_path(const std::string& name, const std::string& file) {
  return std::string(SLUICE_SOURCE_DIR) + "/tests/golden/public/" + name + "/" + file;
}

inline std::shared_ptr<const Model> load_golden_model(const std::string& name) {
  auto checked = check_model(golden_path(name, "model.gguf"));
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
