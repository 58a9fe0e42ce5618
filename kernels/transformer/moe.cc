#include "kernels/transformer/moe.h"

#include <cmath>
#include <cstring>


namespace sluice::kernels {
namespace {

constexpr int kExpertsPerVisit = 32;

// Ranks a token's experts by probability, lower index first among equals, and writes ids and weights of the best.
void choose_experts(const HParams& hp, float* probs, int32_t* experts, float* weights) noexcept {
  const int64_t k = hp.n_experts_active;
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < hp.n_experts; ++e) {
      bool taken = false;
      for (int64_t j = 0; j < i; ++j) taken = taken || experts[j] == e;
      if (!taken && (best < 0 || probs[e] > probs[best])) best = e;
    }
    experts[i] = static_cast<int32_t>(best);
    weights[i] = probs[best];
    sum += probs[best];
  }
  if (!hp.norm_topk_prob) return;
  for (int64_t i = 0; i < k; ++i) weights[i] /= sum;
}

void route(WalkContext& c, int64_t layer, int64_t n) noexcept {
  const HParams& hp = c.hp;
  const int64_t stride = row_stride(hp.n_experts);
  const int64_t k = hp.n_experts_active;
  if (c.taps != nullptr) c.taps->tap(Tap::kRouterLogits, layer, c.ws.router, n, hp.n_experts, stride);
  for (int64_t t = 0; t < n; ++t) {
    c.table.softmax(c.ws.router + t * stride, hp.n_experts);
    choose_experts(hp, c.ws.router + t * stride, c.ws.pair_expert + t * k, c.ws.router_weights + t * k);
  }
  if (c.taps != nullptr) {
    c.taps->tap(Tap::kRouterWeights, layer, c.ws.router_weights, n, k, k);
    for (int64_t p = 0; p < n * k; ++p) c.ws.gate[p] = static_cast<float>(c.ws.pair_expert[p]);
    c.taps->tap(Tap::kRouterExperts, layer, c.ws.gate, n, k, k);
  }
}

// Counting sort of (token, rank) pairs by expert: pair_order[i] = pair, expert_first[e] = first of expert e.
void group_pairs(WalkContext& c, int64_t n_pairs) noexcept {
  const HParams& hp = c.hp;
  int32_t* first = c.ws.expert_first;
  for (int64_t e = 0; e <= hp.n_experts; ++e) first[e] = 0;
  for (int64_t p = 0; p < n_pairs; ++p) ++first[c.ws.pair_expert[p] + 1];
  for (int64_t e = 0; e < hp.n_experts; ++e) first[e + 1] += first[e];
  int32_t next[kMaxExperts];
  for (int64_t e = 0; e < hp.n_experts; ++e) next[e] = first[e];
  for (int64_t p = 0; p < n_pairs; ++p) c.ws.pair_order[next[c.ws.pair_expert[p]]++] = static_cast<int32_t>(p);
}

// The refs of up to kExpertsPerVisit experts that have tokens, from `*expert` on; advances *expert.
struct ExpertBatch {
  MatrixRef refs[kExpertsPerVisit * 2];
  TokenRange ranges[kExpertsPerVisit * 2];
  Output outputs[kExpertsPerVisit * 2];
  int n = 0;

  void add(const MatrixRef& stack, int32_t expert, TokenRange range, Output out) noexcept {
    refs[n] = stack;
    refs[n].expert = expert;
    ranges[n] = range;
    outputs[n] = out;
    ++n;
  }
};

// Calls fn(batch) for all experts that have tokens, until it returns false. outputs: one for each
// stack.
template <class F>
bool for_expert_batches(const WalkContext& c,
                        const MatrixRef* stacks,
                        int n_stacks,
                        const Output* outputs,
                        F&& fn) noexcept {
  int32_t e = 0;
  const auto n_experts = static_cast<int32_t>(c.hp.n_experts);
  while (e < n_experts) {
    ExpertBatch batch;
    for (; e < n_experts && batch.n + n_stacks <= kExpertsPerVisit * 2; ++e) {
      const TokenRange range{c.ws.expert_first[e], c.ws.expert_first[e + 1] - c.ws.expert_first[e]};
      if (range.n == 0) continue;
      for (int s = 0; s < n_stacks; ++s) batch.add(stacks[s], e, range, outputs[s]);
    }
    if (batch.n == 0) return true;
    if (!fn(batch)) return false;
  }
  return true;
}

bool multiply_experts(WalkContext& c,
                      const MatrixRef* stacks,
                      int n_stacks,
                      const Output* outputs,
                      const Inputs& in) noexcept {
  return for_expert_batches(c, stacks, n_stacks, outputs, [&](const ExpertBatch& b) {
    return multiply_grouped(c, b.refs, b.n, in, b.ranges, b.outputs);
  });
}

// The source is told of all at once: its reads overlap, those of the first stage come first.
void announce_experts(WalkContext& c, const MatrixRef* stacks, int n_stacks) noexcept {
  const Output none[2];
  (void)for_expert_batches(c, stacks, n_stacks, none, [&](const ExpertBatch& b) {
    c.source.announce(b.refs, b.n);
    return true;
  });
}

}  // namespace

bool moe_ffn(WalkContext& c, const BlockWeights& w, int64_t layer, int64_t n, const Role* roles,
             const MakeRow& make_row) noexcept {
  const HParams& hp = c.hp;
  const int64_t k = hp.n_experts_active;
  const int64_t pairs = n * k;
  const int64_t dim_stride = row_stride(hp.dim);
  const int64_t ffn_stride = row_stride(hp.expert_hidden_dim);
  const Inputs normed{c.ws.h, dim_stride, hp.dim, n, roles};
  const Output router_out{c.ws.router, row_stride(hp.n_experts)};
  prepare_inputs(c, &w.router, 1, normed, make_row);
  if (!multiply(c, &w.router, 1, normed, &router_out)) return false;
  route(c, layer, n);
  group_pairs(c, pairs);
  const MatrixRef gate_up[2] = {w.w1_exps, w.w3_exps};
  announce_experts(c, gate_up, 2);
  announce_experts(c, &w.w2_exps, 1);

  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t t = c.ws.pair_order[i] / k;
    std::memcpy(c.ws.pair_in + i * dim_stride, c.ws.h + t * dim_stride, static_cast<size_t>(hp.dim) * sizeof(float));
    c.ws.pair_role[i] = roles != nullptr ? roles[t] : Role::kRow;
  }
  const Output gate_up_out[2] = {{c.ws.gate, ffn_stride}, {c.ws.up, ffn_stride}};
  const Inputs in{c.ws.pair_in, dim_stride, hp.dim, pairs, c.ws.pair_role};
  prepare_inputs(c, gate_up, 2, in);
  if (!multiply_experts(c, gate_up, 2, gate_up_out, in)) return false;
  const Inputs hidden{c.ws.gate, ffn_stride, hp.expert_hidden_dim, pairs, c.ws.pair_role};
  const Output down_out{c.ws.pair_out, dim_stride};
  prepare_inputs(c, &w.w2_exps, 1, hidden, [&](int64_t p) {
    float* gate = c.ws.gate + p * ffn_stride;
    c.table.swiglu(gate, c.ws.up + p * ffn_stride, gate, hp.expert_hidden_dim);
  });
  if (!multiply_experts(c, &w.w2_exps, 1, &down_out, hidden)) return false;

  // pair_order is a permutation: turn it round, so that each token finds its experts in rank order.
  for (int64_t i = 0; i < pairs; ++i) c.ws.pair_expert[c.ws.pair_order[i]] = static_cast<int32_t>(i);
  parallel_for(c.parallel, n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* y = c.ws.h + t * dim_stride;
      std::memset(y, 0, static_cast<size_t>(hp.dim) * sizeof(float));
      for (int64_t i = 0; i < k; ++i) {
        c.table.add_scaled(y, c.ws.pair_out + c.ws.pair_expert[t * k + i] * dim_stride, c.ws.router_weights[t * k + i],
                           hp.dim);
      }
    }
  });
  return true;
}

}  // namespace sluice::kernels
