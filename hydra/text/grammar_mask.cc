// SPDX-License-Identifier: Apache-2.0
// Walks through the trie of a vocabulary, with the states of a grammar that are left after each byte.
#include "hydra/text/grammar_mask.h"

#include <algorithm>
#include <bit>

#include "hydra/base/error.h"

namespace hydra {

// ---- Masks ----

void TokenMask::Set(int32_t id, bool on) {
  const uint64_t bit = uint64_t{1} << (static_cast<unsigned>(id) % 64);
  uint64_t& word = words_[static_cast<size_t>(id) / 64];
  word = on ? word | bit : word & ~bit;
}

void TokenMask::Add(const TokenMask& other) {
  for (size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
}

void TokenMask::Clear() { std::ranges::fill(words_, 0); }

bool TokenMask::any() const {
  return std::ranges::any_of(words_, [](uint64_t word) { return word != 0; });
}

int64_t TokenMask::count() const {
  int64_t n = 0;
  for (const uint64_t word : words_) n += std::popcount(word);
  return n;
}

// ---- Places ----

int32_t GrammarStack::Intern(int32_t state, int32_t outer) {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(state)) << 32 | static_cast<uint32_t>(outer + 1);
  const auto [found, is_new] = known_.try_emplace(key, static_cast<int32_t>(frames_.size()));
  if (is_new) frames_.push_back({state, outer, DepthOf(outer) + 1});
  return found->second;
}

void GrammarStack::Rewind(size_t size) {
  while (frames_.size() > size) {
    const Frame& frame = frames_.back();
    known_.erase(static_cast<uint64_t>(static_cast<uint32_t>(frame.state)) << 32 |
                 static_cast<uint32_t>(frame.outer + 1));
    frames_.pop_back();
  }
}

void GrammarStack::Add(Config* config, Item item) {
  const int32_t depth = DepthOf(item.frame) + grammar_->states[static_cast<size_t>(item.state)].depth;
  deepest_ = std::max(deepest_, depth);
  if (depth > Grammar::kMostDepth) return;  // no way from here to the end
  if (std::ranges::find(*config, item) == config->end()) config->push_back(item);
}

bool GrammarStack::Close(Config* config) {
  bool ends = false;
  for (size_t i = 0; i < config->size(); ++i) {
    const Item item = (*config)[i];
    const Grammar::State& state = grammar_->states[static_cast<size_t>(item.state)];
    if (state.final && item.frame < 0) {
      ends = true;
    } else if (state.final) {
      const Frame frame = FrameAt(item.frame);
      Add(config, {frame.state, frame.outer});
    }
    for (int32_t c = state.calls; c < state.calls_end; ++c) {
      const Grammar::CallEdge& call = grammar_->calls[static_cast<size_t>(c)];
      // A call with nothing behind it comes back to where this rule would.
      const bool last = grammar_->states[static_cast<size_t>(call.to)].returns();
      Add(config, {grammar_->starts[static_cast<size_t>(call.rule)], last ? item.frame : Intern(call.to, item.frame)});
    }
  }
  std::erase_if(*config, [&](const Item& item) {
    const Grammar::State& state = grammar_->states[static_cast<size_t>(item.state)];
    return state.edges == state.edges_end;
  });
  if (config->size() > 1) std::ranges::sort(*config);
  return ends;
}

bool GrammarStack::Step(const Config& from, uint8_t byte, Config* to) {
  to->clear();
  for (const Item& item : from)
    if (const int32_t next = grammar_->Next(item.state, byte); next >= 0) Add(to, {next, item.frame});
  if (to->empty()) return false;
  if (to->size() == 1) {  // inside a text nothing is called
    const Grammar::State& state = grammar_->states[static_cast<size_t>((*to)[0].state)];
    if (!state.final && state.calls == state.calls_end) return false;
  }
  return Close(to);
}

// ---- States ----

namespace {

// Calls visit(node, ends, config) for the nodes of a range of a trie that some text from `from` on has; `ends`: the
// outermost rule may end there.
template <class Visit>
void WalkTrie(const TokenTrie& trie, std::pair<int32_t, int32_t> range, const GrammarStack::Config& from,
              GrammarStack* stack, WalkScratch* scratch, Visit&& visit) {
  const auto& nodes = trie.nodes();
  auto& configs = scratch->configs;
  auto& ends = scratch->ends;
  configs.resize(static_cast<size_t>(trie.longest()) + 2);
  ends.resize(configs.size());
  configs[0] = from;
  size_t depth = 0;
  for (int32_t i = range.first; i < range.second;) {
    while (depth > 0 && i >= ends[depth - 1]) --depth;
    const TokenTrie::Node& node = nodes[static_cast<size_t>(i)];
    const bool at_end = stack->Step(configs[depth], node.byte, &configs[depth + 1]);
    const bool alive = !configs[depth + 1].empty();
    if (alive || at_end) visit(i, at_end, configs[depth + 1]);
    if (alive && node.end > i + 1) {
      ends[depth++] = node.end;
      ++i;
    } else {
      i = node.end;
    }
  }
}

bool HasMore(const TokenTrie& trie, int32_t node) { return trie.nodes()[static_cast<size_t>(node)].end > node + 1; }

void AddTokensOf(const TokenTrie& trie, int32_t node, TokenMask* mask) {
  for (const int32_t id : trie.TokensOf(trie.nodes()[static_cast<size_t>(node)])) mask->Set(id);
}

}  // namespace

GrammarMasks::GrammarMasks(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> trie)
    : grammar_(std::move(grammar)), trie_(std::move(trie)) {
  const auto& states = grammar_->states;
  for (size_t i = 0; i < states.size(); ++i) {
    if (states[i].group < 0 || states[i].room < 0) continue;
    Group& group = groups_[states[i].group];
    if (group.first < 0 || states[i].room > states[static_cast<size_t>(group.first)].room)
      group.first = static_cast<int32_t>(i);
    if (states[i].room == 0) group.last = static_cast<int32_t>(i);
  }
}

// States that count characters do the same for every token where more may and must follow than a token has.
GrammarMasks::Key GrammarMasks::KeyOf(int32_t state) const {
  const Grammar::State& s = grammar_->states[static_cast<size_t>(state)];
  if (s.group < 0) return {-1, state, 0};
  const int32_t longest = trie_->longest();
  return {s.group, std::min(s.need, longest), s.room < 0 ? longest : std::min(s.room, longest)};
}

const GrammarMasks::Info& GrammarMasks::InfoOf(int32_t state) {
  const Key key = KeyOf(state);
  const std::lock_guard lock(mutex_);
  auto at = std::ranges::lower_bound(infos_, key, {}, [](const auto& entry) -> const Key& { return entry.first; });
  if (at == infos_.end() || at->first != key) at = infos_.emplace(at, key, Compute(state));
  return *at->second;
}

std::unique_ptr<GrammarMasks::Info> GrammarMasks::Compute(int32_t state) {
  const Grammar::State& s = grammar_->states[static_cast<size_t>(state)];
  if (const auto found = groups_.find(s.group); found != groups_.end() && found->second.last >= 0) {
    Group& group = found->second;
    if (group.counted == nullptr) group.counted = Count(group);
    return InfoFrom(*group.counted, s.need, s.room);
  }
  auto info = std::make_unique<Info>();
  info->inside = TokenMask(trie_->vocab());
  GrammarStack stack(*grammar_);
  const auto n = static_cast<int32_t>(trie_->nodes().size());
  WalkScratch scratch;
  WalkTrie(*trie_, {0, n}, {{state, -1}}, &stack, &scratch, [&](int32_t node, bool ends, const GrammarStack::Config&) {
    AddTokensOf(*trie_, node, &info->inside);
    if (ends && HasMore(*trie_, node)) info->exits.push_back(node);
  });
  info->depth = stack.deepest();
  return info;
}

// ---- States that count characters ----

// One walk from the state with most room tells how many characters each token begins, and what stands behind the
// counted text is that behind the state without room, whatever was counted before.
std::unique_ptr<GrammarMasks::Counted> GrammarMasks::Count(const Group& group) const {
  auto counted = std::make_unique<Counted>();
  GrammarStack stack(*grammar_);
  WalkScratch scratch, behind_scratch;
  const auto n = static_cast<int32_t>(trie_->nodes().size());
  const auto add = [&](int32_t node, int32_t chars, std::vector<Counted::Taken>* to) {
    for (const int32_t id : trie_->TokensOf(trie_->nodes()[static_cast<size_t>(node)])) to->push_back({chars, id});
  };
  const auto leave = [&](std::pair<int32_t, int32_t> range, int32_t chars) {
    WalkTrie(*trie_, range, {{group.last, -1}}, &stack, &behind_scratch,
             [&](int32_t node, bool ends, const GrammarStack::Config&) {
               add(node, chars, &counted->leaves);
               if (ends && HasMore(*trie_, node)) counted->exits.push_back({chars, node});
             });
  };
  const Grammar::State& first = grammar_->states[static_cast<size_t>(group.first)];
  const auto chars_at = [&](int32_t state) {
    const Grammar::State& s = grammar_->states[static_cast<size_t>(state)];
    return s.group == first.group ? first.room - s.room : -1;
  };
  leave({0, n}, 0);
  WalkTrie(*trie_, {0, n}, {{group.first, -1}}, &stack, &scratch,
           [&](int32_t node, bool, const GrammarStack::Config& config) {
             int32_t whole = -1, begun = -1;  // characters before this place; with one that is not at its end
             for (const GrammarStack::Item& item : config) {
               if (item.frame < 0) whole = std::max(whole, chars_at(item.state));
               if (item.frame >= 0) begun = std::max(begun, chars_at(stack.FrameAt(item.frame).state));
             }
             if (whole < 0 && begun < 0) return;  // behind the counted text
             add(node, whole < 0 ? begun : whole, &counted->stays);
             if (whole >= 0) leave({node + 1, trie_->nodes()[static_cast<size_t>(node)].end}, whole);
           });
  std::ranges::sort(counted->stays, {}, &Counted::Taken::chars);
  counted->depth = stack.deepest();
  return counted;
}

std::unique_ptr<GrammarMasks::Info> GrammarMasks::InfoFrom(const Counted& counted, int32_t need, int32_t room) const {
  auto info = std::make_unique<Info>();
  info->inside = TokenMask(trie_->vocab());
  info->depth = counted.depth;
  for (const Counted::Taken& taken : counted.stays) {
    if (taken.chars > room) break;
    info->inside.Set(taken.what);
  }
  const auto fits = [&](const Counted::Taken& taken) { return need <= taken.chars && taken.chars <= room; };
  for (const Counted::Taken& taken : counted.leaves)
    if (fits(taken)) info->inside.Set(taken.what);
  for (const Counted::Taken& taken : counted.exits)
    if (fits(taken)) info->exits.push_back(taken.what);
  return info;
}

// ---- One text ----

GrammarMatcher::GrammarMatcher(std::shared_ptr<GrammarMasks> masks, std::vector<int32_t> end_ids)
    : masks_(std::move(masks)), end_ids_(std::move(end_ids)), stack_(masks_->grammar()) {
  const Grammar& grammar = masks_->grammar();
  config_ = {{grammar.starts[static_cast<size_t>(grammar.root)], -1}};
  can_end_ = stack_.Close(&config_);
  std::erase_if(end_ids_, [&](int32_t id) { return id < 0 || id >= masks_->trie().vocab(); });
}

void GrammarMatcher::Walk(int32_t node, const GrammarStack::Config& from, TokenMask* mask) {
  const TokenTrie& trie = masks_->trie();
  const auto n = static_cast<int32_t>(trie.nodes().size());
  const int32_t end = node < 0 ? n : trie.nodes()[static_cast<size_t>(node)].end;
  WalkTrie(trie, {node + 1, end}, from, &stack_, &scratch_,
           [&](int32_t at, bool, const GrammarStack::Config&) { AddTokensOf(trie, at, mask); });
}

void GrammarMatcher::Compute(TokenMask* mask) {
  const size_t frames = stack_.size();
  for (const GrammarStack::Item& item : config_) {
    const GrammarMasks::Info& info = masks_->InfoOf(item.state);
    if (stack_.DepthOf(item.frame) + info.depth > Grammar::kMostDepth) {
      Walk(-1, {item}, mask);
      continue;
    }
    mask->Add(info.inside);
    if (item.frame < 0 || info.exits.empty()) continue;
    const GrammarStack::Frame frame = stack_.FrameAt(item.frame);
    GrammarStack::Config outer = {{frame.state, frame.outer}};
    (void)stack_.Close(&outer);
    for (const int32_t exit : info.exits) Walk(exit, outer, mask);
  }
  stack_.Rewind(frames);
  for (const int32_t id : end_ids_) mask->Set(id, can_end_);
  if (!mask->any()) throw Error(ErrorCode::kData, "no token of the vocabulary fits the grammar here");
}

const TokenMask& GrammarMatcher::Mask() {
  for (const Known& known : known_)
    if (known.can_end == can_end_ && known.config == config_) return known.mask;
  Known made{config_, can_end_, TokenMask(masks_->trie().vocab())};
  Compute(&made.mask);
  if (known_.size() < kMostKnown) return known_.emplace_back(std::move(made)).mask;
  Known& place = known_[next_known_++ % kMostKnown];
  place = std::move(made);
  return place.mask;
}

bool GrammarMatcher::Read(std::string_view bytes, GrammarStack::Config* config, bool* can_end) {
  GrammarStack::Config next;
  for (const char byte : bytes) {
    *can_end = stack_.Step(*config, static_cast<uint8_t>(byte), &next);
    config->swap(next);
    if (config->empty() && !*can_end) return false;
  }
  return !bytes.empty();
}

void GrammarMatcher::Accept(int32_t id) {
  HYDRA_CHECK(Read(masks_->trie().BytesOf(id), &config_, &can_end_), "token ", id, " does not fit the grammar");
}

size_t GrammarMatcher::Admitted(std::span<const int32_t> ids) {
  const size_t frames = stack_.size();
  GrammarStack::Config config = config_;
  bool can_end = can_end_;
  size_t n = 0;
  for (; n < ids.size(); ++n) {
    if (std::ranges::find(end_ids_, ids[n]) != end_ids_.end()) {
      n += can_end ? 1 : 0;  // nothing comes behind it
      break;
    }
    if (ids[n] < 0 || ids[n] >= masks_->trie().vocab() || !Read(masks_->trie().BytesOf(ids[n]), &config, &can_end))
      break;
  }
  stack_.Rewind(frames);
  return n;
}

}  // namespace hydra
