// SPDX-License-Identifier: Apache-2.0
// The experiments behind what Hydra claims (specs/hydra.md 12), cut into cells: what each is, runs one, reads what is
// done and judges it. Silent. Not here: files, processes, which cell runs when (cli/torch_evidence.cc).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hydra/eval/report.h"
#include "hydra/io/json.h"
#include "hydra/model/config.h"
#include "hydra/train/device.h"

namespace hydra::eval {

// Nano runs on a CPU in hours, 29m wants a GPU; smoke is for tests of the machinery and says nothing about models.
enum class EvidenceSize { kSmoke, kNano, k29M };
[[nodiscard]] const char* SizeName(EvidenceSize size);
[[nodiscard]] EvidenceSize ParseSize(const std::string& name);

struct EvidencePlan {
  EvidenceSize size = EvidenceSize::kNano;
  std::vector<int64_t> seeds = {1, 2, 3};
};

// One run of one model, or a comparison of times. Its name is a file's.
struct Cell {
  std::string name;
  Json settings;                   // all that decides its result: a cell that was made with others is made anew
  std::vector<std::string> needs;  // cells whose results it reads
  double flops = 0;                // that it computes, about
  double seconds = 0;              // that it takes besides, about
  bool alone = false;              // it takes times: nothing may run beside it
};

// What finished cells gave, by name.
using CellResults = std::map<std::string, Json>;

// What `hydralm bench` gave.
struct BenchResult {
  Json rows;
  int64_t peak_bytes = 0;   // resident
  double others_share = 0;  // of the processors' time that other processes took meanwhile
};

// What a cell may use while it runs.
struct CellContext {
  std::string folder;  // of its own, for checkpoints; the same when it goes on
  std::string models;  // a folder for models that are timed, shared by all cells
  int threads = 1;
  train::Device device = {};
  CellResults results;                     // of what it needs
  const std::atomic<int>* stop = nullptr;  // not 0: keep a checkpoint, then check() throws
  std::function<void()> check = [] {};     // throws where a stop was asked for
  std::function<void(int64_t done, int64_t of)> progress = [](int64_t, int64_t) {};
  std::function<BenchResult(const std::vector<std::string>& flags)> bench = {};  // `hydralm bench FLAGS -o json`
};

class Experiment {
 public:
  virtual ~Experiment() = default;
  [[nodiscard]] virtual std::string name() const = 0;   // "chaining": what users type
  [[nodiscard]] virtual std::string title() const = 0;  // "12.2 Following links"
  // In the order in which they are best run; a cell comes after those that it needs.
  [[nodiscard]] virtual std::vector<Cell> Cells(const EvidencePlan& plan) const = 0;
  [[nodiscard]] virtual Json Run(const EvidencePlan& plan, const Cell& cell, CellContext& context) const = 0;
  [[nodiscard]] virtual ReportSection Report(const EvidencePlan& plan, const CellResults& results) const = 0;
};

// All, in the order in which they are best run.
[[nodiscard]] std::vector<std::unique_ptr<Experiment>> Experiments();
[[nodiscard]] std::unique_ptr<Experiment> MakeChainingExperiment();
[[nodiscard]] std::unique_ptr<Experiment> MakeRecallExperiment();
[[nodiscard]] std::unique_ptr<Experiment> MakeFactsExperiment();
[[nodiscard]] std::unique_ptr<Experiment> MakeExpertsExperiment();
[[nodiscard]] std::unique_ptr<Experiment> MakeRoutingExperiment();
[[nodiscard]] std::unique_ptr<Experiment> MakeThroughputExperiment();

// A model by the name that cells and tables have for it: "hydra" and its controls of equal total and equal active size,
// and hydra with parts taken out or replaced. Throws kUsage for an unknown one.
//   hydra transformer transformer-active mamba2
//   hydra-no-workspace hydra-no-pkm hydra-no-sga hydra-no-moe hydra-no-memories
//   hydra-pkm-dense    the product keys replaced by a dense SwiGLU of as many parameters in the next block without ffn
//   hydra-moe-active   each MoE a dense SwiGLU of width k F; hydra-moe-total: of width E F
//   hydra-balance-X    coefficient X of the balance loss; hydra-round-robin: routing that reads nothing
//   hydra-top-K        K experts a chunk
[[nodiscard]] ModelConfig EvidenceModel(const std::string& name, EvidenceSize size);

[[nodiscard]] Json ToJson(const Share& share);
// Throws kFormat naming `where`.
[[nodiscard]] Share ParseShare(const Json& json, const std::string& where);

}  // namespace hydra::eval
