// SPDX-License-Identifier: Apache-2.0
// Writes many texts at once with one model: a thread of its own runs passes in which the next token of each text that
// is being written and pieces of prompts that are being read go together. Greedy texts are those that each would have
// alone. Not here: one text (running_text.h), where prompts begin (prefix_cache.h), HTTP (server.h).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "hydra/runtime/model.h"
#include "hydra/runtime/speculation.h"
#include "hydra/serve/chunk_rule.h"
#include "hydra/serve/job.h"
#include "hydra/serve/metrics.h"
#include "hydra/serve/prefix_cache.h"
#include "hydra/serve/running_text.h"
#include "hydra/text/tokenizer.h"

namespace hydra::serve {

struct EngineOptions {
  int slots = 4;                           // texts at once
  int64_t queue = 64;                      // jobs that wait for a slot; one more is refused
  int64_t cache_bytes = int64_t{1} << 30;  // of the prefix cache; 0: off
  int64_t snapshot_every = 1024;           // tokens between snapshots of states that cannot go back
  // The plan of a sequence that is to have so many tokens; none: what the config says.
  std::function<KvPlan(int64_t)> plan{};
  // Makes what guesses tokens for one text; none: plain steps.
  std::function<std::unique_ptr<Speculation>(ForwardScratch&)> speculation{};
  // Called before each pass with the number of texts in it; what it throws counts as thrown by the pass.
  std::function<void(size_t)> on_pass{};
};

// Why a job is not taken.
class JobRefused : public std::exception {
 public:
  enum class Why { kQueueFull, kShuttingDown, kEngineFailed };
  explicit JobRefused(Why why) : why_(why) {}
  [[nodiscard]] Why why() const { return why_; }
  [[nodiscard]] const char* what() const noexcept override;

 private:
  Why why_;
};

// A slot, as /slots shows it.
struct SlotView {
  enum class State { kIdle, kReading, kWriting };
  State state = State::kIdle;
  int64_t prompt_tokens = 0, read_tokens = 0, new_tokens = 0, cached_tokens = 0;
  double seconds = 0;  // since it took its text
  bool speculating = false;
};

// Thread-safe. Model, tokenizer, pool and metrics must outlive it; nobody else may use the pool.
class Engine {
 public:
  Engine(const Model& model, const Tokenizer& tokenizer, ThreadPool& pool, Metrics& metrics, EngineOptions options);
  ~Engine();  // Stop(0)
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Throws JobRefused.
  [[nodiscard]] std::shared_ptr<Job> Submit(std::vector<TextRequest> texts);
  // Takes no more jobs, lets those that it has end within `seconds`, cancels the others and returns.
  void Stop(double seconds);
  // Nothing runs and nothing waits.
  [[nodiscard]] bool Idle() const;
  // Why the engine has ended by itself; "" while it has not.
  [[nodiscard]] std::string failure() const;
  [[nodiscard]] std::vector<SlotView> slots() const;
  [[nodiscard]] const EngineOptions& options() const { return options_; }
  // Bytes of a cache that can hold one sequence of some use; less cannot hit.
  [[nodiscard]] static int64_t LeastCacheBytes(const Model& model);

 private:
  struct Waiting {
    std::shared_ptr<Job> job;
    int text;
  };

  void Loop();
  // ---- Between passes ----
  void DropCancelled();
  void Admit();
  [[nodiscard]] std::optional<Waiting> NextWaiting();
  void Begin(size_t slot, const Waiting& waiting);
  [[nodiscard]] RunningText::Start FindStart(TextRequest& request, const Job& job, size_t texts);
  // A sequence that has a beginning of the prompt, `prompt_pos` tokens of it; null: there is none.
  [[nodiscard]] std::unique_ptr<CachedSequence> FindPrefix(const TextRequest& request, const Job& job,
                                                           const std::string& kind, int64_t* prompt_pos);
  // Ends what was cancelled, has no room, or waits for its client; then frees the slots of ended texts.
  void Sweep();
  void Free(size_t slot);
  void Publish();
  // Of all that run, or of one job.
  [[nodiscard]] std::vector<CachedSequence*> Running(const Job* of = nullptr) const;
  // ---- A pass ----
  void Pass();
  [[nodiscard]] std::vector<RunningText*> Writing() const;
  [[nodiscard]] std::vector<RunningText*> Reading() const;
  // Which tokens of prompts go into a pass beside so many steps.
  [[nodiscard]] std::vector<Segment> Pieces(std::vector<RunningText*>* reading, int64_t tokens);
  void RunPass(std::vector<RunningText*> writing, std::vector<RunningText*> reading);
  void PassFailed(std::span<RunningText* const> texts, const std::string& why);
  void CountPass(const PassBytes& moved, std::span<RunningText* const> writing);
  // What f throws ends that text alone.
  template <class F>
  void Guarded(RunningText& text, F&& f) {
    try {
      f();
    } catch (const std::exception& error) {
      TextFailed(text, error);
    }
  }
  void TextFailed(RunningText& text, const std::exception& error);
  void Die(const std::string& why);

  const Model& model_;
  const Tokenizer& tokenizer_;
  ThreadPool& pool_;
  Metrics& metrics_;
  const EngineOptions options_;
  ForwardScratch scratch_;
  Trace trace_;
  PrefixCache cache_;
  ChunkRule chunks_;
  std::vector<std::unique_ptr<RunningText>> slots_;
  uint64_t passes_ = 0;

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable work_, idle_;
  std::deque<Waiting> waiting_;
  std::vector<SlotView> views_;
  int busy_ = 0;
  bool stopping_ = false, ended_ = false;
  std::string failure_;

  std::thread thread_;  // last: it uses all of them
};

}  // namespace hydra::serve
