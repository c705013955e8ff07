// SPDX-License-Identifier: Apache-2.0
// The queue between the engine and a caller.
#include "hydra/serve/job.h"

#include <chrono>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"

namespace hydra::serve {

Job::Job(std::vector<TextRequest> texts) : texts_(std::move(texts)), asked_(Seconds()) { HYDRA_CHECK(!texts_.empty()); }

std::optional<TextPiece> Job::Take(double seconds) {
  std::unique_lock lock(mutex_);
  came_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return !pieces_.empty(); });
  if (pieces_.empty()) return std::nullopt;
  TextPiece piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

bool Job::Full() const {
  const std::lock_guard lock(mutex_);
  return pieces_.size() >= kMostWaiting;
}

void Job::Give(TextPiece piece) {
  {
    const std::lock_guard lock(mutex_);
    pieces_.push_back(std::move(piece));
  }
  came_.notify_one();
}

}  // namespace hydra::serve
