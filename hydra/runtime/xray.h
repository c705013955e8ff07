// SPDX-License-Identifier: Apache-2.0
// The X-ray of a text: what each of its tokens did in the model, how sure the model was behind it, what it moved and
// how long it took. Not here: how a pass tells (trace.h), tables and pages (hydra/cli/xray_*.h).
#pragma once

#include <limits>
#include <span>

#include "hydra/io/json.h"
#include "hydra/runtime/trace.h"

namespace hydra {

struct XrayToken {
  TokenTrace trace;
  bool generated = false;  // picked here; else read from the prompt
  // Of the distribution that follows it, nats; NaN where its logits were not computed.
  double entropy = std::numeric_limits<double>::quiet_NaN();
  double bytes = 0, seconds = 0;  // of its pass, in equal shares
};

// Of softmax(logits), nats.
[[nodiscard]] double Entropy(std::span<const float> logits);

// {"id", "position", "generated", "entropy", "bytes", "ms", "layers": [{"gate", "size", "stream", "experts": [[id,
// weight], ..], "landmarks", "landmark_share", "slots_read", "slots_written", "workspace_gate", "rows", "pkm_gate"}]};
// what a layer does not have is left out.
[[nodiscard]] Json XrayJson(const XrayToken& token);

}  // namespace hydra
