// SPDX-License-Identifier: Apache-2.0
// Which tokens may come next where a text is held to a grammar. What a state of the grammar says about the vocabulary
// is found out once, so that a mask is mostly put together from what is known. Not here: picking a token
// (runtime/sampler.h).
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hydra/text/grammar.h"
#include "hydra/text/token_trie.h"

namespace hydra {

// A bit for each token.
class TokenMask {
 public:
  explicit TokenMask(int64_t vocab = 0) : words_(static_cast<size_t>((vocab + 63) / 64)) {}
  [[nodiscard]] bool Has(int32_t id) const {
    const auto word = static_cast<size_t>(id) / 64;
    return id >= 0 && word < words_.size() && (words_[word] >> (static_cast<unsigned>(id) % 64) & 1) != 0;
  }
  void Set(int32_t id, bool on = true);
  void Add(const TokenMask& other);
  void Clear();
  [[nodiscard]] std::span<const uint64_t> words() const { return words_; }  // the lowest bits first
  [[nodiscard]] bool any() const;
  [[nodiscard]] int64_t count() const;
  friend bool operator==(const TokenMask&, const TokenMask&) = default;

 private:
  std::vector<uint64_t> words_;
};

// Where a text may be in a grammar: states of rules, each with the calls that it lies within. What calls hold lies in
// frames that several places share.
class GrammarStack {
 public:
  struct Item {
    int32_t state, frame;  // frame -1: not within a call
    friend auto operator<=>(const Item&, const Item&) = default;
  };
  using Config = std::vector<Item>;  // those that bytes leave, in order; empty where nothing may follow

  explicit GrammarStack(const Grammar& grammar) : grammar_(&grammar) {}

  // Follows calls and returns; `config` then has what bytes leave. True where the outermost rule may be at its end.
  bool Close(Config* config);
  // The same behind a byte.
  bool Step(const Config& from, uint8_t byte, Config* to);

  struct Frame {
    int32_t state, outer, depth;  // where the call comes back to, and within what; from 1
  };
  [[nodiscard]] const Frame& FrameAt(int32_t frame) const { return frames_[static_cast<size_t>(frame)]; }
  [[nodiscard]] int32_t DepthOf(int32_t frame) const { return frame < 0 ? 0 : FrameAt(frame).depth; }
  // The deepest that was looked at: what is within a call of depth d does the same while d + deepest <= kMostDepth.
  [[nodiscard]] int32_t deepest() const { return deepest_; }
  [[nodiscard]] size_t size() const { return frames_.size(); }
  // Forgets frames that came after.
  void Rewind(size_t size);

 private:
  void Add(Config* config, Item item);
  [[nodiscard]] int32_t Intern(int32_t state, int32_t outer);

  const Grammar* grammar_;
  std::vector<Frame> frames_;
  std::unordered_map<uint64_t, int32_t> known_;
  int32_t deepest_ = 0;
};

// Memory of a walk through a trie, kept from walk to walk.
struct WalkScratch {
  std::vector<GrammarStack::Config> configs;
  std::vector<int32_t> ends;
};

// What the states of one grammar say about one vocabulary. Thread-safe.
class GrammarMasks {
 public:
  GrammarMasks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie);

  struct Info {
    TokenMask inside;            // tokens that stay within the call, or end with it
    std::vector<int32_t> exits;  // nodes of the trie at which the call may end and tokens go on
    int32_t depth = 0;           // calls within the call that this takes
  };
  [[nodiscard]] const Info& InfoOf(int32_t state);
  [[nodiscard]] const Grammar& grammar() const { return *grammar_; }
  [[nodiscard]] const TokenTrie& trie() const { return *trie_; }

 private:
  using Key = std::tuple<int32_t, int32_t, int32_t>;
  // What tokens do from the states of a group that counts characters, by how many characters they begin.
  struct Counted {
    struct Taken {
      int32_t chars, what;
    };
    std::vector<Taken> stays;          // tokens that are within the counted text to their end
    std::vector<Taken> leaves, exits;  // tokens that go on behind it; nodes as those of Info
    int32_t depth = 0;
  };
  struct Group {
    int32_t first = -1, last = -1;  // the states with most room and with none
    std::unique_ptr<Counted> counted{};
  };
  [[nodiscard]] Key KeyOf(int32_t state) const;
  [[nodiscard]] std::unique_ptr<Info> Compute(int32_t state);
  [[nodiscard]] std::unique_ptr<Counted> Count(const Group& group) const;
  [[nodiscard]] std::unique_ptr<Info> InfoFrom(const Counted& counted, int32_t need, int32_t room) const;

  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const TokenTrie> trie_;
  std::mutex mutex_;
  std::vector<std::pair<Key, std::unique_ptr<Info>>> infos_;  // by key
  std::unordered_map<int32_t, Group> groups_;
};

// One text as it grows. Not thread-safe; copies go their own ways.
class GrammarMatcher {
 public:
  // end_ids: tokens that end the text; allowed only where the grammar is at its end.
  GrammarMatcher(std::shared_ptr<GrammarMasks> masks, std::vector<int32_t> end_ids);

  // Tokens that may come next; stays until the next call. Throws kData where the vocabulary has none that fits.
  [[nodiscard]] const TokenMask& Mask();
  // A token of the mask that is no end token.
  void Accept(int32_t id);
  // Whether the text may end here; whether it must.
  [[nodiscard]] bool can_end() const { return can_end_; }
  [[nodiscard]] bool is_over() const { return can_end_ && config_.empty(); }
  // How many of these tokens could come next, one after another.
  [[nodiscard]] size_t Admitted(std::span<const int32_t> ids);

 private:
  struct Known {
    GrammarStack::Config config;
    bool can_end;
    TokenMask mask;
  };
  static constexpr size_t kMostKnown = 8;

  // Behind the bytes of a token; false where they do not fit.
  bool Read(std::string_view bytes, GrammarStack::Config* config, bool* can_end);
  void Compute(TokenMask* mask);
  // All tokens below a node of the trie, or of all where it is -1, from a place on.
  void Walk(int32_t node, const GrammarStack::Config& from, TokenMask* mask);

  std::shared_ptr<GrammarMasks> masks_;
  std::vector<int32_t> end_ids_;
  GrammarStack stack_;
  GrammarStack::Config config_;
  bool can_end_ = false;
  WalkScratch scratch_;
  std::vector<Known> known_;  // masks of places where the text was before
  size_t next_known_ = 0;
};

}  // namespace hydra
