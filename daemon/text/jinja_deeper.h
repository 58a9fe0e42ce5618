// What Renderer's own files share: one level of recursion, and output set aside.
#pragma once

#include <string>
#include <utility>

#include "daemon/text/jinja_render.h"

namespace sluice::jinja {

// One level of recursion while it lives.
class Renderer::Deeper {
 public:
  explicit Deeper(Renderer& r) : r_(r) {
    if (++r_.depth_ > r_.limits_.eval_depth || r_.stack_.exhausted()) r_.fail_depth();
  }
  ~Deeper() { --r_.depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  Renderer& r_;
};

// Output goes to a string of its own while it lives; the bytes set aside count as live.
class Renderer::Captured {
 public:
  explicit Captured(Renderer& r) : r_(r), outer_(std::move(r.output_)), bytes_(outer_.size()) {
    r_.output_.clear();
    r_.heap_.add(bytes_);
  }
  std::string take() {
    std::string inner = std::move(r_.output_);
    r_.output_.clear();
    return inner;
  }
  ~Captured() {
    r_.output_ = std::move(outer_);
    r_.heap_.remove(bytes_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

 private:
  Renderer& r_;
  std::string outer_;
  const uint64_t bytes_;
};

}  // namespace sluice::jinja
