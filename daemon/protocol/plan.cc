#include "daemon/protocol/plan.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <cmath>
#include <string_view>

#include "base/bytes.h"
#include "base/text_escape.h"
#include "daemon/protocol/answer_reader.h"
#include "daemon/protocol/fields.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr double kMostBytes = 9.0e18;

Result<uint64_t> budget_from_json(const json::value& v, size_t i, uint64_t percent_of) {
  const std::string name = fmt::format("budgets[{}]", i);
  if (v.is_string()) {
    auto size = parse_size(std::string_view(v.get_string()), percent_of);
    if (!size)
      return bad_parameter("budgets",
                           fmt::format("{}: {}", name, escape_text(size.error().what, 200)),
                           size.error().hint);
    if (size.value() == 0) return bad_parameter("budgets", name + " is 0", "try 512M or 2G");
    return size.value();
  }
  if (!v.is_number()) return wrong_kind(name, v, "a number of bytes or a text like 512M");
  const double bytes = v.to_number<double>();
  if (!(bytes >= 1 && bytes <= kMostBytes) || bytes != std::floor(bytes))
    return bad_parameter("budgets", name + " is no number of bytes from 1 on", "try 512M or 2G");
  return v.is_uint64() || v.is_int64() ? v.to_number<uint64_t>() : static_cast<uint64_t>(bytes);
}

json::object to_json(const RangeDoc& r) {
  return {{"low", r.low}, {"likely", r.likely}, {"high", r.high}};
}

json::object to_json(const PlanFloorDoc& f) {
  return {{"floor_bytes", f.floor_bytes},
          {"kv_bytes", f.kv_bytes},
          {"ring_bytes", f.ring_bytes},
          {"activations_bytes", f.activations_bytes},
          {"fixed_bytes", f.fixed_bytes},
          {"headroom_bytes", f.headroom_bytes}};
}

json::object to_json(const PlanInputDoc& i) {
  return {{"value", i.value}, {"spread", i.spread}, {"source", i.source}, {"age_ms", i.age_ms}};
}

json::object to_json(const PlanRowDoc& r) {
  const auto shown = [&](json::value v) { return r.fits ? std::move(v) : json::value(nullptr); };
  return {{"budget_bytes", r.budget_bytes},
          {"fits", r.fits},
          {"kv_bytes", shown(r.kv_bytes)},
          {"ring_bytes", shown(r.ring_bytes)},
          {"activations_bytes", shown(r.activations_bytes)},
          {"fixed_bytes", shown(r.fixed_bytes)},
          {"headroom_bytes", shown(r.headroom_bytes)},
          {"pinned_bytes", shown(r.pinned_bytes)},
          {"cut_slices", shown(r.cut_slices)},
          {"pinned_ratio", shown(r.pinned_ratio)},
          {"streamed_bytes_per_token", shown(r.streamed_bytes_per_token)},
          {"tok_per_s", shown(to_json(r.tok_per_s))},
          {"ttft_ms", shown(to_json(r.ttft_ms))},
          {"load_ms", shown(to_json(r.load_ms))},
          {"limited_by", shown(json::value(r.limited_by))}};
}

RangeDoc range_of(AnswerReader r) {
  RangeDoc d;
  r.get("low", d.low);
  r.get("likely", d.likely);
  r.get("high", d.high);
  return d;
}

PlanInputDoc input_of(AnswerReader r) {
  PlanInputDoc d;
  r.get("value", d.value);
  r.get("spread", d.spread);
  r.get("source", d.source);
  r.get("age_ms", d.age_ms);
  return d;
}

PlanFloorDoc floor_of(AnswerReader r) {
  PlanFloorDoc d;
  r.get("floor_bytes", d.floor_bytes);
  r.get("kv_bytes", d.kv_bytes);
  r.get("ring_bytes", d.ring_bytes);
  r.get("activations_bytes", d.activations_bytes);
  r.get("fixed_bytes", d.fixed_bytes);
  r.get("headroom_bytes", d.headroom_bytes);
  return d;
}

PlanRowDoc row_of(AnswerReader& r) {
  PlanRowDoc d;
  r.get("budget_bytes", d.budget_bytes);
  r.get("fits", d.fits);
  r.get("kv_bytes", d.kv_bytes);
  r.get("ring_bytes", d.ring_bytes);
  r.get("activations_bytes", d.activations_bytes);
  r.get("fixed_bytes", d.fixed_bytes);
  r.get("headroom_bytes", d.headroom_bytes);
  r.get("pinned_bytes", d.pinned_bytes);
  r.get("cut_slices", d.cut_slices);
  r.get("pinned_ratio", d.pinned_ratio);
  r.get("streamed_bytes_per_token", d.streamed_bytes_per_token);
  d.tok_per_s = range_of(r.object("tok_per_s"));
  d.ttft_ms = range_of(r.object("ttft_ms"));
  d.load_ms = range_of(r.object("load_ms"));
  r.get("limited_by", d.limited_by);
  return d;
}

}  // namespace

Result<PlanRequest> plan_request_from_json(const json::value& v, uint64_t percent_of) {
  SLUICE_TRY(const auto* object, body_object(v));
  Fields f(*object);
  PlanRequest r;
  SLUICE_TRY(r.model, f.text("model", 4096));
  if (r.model.find('\0') != std::string::npos)
    return bad_parameter("model", "model holds a NUL byte");
  if (const auto* budgets = f.find("budgets")) {
    if (!budgets->is_array()) return wrong_kind("budgets", *budgets, "an array of sizes");
    const json::array& list = budgets->get_array();
    if (list.size() > kMostPlanBudgets)
      return bad_parameter(
          "budgets",
          fmt::format("budgets has {} entries, {} are allowed", list.size(), kMostPlanBudgets));
    for (size_t i = 0; i < list.size(); ++i) {
      SLUICE_TRY(const uint64_t bytes, budget_from_json(list[i], i, percent_of));
      r.budgets.push_back(bytes);
    }
  }
  SLUICE_TRY(r.ctx, f.integer("ctx", 1, int64_t{1} << 31));
  SLUICE_TRY(r.prompt_tokens, f.integer("prompt_tokens", 1, int64_t{1} << 31));
  SLUICE_TRY(r.kv_type, f.text("kv_type", 32));
  if (!r.kv_type.empty() && r.kv_type != "f16" && r.kv_type != "q8_0")
    return bad_parameter(
        "kv_type",
        fmt::format("kv_type \"{}\" is not known; allowed: f16, q8_0", escape_text(r.kv_type)));
  SLUICE_TRY(r.measure_disk, f.boolean("measure_disk", false));
  SLUICE_TRY(f.no_others());
  return r;
}

json::object to_json(const PlanDoc& d) {
  json::array rows;
  for (const PlanRowDoc& r : d.rows) rows.push_back(to_json(r));
  return {{"schema", "sluice.plan.v1"},
          {"model", d.model},
          {"path", d.path},
          {"quantization", d.quantization},
          {"blocks", d.blocks},
          {"file_bytes", d.file_bytes},
          {"weight_bytes", d.weight_bytes},
          {"slices", d.slices},
          {"ctx", d.ctx},
          {"kv_type", d.kv_type},
          {"prompt_tokens", d.prompt_tokens},
          {"threads", d.threads},
          {"io", d.io},
          {"inputs",
           {{"disk_bytes_per_s", to_json(d.disk_bytes_per_s)},
            {"decode_compute_ms", to_json(d.decode_compute_ms)},
            {"prompt_token_ms", to_json(d.prompt_token_ms)},
            {"memory_bytes_per_s", d.memory_bytes_per_s},
            {"runs", d.runs},
            {"disturbed", d.disturbed}}},
          {"rows", std::move(rows)},
          {"floor", to_json(d.floor)},
          {"resident_budget_bytes", d.resident_budget_bytes},
          {"limit_bytes", d.limit_bytes ? json::value(*d.limit_bytes) : json::value(nullptr)}};
}

Result<PlanDoc> plan_from_json(const json::value& v) {
  PlanDoc d;
  AnswerReader r(v, "plan");
  r.get("model", d.model);
  r.get("path", d.path);
  r.get("quantization", d.quantization);
  r.get("blocks", d.blocks);
  r.get("file_bytes", d.file_bytes);
  r.get("weight_bytes", d.weight_bytes);
  r.get("slices", d.slices);
  r.get("ctx", d.ctx);
  r.get("kv_type", d.kv_type);
  r.get("prompt_tokens", d.prompt_tokens);
  r.get("threads", d.threads);
  r.get("io", d.io);
  auto inputs = r.object("inputs");
  d.disk_bytes_per_s = input_of(inputs.object("disk_bytes_per_s"));
  d.decode_compute_ms = input_of(inputs.object("decode_compute_ms"));
  d.prompt_token_ms = input_of(inputs.object("prompt_token_ms"));
  inputs.get("memory_bytes_per_s", d.memory_bytes_per_s);
  inputs.get("runs", d.runs);
  inputs.get("disturbed", d.disturbed);
  r.each("rows", [&](AnswerReader& row) { d.rows.push_back(row_of(row)); });
  d.floor = floor_of(r.object("floor"));
  r.get("resident_budget_bytes", d.resident_budget_bytes);
  r.get("limit_bytes", d.limit_bytes);
  SLUICE_TRY(r.done());
  return d;
}

}  // namespace sluice
