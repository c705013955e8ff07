// SPDX-License-Identifier: Apache-2.0
// Flags of sampling, and what wins over what.
#include "hydra/cli/verb_sampling.h"

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <random>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/cli/cli.h"

namespace hydra::cli {
namespace {

// "ID=V"
std::pair<int32_t, double> ParseBias(const std::string& text) {
  const size_t sign = text.find('=');
  if (sign == std::string::npos) throw Error(ErrorCode::kUsage, fmt::format("--logit-bias {}: must be ID=VALUE", text));
  const std::string id = text.substr(0, sign);
  return {static_cast<int32_t>(ParseWholeNumber(id, 0, INT32_MAX, fmt::format("--logit-bias {}: ID", text))),
          ParseNumber(text.substr(sign + 1), "--logit-bias " + id)};
}

}  // namespace

void AddSamplingFlags(CLI::App* verb, SamplingFlags* flags) {
  SamplerOptions& s = flags->sampler;
  verb->add_option("--repeat-penalty", s.repeat_penalty, "divides logits of recent tokens; 1 = off");
  verb->add_option("--repeat-last-n", s.repeat_last_n, "recent tokens that penalties look at; 0 = none")
      ->check(Range(0, INT32_MAX));
  verb->add_option("--presence-penalty", s.presence_penalty, "off the logit of each recent token");
  verb->add_option("--frequency-penalty", s.frequency_penalty, "the same for each time it occurs");
  verb->add_option("--top-k", s.top_k, "the k best tokens; 0 = off")->check(Range(0, INT32_MAX));
  verb->add_option("--top-p", s.top_p, "the best tokens of this mass; 1 = off");
  verb->add_option("--min-p", s.min_p, "least share of the best one's probability; 0 = off");
  verb->add_option("--temp", s.temperature, "temperature; 0 = greedy");
  verb->add_option("--logit-bias", flags->logit_bias, "ID=VALUE added to a logit; repeatable")->type_name("ID=VALUE");
  verb->add_option("--seed", flags->seed, "random numbers; -1 = a new seed each time, printed")
      ->check(Range(-1, INT64_MAX));
}

SamplerOptions ResolveSampling(const SamplingFlags& flags, const CLI::App* verb, const GenerationConfig& config) {
  SamplerOptions s = flags.sampler;
  const auto from_model = [verb](const char* flag, const auto& value, auto* out) {
    if (value && verb->count(flag) == 0) *out = *value;
  };
  from_model("--repeat-penalty", config.repetition_penalty, &s.repeat_penalty);
  from_model("--top-k", config.top_k, &s.top_k);
  from_model("--top-p", config.top_p, &s.top_p);
  from_model("--min-p", config.min_p, &s.min_p);
  from_model("--temp", config.temperature, &s.temperature);
  if (config.do_sample && !*config.do_sample && verb->count("--temp") == 0) s.temperature = 0;
  s.seed = flags.seed >= 0 ? static_cast<uint64_t>(flags.seed) : std::random_device{}();
  for (const std::string& bias : flags.logit_bias) s.logit_bias.push_back(ParseBias(bias));
  s.Validate();
  return s;
}

SamplerOptions WishedSampling(const GenerationConfig& config) {
  SamplerOptions s;
  s.repeat_penalty = config.repetition_penalty.value_or(s.repeat_penalty);
  s.top_k = config.top_k.value_or(s.top_k);
  s.top_p = config.top_p.value_or(s.top_p);
  s.min_p = config.min_p.value_or(s.min_p);
  s.temperature = config.temperature.value_or(s.temperature);
  if (config.do_sample && !*config.do_sample) s.temperature = 0;
  s.Validate();
  return s;
}

std::string SamplingText(const SamplerOptions& s) {
  if (s.temperature == 0) return "greedy";
  return fmt::format(
      "temp {}, top-k {}, top-p {}, min-p {}, repeat-penalty {} over {}, presence {}, frequency {}, seed {}",
      s.temperature, s.top_k, s.top_p, s.min_p, s.repeat_penalty, s.repeat_last_n, s.presence_penalty,
      s.frequency_penalty, s.seed);
}

}  // namespace hydra::cli
