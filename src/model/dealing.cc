#include "model/dealing.h"

#include <algorithm>

namespace tessera {

Range rows_of(int64_t rows, const Team::Member& member) { return member.slice(rows, kRowGrain); }

void meet(const LayerPass& layer, Team::Member& member) {
  if (layer.dealing == Dealing::kShared) member.barrier();
}

namespace {

// Of rows that follow each other, the first of which `args` points at.
void multiply_rows(const Execution& execution, const Group& group, const Linear& linear,
                   LinearArgs args) {
  const PassScratch& scratch = execution.scratch;
  const int rank = group.member->rank();
  args.scratch = scratch.linear + rank * scratch.linear_bytes;
  if (group.layer->dealing == Dealing::kOwn) {
    if (linear.converted_bytes(args.rows) > 0) {
      char* converted = scratch.converted + rank * scratch.converted_bytes;
      linear.convert_rows(args, {0, args.rows}, converted);
      args.converted = converted;
    }
    linear.apply_alone(args);
  } else {
    apply_shared(linear, args, scratch.converted, *group.member);
    group.member->barrier();
  }
}

// The rows that an operation is divided into by their heads; none: it is not.
std::span<const HeadPart> parts_of(const Execution& execution, const Group& group,
                                   Operation operation) {
  const bool has_heads = operation == Operation::kQkv || operation == Operation::kAttentionOutput;
  return has_heads ? execution.scratch.live.parts(*group.layer) : std::span<const HeadPart>();
}

// What of a group's product is that of a part of the rows; it may be nothing.
LinearArgs part_of(const HeadPart& part, const Group& group, LinearArgs args, Operation operation) {
  const int64_t begin = std::max(part.rows.begin, group.first);
  const int64_t first = begin - group.first;
  args.rows = std::max<int64_t>(std::min(part.rows.end, group.first + group.count) - begin, 0);
  args.x += first * args.x_stride;
  args.y += first * args.y_stride;
  if (args.residual != nullptr) args.residual += first * args.residual_stride;
  if (operation == Operation::kQkv) args.outputs = {part.outputs};
  if (operation == Operation::kAttentionOutput) args.inputs = {part.inputs};
  return args;
}

}  // namespace

void multiply(const Execution& execution, const Group& group, const Linear& linear, LinearArgs args,
              Operation operation) {
  args.rows = group.count;
  const std::span<const HeadPart> parts = parts_of(execution, group, operation);
  double executed = 0;  // rows, of which a part of the outputs or inputs is a part
  for (const HeadPart& part : parts) {
    const LinearArgs own = part_of(part, group, args, operation);
    if (own.rows == 0) continue;
    multiply_rows(execution, group, linear, own);
    executed += static_cast<double>(own.rows) * linear.share(own);
  }
  if (parts.empty()) {
    multiply_rows(execution, group, linear, args);
    executed = static_cast<double>(args.rows);
  }
  mark(execution.trace, operation, *group.member, [&] {
    Work work = work_of(linear, traced_rows(group));
    if (args.rows > 0) work.flops *= executed / static_cast<double>(args.rows);
    return work;
  });
}

int64_t traced_rows(const Group& group) {
  const int64_t rows = group.layer->rows;
  // A member that shares all rows may have none of its own.
  if (group.layer->dealing == Dealing::kShared) return rows;
  return group.rows.size() * rows / rows_of(rows, *group.member).size();
}

}  // namespace tessera
