#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/attention_softmax/attention_softmax.h"
#include "tune/torch/functions.h"
#include "tune/torch/products.h"

namespace tessera::training {
namespace {

using attention_softmax::kBlock;
using attention_softmax::kLog2E;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr auto kTransposed = Operand::Read::kTransposed;

// Query rows whose scores are computed together: as many as two blocks of scores of so many bytes
// have room for. A page of kBlock keys, which the softmax hides in one piece, holds whole blocks.
constexpr int64_t kScoreBytes = int64_t{1} << 20;
constexpr int64_t kMostRows = kBlock, kLeastRows = kBlock / 4;

// A form with offsets of its own.
struct KeptForm : torch::CustomClassHolder {
  explicit KeptForm(const AttentionForm& from)
      : offsets(from.offsets.begin(), from.offsets.end()), form(from) {
    form.offsets = offsets;
    for (size_t s = 1; s < offsets.size(); ++s) {
      longest = std::max<int64_t>(longest, offsets[s] - offsets[s - 1]);
    }
    while (rows > kLeastRows && 2 * rows * score_stride() * 4 > kScoreBytes) rows /= 2;
  }

  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t length(int64_t sequence) const { return offsets[sequence + 1] - offsets[sequence]; }
  int64_t group() const { return form.query_heads / form.kv_heads; }
  int64_t query_width() const { return int64_t{form.query_heads} * form.head_size; }
  int64_t kv_width() const { return int64_t{form.kv_heads} * form.head_size; }
  int64_t score_stride() const { return (longest + kBlock - 1) / kBlock * kBlock; }

  std::vector<int32_t> offsets;
  AttentionForm form;
  int64_t longest = 0;
  int64_t rows = kMostRows;  // of a block
};

// A block of query rows of one head.
struct Block {
  int64_t sequence;
  int64_t head;   // of the queries
  int64_t first;  // row of the sequence
  int64_t rows;
  int64_t keys;  // that any of the rows sees, from the sequence's first on

  Block(const KeptForm& kept, int64_t of, int64_t query_head, int64_t row)
      : sequence(of), head(query_head), first(row) {
    const int64_t length = kept.length(sequence);
    rows = std::min(kept.rows, length - first);
    keys = kept.form.mask == Mask::kCausal ? first + rows : length;
  }
};

// Where a head's part of a sequence begins in a tensor of queries, keys or values.
struct Heads {
  float* data;
  int64_t width;
  int64_t head_size;

  Heads(const Tensor& tensor, int64_t size)
      : data(tensor.data_ptr<float>()), width(tensor.size(1)), head_size(size) {}
  float* at(int64_t row, int64_t head) const { return data + row * width + head * head_size; }
  Operand read(int64_t row, int64_t head, Operand::Read how = Operand::Read::kAsStored) const {
    return {at(row, head), width, how};
  }
};

// What one thread works in.
class Scratch {
 public:
  explicit Scratch(const KeptForm& kept)
      : stride_(kept.score_stride()),
        scores_(at::empty({kept.rows, stride_})),
        gradients_(at::empty({kept.rows, stride_})),
        vectors_(at::empty({3, kept.rows})),
        bounds_(at::zeros({2, kept.rows}, at::kInt)) {}

  int64_t stride() const { return stride_; }
  float* scores() { return scores_.data_ptr<float>(); }
  float* gradients() { return gradients_.data_ptr<float>(); }
  float* maximum() { return vectors_.data_ptr<float>(); }
  float* sum() { return maximum() + vectors_.size(1); }

  // scores = probabilities of the block, from maxima that are at least `maximum` on.
  void softmax(const KeptForm& kept, const Block& block) {
    int32_t* begin = bounds_.data_ptr<int32_t>();
    int32_t* end = begin + bounds_.size(1);
    const int64_t window = kept.form.window;
    for (int64_t r = 0; r < block.rows; ++r) {
      begin[r] =
          window > 0 ? static_cast<int32_t>(std::max<int64_t>(0, block.first + r + 1 - window)) : 0;
      end[r] =
          static_cast<int32_t>(kept.form.mask == Mask::kCausal ? block.first + r + 1 : block.keys);
    }
    std::fill(sum(), sum() + block.rows, 0.0f);
    attention_softmax::kernels.run({.scores = scores(),
                                    .scores_stride = stride_,
                                    .begin = begin,
                                    .end = end,
                                    .keys = static_cast<int32_t>(block.keys),
                                    .maximum = maximum(),
                                    .sum = sum(),
                                    .rescale = sum() + vectors_.size(1)},
                                   {0, block.rows});
    // The kernel leaves what stands in blocks without a key that the row sees as it is.
    for (int64_t r = 0; r < block.rows; ++r) std::fill_n(scores() + r * stride_, begin[r], 0.0f);
  }

 private:
  int64_t stride_;
  Tensor scores_, gradients_, vectors_, bounds_;
};

// Calls work(item, scratch) for [0, items), dealt to the threads as they come.
void deal(const KeptForm& kept, int64_t items, const std::function<void(int64_t, Scratch&)>& work) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(items, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    Scratch scratch(kept);
    for (int64_t item = next++; item < items; item = next++) work(item, scratch);
  });
}

std::vector<Block> blocks_of(const KeptForm& kept) {
  std::vector<Block> blocks;
  for (int64_t s = 0; s < kept.sequences(); ++s) {
    for (int64_t h = 0; h < kept.form.query_heads; ++h) {
      for (int64_t row = 0; row < kept.length(s); row += kept.rows) {
        blocks.emplace_back(kept, s, h, row);
      }
    }
  }
  return blocks;
}

// One attention's tensors, in the order of its formula.
class Computation {
 public:
  Computation(const KeptForm& kept, const Tensor& query, const Tensor& key, const Tensor& value)
      : kept_(kept),
        size_(kept.form.head_size),
        query_(query, size_),
        key_(key, size_),
        value_(value, size_) {}

  // lse: [query_heads, rows], in units of ln 2 as the scores are.
  void forward(const Tensor& output, const Tensor& lse) const {
    const std::vector<Block> blocks = blocks_of(kept_);
    const Heads target(output, size_);
    deal(kept_, static_cast<int64_t>(blocks.size()), [&](int64_t item, Scratch& scratch) {
      const Block& block = blocks[static_cast<size_t>(item)];
      const int64_t row = row_of(block);
      score(block, scratch);
      std::fill(scratch.maximum(), scratch.maximum() + block.rows,
                -std::numeric_limits<float>::infinity());
      scratch.softmax(kept_, block);
      multiply({block.rows,
                size_,
                block.keys,
                {scratch.scores(), scratch.stride()},
                value_.read(kept_.offsets[block.sequence], kv_head(block)),
                target.at(row, block.head),
                target.width});
      float* sums = lse.data_ptr<float>() + block.head * lse.size(1) + row;
      for (int64_t r = 0; r < block.rows; ++r) {
        float* out = target.at(row + r, block.head);
        const float factor = 1 / scratch.sum()[r];
        for (int64_t i = 0; i < size_; ++i) out[i] *= factor;
        sums[r] = scratch.maximum()[r] + std::log2(scratch.sum()[r]);
      }
    });
  }

  struct Gradients {
    Tensor query, key, value;
  };
  // gradients: of the inputs, key and value zeroed.
  void backward(const Tensor& output, const Tensor& lse, const Tensor& output_gradient,
                const Gradients& gradients) const {
    deal(kept_, kept_.sequences() * kept_.form.kv_heads, [&](int64_t item, Scratch& scratch) {
      const int64_t sequence = item / kept_.form.kv_heads, head = item % kept_.form.kv_heads;
      for (int64_t h = head * kept_.group(); h < (head + 1) * kept_.group(); ++h) {
        for (int64_t row = 0; row < kept_.length(sequence); row += kept_.rows) {
          add_gradients({kept_, sequence, h, row}, lse, {output, size_}, {output_gradient, size_},
                        gradients, scratch);
        }
      }
    });
  }

 private:
  int64_t row_of(const Block& block) const { return kept_.offsets[block.sequence] + block.first; }
  int64_t kv_head(const Block& block) const { return block.head / kept_.group(); }

  // scores = Q K^T scale log2(e)
  void score(const Block& block, Scratch& scratch) const {
    multiply({block.rows, block.keys, size_, query_.read(row_of(block), block.head),
              key_.read(kept_.offsets[block.sequence], kv_head(block), kTransposed),
              scratch.scores(), scratch.stride(), kept_.form.scale * kLog2E});
  }

  void add_gradients(const Block& block, const Tensor& lse, const Heads& output, const Heads& from,
                     const Gradients& gradients, Scratch& scratch) const {
    const int64_t row = row_of(block), first_key = kept_.offsets[block.sequence];
    const int64_t kv = kv_head(block), stride = scratch.stride();
    score(block, scratch);
    // The softmax of maxima that are LSE is P itself.
    const float* sums = lse.data_ptr<float>() + block.head * lse.size(1) + row;
    std::copy(sums, sums + block.rows, scratch.maximum());
    scratch.softmax(kept_, block);
    const Operand probabilities{scratch.scores(), stride, kTransposed};
    const Heads dv(gradients.value, size_), dk(gradients.key, size_), dq(gradients.query, size_);
    multiply({block.keys, size_, block.rows, probabilities, from.read(row, block.head),
              dv.at(first_key, kv), dv.width, 1, 1});
    multiply({block.rows, block.keys, size_, from.read(row, block.head),
              value_.read(first_key, kv, kTransposed), scratch.gradients(), stride});
    for (int64_t r = 0; r < block.rows; ++r) {
      const float *o = output.at(row + r, block.head), *g = from.at(row + r, block.head);
      float mean = 0;
#pragma omp simd reduction(+ : mean)
      for (int64_t i = 0; i < size_; ++i) mean += o[i] * g[i];
      const float* p = scratch.scores() + r * stride;
      float* ds = scratch.gradients() + r * stride;
      for (int64_t j = 0; j < block.keys; ++j) ds[j] = p[j] * (ds[j] - mean);
    }
    const float scale = kept_.form.scale;
    multiply({block.rows,
              size_,
              block.keys,
              {scratch.gradients(), stride},
              key_.read(first_key, kv),
              dq.at(row, block.head),
              dq.width,
              scale});
    multiply({block.keys,
              size_,
              block.rows,
              {scratch.gradients(), stride, kTransposed},
              query_.read(row, block.head),
              dk.at(first_key, kv),
              dk.width,
              scale,
              1});
  }

  const KeptForm& kept_;
  int64_t size_;
  Heads query_, key_, value_;
};

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& query, const Tensor& key,
                        const Tensor& value, const c10::intrusive_ptr<KeptForm>& kept) {
    const Tensor q = query.contiguous(), k = key.contiguous(), v = value.contiguous();
    const Tensor output = at::empty_like(q);
    const Tensor lse = at::empty({kept->form.query_heads, q.size(0)});
    Computation(*kept, q, k, v).forward(output, lse);
    context->save_for_backward({q, k, v, output, lse});
    context->saved_data["form"] = at::IValue::make_capsule(kept);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& output_gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto kept =
        c10::static_intrusive_pointer_cast<KeptForm>(context->saved_data["form"].toCapsule());
    const Computation::Gradients gradients{at::empty_like(saved[0]), at::zeros_like(saved[1]),
                                           at::zeros_like(saved[2])};
    Computation(*kept, saved[0], saved[1], saved[2])
        .backward(saved[3], saved[4], output_gradients[0].contiguous(), gradients);
    return {gradients.query, gradients.key, gradients.value, Tensor()};
  }
};

}  // namespace

Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value,
                 const AttentionForm& form) {
  const auto kept = c10::make_intrusive<KeptForm>(form);
  const int64_t rows = kept->offsets.empty() ? -1 : kept->offsets.back();
  const auto fits = [&](const Tensor& tensor, int64_t width) {
    return tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == width;
  };
  TORCH_CHECK(form.kv_heads > 0 && form.query_heads % form.kv_heads == 0 &&
                  fits(query, kept->query_width()) && fits(key, kept->kv_width()) &&
                  fits(value, kept->kv_width()),
              "attention: expected ", rows, " rows of ", form.query_heads, ", ", form.kv_heads,
              " and ", form.kv_heads, " heads of ", form.head_size, ", found ", query.sizes(), ", ",
              key.sizes(), " and ", value.sizes());
  return AttentionFunction::apply(query, key, value, kept);
}

}  // namespace tessera::training
