// GGUF value and tensor type ids, and the bytes of each quantisation group. Source: the GGUF specification.
#pragma once

#include <cstdint>

namespace sluice {

enum class GgufValueType : uint32_t {
  kU8 = 0, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64,
};

// Bytes of a scalar value; 0 for strings, arrays and unknown ids.
uint32_t gguf_scalar_bytes(GgufValueType t);
const char* gguf_value_type_name(GgufValueType t);

struct GgufTensorTypeInfo {
  uint32_t id;
  const char* name;        // "Q4_K"
  uint32_t group_size;     // elements per group; 0 = unknown or removed type
  uint32_t group_bytes;
};
// Entry for a tensor type id; group_size 0 when the id is unknown or was removed from the format.
GgufTensorTypeInfo gguf_tensor_type(uint32_t id);

}  // namespace sluice
