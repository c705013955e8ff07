// SPDX-License-Identifier: Apache-2.0
// Pairs at a distance from their question.
#include <algorithm>
#include <set>

#include "hydra/base/error.h"
#include "hydra/eval/task.h"

namespace hydra::eval {
namespace {

class Recall final : public Task {
 public:
  explicit Recall(const RecallOptions& options) : o_(options) {
    HYDRA_CHECK(o_.pairs <= o_.keys && o_.chunk >= 2, "too few keys, or chunks that hold no pair");
    std::set<int64_t> distances;
    for (const RecallLength& length : o_.lengths) {
      Check(length.tokens);
      for (int64_t d = length.least; d <= length.most; d *= 2) distances.insert(d);
    }
    distances_.assign(distances.begin(), distances.end());
    Check(o_.train_least);
    Check(o_.train_most);
  }

  [[nodiscard]] int64_t vocabulary() const override { return Ask() + 1; }

  [[nodiscard]] std::vector<TaskDocument> TrainStep(uint64_t seed, int64_t step) const override {
    Rng of_step = DocumentRng(Draw::kTrain, seed, OfStep(step, 0xff));
    const auto lengths = static_cast<uint64_t>((o_.train_most - o_.train_least) / o_.chunk + 1);
    const int64_t tokens = o_.train_least + o_.chunk * static_cast<int64_t>(of_step.Below(lengths));
    std::vector<TaskDocument> documents;
    for (int64_t i = 0; i < o_.documents; ++i) {
      Rng rng = DocumentRng(Draw::kTrain, seed, OfStep(step, i));
      documents.push_back(Document(rng, {.tokens = tokens, .documents = 1, .least = 1, .most = tokens}));
    }
    return documents;
  }

  [[nodiscard]] std::vector<std::string> settings() const override {
    std::vector<std::string> names;
    for (const int64_t d : distances_) names.push_back(std::to_string(d));
    return names;
  }

  [[nodiscard]] std::vector<TaskDocument> Test() const override {
    std::vector<TaskDocument> documents;
    for (const RecallLength& length : o_.lengths)
      for (int64_t i = 0; i < length.documents; ++i) {
        Rng rng = DocumentRng(Draw::kTest, static_cast<uint64_t>(length.tokens), static_cast<uint64_t>(i));
        documents.push_back(Document(rng, length));
      }
    return documents;
  }
  // As long as the longest of training.
  [[nodiscard]] std::vector<TaskDocument> Tuning() const override {
    std::vector<TaskDocument> documents;
    for (int64_t i = 0; i < std::max<int64_t>(1, o_.lengths.front().documents / 8); ++i) {
      Rng rng = DocumentRng(Draw::kTuning, 0, static_cast<uint64_t>(i));
      documents.push_back(Document(rng, {.tokens = o_.train_most, .documents = 1, .least = 1, .most = o_.train_most}));
    }
    return documents;
  }

  [[nodiscard]] std::vector<Solver> solvers() const override {
    const auto all = [&](double share) { return std::vector<double>(distances_.size(), share); };
    return {{"chance: any value", all(1 / static_cast<double>(o_.values))},
            {"a value of the document", all(1 / static_cast<double>(o_.pairs))}};
  }

 private:
  // The number of a document of a step, and of the step's length.
  [[nodiscard]] static uint64_t OfStep(int64_t step, int64_t i) { return static_cast<uint64_t>(256 * step + i); }
  [[nodiscard]] int32_t Key(int64_t i) const { return static_cast<int32_t>(o_.filler + i); }
  [[nodiscard]] int32_t Value(int64_t i) const { return static_cast<int32_t>(o_.filler + o_.keys + i); }
  [[nodiscard]] int32_t Ask() const { return static_cast<int32_t>(o_.filler + o_.keys + o_.values); }
  // Tokens before the questions.
  [[nodiscard]] int64_t Before(int64_t tokens) const { return tokens - 2 * o_.pairs; }
  void Check(int64_t tokens) const {
    HYDRA_CHECK(tokens % o_.chunk == 0 && Before(tokens) / o_.chunk >= o_.pairs, tokens,
                " tokens hold fewer chunks than ", o_.pairs, " pairs");
  }

  // The first of the distances d with d / 2 < distance <= d, as a place in settings(); -1: not one that counts.
  [[nodiscard]] int Setting(int64_t distance, const RecallLength& length) const {
    for (size_t i = 0; i < distances_.size(); ++i) {
      const int64_t d = distances_[i];
      if (2 * distance > d && distance <= d) return d >= length.least && d <= length.most ? static_cast<int>(i) : -1;
    }
    return -1;
  }

  [[nodiscard]] TaskDocument Document(Rng& rng, const RecallLength& length) const {
    const int64_t before = Before(length.tokens);
    TaskDocument document;
    for (int64_t i = 0; i < before; ++i)
      document.ids.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(o_.filler))));
    const std::vector<int64_t> keys = Sample(rng, o_.pairs, o_.keys), values = Sample(rng, o_.pairs, o_.values);
    const std::vector<int64_t> chunks = Sample(rng, o_.pairs, before / o_.chunk);
    std::vector<int64_t> places;
    for (size_t i = 0; i < chunks.size(); ++i) {
      places.push_back(chunks[i] * o_.chunk + static_cast<int64_t>(rng.Below(static_cast<uint64_t>(o_.chunk - 1))));
      document.ids[static_cast<size_t>(places[i])] = Key(keys[i]);
      document.ids[static_cast<size_t>(places[i]) + 1] = Value(values[i]);
    }
    for (const int64_t pair : Sample(rng, o_.pairs, o_.pairs)) {
      const auto i = static_cast<size_t>(pair);
      document.ids.insert(document.ids.end(), {Ask(), Key(keys[i])});
      const int64_t at = static_cast<int64_t>(document.ids.size()) - 1;
      document.questions.push_back(
          {.at = at, .answer = {Value(values[i])}, .setting = Setting(at - places[i], length), .about = places[i]});
    }
    return document;
  }

  RecallOptions o_;
  std::vector<int64_t> distances_;  // ascending
};

}  // namespace

std::unique_ptr<Task> MakeRecall(const RecallOptions& options) { return std::make_unique<Recall>(options); }

}  // namespace hydra::eval
