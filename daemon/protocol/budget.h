// Documents of /sluice/v1/budget (INTERFACE 3.2). Optional fields are written as null. Only ever
// extended.
//
//   GET budget           BudgetStateDoc
//   PUT budget           BudgetRequest -> BudgetStateDoc and BudgetChangedDoc; 409
//   budget_below_floor
//                        with "holds": what cannot be given back, class by class
//   GET budget/history   {"schema":"sluice.budget_history.v1","changes":[BudgetChangeDoc]}, oldest
//                        first
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace sluice {

// What the ledger says and, beside it, what the kernel says.
struct BudgetStateDoc {
  std::optional<int64_t> limit_bytes;  // null: unlimited
  int64_t effective_bytes = 0;         // what memory pressure and cgroups leave of it
  int64_t floor_bytes = 0;             // the smallest limit that can be set now without force
  int64_t used_bytes = 0;
  std::vector<std::pair<std::string, int64_t>> accounted;  // by class; an object in JSON
  int64_t rss_bytes = 0;
  std::optional<int64_t> cgroup_bytes;        // of our own group; null: unknown
  std::optional<int64_t> cgroup_limit_bytes;  // the smallest above us; null: none
  int64_t gap_bytes = 0;                      // rss - used: at most 0 where all is well
  bool gap_is_defect = false;                 // more than 5 % and 16 MiB
  std::string pressure = "none";              // none | some | full
};

struct EvictedDoc {
  std::string model;
  std::string kind;  // pins | kv | model (unloaded)
  bool idle = false;
  int64_t bytes = 0;
};

struct BudgetChangedDoc {
  std::optional<int64_t> old_bytes;
  int64_t new_bytes = 0;
  bool dry_run = false;
  bool lowered = false;  // asked for more than this process may use at all
  std::vector<EvictedDoc> evicted;
  std::vector<std::string> cancelled;  // requests, with force
  bool kernel_confirmed = true;        // resident memory was within the limit in time
  bool deadline_missed = false;
  int64_t elapsed_ms = 0;
  std::optional<std::string> saved;  // the file written
  std::optional<std::string> note;
};

struct BudgetChangeDoc {  // in the history, and the `budget` event
  int64_t at_ms = 0;      // unix; "at" is RFC 3339
  std::string cause;      // start | user | pressure | cgroup
  uint32_t uid = 0;
  std::optional<int64_t> old_bytes;
  std::optional<int64_t> new_bytes;  // of the limit; of pressure and cgroup: what is in effect
  int64_t elapsed_ms = 0;
};

boost::json::object to_json(const BudgetStateDoc& d);  // schema sluice.budget.v1
boost::json::object to_json(const BudgetStateDoc& d, const BudgetChangedDoc& c);
boost::json::object to_json(const BudgetChangeDoc& d);  // without schema

// "2026-11-21T14:02:03.456Z".
std::string rfc3339(int64_t unix_ms);
int64_t unix_ms_now();

struct BudgetRequest {
  std::optional<std::string> ram;  // a size as people write it, or a number of bytes
  bool reset = false;              // back to what is configured
  bool force = false;
  bool save = false;
  bool dry_run = false;
  int64_t timeout_ms = 10'000;
};
// Errors: invalid_request, unsupported_parameter, not_supported (gpu_bytes, model).
Result<BudgetRequest> budget_request_from_json(const boost::json::value& v);

}  // namespace sluice
