#include "model/dealing.h"

namespace tessera {

Range rows_of(int64_t rows, const Team::Member& member) { return member.slice(rows, kRowGrain); }

void meet(const LayerPass& layer, Team::Member& member) {
  if (layer.dealing == Dealing::kShared) member.barrier();
}

void multiply(const Execution& execution, const Group& group, const Linear& linear, LinearArgs args,
              Operation operation) {
  const PassScratch& scratch = execution.scratch;
  const int rank = group.member->rank();
  args.rows = group.count;
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
  mark(execution.trace, operation, *group.member,
       [&] { return work_of(linear, traced_rows(group)); });
}

int64_t traced_rows(const Group& group) {
  const int64_t rows = group.layer->rows;
  // A member that shares all rows may have none of its own.
  if (group.layer->dealing == Dealing::kShared) return rows;
  return group.rows.size() * rows / rows_of(rows, *group.member).size();
}

}  // namespace tessera
