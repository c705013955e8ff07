// SPDX-License-Identifier: Apache-2.0
// What the parts of `hydralm evidence` share: its flags, where cells lie, what is known of them. Not here: the
// experiments (eval/evidence.h).
//
//   OUT/SIZE/cells/NAME.json           a finished cell: settings, result, seconds, and what made it
//   OUT/SIZE/{README.md,report.html}   the report; NAME.csv: raw rows; verdicts.json; plots/
//   WORK/SIZE/NAME-HASH/               a cell at work: checkpoints, log.txt; HASH is that of its settings
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hydra/cli/cli.h"
#include "hydra/eval/evidence.h"

namespace hydra::cli {

struct EvidenceFlags {
  std::vector<std::string> names;
  std::string out = "runs/evidence", work = "runs/evidence/work", size = "nano", device = "auto", only, cell;
  int64_t seeds = 3, jobs = 2, threads = 0;
  double minutes = 0;
  bool smoke = false, dry_run = false, page = false;
};

// A cell with its experiment, and what is on disk of it.
struct EvidenceCell {
  const eval::Experiment* experiment = nullptr;
  eval::Cell cell;
  Json file;  // of a finished one with these settings; null else
  [[nodiscard]] bool done() const { return !file.is_null(); }
};

class EvidenceFolder {
 public:
  explicit EvidenceFolder(const EvidenceFlags& flags);

  [[nodiscard]] const eval::EvidencePlan& plan() const { return plan_; }
  [[nodiscard]] const std::vector<std::unique_ptr<eval::Experiment>>& experiments() const { return experiments_; }
  // Of the experiments that were named, in the order in which they are best run: those that take times come last.
  [[nodiscard]] std::vector<EvidenceCell>& cells() { return cells_; }
  [[nodiscard]] EvidenceCell& Find(const std::string& name);
  [[nodiscard]] eval::CellResults Results() const;

  [[nodiscard]] const std::string& out() const { return out_; }
  [[nodiscard]] const std::string& work() const { return work_; }
  [[nodiscard]] std::string WorkFolder(const eval::Cell& cell) const;
  [[nodiscard]] std::string ResultPath(const eval::Cell& cell) const { return WorkFolder(cell) + "/result.json"; }
  // Takes what a cell left in its work folder, writes its file, and returns true; false where there is nothing whole.
  bool Publish(EvidenceCell& cell, const Json& about);

 private:
  eval::EvidencePlan plan_;
  std::string out_, work_;
  std::vector<std::unique_ptr<eval::Experiment>> experiments_;
  std::vector<EvidenceCell> cells_;
};

// Seconds that a cell takes, by what finished ones took.
class EvidenceEstimate {
 public:
  // `speed`: FLOP/s of matrix products of one thread.
  EvidenceEstimate(const std::vector<EvidenceCell>& cells, double speed);
  [[nodiscard]] double Seconds(const eval::Cell& cell) const;
  // Of all that are not done, `jobs` at a time but for those that take times.
  [[nodiscard]] double Left(const std::vector<EvidenceCell>& cells, int64_t jobs) const;

 private:
  std::map<std::string, double> rate_;  // FLOP/s by experiment; "" = of all
};

// Runs one cell in this process, as the command does with each: its result goes to its work folder.
int RunEvidenceCell(const EvidenceFlags& flags);
// Runs what is missing; the number of cells that failed.
int64_t RunEvidenceCells(const EvidenceFlags& flags, EvidenceFolder& folder, const EvidenceEstimate& estimate,
                         const CommonFlags& common);
// Writes the report of what is there; the sections' claims.
[[nodiscard]] std::vector<eval::Claim> WriteEvidenceReport(EvidenceFolder& folder, const CommonFlags& common);

}  // namespace hydra::cli
