// SPDX-License-Identifier: Apache-2.0
// A loss for each setting.
#include "hydra/eval/control_losses.h"

#include "hydra/base/error.h"
#include "hydra/io/file.h"

namespace hydra::eval {

ControlTable MeasureControls(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                             const std::string& split, const PerplexityOptions& options,
                             const std::function<void(const ControlTable::Row&)>& on_row) {
  ControlTable table{.config_sha256 = Sha256Hex(ConfigJson(model.config())), .rows = {}};
  for (const Controls& controls : ControlSettings(model.config())) {
    PerplexityOptions with = options;
    with.forward.controls = controls;
    const PerplexityResult result = EvaluateShards(model, tokenizer, folder, split, with);
    table.tokens = result.sums.tokens;
    table.rows.push_back({controls, ActiveParams(model.config(), controls), result.bits_per_byte()});
    on_row(table.rows.back());
  }
  return table;
}

}  // namespace hydra::eval
