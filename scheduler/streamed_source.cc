#include "scheduler/streamed_source.h"

#include <algorithm>

namespace sluice {

using kernels::MatrixRef;

void StreamedSource::begin_walk(const CancelToken& cancel, bool wants_outputs) {
  cancel_ = &cancel;
  error_.reset();
  announced_.clear();
  store_.begin_pass(wants_outputs ? schedule_.slices.size() : schedule_.n_without_outputs,
                    [&cancel] { return cancel.cancelled(); });
}

void StreamedSource::announce(const MatrixRef* refs, int n_refs) noexcept {
  for (int m = 0; m < n_refs; ++m) {
    const auto range = model_.slices().of(static_cast<uint32_t>(refs[m].tensor), refs[m].expert);
    for (uint32_t i = 0; i < range.count; ++i) announced_.push_back(range.first + i);
  }
}

bool StreamedSource::visit(const MatrixRef* refs, int n_refs, VisitFn fn, void* ctx) noexcept {
  if (!announced_.empty()) store_.announce(announced_);
  announced_.clear();
  wanted_.clear();
  matrix_of_.clear();
  for (int m = 0; m < n_refs; ++m) {
    const auto range = model_.slices().of(static_cast<uint32_t>(refs[m].tensor), refs[m].expert);
    for (uint32_t i = 0; i < range.count; ++i) {
      wanted_.push_back(range.first + i);
      matrix_of_.push_back(m);
    }
  }
  done_.assign(wanted_.size(), false);
  for (size_t left = wanted_.size(); left > 0;) {
    if (cancel_->cancelled()) return false;
    if (auto held = store_.hold_ready(wanted_, done_, held_); !held) {
      error_ = std::move(held).error();
      error_->file = model_.path();
      return false;
    }
    ready_.clear();
    for (const SliceStore::Held& h : held_) {
      const Slice& s = model_.slices()[h.id];
      ready_.push_back({h.data, static_cast<int64_t>(s.row0), static_cast<int64_t>(s.n_rows), matrix_of_[h.index]});
    }
    fn(ctx, ready_.data(), static_cast<int>(ready_.size()));
    store_.release(held_);
    left -= held_.size();
  }
  if (n_refs > 0 && refs[0].expert < 0) store_.advance(wanted_.size());
  return true;
}

bool StreamedSource::prepare_rows(const MatrixRef& ref, const int32_t* rows, int64_t n) noexcept {
  const auto tensor = static_cast<uint32_t>(ref.tensor);
  const auto range = model_.slices().of(tensor);
  const auto slices = model_.slices().slices().subspan(range.first, range.count);
  row_bytes_ = model_.row_bytes(tensor);
  std::vector<SliceStore::RowRead> reads;
  for (int64_t i = 0; i < n; ++i) {
    const auto row = static_cast<uint64_t>(rows[i]);
    const auto after = std::upper_bound(slices.begin(), slices.end(), row, [](uint64_t r, const Slice& s) { return r < s.row0; });
    const auto k = static_cast<SliceId>(after - slices.begin() - 1);
    reads.push_back({range.first + k, (row - slices[k].row0) * row_bytes_});
  }
  rows_.resize(static_cast<size_t>(n) * row_bytes_);
  next_row_ = 0;
  if (auto read = store_.read_rows(reads, row_bytes_, rows_.data(), row_bytes_); !read) {
    error_ = std::move(read).error();
    error_->file = model_.path();
    return false;
  }
  return true;
}

const void* StreamedSource::row(const MatrixRef&, int64_t) noexcept { return rows_.data() + row_bytes_ * next_row_++; }

Error StreamedSource::failure() const {
  if (error_) return *error_;
  return Error{"cancelled", "the request was cancelled"};
}

}  // namespace sluice
