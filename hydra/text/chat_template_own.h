// SPDX-License-Identifier: Apache-2.0
// The chat templates that come with hydralm, for models whose files have none. Not here: running them (jinja.h).
#pragma once

#include <array>
#include <vector>

namespace hydra {

struct OwnTemplate {
  const char* name;
  std::vector<const char*> markers;  // tokens of the vocabulary; where there are none, it tells nothing
  bool markers_may_be_text;          // published vocabularies spell them with several tokens
  const char* text;
};

[[nodiscard]] const std::array<OwnTemplate, 5>& OwnTemplates();

}  // namespace hydra
