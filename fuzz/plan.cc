// SPDX-License-Identifier: Apache-2.0
// Attention plans: what is accepted can be counted and written, and what is written reads back equal.
#include "hydra/model/attention_plan.h"

#include "fuzz/input.h"

using namespace hydra;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Accepts([&] {
    const AttentionPlan plan = AttentionPlan::Parse(std::string(fuzz::Text(data, size)), "plan.json");
    const std::string text = plan.Text();
    if (AttentionPlan::Parse(text, "written").Text() != text) fuzz::Broken("a plan does not read back equal", text);
    if (plan.model.n_layers * plan.model.n_heads > 4096) return;  // many heads cost time and show nothing new
    for (const int64_t N : {1, 100, 8192}) {
      for (const double share : {plan.Density(N), plan.HeadDensity(N), plan.PairDensity(N)})
        if (!(share > 0 && share <= 1)) fuzz::Broken("a density is no share", text);
      if (plan.KvRows(N) < 0) fuzz::Broken("rows are negative", text);
    }
  });
  return 0;
}
