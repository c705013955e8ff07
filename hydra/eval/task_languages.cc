// SPDX-License-Identifier: Apache-2.0
// Languages as Markov chains of order two.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "hydra/base/error.h"
#include "hydra/eval/task.h"

namespace hydra::eval {
namespace {

class Languages final : public LanguagesTask {
 public:
  explicit Languages(const LanguagesOptions& options) : o_(options) {
    HYDRA_CHECK(o_.languages * o_.successors <= o_.ids, "successors of two languages would meet");
    Rng rng(kWorld);
    successors_.resize(static_cast<size_t>(o_.ids * o_.ids * o_.languages * o_.successors));
    std::vector<int64_t> ring(static_cast<size_t>(o_.ids)), place = ring;
    std::iota(ring.begin(), ring.end(), int64_t{0});
    std::iota(place.begin(), place.end(), int64_t{0});
    // For a last id the ids stand in a ring, and each id before it begins at a place of its own: so every id follows as
    // often as every other, over all that can stand before the last one.
    for (int64_t last = 0; last < o_.ids; ++last) {
      Shuffle(rng, &ring);
      Shuffle(rng, &place);
      for (int64_t before = 0; before < o_.ids; ++before)
        for (int64_t language = 0; language < o_.languages; ++language)
          for (int64_t i = 0; i < o_.successors; ++i) {
            const int64_t at = (place[static_cast<size_t>(before)] + language * o_.successors + i) % o_.ids;
            successors_[Index(before * o_.ids + last, language, i)] =
                static_cast<int32_t>(ring[static_cast<size_t>(at)]);
          }
    }
  }

  [[nodiscard]] int64_t vocabulary() const override { return o_.ids; }

  [[nodiscard]] std::vector<TaskDocument> TrainStep(uint64_t seed, int64_t step) const override {
    std::vector<TaskDocument> documents;
    for (int64_t i = 0; i < o_.documents; ++i) {
      Rng rng = DocumentRng(Draw::kTrain, seed, static_cast<uint64_t>(step * o_.documents + i));
      documents.push_back(Document(rng, static_cast<int>(rng.Below(static_cast<uint64_t>(o_.languages)))));
    }
    return documents;
  }

  [[nodiscard]] std::vector<std::string> settings() const override {
    std::vector<std::string> names;
    for (int64_t i = 0; i < o_.languages; ++i) names.push_back("language " + std::to_string(i + 1));
    return names;
  }
  [[nodiscard]] std::vector<TaskDocument> Test() const override { return Held(Draw::kTest, o_.test_documents); }
  [[nodiscard]] std::vector<TaskDocument> Tuning() const override {
    return Held(Draw::kTuning, std::max<int64_t>(1, o_.test_documents / 4));
  }

  // Right guesses of the next token.
  [[nodiscard]] std::vector<Solver> solvers() const override {
    const auto all = [&](double share) { return std::vector<double>(static_cast<size_t>(o_.languages), share); };
    return {{"chance: any id", all(1 / static_cast<double>(o_.ids))}, {"the language known", all(Probability(0))}};
  }

  [[nodiscard]] double entropy() const override {
    double sum = 0;
    for (int64_t i = 0; i < o_.successors; ++i) sum -= Probability(i) * std::log(Probability(i));
    return sum;
  }

 private:
  static constexpr uint64_t kWorld = 2025;

  [[nodiscard]] size_t Index(int64_t context, int64_t language, int64_t i) const {
    return static_cast<size_t>((context * o_.languages + language) * o_.successors + i);
  }
  // Of the i-th successor: halves, the last two alike.
  [[nodiscard]] double Probability(int64_t i) const {
    return std::ldexp(1.0, static_cast<int>(-std::min(i + 1, o_.successors - 1)));
  }

  [[nodiscard]] TaskDocument Document(Rng& rng, int language) const {
    TaskDocument document;
    document.label = language;
    for (int64_t t = 0; t < o_.tokens; ++t) {
      if (t < 2) {
        document.ids.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(o_.ids))));
        continue;
      }
      const auto at = document.ids.size();
      const int64_t context = document.ids[at - 2] * o_.ids + document.ids[at - 1];
      int64_t pick = 0;
      for (double u = rng.Uniform(); pick + 1 < o_.successors && u >= Probability(pick); ++pick) u -= Probability(pick);
      document.ids.push_back(successors_[Index(context, language, pick)]);
    }
    return document;
  }

  [[nodiscard]] std::vector<TaskDocument> Held(Draw draw, int64_t each) const {
    std::vector<TaskDocument> documents;
    for (int64_t i = 0; i < o_.languages * each; ++i) {
      Rng rng = DocumentRng(draw, 0, static_cast<uint64_t>(i));
      documents.push_back(Document(rng, static_cast<int>(i % o_.languages)));
    }
    return documents;
  }

  LanguagesOptions o_;
  std::vector<int32_t> successors_;  // of each two ids, of each language
};

}  // namespace

std::unique_ptr<LanguagesTask> MakeLanguages(const LanguagesOptions& options) {
  return std::make_unique<Languages>(options);
}

}  // namespace hydra::eval
