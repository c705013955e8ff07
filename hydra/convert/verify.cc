// SPDX-License-Identifier: Apache-2.0
// Comparisons of models. They fail on what cannot be compared: a NaN is never within a bound.
#include "hydra/convert/verify.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/convert/convert.h"
#include "hydra/convert/quantize.h"
#include "hydra/io/gguf.h"
#include "hydra/model/gguf_model.h"
#include "hydra/model/rope.h"
#include "hydra/runtime/sequence_state.h"

namespace hydra {
namespace {

// As f32 keeps it.
bool Near(double a, double b) { return std::fabs(a - b) <= 1e-6 * std::max(std::fabs(a), std::fabs(b)); }

bool SameRope(const AttentionConfig& a, const AttentionConfig& b) {
  const auto left = RopeInvFreq(a), right = RopeInvFreq(b);
  return std::ranges::equal(left, right, Near);
}

// `written` with what its file could not say taken from `source`, where no result depends on it.
ModelConfig AsSaid(const ModelConfig& source, ModelConfig written, bool gguf) {
  written.dtype = source.dtype;
  if (!gguf || GgufCarriesConfig(source.family)) return written;  // folders say all, and such files have config.json
  written.initializer_range = source.initializer_range;
  written.bos_token_id = source.bos_token_id;  // these two come from the tokenizer
  written.pad_token_id = source.pad_token_id;
  if (!source.eos_token_id) written.eos_token_id.reset(), written.more_eos_token_ids.clear();
  if (Near(source.norm_eps, written.norm_eps)) written.norm_eps = source.norm_eps;
  SsmConfig& ssm = written.ssm;
  ssm.dt_min = source.ssm.dt_min, ssm.dt_max = source.ssm.dt_max, ssm.dt_floor = source.ssm.dt_floor;
  ssm.A_init = source.ssm.A_init;
  ssm.scan_chunk = source.ssm.scan_chunk;
  if (source.attention.head_dim == written.attention.head_dim && SameRope(source.attention, written.attention)) {
    written.attention.rope_theta = source.attention.rope_theta;
    written.attention.rope_scaling = source.attention.rope_scaling;
  }
  return written;
}

bool SameTensors(const ModelConfig& a, const ModelConfig& b) {
  const TensorTable left(a), right(b);
  return std::ranges::equal(left.specs(), right.specs(), [](const TensorSpec& x, const TensorSpec& y) {
    return x.role == y.role && x.layer == y.layer && x.shape == y.shape;
  });
}

std::span<const float> LogitsOfRandomTokens(const WeightSource& source, const std::vector<int32_t>& ids,
                                            ThreadPool& pool, ForwardScratch* scratch) {
  const LoadOptions options{
      .ctx_size = static_cast<int64_t>(ids.size()), .kv_dtype = KvDtype::kF32, .act = Activations::kF32, .pack = false};
  const Model model(ModelWeights::Build(source, options, &pool));
  SequenceState state(model);
  const Segment segment{&state, ids, LogitsOf::kAll};
  return model.Forward({&segment, 1}, pool, *scratch);
}

void CompareLogits(const WeightSource& source, const WeightSource& written, ThreadPool& pool, VerifyReport* report) {
  constexpr int64_t kTokens = 64;
  Rng rng(1);
  std::vector<int32_t> ids(kTokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(source.config.vocab_size)));
  ForwardScratch scratch[2];
  const auto left = LogitsOfRandomTokens(source, ids, pool, &scratch[0]);
  const auto right = LogitsOfRandomTokens(written, ids, pool, &scratch[1]);
  double largest = 1, difference = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    const double gap = std::abs(static_cast<double>(left[i]) - right[i]);
    largest = std::max(largest, std::abs(static_cast<double>(left[i])));
    difference = std::isnan(gap) ? INFINITY : std::max(difference, gap);
  }
  report->logits = std::isinf(difference) ? INFINITY : difference / largest;
  report->tokens = kTokens;
}

// Spaces, digits, marks, letters of several scripts, bytes of none, and a line of code.
constexpr const char* kTexts[] = {
    "Hello, World!  How's   it going?\n\n\tI'll take 12345 of 3.14159\r\n  ",
    "for (int i = 0; i < n; ++i) { x[i] += y[i]; }  // done",
    " \xc3\x9c\x62\x65r gr\xc3\xb6\xc3\x9f\x65r, e\xcc\x81t\xc3\xa9; \xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c "
    "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xf0\x9f\x98\x80\xe2\x80\x8b\xc2\xa0.",
    ""};

}  // namespace

VerifyReport VerifyModel(const WeightSource& source, const WeightSource& written, ThreadPool& pool) {
  VerifyReport report;
  const ModelConfig said = AsSaid(source.config, written.config, GgufFile::IsGguf(written.path));
  report.differences = CompareConfigs(source.config, said);
  if (!SameTensors(source.config, written.config)) {
    report.worst_tensor = report.logits = INFINITY;
    report.worst_name = "the configs have other tensors";
    return report;
  }
  const TensorTable table(source.config), other(written.config);
  for (size_t i = 0; i < table.specs().size(); ++i) {
    const TensorSpec& spec = table.specs()[i];
    const double error = RelativeError(TensorValues(source, spec), TensorValues(written, other.specs()[i]));
    if (report.worst_name.empty() || error > report.worst_tensor)
      report.worst_tensor = error, report.worst_name = spec.name;
  }
  CompareLogits(source, written, pool, &report);
  return report;
}

std::string CompareTokenizers(const Tokenizer& source, const Tokenizer& written) {
  if (written.vocab_size() < source.vocab_size())
    return StrCat("tokenizer: ", source.vocab_size(), " tokens became ", written.vocab_size());
  std::vector<std::string> texts(std::begin(kTexts), std::end(kTexts));
  for (int32_t id = 0; id < source.vocab_size(); ++id) {
    if (source.TokenBytes(id) != written.TokenBytes(id) || source.IsSpecial(id) != written.IsSpecial(id))
      return StrCat("tokenizer: token ", id, " is another");
    if (source.IsSpecial(id)) texts.push_back(StrCat("a", source.TokenText(id), " b"));
  }
  for (const std::string& text : texts)
    for (const bool around : {false, true}) {
      const EncodeOptions options{.parse_special = true, .add_special = around};
      if (source.Encode(text, options) != written.Encode(text, options))
        return StrCat("tokenizer: \"", OneLine(text, 40), "\" gives other ids");
    }
  return "";
}

}  // namespace hydra
