// SPDX-License-Identifier: Apache-2.0
// Search for the longest prefix, copies, and what is forgotten.
#include "hydra/serve/prefix_cache.h"

#include <algorithm>
#include <set>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"

namespace hydra::serve {
namespace {

int64_t CommonPrefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

template <class F>
void ForSnapshots(const std::list<std::unique_ptr<CachedSequence>>& kept, std::span<CachedSequence* const> running,
                  F&& f) {
  for (const auto& sequence : kept)
    for (const auto& snapshot : sequence->snapshots) f(snapshot);
  for (const CachedSequence* sequence : running)
    for (const auto& snapshot : sequence->snapshots) f(snapshot);
}

}  // namespace

const char* PrefixMissName(PrefixMiss miss) {
  switch (miss) {
    case PrefixMiss::kNone: return "none";
    case PrefixMiss::kOff: return "off";
    case PrefixMiss::kLogprobs: return "logprobs";
    case PrefixMiss::kNew: return "new";
    case PrefixMiss::kEvicted: return "evicted";
    case PrefixMiss::kNoSnapshot: return "no_snapshot";
    case PrefixMiss::kOtherKind: return "controls";
  }
  return "";
}

// ---- One sequence ----

const CachedSequence::Snapshot* CachedSequence::SnapshotAt(int64_t pos) const {
  const auto at = std::ranges::lower_bound(snapshots, pos, {}, &Snapshot::pos);
  return at != snapshots.end() && at->pos == pos ? &*at : nullptr;
}

void CachedSequence::TakeSnapshot() {
  const int64_t pos = state.pos();
  // Asked of the place behind it: a state can always stay where it is.
  if (pos == 0 || state.layout().constant_bytes == 0 || SnapshotAt(pos) != nullptr) return;
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(state.SnapshotBytes()));
  state.Snapshot(*bytes);
  const auto at = std::ranges::lower_bound(snapshots, pos, {}, &Snapshot::pos);
  snapshots.insert(at, {pos, std::move(bytes)});
}

int64_t CachedSequence::PlaceBefore(int64_t pos) const {
  pos = std::min(pos, state.pos());
  if (pos == state.pos() || state.CanTruncate(pos)) return pos;
  const auto behind = std::ranges::upper_bound(snapshots, pos, {}, &Snapshot::pos);
  return behind == snapshots.begin() ? 0 : std::prev(behind)->pos;
}

void CachedSequence::GoBack(int64_t pos) {
  longest = std::max(longest, state.pos());
  if (pos != state.pos()) {
    if (const Snapshot* snapshot = SnapshotAt(pos))
      state.Restore(*snapshot->bytes);
    else
      state.Truncate(pos);
  }
  state.SetPending({});
  std::erase_if(snapshots, [pos](const Snapshot& s) { return s.pos > pos; });
}

std::unique_ptr<CachedSequence> CachedSequence::ForkAt(int64_t pos) const {
  const Snapshot* snapshot = SnapshotAt(pos);
  auto copy = std::make_unique<CachedSequence>(snapshot != nullptr && pos != state.pos()
                                                   ? state.ForkAt(std::span<const std::byte>(*snapshot->bytes))
                                                   : state.ForkAt(pos));
  copy->owner = owner;
  copy->kind = kind;
  copy->prompt_tokens = std::min(prompt_tokens, pos);
  for (const Snapshot& each : snapshots)
    if (each.pos <= pos) copy->snapshots.push_back(each);
  return copy;
}

// ---- Search ----

std::vector<PrefixCache::Places> PrefixCache::SameText(const CachedSequence& sequence, std::span<const int32_t> prompt,
                                                       int64_t from) const {
  std::vector<Places> places;
  const auto ids = sequence.state.ids();
  // Only the model's own words may be spelled otherwise: a prompt must be read as it is.
  if (from < sequence.prompt_tokens) return places;
  const auto bytes = [this](int32_t id) { return id < tokenizer_.vocab_size() ? tokenizer_.TokenBytes(id) : ""; };
  size_t i = static_cast<size_t>(from), j = i;
  std::string_view left, right;  // of the tokens that were begun
  while (true) {
    if (left.empty() && right.empty()) {
      if (static_cast<int64_t>(i) > from) places.push_back({static_cast<int64_t>(i), static_cast<int64_t>(j)});
      if (i == ids.size() || j == prompt.size()) break;
      const bool special = tokenizer_.IsSpecial(ids[i]) || tokenizer_.IsSpecial(prompt[j]);
      if (special && ids[i] != prompt[j]) break;
    }
    if (left.empty()) {
      if (i == ids.size()) break;
      left = bytes(ids[i++]);
    }
    if (right.empty()) {
      if (j == prompt.size()) break;
      right = bytes(prompt[j++]);
    }
    const size_t n = std::min(left.size(), right.size());
    if (n == 0 || left.substr(0, n) != right.substr(0, n)) break;
    left.remove_prefix(n);
    right.remove_prefix(n);
  }
  return places;
}

void PrefixCache::Consider(CachedSequence& sequence, const PrefixQuery& query, PrefixFound* best) const {
  if (sequence.owner != query.owner || sequence.kind != query.kind || sequence.state.broken()) return;
  const auto most = static_cast<int64_t>(query.prompt.size()) - 1;
  const int64_t same = CommonPrefix(sequence.state.ids(), query.prompt);
  const auto take = [&](int64_t pos, int64_t prompt_pos) {
    if (prompt_pos > best->prompt_pos) *best = {&sequence, pos, prompt_pos, PrefixMiss::kNone};
  };
  const int64_t place = sequence.PlaceBefore(std::min(same, most));
  take(place, place);
  if (same == static_cast<int64_t>(query.prompt.size()) || same == sequence.state.pos()) return;
  const std::vector<Places> places = SameText(sequence, query.prompt, same);
  for (auto at = places.rbegin(); at != places.rend(); ++at)
    if (at->prompt_pos <= most && sequence.PlaceBefore(at->pos) == at->pos) {
      take(at->pos, at->prompt_pos);
      break;
    }
}

PrefixFound PrefixCache::Find(const PrefixQuery& query, std::span<CachedSequence* const> running) {
  PrefixFound best;
  for (const auto& sequence : kept_) Consider(*sequence, query, &best);
  for (CachedSequence* sequence : running) Consider(*sequence, query, &best);
  if (best.prompt_pos < std::min<int64_t>(kLeastTokens, static_cast<int64_t>(query.prompt.size()) - 1) ||
      best.prompt_pos == 0)
    return {.miss = WhyNot(query, running)};
  return best;
}

PrefixMiss PrefixCache::WhyNot(const PrefixQuery& query, std::span<CachedSequence* const> running) const {
  if (!on()) return PrefixMiss::kOff;
  bool other_kind = false, no_snapshot = false;
  const auto look = [&](const CachedSequence& sequence) {
    if (sequence.owner != query.owner || CommonPrefix(sequence.state.ids(), query.prompt) < kLeastTokens) return;
    (sequence.kind == query.kind ? no_snapshot : other_kind) = true;
  };
  for (const auto& sequence : kept_) look(*sequence);
  for (const CachedSequence* sequence : running) look(*sequence);
  if (no_snapshot) return PrefixMiss::kNoSnapshot;
  if (other_kind) return PrefixMiss::kOtherKind;
  return std::ranges::find(evicted_, Begin(query.owner, query.prompt)) != evicted_.end() ? PrefixMiss::kEvicted
                                                                                         : PrefixMiss::kNew;
}

uint64_t PrefixCache::Begin(std::string_view owner, std::span<const int32_t> ids) {
  uint64_t hash = 0;
  for (const char c : owner) hash = Mix64(hash ^ static_cast<unsigned char>(c));
  for (const int32_t id : ids.first(std::min(ids.size(), static_cast<size_t>(kLeastTokens))))
    hash = Mix64(hash ^ static_cast<uint32_t>(id));
  return hash;
}

// ---- Use ----

std::unique_ptr<CachedSequence> PrefixCache::Use(const PrefixFound& found) {
  HYDRA_CHECK(found.from != nullptr);
  found.from->used = ++clock_;
  const auto at = std::ranges::find(kept_, found.from, [](const auto& sequence) { return sequence.get(); });
  // A text that is changed near its end is seldom asked for again as it was.
  const int64_t lost = found.from->state.pos() - found.pos;
  constexpr int64_t kFew = 64, kShare = 4;
  if (at == kept_.end() || lost > std::max(kFew, found.from->state.pos() / kShare))
    return found.from->ForkAt(found.pos);
  std::unique_ptr<CachedSequence> sequence = std::move(*at);
  kept_.erase(at);
  sequence->GoBack(found.pos);
  return sequence;
}

void PrefixCache::Keep(std::unique_ptr<CachedSequence> sequence, std::span<CachedSequence* const> running) {
  if (!on() || sequence->state.pos() < kLeastTokens) return Trim(running);
  sequence->longest = std::max(sequence->longest, sequence->state.pos());
  sequence->used = ++clock_;
  // One that is the beginning of this one, and to which this one can go back, says nothing of its own.
  const auto ids = sequence->state.ids();
  std::erase_if(kept_, [&](const auto& other) {
    const int64_t n = other->state.pos();
    return other->owner == sequence->owner && other->kind == sequence->kind &&
           CommonPrefix(other->state.ids(), ids) == n && sequence->PlaceBefore(n) == n;
  });
  kept_.push_back(std::move(sequence));
  Trim(running);
}

void PrefixCache::Trim(std::span<CachedSequence* const> running) {
  if (!on()) return;
  constexpr size_t kRemembered = 4096;
  while (bytes(running) > bytes_ && !kept_.empty()) {
    const auto oldest = std::ranges::min_element(kept_, {}, [](const auto& sequence) { return sequence->used; });
    evicted_.push_back(Begin((*oldest)->owner, (*oldest)->state.ids()));
    if (evicted_.size() > kRemembered) evicted_.pop_front();
    kept_.erase(oldest);
  }
  while (bytes(running) > bytes_ && snapshot_bytes(running) > 0) Thin(running);
}

// Forgets the snapshot of a running sequence without which the way to the next earlier place grows least.
void PrefixCache::Thin(std::span<CachedSequence* const> running) {
  CachedSequence* of = nullptr;
  size_t which = 0;
  int64_t least = INT64_MAX;
  for (CachedSequence* sequence : running)
    for (size_t i = 0; i < sequence->snapshots.size(); ++i) {
      const int64_t before = i == 0 ? 0 : sequence->snapshots[i - 1].pos;
      const int64_t behind =
          i + 1 < sequence->snapshots.size() ? sequence->snapshots[i + 1].pos : sequence->state.pos();
      if (behind - before < least) least = behind - before, of = sequence, which = i;
    }
  HYDRA_CHECK(of != nullptr);
  of->snapshots.erase(of->snapshots.begin() + static_cast<std::ptrdiff_t>(which));
}

void PrefixCache::Forget(std::string_view owner, std::span<const int32_t> ids) {
  std::erase_if(kept_, [&](const auto& sequence) {
    return sequence->owner == owner && CommonPrefix(sequence->state.ids(), ids) >= kLeastTokens;
  });
}

int64_t PrefixCache::snapshot_bytes(std::span<CachedSequence* const> running) const {
  std::set<const void*> seen;
  int64_t sum = 0;
  ForSnapshots(kept_, running, [&](const CachedSequence::Snapshot& snapshot) {
    if (seen.insert(snapshot.bytes.get()).second) sum += static_cast<int64_t>(snapshot.bytes->size());
  });
  return sum;
}

int64_t PrefixCache::bytes(std::span<CachedSequence* const> running) const {
  int64_t sum = snapshot_bytes(running);
  for (const auto& sequence : kept_)
    sum += sequence->state.BytesAt(sequence->longest) + sequence->state.pos() * static_cast<int64_t>(sizeof(int32_t));
  return sum;
}

}  // namespace hydra::serve
