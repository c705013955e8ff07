// SPDX-License-Identifier: Apache-2.0
// Rows of `hydralm bench --spec`.
#include "hydra/cli/verb_bench_speculation.h"

#include <fmt/format.h>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/io/file.h"
#include "hydra/runtime/speed.h"

namespace hydra::cli {
namespace {

std::vector<int32_t> PromptOf(const std::string& file, int64_t tokens, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  if (file.empty()) {
    Rng rng(1);
    while (static_cast<int64_t>(ids.size()) < tokens)
      ids.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(tokenizer.vocab_size()))));
    return ids;
  }
  ids = tokenizer.Encode(ReadText(file), {.add_special = true});
  if (static_cast<int64_t>(ids.size()) < tokens)
    throw Error(ErrorCode::kUsage,
                fmt::format("--spec-text {}: it has {} tokens: -p wants {}", file, ids.size(), tokens));
  ids.resize(static_cast<size_t>(tokens));
  return ids;
}

struct Measured {
  int64_t prompt, generated;
  std::vector<double> plain, guessed;  // tokens a second of each repetition
  Json speculation;
  std::string about;
};

Measured Measure(const SpeculationTest& test, int64_t prompt, int64_t tokens, const SpeculationFlags& flags,
                 const ModelFlags& model_flags, const Runner& runner, const Tokenizer& tokenizer) {
  const std::vector<int32_t> ids = PromptOf(test.text, prompt, tokenizer);
  const auto draft = OpenDraftModel(flags, model_flags, runner.model, tokenizer, *runner.pool);
  ForwardScratch scratch;
  Measured out{.prompt = prompt, .generated = tokens, .plain = {}, .guessed = {}, .speculation = {}, .about = {}};
  const auto time = [&](Speculation* speculation) {
    return TimeDecode(runner.model, ids, tokens, tokenizer.vocab_size(), speculation, *runner.pool, scratch);
  };
  (void)time(nullptr);  // warms up
  for (int64_t i = 0; i < test.repeats && !StopRequested(); ++i) {
    // A new one each time: what the last repetition learnt is not for this one.
    const auto speculation = MakeSpeculation(flags, runner.model, draft.get(), *runner.pool, scratch);
    const DecodeTime plain = time(nullptr), guessed = time(speculation.get());
    if (plain.ids != guessed.ids)
      throw Error(ErrorCode::kUsage, "bench --spec: the tokens differ from those of plain decoding: this is a fault");
    const auto rate = [&](const DecodeTime& one) { return static_cast<double>(tokens) / one.seconds; };
    out.plain.push_back(rate(plain));
    out.guessed.push_back(rate(guessed));
    out.speculation = SpeculationJson(*speculation);
    out.about = SpeculationText(*speculation);
  }
  return out;
}

}  // namespace

void RunSpeculationTests(const SpeculationTest& test, const SpeculationFlags& flags, const ModelFlags& model_flags,
                         const Runner& runner, RowFormat format) {
  const Tokenizer tokenizer = LoadTokenizerOf(runner.model, model_flags);
  const bool json = format == RowFormat::kJson || format == RowFormat::kJsonLines;
  Json rows = Json::array();
  for (const int64_t prompt : test.prompts)
    for (const int64_t tokens : test.generates) {
      if (prompt == 0 || tokens == 0 || StopRequested()) continue;
      const Measured made = Measure(test, prompt, tokens, flags, model_flags, runner, tokenizer);
      if (made.plain.empty()) continue;
      const Summary plain = Summarise(made.plain), guessed = Summarise(made.guessed);
      if (!json && rows.empty())
        fmt::print(
            "| test | plain t/s | with guesses t/s | ratio | what came of them |\n| --- | ---: | ---: | ---: | --- "
            "|\n");
      rows.push_back({{"model", ModelName(runner.model.path())},
                      {"text", test.text},
                      {"p", prompt},
                      {"n", tokens},
                      {"plain_tok_per_s", made.plain},
                      {"tok_per_s", made.guessed},
                      {"ratio", guessed.median / plain.median},
                      {"speculation", made.speculation}});
      if (format == RowFormat::kJsonLines) fmt::print("{}\n", DumpJson(rows.back()));
      if (!json)
        fmt::print("| tg{} after {} | {:.2f} ({:.2f} .. {:.2f}) | {:.2f} ({:.2f} .. {:.2f}) | {:.3f} | {} |\n", tokens,
                   prompt, plain.median, plain.min, plain.max, guessed.median, guessed.min, guessed.max,
                   guessed.median / plain.median, made.about);
      std::fflush(stdout);
    }
  if (format == RowFormat::kJson) fmt::print("{}\n", rows.dump(1));
}

}  // namespace hydra::cli
