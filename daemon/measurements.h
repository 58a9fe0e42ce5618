// How fast each model's disk and these processors have been seen to be: probes, and what finished
// runs taught. Kept in state_dir/measurements.json, written whole; a damaged file is ignored with a
// log line, since all of it can be measured again. Thread-safe.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "kernels/driver_widths.h"
#include "scheduler/engine.h"
#include "scheduler/model_loader.h"
#include "scheduler/predict.h"
#include "storage/read_control.h"

namespace sluice {

struct ModelMeasurements {
  Speeds probed;           // a zero value was not measured
  int64_t disk_at_ms = 0;  // unix
  int64_t compute_at_ms = 0;
  std::string compute_by;  // threads and kernels: other ones compute at another speed
  Speeds learned;
  int64_t runs = 0;  // finished generations that taught something
  int64_t learned_at_ms = 0;
  uint64_t tokenizer_bytes = 0;  // of its tables; 0: not measured
};

// A file on a device: the same model elsewhere is read at another speed.
std::string measurement_key(const FileIdentity& file);

class Measurements {
 public:
  // `state_dir` empty: nothing is kept.
  explicit Measurements(std::string state_dir);
  ~Measurements();

  ModelMeasurements find(const std::string& key) const;
  void set_disk(const std::string& key, const Estimate& bytes_per_s);
  void set_compute(const std::string& key, const Speeds& speeds, const std::string& by);
  void set_tokenizer(const std::string& key, uint64_t bytes);
  // Of this host's processor, with these kernels.
  std::optional<kernels::DriverWidths> drivers(kernels::WeightType type) const;
  void set_drivers(kernels::WeightType type, const kernels::DriverWidths& widths);
  // Of the disks that models were read from: I/O queues look here and write here when they end.
  ReadBook read_shapes;
  // Held while something is probed: two probes at a time would measure each other.
  std::mutex probing;
  // After a generation, on the thread that computed it. Writes at most every half minute.
  void learn(const Model& model, const GenerationStats& stats, const std::string& compute_by);

 private:
  void load();
  void load_drivers(const boost::json::object& document);
  void load_read_shapes(const boost::json::object& document);
  void touch(bool now);  // mutex_ held
  void save();           // mutex_ held

  const std::string path_;  // empty: nothing is kept
  mutable std::mutex mutex_;
  std::map<std::string, ModelMeasurements> models_;  // guarded by mutex_; at most kMostModels
  using DriversOfHost = std::map<std::string, kernels::DriverWidths>;  // by the type's name
  const std::string host_;                                             // driver_signature()
  std::map<std::string, DriversOfHost> drivers_;  // guarded by mutex_; at most kMostHosts
  int64_t saved_at_ms_ = 0;                          // guarded by mutex_
  std::map<uint64_t, ReadShape> saved_shapes_;       // guarded by mutex_
  bool unsaved_ = false;                             // guarded by mutex_
};

// What the speeds of a kernel's drivers depend on: "AMD EPYC avx512".
std::string driver_signature();

// "2 avx2": what compute speeds depend on besides the model.
std::string compute_signature(int n_threads);

}  // namespace sluice
