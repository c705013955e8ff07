// SPDX-License-Identifier: Apache-2.0
// Chains of facts.
#include <algorithm>

#include "hydra/base/error.h"
#include "hydra/eval/task.h"

namespace hydra::eval {

std::vector<int64_t> Sample(Rng& rng, int64_t n, int64_t from) {
  HYDRA_CHECK(n <= from, n, " of ", from);
  std::vector<int64_t> all(static_cast<size_t>(from));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  for (size_t i = 0; i < static_cast<size_t>(n); ++i)
    std::swap(all[i], all[i + static_cast<size_t>(rng.Below(all.size() - i))]);
  all.resize(static_cast<size_t>(n));
  return all;
}

namespace {

class Chaining final : public Task {
 public:
  explicit Chaining(const ChainingOptions& options) : o_(options) {
    HYDRA_CHECK(o_.chains * (o_.test_most + 1) <= o_.entities, "too few entities");
  }

  [[nodiscard]] int64_t vocabulary() const override { return kFirstEntity + o_.entities; }

  [[nodiscard]] std::vector<TaskDocument> TrainStep(uint64_t seed, int64_t step) const override {
    std::vector<TaskDocument> documents;
    for (int64_t i = 0; i < o_.documents; ++i) {
      Rng rng = DocumentRng(Draw::kTrain, seed, static_cast<uint64_t>(step * o_.documents + i));
      documents.push_back(Document(rng, 1 + static_cast<int64_t>(rng.Below(static_cast<uint64_t>(o_.train_most)))));
    }
    return documents;
  }

  [[nodiscard]] std::vector<std::string> settings() const override {
    std::vector<std::string> names;
    for (int64_t k = 1; k <= o_.test_most; ++k) names.push_back("k = " + std::to_string(k));
    return names;
  }

  [[nodiscard]] std::vector<TaskDocument> Test() const override {
    return Held(Draw::kTest, o_.test_documents, o_.test_most);
  }
  [[nodiscard]] std::vector<TaskDocument> Tuning() const override {
    return Held(Draw::kTuning, std::max<int64_t>(1, o_.test_documents / 4), o_.train_most);
  }

  // An end is an entity that no fact begins with; there is one in each chain.
  [[nodiscard]] std::vector<Solver> solvers() const override {
    Solver any{"chance: any entity of the document", {}}, end{"end-finder", {}};
    for (int64_t k = 1; k <= o_.test_most; ++k) {
      any.share.push_back(1 / static_cast<double>(o_.chains * (k + 1)));
      end.share.push_back(1 / static_cast<double>(o_.chains));
    }
    return {any, end};
  }

 private:
  static constexpr int32_t kFollows = 0, kFactEnd = 1, kAsk = 2;
  static constexpr int64_t kFirstEntity = 3;

  [[nodiscard]] TaskDocument Document(Rng& rng, int64_t k) const {
    const std::vector<int64_t> entities = Sample(rng, o_.chains * (k + 1), o_.entities);
    const auto entity = [&](int64_t chain, int64_t place) {
      return static_cast<int32_t>(kFirstEntity + entities[static_cast<size_t>(chain * (k + 1) + place)]);
    };
    std::vector<std::pair<int32_t, int32_t>> facts;
    for (int64_t chain = 0; chain < o_.chains; ++chain)
      for (int64_t i = 0; i < k; ++i) facts.emplace_back(entity(chain, i), entity(chain, i + 1));
    Shuffle(rng, &facts);
    TaskDocument document;
    for (const auto& [a, b] : facts) document.ids.insert(document.ids.end(), {a, kFollows, b, kFactEnd});
    for (const int64_t chain : Sample(rng, o_.chains, o_.chains)) {
      document.ids.insert(document.ids.end(), {kAsk, entity(chain, 0)});
      document.questions.push_back({.at = static_cast<int64_t>(document.ids.size()) - 1,
                                    .answer = {entity(chain, k)},
                                    .setting = static_cast<int>(k - 1)});
    }
    return document;
  }

  [[nodiscard]] std::vector<TaskDocument> Held(Draw draw, int64_t each, int64_t most) const {
    std::vector<TaskDocument> documents;
    for (int64_t k = 1; k <= most; ++k)
      for (int64_t i = 0; i < each; ++i) {
        Rng rng = DocumentRng(draw, 0, static_cast<uint64_t>(k * each + i));
        documents.push_back(Document(rng, k));
      }
    return documents;
  }

  ChainingOptions o_;
};

}  // namespace

std::unique_ptr<Task> MakeChaining(const ChainingOptions& options) { return std::make_unique<Chaining>(options); }

}  // namespace hydra::eval
