// SPDX-License-Identifier: Apache-2.0
// From drafts to automata that are at one place at a time within each rule, without dead ends.
#include "hydra/text/grammar.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "hydra/base/error.h"

namespace hydra {
namespace {

constexpr int32_t kUnreachable = std::numeric_limits<int32_t>::max();

}  // namespace

int32_t Grammar::Next(int32_t state, uint8_t byte) const {
  const State& s = states[static_cast<size_t>(state)];
  for (int32_t i = s.edges; i < s.edges_end; ++i) {
    const Edge& edge = edges[static_cast<size_t>(i)];
    if (byte < edge.low) return -1;
    if (byte <= edge.high) return edge.to;
  }
  return -1;
}

// ---- Drafts ----

int RuleDraft::Place() {
  nodes_.emplace_back();
  return static_cast<int>(nodes_.size()) - 1;
}

void RuleDraft::Byte(int from, uint8_t low, uint8_t high, int to) {
  nodes_[static_cast<size_t>(from)].edges.push_back({low, high, to});
}

void RuleDraft::Empty(int from, int to) { nodes_[static_cast<size_t>(from)].empty.push_back(to); }

void RuleDraft::Call(int from, int rule, int to) { nodes_[static_cast<size_t>(from)].calls.push_back({rule, to}); }

void RuleDraft::Count(int place, int group, int need, int room) {
  Node& node = nodes_[static_cast<size_t>(place)];
  node.group = group;
  node.need = need;
  node.room = room;
}

int RuleDraft::Literal(int from, std::string_view bytes) {
  for (const char c : bytes) {
    const int to = Place();
    Byte(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
    from = to;
  }
  return from;
}

int RuleDraft::Called(int from, int rule) {
  const int to = Place();
  Call(from, rule, to);
  return to;
}

// ---- Rules ----

int GrammarBuilder::Declare() {
  drafts_.emplace_back();
  defined_.push_back(false);
  return static_cast<int>(drafts_.size()) - 1;
}

void GrammarBuilder::Define(int rule, RuleDraft draft) {
  HYDRA_CHECK(!defined_[static_cast<size_t>(rule)], rule);
  drafts_[static_cast<size_t>(rule)] = std::move(draft);
  defined_[static_cast<size_t>(rule)] = true;
}

int GrammarBuilder::Add(RuleDraft draft) {
  const int rule = Declare();
  Define(rule, std::move(draft));
  return rule;
}

// Subsets of places, as they are reached by a byte or by coming back from a call.
void GrammarBuilder::Determinize(const RuleDraft& draft, int rule, size_t most_states) {
  using Set = std::vector<int>;
  std::map<Set, int32_t> known;
  std::vector<Set> todo;
  const auto state_of = [&](Set set) {
    std::ranges::sort(set);
    set.erase(std::unique(set.begin(), set.end()), set.end());
    for (size_t i = 0; i < set.size(); ++i)  // grows while it is walked
      for (const int to : draft.nodes_[static_cast<size_t>(set[i])].empty)
        if (std::ranges::find(set, to) == set.end()) set.push_back(to);
    std::ranges::sort(set);
    const auto [found, is_new] = known.try_emplace(set, static_cast<int32_t>(whole_.states.size()));
    if (is_new) {
      if (whole_.states.size() >= most_states)
        throw Error(ErrorCode::kUsage, StrCat("the grammar has more than ", most_states, " states"));
      whole_.states.emplace_back();
      todo.push_back(set);
    }
    return found->second;
  };
  whole_.starts[static_cast<size_t>(rule)] = state_of({RuleDraft::kStart});
  while (!todo.empty()) {
    const Set set = std::move(todo.back());
    todo.pop_back();
    const int32_t id = known.at(set);
    Grammar::State state;
    std::set<int> cuts;  // where what bytes do may change
    std::map<int, Set> called;
    for (const int place : set) {
      const RuleDraft::Node& node = draft.nodes_[static_cast<size_t>(place)];
      state.final |= node.final;
      for (const RuleDraft::Edge& edge : node.edges) cuts.insert({int{edge.low}, edge.high + 1});
      for (const RuleDraft::CallEdge& call : node.calls) called[call.rule].push_back(call.to);
      if (set.size() == 1) state.group = node.group, state.need = node.need, state.room = node.room;
    }
    std::vector<Grammar::Edge> edges;
    for (auto cut = cuts.begin(); cut != cuts.end() && std::next(cut) != cuts.end(); ++cut) {
      Set targets;
      for (const int place : set)
        for (const RuleDraft::Edge& edge : draft.nodes_[static_cast<size_t>(place)].edges)
          if (edge.low <= *cut && *cut <= edge.high) targets.push_back(edge.to);
      if (targets.empty()) continue;
      const int32_t to = state_of(std::move(targets));
      const auto low = static_cast<uint8_t>(*cut), high = static_cast<uint8_t>(*std::next(cut) - 1);
      if (!edges.empty() && edges.back().to == to && edges.back().high + 1 == low) {
        edges.back().high = high;
      } else {
        edges.push_back({low, high, to});
      }
    }
    std::vector<Grammar::CallEdge> calls;
    for (auto& [callee, targets] : called) calls.push_back({callee, state_of(std::move(targets))});
    state.edges = static_cast<int32_t>(whole_.edges.size());
    whole_.edges.insert(whole_.edges.end(), edges.begin(), edges.end());
    state.edges_end = static_cast<int32_t>(whole_.edges.size());
    state.calls = static_cast<int32_t>(whole_.calls.size());
    whole_.calls.insert(whole_.calls.end(), calls.begin(), calls.end());
    state.calls_end = static_cast<int32_t>(whole_.calls.size());
    whole_.states[static_cast<size_t>(id)] = state;
  }
}

// Level by level: which states come to their rule's end with so many calls within calls.
void GrammarBuilder::FindDepths() {
  auto& states = whole_.states;
  for (Grammar::State& state : states) state.depth = kUnreachable;
  const auto depth_of = [&](int32_t state) { return states[static_cast<size_t>(state)].depth; };
  bool found = true;
  for (int32_t level = 0; level <= Grammar::kMostDepth && std::exchange(found, false); ++level) {
    for (bool changed = true; std::exchange(changed, false);) {
      // Backwards, since rules are written from their start on.
      for (size_t i = states.size(); i-- > 0;) {
        Grammar::State& state = states[i];
        if (state.depth <= level) continue;
        bool ends = state.final;
        for (int32_t e = state.edges; e < state.edges_end && !ends; ++e)
          ends = depth_of(whole_.edges[static_cast<size_t>(e)].to) <= level;
        for (int32_t c = state.calls; c < state.calls_end && !ends; ++c) {
          const Grammar::CallEdge& call = whole_.calls[static_cast<size_t>(c)];
          // A call that has nothing behind it takes the place of its caller.
          const int32_t within = states[static_cast<size_t>(call.to)].returns() ? level : level - 1;
          ends = depth_of(call.to) <= level && depth_of(whole_.starts[static_cast<size_t>(call.rule)]) <= within;
        }
        if (!ends) continue;
        state.depth = level;
        changed = found = true;
      }
    }
  }
}

// What can be reached from the root and comes to an end.
Grammar GrammarBuilder::Trimmed(int root) const {
  const auto alive = [&](int32_t state) { return whole_.states[static_cast<size_t>(state)].depth != kUnreachable; };
  const auto callable = [&](const Grammar::CallEdge& call) {
    return alive(call.to) && alive(whole_.starts[static_cast<size_t>(call.rule)]);
  };
  Grammar out;
  std::map<int32_t, int32_t> new_ids, new_rules;
  std::vector<int32_t> todo;
  const auto id_of = [&](int32_t state) {
    const auto [found, is_new] = new_ids.try_emplace(state, static_cast<int32_t>(out.states.size()));
    if (is_new) {
      out.states.emplace_back();
      todo.push_back(state);
    }
    return found->second;
  };
  const auto rule_of = [&](int32_t rule) {
    const auto [found, is_new] = new_rules.try_emplace(rule, static_cast<int32_t>(out.starts.size()));
    if (is_new) {
      out.starts.push_back(0);
      const int32_t start = id_of(whole_.starts[static_cast<size_t>(rule)]);
      out.starts[static_cast<size_t>(found->second)] = start;
    }
    return found->second;
  };
  out.root = rule_of(root);
  while (!todo.empty()) {
    const int32_t old = todo.back();
    todo.pop_back();
    Grammar::State state = whole_.states[static_cast<size_t>(old)];
    std::vector<Grammar::Edge> edges;
    std::vector<Grammar::CallEdge> calls;
    for (int32_t e = state.edges; e < state.edges_end; ++e) {
      const Grammar::Edge& edge = whole_.edges[static_cast<size_t>(e)];
      if (alive(edge.to)) edges.push_back({edge.low, edge.high, id_of(edge.to)});
    }
    for (int32_t c = state.calls; c < state.calls_end; ++c) {
      const Grammar::CallEdge& call = whole_.calls[static_cast<size_t>(c)];
      if (callable(call)) calls.push_back({rule_of(call.rule), id_of(call.to)});
    }
    state.edges = static_cast<int32_t>(out.edges.size());
    out.edges.insert(out.edges.end(), edges.begin(), edges.end());
    state.edges_end = static_cast<int32_t>(out.edges.size());
    state.calls = static_cast<int32_t>(out.calls.size());
    out.calls.insert(out.calls.end(), calls.begin(), calls.end());
    state.calls_end = static_cast<int32_t>(out.calls.size());
    out.states[static_cast<size_t>(new_ids.at(old))] = state;
  }
  return out;
}

Grammar GrammarBuilder::Finish(int root, size_t most_states) {
  whole_ = Grammar();
  whole_.starts.assign(drafts_.size(), 0);
  for (size_t rule = 0; rule < drafts_.size(); ++rule) {
    HYDRA_CHECK(defined_[rule], rule);
    Determinize(drafts_[rule], static_cast<int>(rule), most_states);
  }
  FindDepths();
  if (whole_.states[static_cast<size_t>(whole_.starts[static_cast<size_t>(root)])].depth == kUnreachable)
    throw Error(ErrorCode::kUsage, "nothing fits: its parts rule each other out, or it has no end");
  return Trimmed(root);
}

}  // namespace hydra
