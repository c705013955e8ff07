// SPDX-License-Identifier: Apache-2.0
// Which tokens may come next in a text that must follow a form, such as JSON of a schema. Not here: picking one of them
// (runtime/sampler.h).
#pragma once

#include <cstdint>
#include <span>

namespace hydra::serve {

// Of one text; not thread-safe.
class TokenFilter {
 public:
  virtual ~TokenFilter() = default;
  // A bit for each id of the tokenizer's vocabulary that may come next, the lowest bits first; end tokens are among
  // them where the text may end. At least one is set.
  [[nodiscard]] virtual std::span<const uint64_t> Allowed() = 0;
  // The next token, which was allowed.
  virtual void Accept(int32_t id) = 0;
};

}  // namespace hydra::serve
