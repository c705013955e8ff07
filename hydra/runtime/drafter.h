// SPDX-License-Identifier: Apache-2.0
// Guessing the next tokens of a text cheaply: from what the text repeats, or by a model that is cheaper than the one
// that decides. A guess costs time and changes no token. Not here: checking guesses, how many are tried
// (speculation.h).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/runtime/model.h"
#include "hydra/runtime/provisional.h"
#include "hydra/runtime/sequence_state.h"

namespace hydra {

// Guesses of one text at a time; not thread-safe.
class Drafter {
 public:
  static constexpr int kKinds = 5;
  using Rates = std::array<double, kKinds>;

  virtual ~Drafter() = default;
  // "ngram", "self", or what the model is called.
  [[nodiscard]] virtual const std::string& name() const = 0;
  // Takes note of the text so far, which may be another one than before. Returns the kind of guess that it would make,
  // 0 .. kKinds - 1, of which some may be right more often than others, or -1 for none.
  virtual int Look(std::span<const int32_t> text) = 0;
  // Reads a text before guesses are asked for, which spares the first of them the time.
  virtual void Read(std::span<const int32_t> text) = 0;
  // After Look: tokens that it has to read first, beside the last one.
  [[nodiscard]] virtual int64_t behind() const { return 0; }
  // How often a guess of each kind is right, before any was checked.
  [[nodiscard]] virtual const Rates& expected() const = 0;
  // After Look: the next tokens, at most n. They stay until the next call.
  virtual std::span<const int32_t> Draft(int n) = 0;
  // Memory of its own, working memory included.
  [[nodiscard]] virtual int64_t bytes() const = 0;
};

// What followed the last three tokens, else the last two, where they stood in the text before (the latest such place).
// Else, a few tokens behind a place where the text was the same as before, what followed the last token near that
// place: a copy with a word changed goes on so. The kind of guess is how many tokens before it are the same: 2, 3, up
// to 7, more, and 1.
class NgramDrafter : public Drafter {
 public:
  [[nodiscard]] const std::string& name() const override { return name_; }
  int Look(std::span<const int32_t> text) override;
  void Read(std::span<const int32_t> text) override { (void)Look(text); }
  [[nodiscard]] const Rates& expected() const override { return kExpected; }
  std::span<const int32_t> Draft(int n) override;
  [[nodiscard]] int64_t bytes() const override;

 private:
  static constexpr Rates kExpected{0.3, 0.45, 0.6, 0.8, 0.4};
  static constexpr size_t kLeast = 2, kMost = 3;  // tokens of a key
  // Where the text went on after these tokens: [size][their hash] -> place.
  using Places = std::unordered_map<uint64_t, size_t>;
  // The latest place before the end that follows the last `size` tokens; 0: none.
  [[nodiscard]] size_t Find(size_t size) const;
  // The place nearest to where the text would go on, had it stayed the same, that follows the last token; 0: none.
  [[nodiscard]] size_t FindAgain() const;

  const std::string name_ = "ngram";
  std::vector<int32_t> text_, draft_;
  Places places_[kMost - kLeast + 1];
  size_t found_ = 0;
  size_t last_found_ = 0, last_end_ = 0;  // the last place found from two tokens or more, and the text's end then
};

// The most probable tokens of a cheaper model, one after another: another model, or the same with some of its parts
// switched off. It reads the text as it comes; of a text that is new to it, the last tokens only.
class ModelDrafter : public Drafter {
 public:
  // `model`, `pool` and `scratch` must outlive it. The controls say which parts are on. Guesses are ids below `vocab`.
  ModelDrafter(std::string name, const Model& model, const Controls& controls, int most, int64_t vocab,
               ThreadPool& pool, ForwardScratch& scratch);
  [[nodiscard]] const std::string& name() const override { return name_; }
  int Look(std::span<const int32_t> text) override;
  void Read(std::span<const int32_t> text) override;
  [[nodiscard]] int64_t behind() const override { return std::ssize(unread_) - 1; }
  [[nodiscard]] const Rates& expected() const override { return kExpected; }
  std::span<const int32_t> Draft(int n) override;
  [[nodiscard]] int64_t bytes() const override { return state_.bytes() + kept_.bytes(); }

 private:
  static constexpr Rates kExpected{0.5, 0.5, 0.5, 0.5, 0.5};  // it has one kind
  static constexpr size_t kCatchUp = 256;                     // tokens of a text that it reads to get to its end
  // Reads all that is unread but the last token; false: the context has no room.
  [[nodiscard]] bool CatchUp();
  [[nodiscard]] int64_t Room() const { return state_.layout().most_tokens - state_.pos(); }
  [[nodiscard]] int32_t Best(std::span<const int32_t> ids);

  std::string name_;
  const Model& model_;
  int64_t vocab_;
  ThreadPool& pool_;
  ForwardScratch& scratch_;
  SequenceState state_;  // of the text from offset_ on
  Provisional kept_;
  size_t offset_ = 0;
  std::vector<int32_t> unread_, draft_;
};

// The drafter that reads with the SSM path alone. Throws kUsage where the model has no SSM, or nothing beside it that
// could be left out.
[[nodiscard]] Controls SelfDraftControls(const ModelConfig& config);

// Whether a model's own drafter is what follows: a sequential model with BlockFFN's experts.
[[nodiscard]] bool SelfDraftsByLayers(const ModelConfig& config);
struct SelfDraftOptions {
  std::vector<int64_t> layers = {};  // that it runs, ascending; empty: all
  int64_t tokens = 16384;            // that it may guess: the first ids, which tokenizers give to the most frequent
};
// The model without its experts: attention of some layers, and of the head the rows of the first tokens. It shares the
// weights and copies none. Its logits have as many numbers as its head has rows. Throws kUsage for layers that the
// model does not have.
[[nodiscard]] Model SelfDraftModel(const Model& model, const SelfDraftOptions& options);

}  // namespace hydra
