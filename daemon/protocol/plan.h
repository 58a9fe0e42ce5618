// Documents of POST /sluice/v1/plan (INTERFACE 1.4, 3.2): what a budget would buy, without loading
// the model. Only ever extended.
//
//   POST plan   {"model":NAME or "/abs/file.gguf", "budgets"?:[SIZE], "ctx"?, "kv_type"?:"f16"|"q8_0",
//   "prompt_tokens"?,
//               "measure_disk"?:bool} -> PlanDoc. A SIZE is a number of bytes or a text as in 512M,
//               40%.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace sluice {

inline constexpr size_t kMostPlanBudgets = 64;

struct PlanRequest {
  std::string model;              // empty: the only one there is
  std::vector<uint64_t> budgets;  // bytes; empty: a ladder
  std::optional<int64_t> ctx;
  std::optional<int64_t> prompt_tokens;
  std::string kv_type;        // "f16" or "q8_0"; empty: what models are opened with
  bool measure_disk = false;  // even if the last measurement is young
};
// `percent_of`: what "40%" refers to. Errors: invalid_request, unsupported_parameter.
Result<PlanRequest> plan_request_from_json(const boost::json::value& v, uint64_t percent_of);

struct RangeDoc {
  double low = 0, likely = 0, high = 0;
};

// The floor's terms add up to it, but for rounding up to a whole MiB.
struct PlanFloorDoc {
  int64_t floor_bytes = 0, kv_bytes = 0, ring_bytes = 0, activations_bytes = 0, fixed_bytes = 0,
          headroom_bytes = 0;
};

struct PlanRowDoc {
  int64_t budget_bytes = 0;
  bool fits = false;  // false: below the floor; what follows is null then
  // What the budget is divided into.
  int64_t kv_bytes = 0, ring_bytes = 0, activations_bytes = 0, fixed_bytes = 0, headroom_bytes = 0,
          pinned_bytes = 0;
  int64_t cut_slices = 0;  // of the pin order
  double pinned_ratio = 0;
  int64_t streamed_bytes_per_token = 0;
  RangeDoc tok_per_s, ttft_ms, load_ms;
  std::string limited_by;  // disk | compute | memory bandwidth
};

struct PlanInputDoc {
  double value = 0, spread = 0;
  std::string source;  // probe | runs
  int64_t age_ms = 0;
};

struct PlanDoc {  // schema sluice.plan.v1
  std::string model, path, quantization;
  int64_t blocks = 0, file_bytes = 0;
  int64_t weight_bytes = 0;  // that passes read, in whole pages
  int64_t slices = 0;
  int64_t ctx = 0, prompt_tokens = 0;
  std::string kv_type = "f16";
  int64_t threads = 0;
  std::string io;  // direct | buffered | mmap
  PlanInputDoc disk_bytes_per_s, decode_compute_ms, prompt_token_ms;
  double memory_bytes_per_s = 0;  // 0: not known
  int64_t runs = 0;               // finished generations that taught something
  bool disturbed = false;         // a request ran while it was measured: nothing of that is kept
  std::vector<PlanRowDoc> rows;
  PlanFloorDoc floor;                  // of the smallest budget that holds a context of `ctx`
  int64_t resident_budget_bytes = 0;   // the smallest at which nothing streams
  std::optional<int64_t> limit_bytes;  // the daemon's budget now; null: no limit
};
boost::json::object to_json(const PlanDoc& d);
// The client's side. Errors: protocol.
Result<PlanDoc> plan_from_json(const boost::json::value& v);

}  // namespace sluice
