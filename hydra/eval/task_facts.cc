// SPDX-License-Identifier: Apache-2.0
// Facts that must be known by heart.
#include <algorithm>
#include <map>
#include <set>

#include "hydra/base/error.h"
#include "hydra/eval/task.h"

namespace hydra::eval {
namespace {

class Facts final : public FactsTask {
 public:
  explicit Facts(const FactsOptions& options) : o_(options) {
    HYDRA_CHECK(o_.templates == kSubject + 1, "a word has as many places as there are templates");
    HYDRA_CHECK(2 * (o_.subjects + o_.new_subjects) < o_.letters * o_.letters * o_.letters, "too few letters");
    HYDRA_CHECK(Known() >= o_.statements, "fewer facts than statements of a document");
    std::set<std::vector<int32_t>> taken;
    Rng rng(kWorld);
    while (static_cast<int64_t>(names_.size()) < o_.subjects + o_.new_subjects) {
      std::vector<int32_t> name;
      for (int64_t i = 0; i < kSubject; ++i)
        name.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(o_.letters))));
      if (taken.insert(name).second) names_.push_back(name);
    }
    for (int64_t fact = 0; fact < All(); ++fact)
      objects_.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(o_.objects))));
  }

  [[nodiscard]] int64_t vocabulary() const override { return o_.letters + o_.objects + o_.relations * o_.templates; }

  // Statements (fact, trained template) in a random order, anew for each pass over all.
  [[nodiscard]] std::vector<TaskDocument> TrainStep(uint64_t seed, int64_t step) const override {
    const int64_t statements = Known() * (o_.templates - 1);
    std::vector<TaskDocument> documents(static_cast<size_t>(o_.documents));
    int64_t next = step * o_.documents * o_.statements;
    for (TaskDocument& document : documents)
      for (int64_t i = 0; i < o_.statements; ++i, ++next) {
        const Permutation order(static_cast<uint64_t>(statements),
                                Mix64(seed + static_cast<uint64_t>(next / statements)));
        const auto number = static_cast<int64_t>(order(static_cast<uint64_t>(next % statements)));
        AddStatement(number / (o_.templates - 1), number % (o_.templates - 1), 0, &document);
      }
    return documents;
  }

  [[nodiscard]] std::vector<std::string> settings() const override {
    return {"trained template", "template that was not trained"};
  }

  [[nodiscard]] std::vector<TaskDocument> Test() const override { return Held(Draw::kTest, o_.test_documents); }
  [[nodiscard]] std::vector<TaskDocument> Tuning() const override {
    return Held(Draw::kTuning, std::max<int64_t>(1, o_.test_documents / 4));
  }

  [[nodiscard]] std::vector<Solver> solvers() const override {
    std::map<int32_t, int64_t> count;
    int64_t most = 0;
    for (int64_t fact = 0; fact < Known(); ++fact) most = std::max(most, ++count[objects_[static_cast<size_t>(fact)]]);
    const double common = static_cast<double>(most) / static_cast<double>(Known());
    return {{"chance: any object", std::vector<double>(2, 1 / static_cast<double>(o_.objects))},
            {"most common object", std::vector<double>(2, common)}};
  }

  [[nodiscard]] std::vector<Asked> NewFacts(bool held_out) const override {
    std::vector<Asked> asked;
    for (int64_t fact = Known(); fact < All(); ++fact)
      for (int64_t i = 0; i < o_.templates; ++i)
        if ((i == HeldTemplate(fact)) == held_out) asked.push_back({Words(fact, i), Object(fact), fact});
    return asked;
  }

 private:
  static constexpr int64_t kSubject = 3;  // ids of a subject's name
  static constexpr uint64_t kWorld = 2024;

  [[nodiscard]] int64_t Known() const { return o_.subjects * o_.relations; }
  [[nodiscard]] int64_t All() const { return (o_.subjects + o_.new_subjects) * o_.relations; }
  [[nodiscard]] int32_t Object(int64_t fact) const {
    return static_cast<int32_t>(o_.letters) + objects_[static_cast<size_t>(fact)];
  }
  [[nodiscard]] int64_t HeldTemplate(int64_t fact) const {
    return static_cast<int64_t>(Mix64(kWorld + static_cast<uint64_t>(fact)) % static_cast<uint64_t>(o_.templates));
  }
  // The statement without its object: the name with the word at the template's place.
  [[nodiscard]] std::vector<int32_t> Words(int64_t fact, int64_t pattern) const {
    std::vector<int32_t> words = names_[static_cast<size_t>(fact / o_.relations)];
    const int64_t relation = fact % o_.relations;
    const auto word = static_cast<int32_t>(o_.letters + o_.objects + relation * o_.templates + pattern);
    words.insert(words.begin() + pattern, word);
    return words;
  }

  // The `trained`-th template that is trained, or the held-out one where that is -1. The object is left out at the
  // document's end by whoever makes it.
  void AddStatement(int64_t fact, int64_t trained, int setting, TaskDocument* document) const {
    const int64_t held = HeldTemplate(fact);
    const int64_t pattern = trained < 0 ? held : trained + (trained >= held ? 1 : 0);
    const std::vector<int32_t> words = Words(fact, pattern);
    document->ids.insert(document->ids.end(), words.begin(), words.end());
    document->questions.push_back(
        {.at = static_cast<int64_t>(document->ids.size()) - 1, .answer = {Object(fact)}, .setting = setting});
    document->ids.push_back(Object(fact));
  }

  // Documents of other facts in trained templates, then the one that is asked.
  [[nodiscard]] std::vector<TaskDocument> Held(Draw draw, int64_t each) const {
    std::vector<TaskDocument> documents;
    for (int setting = 0; setting < 2; ++setting)
      for (int64_t i = 0; i < each; ++i) {
        Rng rng = DocumentRng(draw, 0, static_cast<uint64_t>(setting * each + i));
        const auto trained = [&] { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(o_.templates) - 1)); };
        const std::vector<int64_t> facts = Some(rng);
        TaskDocument document;
        for (size_t j = 0; j + 1 < facts.size(); ++j) AddStatement(facts[j], trained(), -1, &document);
        document.questions.clear();
        AddStatement(facts.back(), setting == 0 ? trained() : -1, setting, &document);
        document.ids.pop_back();
        documents.push_back(std::move(document));
      }
    return documents;
  }

  // Different facts, as many as a document has statements.
  [[nodiscard]] std::vector<int64_t> Some(Rng& rng) const {
    std::set<int64_t> seen;
    std::vector<int64_t> facts;
    while (static_cast<int64_t>(facts.size()) < o_.statements) {
      const auto fact = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(Known())));
      if (seen.insert(fact).second) facts.push_back(fact);
    }
    return facts;
  }

  FactsOptions o_;
  std::vector<std::vector<int32_t>> names_;  // of each subject
  std::vector<int32_t> objects_;             // of each fact: subject times relations + relation
};

}  // namespace

std::unique_ptr<FactsTask> MakeFacts(const FactsOptions& options) { return std::make_unique<Facts>(options); }

}  // namespace hydra::eval
