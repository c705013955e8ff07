// SPDX-License-Identifier: Apache-2.0
// The numbers of /metrics, as Prometheus reads them (specs/interfaces.md 3). No text of a request is among them. Not
// here: what is counted when (engine.h, server.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "hydra/serve/prefix_cache.h"

namespace hydra::serve {

// Thread-safe.
class Metrics {
 public:
  enum class Count {
    kCancelled,
    kPromptTokens,     // of prompts, cached ones included
    kGeneratedTokens,  // written
    kCachedTokens,     // of prompts, not computed again
    kReplayedTokens,   // read again after a pass that failed
    kPrefixQueries,
    kPrefixHits,
    kDraftTokens,
    kAcceptedTokens,
    kWeightBytes,
    kKvBytes,
    kNanResets,  // sequences dropped because of a logit that is not finite
  };
  enum class Time { kFirstToken, kBetweenTokens, kPerToken, kQueue };  // seconds
  enum class Level { kRunning, kQueued, kStateBytes, kKvBytes, kSnapshotBytes, kResidentBytes, kSpeculating };

  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void CountRequest(const std::string& endpoint, int status);
  void Add(Count count, double n = 1);
  void AddMiss(PrefixMiss miss);
  void Observe(Time time, double seconds);
  void ObserveExperts(double experts);  // of a chunk of a layer
  void Set(Level level, double value);
  [[nodiscard]] double Value(Count count) const;
  // The text format of Prometheus.
  [[nodiscard]] std::string Text() const;

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace hydra::serve
