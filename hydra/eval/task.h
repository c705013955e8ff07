// SPDX-License-Identifier: Apache-2.0
// Tasks that a model is trained on and asked about: documents made of random numbers, each with the questions that
// count in its loss and in its score. Torch-free. Not here: batches of them (task_batch.h), scores (task_score.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hydra/base/rng.h"

namespace hydra::eval {

// What is asked: the tokens that follow position `at`. Of an answer of several tokens all but the last are in the
// document; an answer of one token is nowhere behind `at`.
struct Question {
  int64_t at = 0;
  std::vector<int32_t> answer;
  int setting = 0;     // the place in Task::settings() that it counts for; -1: none, it is trained and not scored
  int64_t about = -1;  // the position of what has to be found in the document; -1: nothing has to
};

struct TaskDocument {
  std::vector<int32_t> ids;
  std::vector<Question> questions;  // none: every token but the first is predicted
  int label = -1;                   // what the document is of, where a task has kinds of documents
};

// Another way to answer, which knows nothing of what the task is about.
struct Solver {
  std::string name;
  std::vector<double> share;  // right answers of each setting
};

// Equal arguments give equal documents, on every machine. Thread-safe.
class Task {
 public:
  virtual ~Task() = default;
  // Every id is below this.
  [[nodiscard]] virtual int64_t vocabulary() const = 0;
  // The documents of one step of training, for a seed. Every model with this seed gets the same.
  [[nodiscard]] virtual std::vector<TaskDocument> TrainStep(uint64_t seed, int64_t step) const = 0;
  // What scores are given for, in the order of tables: "k = 3", "512".
  [[nodiscard]] virtual std::vector<std::string> settings() const = 0;
  // Documents that no model was trained on. Tuning ones are of another draw: learning rates are chosen on them.
  [[nodiscard]] virtual std::vector<TaskDocument> Test() const = 0;
  [[nodiscard]] virtual std::vector<TaskDocument> Tuning() const = 0;
  // Chance first.
  [[nodiscard]] virtual std::vector<Solver> solvers() const = 0;
};

// Draws of training, of tests and of tuning come from streams that have nothing in common.
enum class Draw : uint64_t { kTrain = 1, kTest = 2, kTuning = 3 };
// The generator of one document: `index` among those of a draw; `seed` that of the run, or what tells tests apart.
[[nodiscard]] inline Rng DocumentRng(Draw draw, uint64_t seed, uint64_t index) {
  return Rng(Mix64(seed) + static_cast<uint64_t>(draw), index);
}

// The first `n` of a random order of 0 .. from - 1.
[[nodiscard]] std::vector<int64_t> Sample(Rng& rng, int64_t n, int64_t from);
template <class T>
void Shuffle(Rng& rng, std::vector<T>* values) {
  for (size_t i = values->size(); i > 1; --i) std::swap((*values)[i - 1], (*values)[rng.Below(i)]);
}

// ---- Following links (specs/hydra.md 12.2) ----

// `chains` chains of k + 1 entities each, all different; every link is a fact "a > b ;", all facts are shuffled. Then
// "? start" of every chain in a random order; the answer is the chain's end, which is not written there.
struct ChainingOptions {
  int64_t chains = 4, entities = 200;
  int64_t train_most = 4, test_most = 8;  // k of training is 1 to the first, of tests 1 to the second
  int64_t documents = 16;                 // of a step
  int64_t test_documents = 512;           // of each k, with `chains` questions each; tuning has a quarter of them
};
[[nodiscard]] std::unique_ptr<Task> MakeChaining(const ChainingOptions& options);

// ---- Recall beyond the window (12.3) ----

// Key-value pairs among filler, at most one to a chunk of `chunk` tokens, wholly inside it; at the end "? key" of every
// pair in a random order, without the values. A setting d is the questions with d / 2 < distance <= d, from the key in
// the text to the key in the question.
struct RecallLength {
  int64_t tokens = 0;     // of a document
  int64_t documents = 0;  // to test with
  int64_t least = 0;      // of its settings: the smallest and the largest distance that it is scored for
  int64_t most = 0;
};
struct RecallOptions {
  int64_t pairs = 16, keys = 256, values = 256, filler = 1024;
  int64_t chunk = 16;
  int64_t train_least = 288, train_most = 512;  // tokens of a document, multiples of chunk; one length a step
  int64_t documents = 4;                        // of a step
  std::vector<RecallLength> lengths = {
      {288, 560, 64, 256}, {512, 144, 512, 512}, {1024, 144, 1024, 1024}, {2048, 144, 2048, 2048}};
};
[[nodiscard]] std::unique_ptr<Task> MakeRecall(const RecallOptions& options);

// ---- Facts (12.4) ----

// Each of `subjects` subjects (three ids) has an object for each relation. A statement is the subject, a word for
// relation and template, whose place says which template it is, and the object. Of each fact one template, drawn by its
// number, is never trained: questions are asked in it. A document is `statements` statements of different facts; the
// one that is asked comes last, its object left out.
struct FactsOptions {
  int64_t subjects = 1250, relations = 8, templates = 4, objects = 512, letters = 256;
  int64_t statements = 16;        // of a document
  int64_t documents = 16;         // of a step
  int64_t test_documents = 2048;  // of each setting; tuning has a quarter of them
  int64_t new_subjects = 125;     // whose facts are in no document: they are taught afterwards
};
class FactsTask : public Task {
 public:
  // A way to ask a fact: the statement without its object, and the object.
  struct Asked {
    std::vector<int32_t> ids;
    int32_t object = 0;
    int64_t fact = 0;
  };
  // The new facts in the templates that are to be taught, or in the one of each that is not.
  [[nodiscard]] virtual std::vector<Asked> NewFacts(bool held_out) const = 0;
};
[[nodiscard]] std::unique_ptr<FactsTask> MakeFacts(const FactsOptions& options);

// ---- Arithmetic (12.5) ----

// "a op b = c ;" in digits, op one of + - x, a and b from 0 to `most`, a >= b for -. Of the unordered pairs a fifth is
// held out, in every order and for every op. A document has as many problems as fit; the one that is asked comes last.
struct ArithmeticOptions {
  int64_t most = 100;
  int64_t tokens = 80;            // of a document, at most
  int64_t documents = 16;         // of a step
  int64_t test_documents = 1024;  // of each setting; tuning has a quarter of them
};
[[nodiscard]] std::unique_ptr<Task> MakeArithmetic(const ArithmeticOptions& options);

// ---- Languages (12.6) ----

// Languages over the same ids: after any two ids each language has successors of its own, `successors` of them with
// probabilities that halve, and no successor is one of two languages. In the long run every id and every two ids in a
// row are as common as every other, in every language: only three in a row tell which it is.
struct LanguagesOptions {
  int64_t languages = 4, ids = 32, successors = 8;
  int64_t tokens = 256;         // of a document
  int64_t documents = 8;        // of a step
  int64_t test_documents = 64;  // of each language; tuning has a quarter of them
};
class LanguagesTask : public Task {
 public:
  // Nats a token that the best model of these languages has, once it knows the language.
  [[nodiscard]] virtual double entropy() const = 0;
};
[[nodiscard]] std::unique_ptr<LanguagesTask> MakeLanguages(const LanguagesOptions& options);

}  // namespace hydra::eval
