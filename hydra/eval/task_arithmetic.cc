// SPDX-License-Identifier: Apache-2.0
// Problems in digits.
#include <algorithm>
#include <map>

#include "hydra/base/error.h"
#include "hydra/eval/task.h"

namespace hydra::eval {
namespace {

struct Problem {
  int64_t a = 0, b = 0;
  int op = 0;
};

class Arithmetic final : public Task {
 public:
  explicit Arithmetic(const ArithmeticOptions& options) : o_(options) {
    for (int64_t a = 0; a <= o_.most; ++a)
      for (int64_t b = a; b <= o_.most; ++b) (IsHeld(a, b) ? held_ : trained_).push_back({a, b});
    HYDRA_CHECK(!held_.empty() && !trained_.empty(), "pairs up to ", o_.most);
    const TaskDocument longest = Asked({.a = o_.most, .b = o_.most, .op = kTimes}, 0);
    HYDRA_CHECK(static_cast<int64_t>(longest.ids.size()) < o_.tokens, "a document of ", o_.tokens, " tokens");
  }

  [[nodiscard]] int64_t vocabulary() const override { return kEnd + 1; }

  [[nodiscard]] std::vector<TaskDocument> TrainStep(uint64_t seed, int64_t step) const override {
    std::vector<TaskDocument> documents;
    for (int64_t i = 0; i < o_.documents; ++i) {
      Rng rng = DocumentRng(Draw::kTrain, seed, static_cast<uint64_t>(step * o_.documents + i));
      TaskDocument document;
      while (Add(DrawProblem(rng, trained_, static_cast<int>(rng.Below(kOps))), 0, o_.tokens, &document)) {
      }
      documents.push_back(std::move(document));
    }
    return documents;
  }

  [[nodiscard]] std::vector<std::string> settings() const override { return {"+", "-", "x"}; }
  [[nodiscard]] std::vector<TaskDocument> Test() const override { return Held(Draw::kTest, o_.test_documents); }
  [[nodiscard]] std::vector<TaskDocument> Tuning() const override {
    return Held(Draw::kTuning, std::max<int64_t>(1, o_.test_documents / 4));
  }

  // Of the answers to the held-out pairs, as tests draw them.
  [[nodiscard]] std::vector<Solver> solvers() const override {
    Solver common{"chance: most common answer of the op", {}};
    for (int op = 0; op < kOps; ++op) {
      std::map<int64_t, int64_t> count;
      int64_t most = 0;
      for (const auto& [a, b] : held_) most = std::max(most, ++count[Result({.a = b, .b = a, .op = op})]);
      common.share.push_back(static_cast<double>(most) / static_cast<double>(held_.size()));
    }
    return {common};
  }

 private:
  static constexpr int kOps = 3, kPlus = 0, kMinus = 1, kTimes = 2;
  static constexpr int32_t kFirstOp = 10, kEquals = 13, kEnd = 14;

  // A pair's number decides; a fifth is held out.
  [[nodiscard]] bool IsHeld(int64_t a, int64_t b) const {
    constexpr uint64_t kFifth = 5;
    return Mix64(static_cast<uint64_t>(a * (o_.most + 1) + b)) % kFifth == 0;
  }
  [[nodiscard]] static int64_t Result(const Problem& p) {
    return p.op == kPlus ? p.a + p.b : p.op == kMinus ? p.a - p.b : p.a * p.b;
  }
  static void AddDigits(int64_t value, std::vector<int32_t>* ids) {
    for (const char c : std::to_string(value)) ids->push_back(c - '0');
  }

  using Pairs = std::vector<std::pair<int64_t, int64_t>>;
  // A pair in either order, the larger first for -.
  [[nodiscard]] static Problem DrawProblem(Rng& rng, const Pairs& pairs, int op) {
    auto [a, b] = pairs[static_cast<size_t>(rng.Below(pairs.size()))];
    if (op == kMinus || rng.Below(2) == 0) std::swap(a, b);
    return {.a = a, .b = b, .op = op};
  }

  // The problem up to "=", and its answer as a question.
  [[nodiscard]] static TaskDocument Asked(const Problem& p, int setting) {
    TaskDocument one;
    AddDigits(p.a, &one.ids);
    one.ids.push_back(kFirstOp + p.op);
    AddDigits(p.b, &one.ids);
    one.ids.push_back(kEquals);
    Question question{.at = static_cast<int64_t>(one.ids.size()) - 1, .answer = {}, .setting = setting};
    AddDigits(Result(p), &question.answer);
    question.answer.push_back(kEnd);
    one.ids.insert(one.ids.end(), question.answer.begin(), question.answer.end());
    one.questions.push_back(std::move(question));
    return one;
  }

  // False where it does not fit into `room` tokens.
  static bool Add(const Problem& p, int setting, int64_t room, TaskDocument* document) {
    TaskDocument one = Asked(p, setting);
    if (static_cast<int64_t>(document->ids.size() + one.ids.size()) > room) return false;
    one.questions[0].at += static_cast<int64_t>(document->ids.size());
    document->ids.insert(document->ids.end(), one.ids.begin(), one.ids.end());
    document->questions.push_back(std::move(one.questions[0]));
    return true;
  }

  // Trained problems, then a held-out one, whose last token is left out.
  [[nodiscard]] std::vector<TaskDocument> Held(Draw draw, int64_t each) const {
    std::vector<TaskDocument> documents;
    for (int op = 0; op < kOps; ++op)
      for (int64_t i = 0; i < each; ++i) {
        Rng rng = DocumentRng(draw, 0, static_cast<uint64_t>(op * each + i));
        const Problem last = DrawProblem(rng, held_, op);
        const auto room = o_.tokens - static_cast<int64_t>(Asked(last, op).ids.size());
        TaskDocument document;
        while (Add(DrawProblem(rng, trained_, static_cast<int>(rng.Below(kOps))), -1, room, &document)) {
        }
        document.questions.clear();
        HYDRA_CHECK(Add(last, op, o_.tokens, &document), "it was measured");
        document.ids.pop_back();
        documents.push_back(std::move(document));
      }
    return documents;
  }

  ArithmeticOptions o_;
  Pairs held_, trained_;  // a <= b
};

}  // namespace

std::unique_ptr<Task> MakeArithmetic(const ArithmeticOptions& options) { return std::make_unique<Arithmetic>(options); }

}  // namespace hydra::eval
