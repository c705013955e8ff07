// SPDX-License-Identifier: Apache-2.0
// From tokens as they are picked to text that may be shown: whole characters, nothing of a stop string; and with the
// text the tokens that it is made of. Not here: picking (engine.h).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "hydra/base/utf8.h"
#include "hydra/runtime/stop_strings.h"
#include "hydra/serve/job.h"
#include "hydra/text/tokenizer.h"

namespace hydra::serve {

// Of one text; not thread-safe.
class TextWriter {
 public:
  // Throws kUsage for an empty stop string.
  TextWriter(const Tokenizer& tokenizer, const std::vector<std::string>& stops)
      : tokenizer_(tokenizer), stops_(stops) {}
  // Adds to the piece what may be shown now.
  void Add(PickedToken token, TextPiece* piece);
  // The text ends: what was held back is shown, but for a stop string.
  void Finish(TextPiece* piece);
  [[nodiscard]] bool stopped() const { return stops_.stopped(); }

 private:
  struct Held {
    PickedToken token;
    int64_t end;  // bytes of the text up to its end
  };
  void Release(int64_t bytes, TextPiece* piece);

  const Tokenizer& tokenizer_;
  StopStrings stops_;
  Utf8Stream utf8_;
  std::deque<Held> held_;
  int64_t said_ = 0, shown_ = 0;  // bytes of tokens; of text
};

}  // namespace hydra::serve
