// SPDX-License-Identifier: Apache-2.0
// The filters on sequences, for the table of filters (jinja_filters.cc).
#pragma once

#include "hydra/text/jinja_run.h"

namespace hydra::jinja {

[[nodiscard]] Value FilterBatch(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterDictsort(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterFirst(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterGroupby(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterJoin(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterLast(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterList(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterMap(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterMax(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterMin(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterReject(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterRejectattr(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterReverse(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterSelect(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterSelectattr(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterSlice(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterSort(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterSum(Run& run, const Value& in, CallArgs& args);
[[nodiscard]] Value FilterUnique(Run& run, const Value& in, CallArgs& args);

}  // namespace hydra::jinja
