// SPDX-License-Identifier: Apache-2.0
// The families of metrics and their names.
#include "hydra/serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <map>
#include <mutex>
#include <utility>

namespace hydra::serve {
namespace {

struct Named {
  const char *name, *help;
};
// In the order of the enumerations.
constexpr std::array<Named, 12> kCounts{{
    {"requests_cancelled_total", "Texts that were stopped because their client left or asked for it"},
    {"prompt_tokens_total", "Tokens of prompts, cached ones included"},
    {"generated_tokens_total", "Tokens written"},
    {"cached_tokens_total", "Tokens of prompts that were not computed again"},
    {"replayed_tokens_total", "Tokens read again after a pass that failed"},
    {"prefix_queries_total", "Prompts that were looked up in the prefix cache"},
    {"prefix_hits_total", "Prompts of which the prefix cache had a part"},
    {"draft_tokens_total", "Tokens that a drafter guessed"},
    {"accepted_tokens_total", "Guessed tokens that were right"},
    {"weight_bytes_read_total", "Bytes of weights that passes read"},
    {"kv_bytes_read_total", "Bytes of keys and values that passes read"},
    {"nan_resets_total", "Sequences dropped because of a logit that is not finite"},
}};
constexpr std::array<Named, 4> kTimes{{
    {"ttft_seconds", "From a request to its first token"},
    {"itl_seconds", "Between two tokens of a text"},
    {"tpot_seconds", "Mean time of a token of a text behind the first"},
    {"queue_seconds", "From a request to the first pass that reads of it"},
}};
constexpr std::array<Named, 7> kLevels{{
    {"requests_running", "Texts in slots"},
    {"requests_queued", "Requests that wait for a slot"},
    {"state_bytes", "Bytes of the states in slots that do not grow"},
    {"kv_bytes", "Bytes of keys and values in slots"},
    {"snapshot_bytes", "Bytes of snapshots"},
    {"resident_bytes", "Resident memory of the process"},
    {"spec_active", "Texts in slots for which tokens are guessed"},
}};
constexpr const char* kPrefix = "hydralm_";
const prometheus::Histogram::BucketBoundaries kSeconds{0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32,
                                                       0.64,  1.25,   2.5,   5,    10,   30,   60,   180,  600};
const prometheus::Histogram::BucketBoundaries kExperts{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64};

}  // namespace

struct Metrics::Data {
  template <class Builder>
  auto& Family(Builder builder, const Named& named) {
    return builder.Name(std::string(kPrefix) + named.name).Help(named.help).Register(registry);
  }

  Data() {
    for (size_t i = 0; i < kCounts.size(); ++i) counts[i] = &Family(prometheus::BuildCounter(), kCounts[i]).Add({});
    for (size_t i = 0; i < kTimes.size(); ++i)
      times[i] = &Family(prometheus::BuildHistogram(), kTimes[i]).Add({}, kSeconds);
    for (size_t i = 0; i < kLevels.size(); ++i) levels[i] = &Family(prometheus::BuildGauge(), kLevels[i]).Add({});
    experts = &Family(prometheus::BuildHistogram(),
                      {"experts_per_chunk", "Experts that the tokens of a chunk use in a layer"})
                   .Add({}, kExperts);
    requests = &Family(prometheus::BuildCounter(), {"requests_total", "Requests by endpoint and status"});
    auto& family =
        Family(prometheus::BuildCounter(), {"prefix_misses_total", "Prompts that the prefix cache had nothing of"});
    for (int i = 1; i < kPrefixMisses; ++i)
      misses[static_cast<size_t>(i)] = &family.Add({{"cause", PrefixMissName(static_cast<PrefixMiss>(i))}});
  }

  prometheus::Registry registry;
  std::array<prometheus::Counter*, kCounts.size()> counts{};
  std::array<prometheus::Histogram*, kTimes.size()> times{};
  std::array<prometheus::Gauge*, kLevels.size()> levels{};
  std::array<prometheus::Counter*, kPrefixMisses> misses{};
  prometheus::Histogram* experts = nullptr;
  prometheus::Family<prometheus::Counter>* requests = nullptr;
  std::mutex mutex;  // of by_request
  std::map<std::pair<std::string, int>, prometheus::Counter*> by_request;
};

Metrics::Metrics() : data_(std::make_unique<Data>()) {}
Metrics::~Metrics() = default;

void Metrics::CountRequest(const std::string& endpoint, int status) {
  const std::lock_guard lock(data_->mutex);
  prometheus::Counter*& counter = data_->by_request[{endpoint, status}];
  if (counter == nullptr) counter = &data_->requests->Add({{"endpoint", endpoint}, {"code", std::to_string(status)}});
  counter->Increment();
}

void Metrics::Add(Count count, double n) { data_->counts[static_cast<size_t>(count)]->Increment(n); }
void Metrics::AddMiss(PrefixMiss miss) {
  if (miss != PrefixMiss::kNone) data_->misses[static_cast<size_t>(miss)]->Increment();
}
void Metrics::Observe(Time time, double seconds) { data_->times[static_cast<size_t>(time)]->Observe(seconds); }
void Metrics::ObserveExperts(double experts) { data_->experts->Observe(experts); }
void Metrics::Set(Level level, double value) { data_->levels[static_cast<size_t>(level)]->Set(value); }
double Metrics::Value(Count count) const { return data_->counts[static_cast<size_t>(count)]->Value(); }

std::string Metrics::Text() const { return prometheus::TextSerializer().Serialize(data_->registry.Collect()); }

}  // namespace hydra::serve
