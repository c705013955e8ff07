// SPDX-License-Identifier: Apache-2.0
// Named sequences on disk (--state-dir): saved, listed, loaded and deleted by the API key that made them, within a
// quota. Not here: what a file holds (runtime/state_file.cc), the endpoints (api_states.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/runtime/memory_overlay.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/sequence_state.h"

namespace hydra::serve {

// Thread-safe. A folder for each owner within the store's, all reached through the store's descriptor; links are not
// followed.
class StateStore {
 public:
  // Makes the folder where it is not there. Throws kIo.
  StateStore(const std::string& folder, int64_t quota);
  ~StateStore();
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  struct Entry {
    std::string name;
    int64_t tokens = 0, bytes = 0;
  };
  // By name. Throw ApiError: 400 for a bad name, 404 for one that is not there, 507 beyond the quota or on a full disk.
  [[nodiscard]] std::vector<Entry> List(const std::string& owner) const;
  Entry Save(const std::string& owner, const std::string& name, const SequenceState& state);
  // The state as it was saved, or an error: 400 "state_mismatch" where it is of another model, plan or other packs, or
  // damaged. plan: of a plan length; none: no plan.
  [[nodiscard]] SequenceState Load(const std::string& owner, const std::string& name, const Model& model,
                                   std::shared_ptr<const MemoryOverlay> memory,
                                   const std::function<KvPlan(int64_t)>& plan = {}) const;
  void Delete(const std::string& owner, const std::string& name);

  // [A-Za-z0-9_-][A-Za-z0-9._-]{0,63}
  [[nodiscard]] static bool IsName(std::string_view name);

 private:
  class Descriptor;
  [[nodiscard]] Descriptor OwnerFolder(const std::string& owner, bool make) const;
  [[nodiscard]] Descriptor OpenState(const std::string& owner, const std::string& name) const;
  [[nodiscard]] int64_t UsedBytes() const;

  std::string folder_;
  int64_t quota_;
  int fd_;
  mutable std::mutex mutex_;  // one writer at a time
};

}  // namespace hydra::serve
