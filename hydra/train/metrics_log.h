// SPDX-License-Identifier: Apache-2.0
// The numbers of a run as {train,val}.{jsonl,csv} and TensorBoard event files in the run's folder. Torch-free.
// Not here: which series there are (trainer), text logs, plots. Bytes: docs/formats.md.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hydra/io/file.h"
#include "hydra/io/json.h"

namespace hydra::train {

struct MetricsRow {
  int64_t step = 0;
  int64_t tokens = 0;                    // trained on so far
  double seconds = 0;                    // of training so far, earlier sessions included
  double flops = 0;                      // so far
  std::map<std::string, double> values;  // series name ("train/loss") to value; no quotes, commas, control characters
};

enum class MetricsSplit { kTrain, kVal };

// Appends rows; each is written by one write() per file, so a killed process leaves whole lines and whole records, or
// one torn line at the end that the next opening cuts. Not thread-safe; one writer a folder (rank 0).
//
// CSV columns are step, tokens, seconds, flops, then the series in the order of first appearance. A row that lacks a
// series leaves its cell empty; a new series is appended as a last column, for which the file is rewritten
// (atomically). Non-finite values are null in JSONL, nan, inf, -inf in CSV, and themselves in TensorBoard.
class MetricsLog {
 public:
  struct Options {
    bool tensorboard = true;
    std::function<double()> clock;  // seconds since 1970 for TensorBoard; empty: the system's
  };

  // Opens or continues the files of a folder that exists. Throws kIo, and kFormat where a file of such a name is not a
  // run's: then nothing was changed.
  explicit MetricsLog(const std::string& folder);
  MetricsLog(const std::string& folder, Options options);
  ~MetricsLog();
  MetricsLog(MetricsLog&&) noexcept;
  MetricsLog& operator=(MetricsLog&&) noexcept;

  // Throws kIo (disk full...) with each file as before the failed write; the run may go on and try the next row. While
  // rows are held back it only remembers the row.
  void Row(MetricsSplit split, const MetricsRow& row);
  // Drops rows with a step above `step` from all files, earlier event files included: a resume at `step`.
  void CutAfter(int64_t step);
  // Bytes to disk; called with a checkpoint.
  void Sync();

  // For a run that goes back to an earlier checkpoint, at `step`: until Release() the files stay as they are, with the
  // rows that belong to the later checkpoints, and new rows are held in memory.
  void HoldAfter(int64_t step);
  // What is held back, for the checkpoint that is to stand before Release(): {"after": step, "rows": [["train", line of
  // train.jsonl], ..]}; null when nothing is held back.
  [[nodiscard]] Json Held() const;
  // Drops the rows after the step of HoldAfter and writes those held back. Throws kIo: then it may be called again.
  void Release();
  // For a resume from a checkpoint with `held` rows whose Release() may not have come to an end: does it again. Returns
  // the step of HoldAfter. Throws kIo, and kFormat or kConfig naming `where` and the field.
  int64_t Replay(const Json& held, const std::string& where);

 private:
  void Write(MetricsSplit split, const MetricsRow& row);

  struct Files;
  std::unique_ptr<Files> files_;
};

// The rows of a .jsonl file of a run; a torn last line is left out. Throws kIo, kFormat with file and line.
[[nodiscard]] std::vector<MetricsRow> ReadMetrics(const std::string& path);

}  // namespace hydra::train
