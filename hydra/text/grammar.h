// SPDX-License-Identifier: Apache-2.0
// Languages of bytes that a model's output is held to: rules, each an automaton over bytes and calls of other rules.
// Not here: JSON schemas (json_schema.h), masks over a vocabulary (grammar_mask.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hydra {

// A state of a rule is left by a byte, by a call of another rule, which comes back to a state of this one, or, where it
// is final, by going back to the caller. Immutable once made; made by GrammarBuilder.
struct Grammar {
  // Calls within calls are at most so deep: deeper ones are left out, and so is what could only be ended by them.
  static constexpr int kMostDepth = 60;

  struct Edge {
    uint8_t low, high;
    int32_t to;
  };
  struct CallEdge {
    int32_t rule, to;
  };
  struct State {
    int32_t edges = 0, edges_end = 0;  // in `edges`, by ascending bytes
    int32_t calls = 0, calls_end = 0;  // in `calls`
    bool final = false;
    int32_t depth = 0;  // calls within calls that the shortest way to the rule's end needs
    // Of states that count characters: those of one group differ only in how many must and may follow (-1: any number).
    int32_t group = -1, need = 0, room = 0;
    // Nothing but going back.
    [[nodiscard]] bool returns() const { return final && edges == edges_end && calls == calls_end; }
  };

  std::vector<State> states;
  std::vector<Edge> edges;
  std::vector<CallEdge> calls;
  std::vector<int32_t> starts;  // of the rules
  int32_t root = 0;             // a rule

  // The state behind a byte; -1.
  [[nodiscard]] int32_t Next(int32_t state, uint8_t byte) const;
};

// One rule while it is written: an automaton that may be at several places at once. Places are numbers; 0 is the start.
class RuleDraft {
 public:
  RuleDraft() : nodes_(1) {}
  static constexpr int kStart = 0;

  [[nodiscard]] int Place();
  void Byte(int from, uint8_t low, uint8_t high, int to);
  void Empty(int from, int to);
  void Call(int from, int rule, int to);
  void End(int place) { nodes_[static_cast<size_t>(place)].final = true; }
  void Count(int place, int group, int need, int room);
  // These return the place behind.
  [[nodiscard]] int Literal(int from, std::string_view bytes);
  [[nodiscard]] int Called(int from, int rule);
  [[nodiscard]] size_t size() const { return nodes_.size(); }

 private:
  friend class GrammarBuilder;
  struct Edge {
    uint8_t low, high;
    int to;
  };
  struct CallEdge {
    int rule, to;
  };
  struct Node {
    std::vector<Edge> edges;
    std::vector<CallEdge> calls;
    std::vector<int> empty;
    bool final = false;
    int group = -1, need = 0, room = 0;
  };
  std::vector<Node> nodes_;
};

// Puts rules together. A rule takes a byte before it calls itself, by whatever way, and before it ends.
class GrammarBuilder {
 public:
  // A rule to be written later, so that rules can call each other; its number.
  [[nodiscard]] int Declare();
  void Define(int rule, RuleDraft draft);
  [[nodiscard]] int Add(RuleDraft draft);

  // Every way that cannot come to an end is taken out. Throws kUsage where nothing is left of the root, or where the
  // whole has more than `most_states` states.
  [[nodiscard]] Grammar Finish(int root, size_t most_states = size_t{1} << 18);

 private:
  void Determinize(const RuleDraft& draft, int rule, size_t most_states);
  void FindDepths();
  [[nodiscard]] Grammar Trimmed(int root) const;

  std::vector<RuleDraft> drafts_;
  std::vector<bool> defined_;
  Grammar whole_;
};

}  // namespace hydra
