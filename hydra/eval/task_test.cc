// SPDX-License-Identifier: Apache-2.0
// The tasks: answers are right by an independent reading of each document, chance is what a solver without knowledge
// reaches, nothing is asked that training has told, and equal arguments give equal documents.
#include "hydra/eval/task.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

namespace hydra::eval {
namespace {

using Ids = std::vector<int32_t>;

std::vector<TaskDocument> Trained(const Task& task, uint64_t seed, int64_t steps) {
  std::vector<TaskDocument> all;
  for (int64_t step = 0; step < steps; ++step)
    for (TaskDocument& document : task.TrainStep(seed, step)) all.push_back(std::move(document));
  return all;
}

std::set<Ids> Texts(const std::vector<TaskDocument>& documents) {
  std::set<Ids> all;
  for (const TaskDocument& document : documents) all.insert(document.ids);
  return all;
}

// What every task must keep: ids, positions, settings; that draws repeat, differ, and share no document; that an answer
// stands nowhere at or behind its question but where a longer one goes on with itself.
void ExpectSound(const Task& task, bool answers_are_hidden) {
  const auto settings = static_cast<int>(task.settings().size());
  const auto train = Trained(task, 1, 5), test = task.Test(), tuning = task.Tuning();
  for (const auto* documents : {&train, &test, &tuning})
    for (const TaskDocument& document : *documents) {
      ASSERT_GE(document.ids.size(), 2U);
      for (const int32_t id : document.ids) {
        ASSERT_GE(id, 0);
        ASSERT_LT(id, task.vocabulary());
      }
      for (const Question& question : document.questions) {
        ASSERT_LT(question.setting, settings);
        ASSERT_FALSE(question.answer.empty());
        ASSERT_LT(question.at, static_cast<int64_t>(document.ids.size()));
        if (!answers_are_hidden) continue;
        ASSERT_EQ(question.answer.size(), 1U);
        for (auto t = static_cast<size_t>(question.at); t < document.ids.size(); ++t)
          ASSERT_NE(document.ids[t], question.answer[0])
              << "the answer to position " << question.at << " stands at " << t;
      }
    }
  EXPECT_EQ(Texts(train), Texts(Trained(task, 1, 5)));
  EXPECT_NE(Texts(train), Texts(Trained(task, 2, 5)));
  EXPECT_EQ(Texts(test), Texts(task.Test()));
  const std::set<Ids> trained = Texts(Trained(task, 1, 50)), tuned = Texts(tuning);
  for (const TaskDocument& document : test) {
    EXPECT_FALSE(trained.contains(document.ids));
    EXPECT_FALSE(tuned.contains(document.ids));
  }
}

// Every setting is asked often enough for the sizes that experiments take.
void ExpectAThousandQuestions(const Task& task) {
  std::vector<int64_t> asked(task.settings().size());
  for (const TaskDocument& document : task.Test())
    for (const Question& question : document.questions)
      if (question.setting >= 0) ++asked[static_cast<size_t>(question.setting)];
  for (size_t s = 0; s < asked.size(); ++s) EXPECT_GE(asked[s], 1000) << task.settings()[s];
}

// Shares of right answers by setting of a guess(document, question, rng).
template <class Guess>
std::vector<double> Guessed(const Task& task, const Guess& guess) {
  std::vector<double> right(task.settings().size()), asked(task.settings().size());
  Rng rng(7);
  for (const TaskDocument& document : task.Test())
    for (const Question& question : document.questions) {
      if (question.setting < 0) continue;
      asked[static_cast<size_t>(question.setting)] += 1;
      right[static_cast<size_t>(question.setting)] += guess(document, question, rng) == question.answer ? 1 : 0;
    }
  for (size_t s = 0; s < right.size(); ++s) right[s] /= asked[s];
  return right;
}

// Within four standard errors of a thousand draws or more: a false alarm in 15,000.
void ExpectNear(const std::vector<double>& got, const std::vector<double>& want, double draws) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], want[i], 4 * std::sqrt(want[i] * (1 - want[i]) / draws) + 1e-12) << i;
}

// ---- chaining ----

// The facts of a document, read from its tokens.
std::map<int32_t, int32_t> Links(const TaskDocument& document) {
  constexpr int32_t kFollows = 0, kAsk = 2;
  std::map<int32_t, int32_t> links;
  for (size_t i = 0; i + 3 < document.ids.size() && document.ids[i] != kAsk; i += 4) {
    EXPECT_EQ(document.ids[i + 1], kFollows);
    EXPECT_TRUE(links.emplace(document.ids[i], document.ids[i + 2]).second);
  }
  return links;
}

TEST(Chaining, AnswersAreTheEndsOfChains) {
  const auto task = MakeChaining({.test_documents = 20});
  ExpectSound(*task, false);
  for (const auto& documents : {task->Test(), Trained(*task, 3, 10)})
    for (const TaskDocument& document : documents) {
      const std::map<int32_t, int32_t> links = Links(document);
      ASSERT_EQ(document.questions.size(), 4U);
      std::set<int32_t> starts;
      for (const Question& question : document.questions) {
        int32_t at = document.ids[static_cast<size_t>(question.at)];
        starts.insert(at);
        int steps = 0;
        for (; links.contains(at); ++steps) at = links.at(at);
        EXPECT_EQ(question.answer, Ids{at});
        EXPECT_EQ(steps, question.setting + 1);
        // Not behind the facts, where the questions are.
        for (size_t t = links.size() * 4; t < document.ids.size(); ++t) EXPECT_NE(document.ids[t], at);
      }
      EXPECT_EQ(starts.size(), 4U);
    }
}

TEST(Chaining, TrainsOnShortChainsOnly) {
  const auto task = MakeChaining({});
  std::map<int, int> count;
  for (const TaskDocument& document : Trained(*task, 1, 50)) ++count[document.questions[0].setting + 1];
  EXPECT_EQ(count.size(), 4U);
  EXPECT_EQ(count.begin()->first, 1);
  for (const auto& [k, n] : count) EXPECT_GT(n, 100) << k;
}

TEST(Chaining, SolversReachWhatTheySay) {
  const auto task = MakeChaining({});
  ExpectAThousandQuestions(*task);
  const auto solvers = task->solvers();
  const auto pick = [](const std::set<int32_t>& from, Rng& rng) {
    return Ids{*std::next(from.begin(), static_cast<std::ptrdiff_t>(rng.Below(from.size())))};
  };
  ExpectNear(Guessed(*task,
                     [&](const TaskDocument& document, const Question&, Rng& rng) {
                       std::set<int32_t> all;
                       for (const auto& [a, b] : Links(document)) all.insert({a, b});
                       return pick(all, rng);
                     }),
             solvers[0].share, 2000);
  ExpectNear(Guessed(*task,
                     [&](const TaskDocument& document, const Question&, Rng& rng) {
                       const auto links = Links(document);
                       std::set<int32_t> ends;
                       for (const auto& [a, b] : links)
                         if (!links.contains(b)) ends.insert(b);
                       EXPECT_EQ(ends.size(), 4U);
                       return pick(ends, rng);
                     }),
             solvers[1].share, 2000);
}

// ---- recall ----

TEST(Recall, AnswersStandBehindTheirKeys) {
  const RecallOptions options;
  const auto task = MakeRecall(options);
  ExpectSound(*task, true);
  ExpectAThousandQuestions(*task);
  EXPECT_EQ(task->settings(), (std::vector<std::string>{"64", "128", "256", "512", "1024", "2048"}));
  for (const auto& documents : {task->Test(), Trained(*task, 3, 10)})
    for (const TaskDocument& document : documents) {
      ASSERT_EQ(document.questions.size(), 16U);
      EXPECT_EQ(document.ids.size() % 16, 0U);
      std::set<int64_t> chunks;
      for (const Question& question : document.questions) {
        const int32_t key = document.ids[static_cast<size_t>(question.at)];
        int64_t found = -1;
        for (int64_t t = 0; t < static_cast<int64_t>(document.ids.size()) - 32; ++t)
          if (document.ids[static_cast<size_t>(t)] == key) {
            EXPECT_EQ(found, -1) << "a key is there once";
            found = t;
          }
        ASSERT_GE(found, 0);
        EXPECT_EQ(found, question.about);
        EXPECT_EQ(question.answer, Ids{document.ids[static_cast<size_t>(found) + 1]});
        EXPECT_EQ(found / 16, (found + 1) / 16) << "a pair lies in one chunk";
        EXPECT_TRUE(chunks.insert(found / 16).second) << "at most one to a chunk";
      }
    }
}

TEST(Recall, SettingsAreDistances) {
  const auto task = MakeRecall({});
  const auto names = task->settings();
  for (const TaskDocument& document : task->Test())
    for (const Question& question : document.questions) {
      if (question.setting < 0) continue;
      const int64_t d = std::stoll(names[static_cast<size_t>(question.setting)]),
                    distance = question.at - question.about;
      EXPECT_GT(2 * distance, d);
      EXPECT_LE(distance, d);
    }
  for (const TaskDocument& document : Trained(*task, 1, 30)) EXPECT_LE(document.ids.size(), 512U);
}

TEST(Recall, SolversReachWhatTheySay) {
  const auto task = MakeRecall({});
  const auto solvers = task->solvers();
  ExpectNear(Guessed(*task, [](const TaskDocument&, const Question&,
                               Rng& rng) { return Ids{static_cast<int32_t>(1024 + 256 + rng.Below(256))}; }),
             solvers[0].share, 1000);
  ExpectNear(Guessed(*task,
                     [](const TaskDocument& document, const Question&, Rng& rng) {
                       return document.questions[static_cast<size_t>(rng.Below(document.questions.size()))].answer;
                     }),
             solvers[1].share, 1000);
}

// ---- facts ----

// "subject, relation" of a statement without its object, and the template.
struct Statement {
  Ids subject;
  int32_t relation = 0, pattern = 0;
};
Statement ReadStatement(const int32_t* ids) {
  constexpr int32_t kFirstWord = 256 + 512;
  Statement s;
  for (int32_t i = 0; i < 4; ++i) {
    if (ids[i] < kFirstWord) {
      s.subject.push_back(ids[i]);
      continue;
    }
    s.relation = (ids[i] - kFirstWord) / 4;
    s.pattern = (ids[i] - kFirstWord) % 4;
    EXPECT_EQ(s.pattern, i) << "the word's place is the template's";
  }
  EXPECT_EQ(s.subject.size(), 3U);
  return s;
}
using FactKey = std::pair<Ids, int32_t>;

TEST(Facts, HaveOneObjectEachAndATemplateThatIsNeverTrained) {
  const FactsOptions options{.subjects = 40, .test_documents = 400, .new_subjects = 5};
  const auto task = MakeFacts(options);
  ExpectSound(*task, false);
  std::map<FactKey, int32_t> object;
  std::map<FactKey, std::set<int32_t>> patterns;
  // 320 facts in 3 templates each are 960 statements: 3.75 steps a pass.
  for (const TaskDocument& document : Trained(*task, 1, 40)) {
    ASSERT_EQ(document.ids.size(), 80U);
    ASSERT_EQ(document.questions.size(), 16U);
    for (size_t i = 0; i < 16; ++i) {
      const Statement s = ReadStatement(document.ids.data() + 5 * i);
      const int32_t said = document.ids[5 * i + 4];
      EXPECT_EQ(object.emplace(FactKey{s.subject, s.relation}, said).first->second, said);
      EXPECT_EQ(document.questions[i].answer, Ids{said});
      EXPECT_EQ(document.questions[i].at, static_cast<int64_t>(5 * i + 3));
      patterns[{s.subject, s.relation}].insert(s.pattern);
    }
  }
  EXPECT_EQ(object.size(), 320U);
  for (const auto& [fact, seen] : patterns) EXPECT_EQ(seen.size(), 3U);
  int asked[2] = {0, 0};
  for (const auto& documents : {task->Test(), task->Tuning()})
    for (const TaskDocument& document : documents) {
      ASSERT_EQ(document.ids.size(), 79U) << "the object that is asked is left out";
      ASSERT_EQ(document.questions.size(), 1U);
      const Question& question = document.questions[0];
      const Statement s = ReadStatement(document.ids.data() + 75);
      const FactKey key{s.subject, s.relation};
      EXPECT_EQ(question.answer, Ids{object.at(key)});
      EXPECT_EQ(patterns.at(key).contains(s.pattern), question.setting == 0);
      ++asked[question.setting];
      for (size_t i = 0; i < 15; ++i) {
        const Statement other = ReadStatement(document.ids.data() + 5 * i);
        EXPECT_NE((FactKey{other.subject, other.relation}), key) << "nothing in the document tells it";
        EXPECT_TRUE(patterns.at({other.subject, other.relation}).contains(other.pattern));
      }
    }
  EXPECT_EQ(asked[0], 500);
  EXPECT_EQ(asked[1], 500);
}

TEST(Facts, NewOnesAreOfSubjectsThatNoDocumentHas) {
  const auto task = MakeFacts({.subjects = 40, .new_subjects = 5});
  std::set<Ids> known;
  for (const TaskDocument& document : Trained(*task, 1, 40))
    for (size_t i = 0; i < 16; ++i) known.insert(ReadStatement(document.ids.data() + 5 * i).subject);
  EXPECT_EQ(known.size(), 40U);
  std::map<int64_t, std::set<int32_t>> taught, held;
  for (const bool held_out : {false, true})
    for (const FactsTask::Asked& one : task->NewFacts(held_out)) {
      const Statement s = ReadStatement(one.ids.data());
      EXPECT_FALSE(known.contains(s.subject));
      EXPECT_TRUE((held_out ? held : taught)[one.fact].insert(s.pattern).second);
      EXPECT_GE(one.object, 256);
      EXPECT_LT(one.object, 256 + 512);
    }
  EXPECT_EQ(taught.size(), 40U);
  for (const auto& [fact, patterns] : taught) {
    EXPECT_EQ(patterns.size(), 3U);
    EXPECT_EQ(held.at(fact).size(), 1U);
    EXPECT_FALSE(patterns.contains(*held.at(fact).begin()));
  }
}

TEST(Facts, SolversReachWhatTheySay) {
  const auto task = MakeFacts({});
  ExpectAThousandQuestions(*task);
  ExpectNear(Guessed(*task, [](const TaskDocument&, const Question&,
                               Rng& rng) { return Ids{static_cast<int32_t>(256 + rng.Below(512))}; }),
             task->solvers()[0].share, 2000);
  std::map<int32_t, int> count;
  for (const TaskDocument& document : task->Test()) ++count[document.questions[0].answer[0]];
  int32_t common = 0;
  for (const auto& [id, n] : count)
    if (n > count[common]) common = id;
  const auto most = Guessed(*task, [&](const TaskDocument&, const Question&, Rng&) { return Ids{common}; });
  const std::vector<double> chance = task->solvers()[1].share;
  ASSERT_EQ(most.size(), chance.size());
  for (size_t i = 0; i < most.size(); ++i) EXPECT_LT(most[i], 3 * chance[i]);
  EXPECT_LT(*std::ranges::max_element(chance), 0.005) << "no object is so common that it would be an answer by itself";
}

// ---- arithmetic ----

struct Read {
  int64_t a = 0, b = 0, result = 0;
  int op = 0;
};
Read ReadProblem(const TaskDocument& document, const Question& question) {
  Read r;
  for (const int32_t id : question.answer)
    if (id < 10) r.result = 10 * r.result + id;
  int64_t t = question.at - 1, place = 1;
  for (; document.ids[static_cast<size_t>(t)] < 10; --t, place *= 10)
    r.b += place * document.ids[static_cast<size_t>(t)];
  r.op = document.ids[static_cast<size_t>(t)] - 10;
  place = 1;
  for (--t; t >= 0 && document.ids[static_cast<size_t>(t)] < 10; --t, place *= 10)
    r.a += place * document.ids[static_cast<size_t>(t)];
  return r;
}

TEST(Arithmetic, AnswersAreRightAndPairsAreSplit) {
  const auto task = MakeArithmetic({});
  ExpectSound(*task, false);
  ExpectAThousandQuestions(*task);
  std::set<std::pair<int64_t, int64_t>> trained, asked;
  int ops[3] = {0, 0, 0}, longer = 0;
  const auto check = [&](const TaskDocument& document, const Question& question, auto* pairs) {
    const Read r = ReadProblem(document, question);
    ASSERT_LE(std::max(r.a, r.b), 100);
    EXPECT_EQ(r.result, r.op == 0   ? r.a + r.b
                        : r.op == 1 ? r.a - r.b
                                    : r.a * r.b)
        << r.a << " op " << r.op << " " << r.b;
    EXPECT_EQ(question.answer.back(), 14);
    if (r.op == 1) {
      EXPECT_GE(r.a, r.b);
    }
    ++ops[r.op];
    longer += r.a > r.b ? 1 : 0;
    pairs->insert(std::minmax(r.a, r.b));
  };
  for (const TaskDocument& document : Trained(*task, 1, 200)) {
    EXPECT_LE(document.ids.size(), 80U);
    EXPECT_GE(document.questions.size(), 4U);
    for (const Question& question : document.questions) check(document, question, &trained);
  }
  for (const auto& documents : {task->Test(), task->Tuning()})
    for (const TaskDocument& document : documents) {
      ASSERT_EQ(document.questions.size(), 1U);
      EXPECT_EQ(document.ids.size() - static_cast<size_t>(document.questions[0].at),
                document.questions[0].answer.size())
          << "the last token of the answer is left out";
      check(document, document.questions[0], &asked);
    }
  for (const int n : ops) EXPECT_GT(n, 1000);
  EXPECT_GT(longer, 1000);
  // Of 5,151 unordered pairs a fifth is held out; the draws meet nearly all of both.
  EXPECT_NEAR(static_cast<double>(trained.size()), 0.8 * 5151, 150);
  EXPECT_NEAR(static_cast<double>(asked.size()), 0.2 * 5151, 150);
  for (const auto& pair : asked) EXPECT_FALSE(trained.contains(pair)) << pair.first << " " << pair.second;
}

TEST(Arithmetic, TheMostCommonAnswerIsRightAsOftenAsTheSolverSays) {
  const auto task = MakeArithmetic({.test_documents = 4000});
  std::vector<std::map<Ids, int>> count(3);
  for (const TaskDocument& document : task->Test())
    ++count[static_cast<size_t>(document.questions[0].setting)][document.questions[0].answer];
  const auto shares = task->solvers()[0].share;
  for (size_t op = 0; op < 3; ++op) {
    int most = 0;
    for (const auto& [answer, n] : count[op]) most = std::max(most, n);
    // The largest of many counts lies above its mean.
    EXPECT_NEAR(most / 4000.0, shares[op], 6 * std::sqrt(shares[op] / 4000)) << op;
    EXPECT_LT(shares[op], 0.05);
  }
}

// ---- languages ----

TEST(Languages, HaveDisjointSuccessors) {
  const LanguagesOptions options{.documents = 16, .test_documents = 16};
  const auto task = MakeLanguages(options);
  ExpectSound(*task, false);
  std::map<std::pair<int32_t, int32_t>, std::map<int32_t, int>> of;  // context, id -> language
  std::vector<std::vector<double>> single(4, std::vector<double>(32)), twice(4, std::vector<double>(32 * 32));
  std::vector<double> tokens(4);
  for (const TaskDocument& document : Trained(*task, 1, 100)) {
    ASSERT_EQ(document.ids.size(), 256U);
    ASSERT_GE(document.label, 0);
    ASSERT_LT(document.label, 4);
    EXPECT_TRUE(document.questions.empty());
    const auto language = static_cast<size_t>(document.label);
    for (size_t t = 2; t < document.ids.size(); ++t) {
      tokens[language] += 1;
      single[language][static_cast<size_t>(document.ids[t])] += 1;
      twice[language][static_cast<size_t>(document.ids[t - 1] * 32 + document.ids[t])] += 1;
      const auto [found, is_new] =
          of[{document.ids[t - 2], document.ids[t - 1]}].emplace(document.ids[t], document.label);
      EXPECT_EQ(found->second, document.label) << "an id follows in one language only";
    }
  }
  // In each language all ids are as common, and all that stand side by side: they do not tell it. About 100,000 tokens
  // a language; neighbours in a chain are not independent, so the bounds are a few deviations wide.
  for (size_t language = 0; language < 4; ++language) {
    EXPECT_GT(tokens[language], 50000);
    for (const double n : single[language]) EXPECT_NEAR(n / tokens[language] * 32, 1, 0.15);
    for (const double n : twice[language]) EXPECT_NEAR(n / tokens[language] * 1024, 1, 0.8);
  }
  for (const auto& [context, ids] : of) EXPECT_LE(ids.size(), 32U);
}

TEST(Languages, TheirEntropyIsThatOfTheDraws) {
  const auto task = MakeLanguages({});
  // Halves: 1/2, 1/4, .., 1/64, 1/128, 1/128.
  double entropy = 0;
  for (const double p : {0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.0078125}) entropy -= p * std::log(p);
  EXPECT_NEAR(task->entropy(), entropy, 1e-12);
  // How often the most common successor of a context comes.
  std::map<std::pair<int32_t, int32_t>, std::map<int32_t, int>> seen[4];
  for (int64_t step = 0; step < 400; ++step)
    for (const TaskDocument& document : task->TrainStep(1, step))
      for (size_t t = 2; t < document.ids.size(); ++t)
        ++seen[document.label][{document.ids[t - 2], document.ids[t - 1]}][document.ids[t]];
  double first = 0, all = 0;
  for (const auto& language : seen)
    for (const auto& [context, ids] : language) {
      EXPECT_LE(ids.size(), 8U);
      int most = 0, sum = 0;
      for (const auto& [id, n] : ids) most = std::max(most, n), sum += n;
      if (sum < 100) continue;
      first += most;
      all += sum;
    }
  EXPECT_NEAR(first / all, task->solvers()[1].share[0], 0.01);
}

}  // namespace
}  // namespace hydra::eval
