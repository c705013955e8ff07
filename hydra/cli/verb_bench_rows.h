// SPDX-License-Identifier: Apache-2.0
// Rows of `hydralm bench` as Markdown, CSV, a JSON list or JSON lines. Not here: measuring (runtime/speed.h).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "hydra/runtime/read_meter.h"
#include "hydra/runtime/speed.h"

namespace hydra::cli {

struct PerplexityOf {
  double value, error, loss;  // error of the value; nats a token
  int64_t chunks, chunk, tokens;
};

struct BenchRow {
  std::string model;
  int64_t params = 0, file_bytes = 0;
  int threads = 0;
  std::string target, kernels;         // SIMD level; "Q4_1 panels x int8"
  SpeedTest test{};                    // none: a row of perplexity alone
  std::vector<double> samples{};       // tokens a second of all sequences, of each repetition
  Summary rate{};                      // ... of them all
  PassBytes moved{};                   // in one repetition
  int64_t kv_bytes = 0;                // keys and values that all sequences hold room for
  nlohmann::ordered_json plan{};       // of --plan, for each of them; null: none
  ExpertUse experts{};                 // in one repetition; of models with BlockFFN layers
  double token_flops = 0;              // of a prompt's token
  std::optional<double> disk_bytes{};  // read from disk a token, in all repetitions; of --offload
  // The machine's limits, where they were measured: what all threads read of as many bytes as a pass reads, and what
  // the arithmetic of the main matrices can do.
  std::optional<double> read_bytes_per_s{}, peak_flops{};
  std::optional<Summary> compared{};  // the other engine
  std::optional<PerplexityOf> perplexity{};
  std::optional<PassProfile> profile{};  // of one more repetition
};

struct StreamRate {
  int threads;
  ReadRate read;
};

enum class RowFormat { kMarkdown, kCsv, kJson, kJsonLines };
[[nodiscard]] RowFormat ParseRowFormat(const std::string& name);

// "pp512 @ 0", "tg128 @ 8192 x4"
[[nodiscard]] std::string TestName(const SpeedTest& test);
// Tokens a second in another engine's output: llama-bench's "avg_ts", else the last number of the last line.
[[nodiscard]] std::optional<double> CompareRate(const std::string& output);

// Writes rows on stdout as they come; Finish() ends a list.
class RowWriter {
 public:
  explicit RowWriter(RowFormat format) : format_(format) {}
  void WriteStream(const std::vector<StreamRate>& rates);
  void Write(const BenchRow& row);
  void Finish();

 private:
  void WriteMarkdown(const BenchRow& row);
  // Keeps what is said of a row's profile for the end, where it does not break the table.
  void AddProfile(const BenchRow& row);
  [[nodiscard]] const char* Comment() const { return format_ == RowFormat::kCsv ? "# " : ""; }
  void WriteCsv(const BenchRow& row);
  void WriteJson(const nlohmann::ordered_json& object);

  RowFormat format_;
  int64_t rows_ = 0;
  std::string profiles_;
};

}  // namespace hydra::cli
