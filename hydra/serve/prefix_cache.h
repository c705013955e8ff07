// SPDX-License-Identifier: Apache-2.0
// Sequences that were read, kept so that a text which begins like one of them need not be read again: the second turn
// of a chat, a prompt that many share. Caches of keys and values go back to any token; recurrent states only to where a
// snapshot was taken. Not here: which request reads what when (engine.h), saved states on disk (state_store.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hydra/runtime/sequence_state.h"
#include "hydra/text/tokenizer.h"

namespace hydra::serve {

// A sequence and the places that it can go back to.
struct CachedSequence {
  struct Snapshot {
    int64_t pos = 0;
    std::shared_ptr<const std::vector<std::byte>> bytes;  // SequenceState::Snapshot
  };

  explicit CachedSequence(SequenceState of) : state(std::move(of)) {}
  // Keeps what the state is now, where it could not go back to it otherwise.
  void TakeSnapshot();
  // Back to a place of its own; places behind it are forgotten.
  void GoBack(int64_t pos);
  // A copy that stands there. It shares the snapshots.
  [[nodiscard]] std::unique_ptr<CachedSequence> ForkAt(int64_t pos) const;
  // The last place at or before `pos` to which it can go back; 0 is always one.
  [[nodiscard]] int64_t PlaceBefore(int64_t pos) const;
  [[nodiscard]] const Snapshot* SnapshotAt(int64_t pos) const;

  SequenceState state;
  std::vector<Snapshot> snapshots{};  // ascending
  std::string owner{}, kind{};        // who may use it; controls, packs and plan: others never mix
  int64_t prompt_tokens = 0;          // the first of its tokens, which somebody gave; what follows the model wrote
  int64_t longest = 0;                // tokens that it ever had: their memory is taken
  uint64_t used = 0;                  // the cache's clock
};

// Why nothing of a prompt was there.
enum class PrefixMiss { kNone, kOff, kLogprobs, kNew, kEvicted, kNoSnapshot, kOtherKind };
inline constexpr int kPrefixMisses = 7;
// "none", "off", "logprobs", "new", "evicted", "no_snapshot", "controls".
[[nodiscard]] const char* PrefixMissName(PrefixMiss miss);

struct PrefixQuery {
  std::span<const int32_t> prompt;
  std::string_view owner, kind;
};

// Where a prompt goes on.
struct PrefixFound {
  CachedSequence* from = nullptr;  // null: nowhere
  int64_t pos = 0;                 // in that sequence
  int64_t prompt_pos = 0;          // tokens of the prompt that it stands for
  PrefixMiss miss = PrefixMiss::kNone;
};

// Not thread-safe.
class PrefixCache {
 public:
  // Fewer tokens are not worth the name of a hit.
  static constexpr int64_t kLeastTokens = 8;

  // `bytes`: of all that it keeps and of the snapshots of sequences that run; 0: off.
  PrefixCache(const Tokenizer& tokenizer, int64_t bytes) : tokenizer_(tokenizer), bytes_(bytes) {}

  // The sequence, of those kept and those that run, that has most of the prompt and leaves at least one token of it to
  // read. Tokens are compared; where a text that the model wrote is spelled with other tokens in the prompt, texts.
  [[nodiscard]] PrefixFound Find(const PrefixQuery& query, std::span<CachedSequence* const> running);
  // A sequence that goes on from there: the one found, where little of it would be lost, else a copy.
  [[nodiscard]] std::unique_ptr<CachedSequence> Use(const PrefixFound& found);
  // Keeps a sequence, and forgets the oldest ones, then snapshots that lie close together, where the budget is passed.
  void Keep(std::unique_ptr<CachedSequence> sequence, std::span<CachedSequence* const> running);
  void Trim(std::span<CachedSequence* const> running);
  // Forgets what begins with these tokens: their numbers may be bad.
  void Forget(std::string_view owner, std::span<const int32_t> ids);

  [[nodiscard]] bool on() const { return bytes_ > 0; }
  // Of the states and snapshots kept; of the snapshots alone.
  [[nodiscard]] int64_t bytes(std::span<CachedSequence* const> running) const;
  [[nodiscard]] int64_t snapshot_bytes(std::span<CachedSequence* const> running) const;
  [[nodiscard]] size_t size() const { return kept_.size(); }

 private:
  // Pairs of places at which both spell the same text, from the first tokens that differ on, ascending.
  struct Places {
    int64_t pos, prompt_pos;
  };
  [[nodiscard]] std::vector<Places> SameText(const CachedSequence& sequence, std::span<const int32_t> prompt,
                                             int64_t from) const;
  void Consider(CachedSequence& sequence, const PrefixQuery& query, PrefixFound* best) const;
  [[nodiscard]] PrefixMiss WhyNot(const PrefixQuery& query, std::span<CachedSequence* const> running) const;
  [[nodiscard]] static uint64_t Begin(std::string_view owner, std::span<const int32_t> ids);
  void Thin(std::span<CachedSequence* const> running);

  const Tokenizer& tokenizer_;
  int64_t bytes_;
  std::list<std::unique_ptr<CachedSequence>> kept_;
  uint64_t clock_ = 0;
  std::deque<uint64_t> evicted_;  // how sequences began that were forgotten
};

}  // namespace hydra::serve
