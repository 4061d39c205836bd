#include "model/head.h"

#include <algorithm>

#include "kernels/activation/activation.h"
#include "model/normalise.h"

namespace tessera {
namespace {

// The head rows one behind another.
const float* gather(const Execution& e, const float* states, Team::Member& member) {
  if (e.input.head_rows == HeadRows::kAll) return states;
  const int64_t width = e.architecture.hidden_size;
  const Range part = member.slice(e.pass.head_row_count);
  for (int64_t r = part.begin; r < part.end; ++r) {
    const int32_t row = e.pass.head_rows[static_cast<size_t>(r)];
    std::copy_n(states + row * width, width, e.scratch.head_in + r * width);
  }
  member.barrier();
  return e.scratch.head_in;
}

// A product by all members, who have not met after it.
void multiply_head(const Execution& e, const Linear& linear, LinearArgs args,
                   Team::Member& member) {
  args.rows = e.pass.head_row_count;
  args.scratch = e.scratch.linear + member.rank() * e.scratch.linear_bytes;
  apply_shared(linear, args, e.scratch.converted, member);
}

const float* transform(const Execution& e, const float* x, Team::Member& member) {
  const HeadWeights& head = e.weights.head;
  const int64_t width = e.architecture.hidden_size;
  if (head.transform == nullptr) return x;
  float* y = e.scratch.head_mid;
  multiply_head(e, *head.transform,
                {.x = x,
                 .x_stride = width,
                 .activation = e.architecture.names.head.activation,
                 .y = y,
                 .y_stride = width},
                member);
  member.barrier();
  if (head.norm.empty()) return y;
  normalise(e.architecture, head.norm, y, y, member.slice(e.pass.head_row_count));
  member.barrier();
  return y;
}

// A language model's logits, scaled and capped. All members have come to their end.
void settle_logits(const Execution& e, Team::Member& member) {
  const Architecture& a = e.architecture;
  const int64_t outputs = e.weights.head.outputs;
  const Range part = member.slice(e.pass.head_row_count * outputs);
  float* logits = e.scratch.logits;
  const float inner = a.logit_cap > 0 ? a.logit_scale / a.logit_cap : a.logit_scale;
  for (int64_t i = part.begin; i < part.end; ++i) logits[i] *= inner;
  if (a.logit_cap <= 0) return;
  activation::kernels.run({.function = Activation::kTanh,
                           .x = logits + part.begin,
                           .x_stride = part.size(),
                           .cols = part.size(),
                           .y = logits + part.begin,
                           .y_stride = part.size()},
                          {0, 1});
  for (int64_t i = part.begin; i < part.end; ++i) logits[i] *= a.logit_cap;
}

Work head_work(const Execution& e) {
  const HeadWeights& head = e.weights.head;
  Work work = work_of(*head.output, e.pass.head_row_count);
  if (head.transform == nullptr) return work;
  const Work transform = work_of(*head.transform, e.pass.head_row_count);
  return {work.flops + transform.flops, work.dense_flops + transform.dense_flops,
          work.bytes + transform.bytes};
}

}  // namespace

void run_head(const Execution& e, const float* states, Team::Member& member) {
  const HeadWeights& head = e.weights.head;
  if (head.output == nullptr || e.input.head_rows == HeadRows::kNone) return;
  const float* x = transform(e, gather(e, states, member), member);
  multiply_head(e, *head.output,
                {.x = x,
                 .x_stride = e.architecture.hidden_size,
                 .y = e.scratch.logits,
                 .y_stride = head.outputs},
                member);
  const Architecture& a = e.architecture;
  if (a.head == Head::kCausalLm && (a.logit_scale != 1 || a.logit_cap > 0)) {
    member.barrier();
    settle_logits(e, member);
  }
  if (e.trace == nullptr) return;
  member.barrier();
  mark(e.trace, Operation::kHead, member, [&] { return head_work(e); });
}

}  // namespace tessera
