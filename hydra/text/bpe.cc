// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding: the lowest-ranked pair first, the leftmost of equal ones. Not here: training (bpe_train.cc).
#include "hydra/text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

// Up to here a scan over all pairs for each merge beats a heap.
constexpr size_t kShortSymbols = 48;

// Room is made for so many at once; past it the map grows, for a file may name one pair again and again.
constexpr size_t kExpectedMerges = 1 << 14;

uint64_t HashBytes(std::string_view text) {
  uint64_t h = 0x9E3779B97F4A7C15u ^ text.size();
  size_t i = 0;
  const auto mix = [&](uint64_t word) {
    h = (h ^ word) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
  };
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    mix(word);
  }
  uint64_t word = 0;
  if (i < text.size()) std::memcpy(&word, text.data() + i, text.size() - i);
  mix(word);
  return h;
}

}  // namespace

// ---- PairMap ----

PairMap::PairMap(size_t expected) { Grow(std::bit_ceil(std::max<size_t>(16, expected * 2))); }

void PairMap::Grow(size_t slots) {
  std::vector<Entry> old(slots, Entry{kNone, kNone});
  old.swap(slots_);
  mask_ = slots - 1;
  for (const Entry& entry : old) {
    if (entry.key == kNone) continue;
    size_t i = Slot(entry.key);
    while (slots_[i].key != kNone) i = (i + 1) & mask_;
    slots_[i] = entry;
  }
}

uint64_t& PairMap::At(int32_t a, int32_t b) {
  if (size_ * 2 >= slots_.size()) Grow(slots_.size() * 2);
  const uint64_t key = Key(a, b);
  size_t i = Slot(key);
  while (slots_[i].key != key) {
    if (slots_[i].key == kNone) {
      slots_[i].key = key;
      ++size_;
      break;
    }
    i = (i + 1) & mask_;
  }
  return slots_[i].value;
}

// ---- TextList, TokenTable ----

void TextList::Reserve(size_t texts, size_t bytes) {
  ends_.reserve(texts);
  block_.reserve(bytes);
}

void TextList::Add(std::string_view text) {
  if (text.size() > std::numeric_limits<uint32_t>::max() - block_.size())
    throw Error(ErrorCode::kFormat, "the texts of the tokens have more than 4 GiB");
  block_.append(text);
  ends_.push_back(static_cast<uint32_t>(block_.size()));
}

TokenTable::TokenTable(TextList texts) : texts_(std::move(texts)) {
  slots_.assign(std::bit_ceil(std::max<size_t>(16, texts_.size() + texts_.size() / 3 + 1)), -1);
  for (int32_t id = 0; id < size(); ++id) {
    const std::string_view text = Text(id);
    if (text.empty()) continue;
    size_t i = HashBytes(text) & (slots_.size() - 1);
    while (slots_[i] >= 0 && Text(slots_[i]) != text) i = (i + 1) & (slots_.size() - 1);
    if (slots_[i] < 0) {
      slots_[i] = id;
    } else if (twice_ < 0) {
      twice_ = id;
    }
  }
}

TokenTable::TokenTable(const std::vector<std::string_view>& texts)
    : TokenTable([&] {
        TextList list;
        for (const std::string_view text : texts) list.Add(text);
        return list;
      }()) {}

int32_t TokenTable::Find(std::string_view text) const {
  for (size_t i = HashBytes(text) & (slots_.size() - 1); slots_[i] >= 0; i = (i + 1) & (slots_.size() - 1)) {
    if (Text(slots_[i]) == text) return slots_[i];
  }
  return -1;
}

// ---- PieceCache ----

PieceCache::Key PieceCache::MakeKey(std::string_view piece) {
  std::array<uint64_t, 2> words{};
  std::memcpy(words.data(), piece.data(), piece.size());
  return {words[0], words[1] | uint64_t{piece.size()} << 56};
}

void PieceCache::Store(const Key& key, const int32_t* ids, size_t count) {
  if (count > kInlineIds) return;
  Entry& entry = entries_[Slot(key)];
  entry.key = key;
  entry.count = static_cast<int32_t>(count);
  std::copy_n(ids, count, entry.ids.begin());
}

void PieceCache::Prepare(uint64_t owner, size_t text_bytes) {
  // 32 bytes a slot: 2 MiB at most, so that it stays in the second-level cache.
  const size_t slots = std::bit_ceil(std::clamp<size_t>(text_bytes / 8, 64, 65536));
  if (owner == owner_ && slots <= entries_.size()) return;
  entries_.assign(slots, Entry{});  // a key of length 0 is no piece's
  mask_ = slots - 1;
  owner_ = owner;
}

// ---- BpeModel ----

BpeModel::BpeModel(const TokenTable* tokens, const Merges& merges, const BpeOptions& options, std::vector<bool> own)
    : tokens_(tokens), own_(std::move(own)), options_(options), merges_(std::min(merges.size(), kExpectedMerges)) {
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    merges_.At(merge.left, merge.right) = uint64_t{rank} << 32 | static_cast<uint32_t>(merge.result);
  }
  for (int byte = 0; byte < 256; ++byte) {
    std::string text;
    if (options_.byte_level) {
      AppendUtf8(ByteLevelChar(static_cast<uint8_t>(byte)), text);
    } else {
      text = fmt::format("<0x{:02X}>", byte);
    }
    byte_ids_[static_cast<size_t>(byte)] = Find(text);
  }
}

// The ids of single bytes or characters, before any merge.
void BpeModel::Symbols(std::string_view piece, std::vector<int32_t>& ids) const {
  ids.clear();
  bool unk_waits = false;  // an unknown run is written when a known character ends it
  const auto unknown = [&] {
    if (options_.unk_id < 0) return;
    if (unk_waits && !options_.fuse_unk) ids.push_back(options_.unk_id);
    unk_waits = true;
  };
  const auto known = [&](int32_t id) {
    if (unk_waits) ids.push_back(options_.unk_id);
    unk_waits = false;
    ids.push_back(id);
  };
  for (size_t i = 0; i < piece.size();) {
    const auto length = options_.byte_level ? size_t{1} : static_cast<size_t>(Utf8Length(piece[i]));
    const std::string_view symbol = piece.substr(i, length);
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    i += length;
    const int32_t id = options_.byte_level ? byte_id(symbol[0]) : Find(symbol);
    if (id >= 0) {
      known(id);
    } else if (!options_.byte_level && options_.byte_fallback &&
               std::all_of(symbol.begin(), symbol.end(), [&](char byte) { return byte_id(byte) >= 0; })) {
      for (const char byte : symbol) ids.push_back(byte_id(byte));  // as `tokenizers`: a waiting unk comes later
    } else {
      unknown();
    }
  }
  if (unk_waits) ids.push_back(options_.unk_id);
}

void BpeModel::Encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (options_.ignore_merges) {
    std::string_view text = piece;
    if (options_.byte_level) {
      scratch.spelled.clear();
      for (const char byte : piece) AppendUtf8(ByteLevelChar(static_cast<uint8_t>(byte)), scratch.spelled);
      text = scratch.spelled;
    }
    if (const int32_t id = Find(text); id >= 0) {
      out.push_back(id);
      return;
    }
  }
  Symbols(piece, scratch.ids);
  if (scratch.ids.size() <= kShortSymbols) {
    MergeShort(scratch, out);
  } else {
    MergeLong(scratch, out);
  }
}

void BpeModel::MergeShort(Scratch& scratch, std::vector<int32_t>& out) const {
  int32_t* const ids = scratch.ids.data();
  size_t n = scratch.ids.size();
  std::array<uint64_t, kShortSymbols> ranks;  // NOLINT(*-member-init) of symbols i and i + 1; kNone: no merge
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = merges_.Find(ids[i], ids[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (ranks[i] < ranks[best]) best = i;  // equal ones: the leftmost
    }
    if (ranks[best] == PairMap::kNone) break;
    ids[best] = static_cast<int32_t>(ranks[best] & 0xFFFFFFFFu);
    --n;
    for (size_t i = best + 1; i < n; ++i) {
      ids[i] = ids[i + 1];
      ranks[i - 1] = ranks[i];
    }
    if (best > 0) ranks[best - 1] = merges_.Find(ids[best - 1], ids[best]);
    if (best + 1 < n) ranks[best] = merges_.Find(ids[best], ids[best + 1]);
  }
  out.insert(out.end(), ids, ids + n);
}

// A linked list of symbols and a heap of (rank, position). An entry whose pair has since changed is skipped: the pair
// now there has its own entry.
void BpeModel::MergeLong(Scratch& scratch, std::vector<int32_t>& out) const {
  auto& [ids, ranks, prev, next, heap, spelled] = scratch;
  const size_t n = ids.size();
  HYDRA_CHECK(n < size_t{1} << 31, "a piece of ", n, " symbols");
  prev.resize(n);
  next.resize(n);
  ranks.resize(n);
  heap.clear();
  // Named captures: clang before 16 cannot take structured bindings by [&].
  const auto push = [this, &ids = ids, &ranks = ranks, &next = next, &heap = heap](size_t at) {
    ranks[at] = merges_.Find(ids[at], ids[static_cast<size_t>(next[at])]);
    if (ranks[at] == PairMap::kNone) return;
    heap.push_back((ranks[at] & ~uint64_t{0xFFFFFFFFu}) | at);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (size_t i = 0; i < n; ++i) {
    prev[i] = static_cast<int32_t>(i) - 1;
    next[i] = i + 1 < n ? static_cast<int32_t>(i) + 1 : -1;
    ranks[i] = PairMap::kNone;
  }
  for (size_t i = 0; i + 1 < n; ++i) push(i);
  while (!heap.empty()) {
    const uint64_t top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    const auto at = static_cast<size_t>(top & 0xFFFFFFFFu);
    if (ranks[at] == PairMap::kNone || (ranks[at] >> 32) != (top >> 32)) continue;
    const auto right = static_cast<size_t>(next[at]);
    ids[at] = static_cast<int32_t>(ranks[at] & 0xFFFFFFFFu);
    ids[right] = -1;  // gone
    ranks[right] = ranks[at] = PairMap::kNone;
    next[at] = next[right];
    if (next[at] >= 0) {
      prev[static_cast<size_t>(next[at])] = static_cast<int32_t>(at);
      push(at);
    }
    if (prev[at] >= 0) push(static_cast<size_t>(prev[at]));
  }
  for (size_t i = 0; i < n; ++i) {
    if (ids[i] >= 0) out.push_back(ids[i]);
  }
}

}  // namespace hydra
