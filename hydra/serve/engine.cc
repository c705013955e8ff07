// SPDX-License-Identifier: Apache-2.0
// Jobs in and out, slots, and what happens between two passes. Passes: engine_pass.cc.
#include "hydra/serve/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/serve/status.h"

namespace hydra::serve {
namespace {

constexpr double kClientWait = 0.005;  // seconds until a text whose client takes nothing is looked at again

// What makes sequences of the same tokens differ.
std::string KindOf(const Controls& controls, const MemoryOverlay* memory, const KvPlan& plan) {
  std::string kind = ControlsJson(controls);
  if (memory != nullptr) kind += "|" + memory->text();
  if (plan) kind += StrCat("|", plan.name, " at ", plan.length);
  return kind;
}

size_t JobsOf(const auto& waiting) {
  size_t jobs = 0;
  const Job* last = nullptr;
  for (const auto& each : waiting)
    if (each.job.get() != last) ++jobs, last = each.job.get();
  return jobs;
}

}  // namespace

const char* JobRefused::what() const noexcept {
  switch (why_) {
    case Why::kQueueFull: return "the queue is full";
    case Why::kShuttingDown: return "Shutting down";
    case Why::kEngineFailed: return "the engine has failed";
  }
  return "";
}

Engine::Engine(const Model& model, const Tokenizer& tokenizer, ThreadPool& pool, Metrics& metrics,
               EngineOptions options)
    : model_(model),
      tokenizer_(tokenizer),
      pool_(pool),
      metrics_(metrics),
      options_(std::move(options)),
      cache_(tokenizer, options_.cache_bytes),
      chunks_(options_.slots),
      slots_(static_cast<size_t>(options_.slots)),
      views_(slots_.size()) {
  if (options_.speculation) (void)options_.speculation(scratch_);  // it can, or says why not
  thread_ = std::thread([this] { Loop(); });
}

Engine::~Engine() { Stop(0); }

int64_t Engine::LeastCacheBytes(const Model& model) {
  constexpr int64_t kTokens = 256;  // a short conversation
  const SequenceState probe(model);
  const int64_t constant = probe.layout().constant_bytes;
  return probe.BytesAt(kTokens) + (constant > 0 ? 2 * probe.SnapshotBytes() : 0);
}

// ---- Jobs ----

std::shared_ptr<Job> Engine::Submit(std::vector<TextRequest> texts) {
  auto job = std::make_shared<Job>(std::move(texts));
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw JobRefused(JobRefused::Why::kEngineFailed);
    if (stopping_) throw JobRefused(JobRefused::Why::kShuttingDown);
    const bool none_waits = waiting_.empty() && busy_ < options_.slots;
    if (!none_waits && static_cast<int64_t>(JobsOf(waiting_)) >= options_.queue)
      throw JobRefused(JobRefused::Why::kQueueFull);
    for (size_t i = 0; i < job->texts().size(); ++i) waiting_.push_back({job, static_cast<int>(i)});
    metrics_.Set(Metrics::Level::kQueued, static_cast<double>(JobsOf(waiting_)));
  }
  work_.notify_one();
  return job;
}

void Engine::Stop(double seconds) {
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    work_.notify_one();
    const auto idle = [this] { return ended_ || (busy_ == 0 && waiting_.empty()); };
    idle_.wait_for(lock, std::chrono::duration<double>(seconds), idle);
    ended_ = true;
  }
  work_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool Engine::Idle() const {
  const std::lock_guard lock(mutex_);
  return busy_ == 0 && waiting_.empty();
}

std::string Engine::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

std::vector<SlotView> Engine::slots() const {
  const std::lock_guard lock(mutex_);
  return views_;
}

// ---- The thread ----

void Engine::Loop() {
  try {
    while (true) {
      {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [this] { return ended_ || busy_ > 0 || !waiting_.empty(); });
        if (ended_) break;
      }
      Admit();
      Sweep();
      Pass();
      Sweep();
      Publish();
    }
    Die("Shutting down");
  } catch (const std::exception& error) {
    {
      const std::lock_guard lock(mutex_);
      failure_ = error.what();
    }
    Die(error.what());
  }
}

// Ends all that runs and waits.
void Engine::Die(const std::string& why) {
  for (auto& slot : slots_) {
    if (!slot) continue;
    slot->Fail(kUnavailable, why);
    slot->Deliver();
    slot.reset();
  }
  std::deque<Waiting> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(waiting_);
    busy_ = 0;
    ended_ = true;
    views_.assign(slots_.size(), {});
  }
  for (const Waiting& each : waiting) {
    TextEnd end{.error_status = kUnavailable, .error = why};
    each.job->Give({.text = each.text, .end = end});
  }
  idle_.notify_all();
}

std::vector<CachedSequence*> Engine::Running(const Job* of) const {
  std::vector<CachedSequence*> running;
  for (const auto& slot : slots_)
    if (slot && (of == nullptr || &slot->job() == of)) running.push_back(&slot->sequence());
  return running;
}

// ---- Slots ----

void Engine::DropCancelled() {
  std::deque<Waiting> dropped;
  {
    const std::lock_guard lock(mutex_);
    const auto kept =
        std::stable_partition(waiting_.begin(), waiting_.end(), [](const Waiting& w) { return !w.job->cancelled(); });
    dropped.assign(kept, waiting_.end());
    waiting_.erase(kept, waiting_.end());
    if (busy_ == 0 && waiting_.empty()) idle_.notify_all();
  }
  for (const Waiting& each : dropped) {
    metrics_.Add(Metrics::Count::kCancelled);
    each.job->Give({.text = each.text, .end = TextEnd{.reason = FinishReason::kCancelled}});
  }
}

void Engine::Admit() {
  DropCancelled();
  for (size_t i = 0; i < slots_.size(); ++i)
    while (!slots_[i]) {  // one that fails at once leaves its slot free
      const auto next = NextWaiting();
      if (!next) return;
      Begin(i, *next);
    }
}

// In the order in which they came. Other texts for the same prompt begin when the first of them has read it, so that
// they need not.
std::optional<Engine::Waiting> Engine::NextWaiting() {
  const std::lock_guard lock(mutex_);
  const auto reads = [this](const Job* job) {
    return std::ranges::any_of(slots_, [&](const auto& s) { return s && &s->job() == job && s->reading(); });
  };
  const auto next =
      std::ranges::find_if(waiting_, [&](const Waiting& w) { return w.text == 0 || !reads(w.job.get()); });
  if (next == waiting_.end()) return std::nullopt;
  Waiting found = *next;
  waiting_.erase(next);
  ++busy_;
  metrics_.Set(Metrics::Level::kQueued, static_cast<double>(JobsOf(waiting_)));
  return found;
}

RunningText::Start Engine::FindStart(TextRequest& request, const Job& job, size_t texts) {
  RunningText::Start start;
  if (options_.speculation && request.speculate) start.speculation = options_.speculation(scratch_);
  if (request.base) {
    start.prompt_pos = request.base->pos();
    start.sequence = std::make_unique<CachedSequence>(std::move(*request.base));
    request.base.reset();
    const SequenceState& state = start.sequence->state;
    start.sequence->kind = KindOf(state.controls(), state.memory().get(), state.plan());
  } else {
    const auto tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
    const KvPlan plan = options_.plan ? options_.plan(tokens) : KvPlan();
    const std::string kind = KindOf(request.controls, request.memory.get(), plan);
    start.sequence = FindPrefix(request, job, kind, &start.prompt_pos);
    if (start.sequence == nullptr) {
      SequenceState state(model_, request.controls, plan);
      state.SetMemory(request.memory);
      start.sequence = std::make_unique<CachedSequence>(std::move(state));
      start.sequence->kind = kind;
    }
  }
  start.sequence->owner = request.owner;
  start.sequence->state.Reserve(request.prompt.size() - std::min<size_t>(request.prompt.size(), start.prompt_pos));
  const bool goes_back = start.sequence->state.layout().constant_bytes == 0;
  if (!goes_back && (cache_.on() || texts > 1)) start.snapshot_every = options_.snapshot_every;
  return start;
}

std::unique_ptr<CachedSequence> Engine::FindPrefix(const TextRequest& request, const Job& job, const std::string& kind,
                                                   int64_t* prompt_pos) {
  metrics_.Add(Metrics::Count::kPrefixQueries);
  PrefixFound found{.miss = PrefixMiss::kLogprobs};
  if (!request.prompt_logprobs)
    found = cache_.Find({.prompt = request.prompt, .owner = request.owner, .kind = kind},
                        Running(cache_.on() ? nullptr : &job));
  metrics_.AddMiss(found.miss);
  if (found.from == nullptr) return nullptr;
  metrics_.Add(Metrics::Count::kPrefixHits);
  *prompt_pos = found.prompt_pos;
  return cache_.Use(found);
}

void Engine::Begin(size_t slot, const Waiting& waiting) {
  auto& texts = waiting.job->texts();
  TextEnd end;
  try {
    const EngineParts parts{model_, tokenizer_, pool_, scratch_, metrics_};
    RunningText::Start start = FindStart(texts[static_cast<size_t>(waiting.text)], *waiting.job, texts.size());
    slots_[slot] = std::make_unique<RunningText>(parts, waiting.job, waiting.text, std::move(start));
    const TextEnd& counts = slots_[slot]->counts();
    metrics_.Observe(Metrics::Time::kQueue, counts.queue_seconds);
    metrics_.Add(Metrics::Count::kPromptTokens, static_cast<double>(counts.prompt_tokens));
    metrics_.Add(Metrics::Count::kCachedTokens, static_cast<double>(counts.cached_tokens));
    return;
  } catch (const std::bad_alloc&) {
    end.error_status = kUnavailable;
    end.error = "out of memory";
  } catch (const std::exception& error) {
    end.error_status = kServerError;
    end.error = error.what();
  }
  waiting.job->Give({.text = waiting.text, .end = end});
  const std::lock_guard lock(mutex_);
  --busy_;
  if (busy_ == 0 && waiting_.empty()) idle_.notify_all();
}

void Engine::Sweep() {
  for (size_t i = 0; i < slots_.size(); ++i) {
    RunningText* text = slots_[i].get();
    if (text == nullptr) continue;
    if (!text->ended() && text->job().cancelled()) {
      metrics_.Add(Metrics::Count::kCancelled);
      Guarded(*text, [&] { text->End(FinishReason::kCancelled); });
    }
    if (!text->ended() && !text->reading() && !text->HasRoom())
      Guarded(*text, [&] { text->End(FinishReason::kContext); });
    text->Deliver();
    if (text->ended()) Free(i);
  }
}

void Engine::Free(size_t slot) {
  const std::unique_ptr<RunningText> text = std::move(slots_[slot]);
  if (auto sequence = text->TakeSequence()) cache_.Keep(std::move(sequence), Running());
  const std::lock_guard lock(mutex_);
  --busy_;
  if (busy_ == 0 && waiting_.empty()) idle_.notify_all();
}

void Engine::Publish() {
  std::vector<SlotView> views(slots_.size());
  double running = 0, state = 0, kv = 0, speculating = 0;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const RunningText* text = slots_[i].get();
    if (text == nullptr) continue;
    const SequenceState& s = text->sequence().state;
    ++running;
    state += static_cast<double>(s.layout().constant_bytes);
    kv += static_cast<double>(s.BytesAt(s.pos()) - s.layout().constant_bytes);
    speculating += text->speculating() ? 1 : 0;
    views[i] = {.state = text->reading() ? SlotView::State::kReading : SlotView::State::kWriting,
                .prompt_tokens = text->counts().prompt_tokens,
                .read_tokens = s.pos(),
                .new_tokens = text->counts().new_tokens,
                .cached_tokens = text->counts().cached_tokens,
                .seconds = Seconds() - text->started(),
                .speculating = text->speculating()};
  }
  metrics_.Set(Metrics::Level::kRunning, running);
  metrics_.Set(Metrics::Level::kStateBytes, state);
  metrics_.Set(Metrics::Level::kKvBytes, kv);
  metrics_.Set(Metrics::Level::kSpeculating, speculating);
  metrics_.Set(Metrics::Level::kSnapshotBytes, static_cast<double>(cache_.snapshot_bytes(Running())));
  bool waits = running > 0;  // every text waits for its client
  for (const auto& slot : slots_) waits &= !slot || slot->job().Full();
  std::unique_lock lock(mutex_);
  views_ = std::move(views);
  if (waits) work_.wait_for(lock, std::chrono::duration<double>(kClientWait), [this] { return ended_; });
}

}  // namespace hydra::serve
