// SPDX-License-Identifier: Apache-2.0
// The training loop: steps, guards, reports. Not here: evaluation (trainer_eval.cc), start, checkpoints, resume
// (trainer_resume.cc).
#include "hydra/train/trainer.h"

#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <numbers>
#include <utility>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/train/batches.h"
#include "hydra/train/checkpoint.h"
#include "hydra/train/trainer_impl.h"

namespace hydra::train {
namespace {

using torch::Tensor;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Resident memory of this process, bytes.
double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double pages = 0, resident = 0;
  statm >> pages >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

void CheckFits(const TrainerOptions& options) {
  const int64_t chunk = options.model.chunk_len;
  CheckStages(options.run.stages, options.model, options.run.file);
  for (const StepSchedule::Point& point : options.run.optim.seq_len.points())
    if (point.value % chunk != 0)
      throw Error(ErrorCode::kConfig,
                  StrCat("optim.seq_len = ", point.value, ": must be a multiple of model_chunk_size = ", chunk, " (",
                         (point.value + chunk - 1) / chunk * chunk, " fits)"));
}

std::vector<std::pair<std::string, Corpus>> Corpora(const TrainerOptions& options) {
  std::vector<std::string> domains;
  for (const ExpertDomain& domain : options.model.moe.domains) domains.push_back(domain.name);
  std::vector<std::pair<std::string, Corpus>> all{{options.run.data.dir, options.train.WithDomains(domains)}};
  for (const auto& [path, corpus] : options.mixed) all.emplace_back(path, corpus.WithDomains(domains));
  for (const std::string& domain : domains)
    if (std::ranges::none_of(all, [&](const auto& corpus) {
          return std::ranges::find(corpus.second.domains(), domain) != corpus.second.domains().end();
        }))
      throw Error(ErrorCode::kConfig,
                  StrCat("expert_domains.", domain, ": no document of ", options.run.data.dir,
                         " is of that domain: hydralm data build --domain-field KEY gives documents their domains"));
  return all;
}

std::vector<DocumentFlops> FlopsOfStages(const Curriculum& curriculum, int64_t longest) {
  std::vector<DocumentFlops> flops;
  for (int i = curriculum.n_stages() > 0 ? 0 : -1; i < curriculum.n_stages(); ++i)
    flops.emplace_back(curriculum.ConfigOf(i), longest);
  return flops;
}

}  // namespace

Trainer::Impl::Impl(TrainerOptions options)
    : options_((CheckFits(options), std::move(options))),
      folder_(options_.folder, options_.callbacks.on_warning),
      curriculum_(options_.run, options_.model),
      total_steps_(curriculum_.total_steps()),
      lr_(options_.run.Lr()),
      rows_(Corpora(options_),
            {.chunk_len = options_.model.chunk_len, .seed = static_cast<uint64_t>(options_.run.optim.seed)}),
      model_(options_.model,
             nn::ModelOptions{.device = options_.device.device, .dtype = options_.dtype, .initialise = false}),
      optim_(MakeOptimizer(OptimParams(model_, options_.run.optim.pkm_table_lr, options_.run.optim.published_groups),
                           {.kind = options_.run.optim.optimizer,
                            .betas = options_.run.optim.betas,
                            .eps = options_.run.optim.eps,
                            .weight_decay = options_.run.optim.weight_decay,
                            .clip = options_.run.optim.clip})),
      guard_(options_.run.guard),
      experts_(options_.model),
      block_terms_(options_.model, options_.run.blockffn),
      peak_flops_(options_.run.log.peak_flops),
      flops_(FlopsOfStages(curriculum_, options_.run.MostSeqLen())) {
  if (!HasTargets(options_.train))
    throw Error(ErrorCode::kData, StrCat("no token of the ", options_.train.n_docs(),
                                         " documents to train on counts in the loss: every one is masked"));
  Start();
}

void Trainer::Impl::Note(const std::string& text) const {
  folder_.Log(text);
  if (options_.callbacks.on_note) options_.callbacks.on_note(text);
}

void Trainer::Impl::Warn(const std::string& text) const {
  folder_.Log("warning: " + text);
  if (options_.callbacks.on_warning) options_.callbacks.on_warning(text);
}

bool Trainer::Impl::Due(int64_t every) const {
  return now_.step == total_steps_ || (every > 0 && now_.step % every == 0) || curriculum_.EndsStage(now_.step);
}

void Trainer::Impl::CountOther() {
  const double now = Seconds();
  other_seconds_ += now - idle_since_;
  idle_since_ = now;
}

TrainResult Trainer::Impl::Run(int64_t until) {
  const int64_t end = until < 0 ? total_steps_ : std::min(until, total_steps_);
  bool stopped = false;
  idle_since_ = Seconds();
  while (now_.step < end && !(stopped = options_.stop != nullptr && options_.stop->load() != 0)) {
    CheckSources();
    TrainStep();
    CountOther();
    // A checkpoint comes after the evaluation of its step, so that a resumed run never evaluates a step twice.
    if (validates_ && Due(options_.run.eval.every)) Evaluate();
    const std::string stop = curriculum_.EndsStage(now_.step) ? JudgeStage() : "";
    if (folder_.exists() && Due(options_.run.checkpoint.every)) Save(State());
    if (!stop.empty())
      throw Error(ErrorCode::kDiverged, StrCat(stop, ": the run ends here, as the watch asks",
                                               newest_.empty() ? "" : "; checkpoint: " + newest_));
    idle_since_ = Seconds();
  }
  if (stopped && folder_.exists() && saved_step_ != now_.step && !Save(State()))
    throw Error(ErrorCode::kDiverged,
                StrCat("stopped at step ", now_.step, ", and its checkpoint could not be written: ", Lost()));
  TrainResult result{.step = now_.step,
                     .total_steps = total_steps_,
                     .finished = now_.step >= total_steps_,
                     .val_loss = now_.val_loss,
                     .val_bpb = now_.val_bpb,
                     .seconds = now_.seconds,
                     .tokens = now_.tokens,
                     .skipped = guard_.skipped(),
                     .checkpoint = newest_,
                     .model_folder = ""};
  if (result.finished && folder_.exists()) {
    SaveLastModel();
    result.model_folder = folder_.model();
  }
  return result;
}

nn::ForwardOptions Trainer::Impl::ForwardNow() const {
  nn::ForwardOptions forward = curriculum_.ForwardAt(now_.step);
  const auto set = [&](nn::RouterTerm term, double weight) {
    if (weight > 0) forward.router_coefs[nn::TermIndex(term)] = weight;
  };
  set(nn::RouterTerm::kLocality, block_terms_.locality());
  set(nn::RouterTerm::kChunk, block_terms_.chunk());
  set(nn::RouterTerm::kSize, block_terms_.size());
  forward.locality_alpha = block_terms_.options().al_alpha;
  forward.sparsity_chunk = block_terms_.options().cs_chunk;
  return forward;
}

StepSums Trainer::Impl::ForwardBackward(const StepBatches& batches) {
  const nn::ForwardOptions forward = ForwardNow();
  Tensor loss, lm;
  nn::RouterTermValues terms;
  const auto add = [](Tensor* sum, const Tensor& value, double share) {
    if (!value.defined()) return;
    const Tensor part = value.detach() * share;
    *sum = sum->defined() ? *sum + part : part;
  };
  StepSums sums;
  for (const TokenBatch& micro : batches.micro) {
    // Every target of the step weighs the same, and every chunk in the losses of chunk routers, however they are spread
    // over micro-batches.
    const nn::LossShares shares{
        .targets = static_cast<double>(micro.n_targets) / static_cast<double>(batches.n_targets),
        .chunks = static_cast<double>(micro.n_chunks) / static_cast<double>(batches.n_chunks),
        .batches = 1 / static_cast<double>(batches.micro.size())};
    nn::LossOut out;
    {
      const AutocastScope autocast(options_.device);
      out = model_.Loss(micro.batch.To(options_.device.device), forward, shares);
    }
    out.total.backward();
    add(&loss, out.total, 1);
    add(&lm, out.lm, shares.targets);
    for (size_t i = 0; i < nn::kRouterTerms; ++i)
      add(&terms[i], out.router.terms[i], shares.Of(static_cast<nn::RouterTerm>(i)));
    add(&sums.load, out.router.load, 1);
    add(&sums.in_set, out.router.in_set, 1);
  }
  sums.loss = loss.item<double>();
  sums.lm = lm.item<double>();
  for (size_t i = 0; i < nn::kRouterTerms; ++i)
    if (terms[i].defined()) sums.terms[i] = terms[i].item<double>();
  return sums;
}

// What changes with the stage, and within it.
void Trainer::Impl::BeginStep() {
  const int stage = curriculum_.StageAt(now_.step);
  if (stage != stage_) {
    std::vector<std::pair<std::string, double>> shares;
    for (const DataShare& data : curriculum_.DataAt(now_.step)) shares.emplace_back(data.path, data.share);
    const bool begins = curriculum_.span(stage).first == now_.step;
    begins ? rows_.Begin(shares) : rows_.GoOn(shares);
    optim_->SetRateFactors(curriculum_.RateFactorsAt(now_.step, model_));
    if (begins) Note(curriculum_.StageLine(stage));
    stage_ = stage;
  }
  curriculum_.SetBiases(now_.step, model_);
}

void Trainer::Impl::TrainStep() {
  const double begin = Seconds();
  BeginStep();
  const RowMix::Position position = rows_.position();
  const Guard guard = guard_;
  const StepBatches batches =
      NextStep(rows_, options_.run.optim.accum, curriculum_.RowsAt(now_.step), curriculum_.SeqLenAt(now_.step));
  double bytes = 0;
  if (!options_.token_bytes.empty()) bytes = TargetBytes(batches, options_.token_bytes);
  const double data_seconds = Seconds() - begin, lr = lr_.At(now_.step) * curriculum_.LrScaleAt(now_.step);

  CountOther();
  StepSums sums;
  if (batches.n_targets > 0) {
    sums = Update(batches, lr, position, guard);
  } else {
    SkipEmpty();
  }
  idle_since_ = Seconds();
  for (const std::string& alarm : experts_.Step(sums.load, batches.n_tokens, options_.run.guard.dead_expert_steps))
    Warn(alarm);
  experts_.StepLabels(sums.in_set);
  if (block_terms_.any() && sums.load.defined())
    block_terms_.Observe(sums.terms[nn::TermIndex(nn::RouterTerm::kChunk)], experts_.active_share(),
                         options_.run.optim.schedule == LrShape::kWsdExp && now_.step >= lr_.DecayStart());

  ++now_.step;
  now_.tokens += batches.n_read;
  const double flops = 3 * FlopsOf(batches), seconds = Seconds() - begin;
  now_.flops += flops;
  now_.seconds += seconds;
  now_.interval.Add({.steps = 1,
                     .finite = std::isfinite(sums.loss) ? 1 : 0,
                     .tokens = batches.n_tokens,
                     .loss = sums.loss,
                     .lm = sums.lm,
                     .flops = flops,
                     .terms = sums.terms,
                     .seconds = seconds,
                     .data_seconds = data_seconds});
  Report(lr, sums, bytes, batches.n_targets);
}

StepSums Trainer::Impl::Update(const StepBatches& batches, double lr, const RowMix::Position& position,
                               const Guard& guard) {
  optim_->ZeroGrad();
  StepSums sums = ForwardBackward(batches);
  if (options_.after_backward) options_.after_backward(now_.step, model_);
  HeldEntries held = curriculum_.HeldAt(now_.step, model_);
  held.BeforeStep();
  sums.grad_norm = optim_->GradNorm();
  const Guard::Decision decision = guard_.Check(now_.step, sums.loss, sums.grad_norm);
  if (decision.verdict == Guard::Verdict::kUpdate) {
    optim_->Step(lr, sums.grad_norm);
    held.AfterStep();
    if (sums.load.defined() && options_.model.moe.balance == RouterBalance::kBias) BalanceRouters(model_, sums.load);
    good_.reset();
  } else {
    TrainState before = now_;
    if (guard_.nonfinite_streak() == 1) {
      before = State();
      before.loader = ToJson(position);
      before.guard = guard.Save();
    }
    Skip(decision, before);
  }
  return sums;
}

// Chats with long questions have such steps now and then; the data has targets elsewhere, which the start made sure of.
void Trainer::Impl::SkipEmpty() {
  guard_.CountEmpty();
  if (guard_.empty() == 1)
    Warn(StrCat("step ", now_.step + 1,
                ": no token of its batch counts in the loss: update skipped; more such steps are counted only, in "
                "train/skipped"));
}

// Leaves the weights as they are, or ends the run.
void Trainer::Impl::Skip(const Guard::Decision& decision, const TrainState& before) {
  const std::string text = StrCat("step ", now_.step + 1, ": ", decision.text);
  if (guard_.nonfinite_streak() == 1) good_ = before;
  if (decision.verdict == Guard::Verdict::kSkip) {
    Warn(text + ": update skipped");
    return;
  }
  const std::string tensor = optim_->FirstNonFinite();
  const bool lost = folder_.exists() && good_ && saved_step_ != good_->step && !Save(*good_);
  const std::string where = newest_.empty() ? std::string() : "; last good step in " + newest_;
  throw Error(ErrorCode::kDiverged, StrCat(text, ": ", guard_.nonfinite_streak(),
                                           " steps in a row were not finite; the first tensor that is not: ",
                                           tensor.empty() ? "none, the loss itself" : tensor,
                                           lost ? "; no checkpoint could be written: " + Lost() : where));
}

void Trainer::Impl::Report(double lr, const StepSums& sums, double bytes, int64_t n_targets) {
  const TrainInterval& interval = now_.interval;
  const double rate = interval.seconds > 0 ? static_cast<double>(interval.tokens) / interval.seconds : 0;
  StepReport report{.step = now_.step,
                    .total_steps = total_steps_,
                    .targets = n_targets,
                    .loss = sums.lm,
                    .bpb = kNan,
                    .lr = lr,
                    .grad_norm = sums.grad_norm,
                    .tok_per_sec = rate};
  if (bytes > 0) report.bpb = sums.lm * static_cast<double>(n_targets) / std::numbers::ln2 / bytes;
  report.mfu = interval.seconds > 0 ? interval.flops / interval.seconds / PeakFlops() : 0;
  report.eta_seconds =
      static_cast<double>(total_steps_ - now_.step) * interval.seconds / static_cast<double>(interval.steps);
  report.skipped = guard_.skipped();
  ++other_steps_;
  report.logged = Due(options_.run.log.every);
  if (report.logged) {
    LogTrainRow(lr, sums.grad_norm, rate, report.mfu);
    folder_.Log(StepLine(report));
    now_.interval = {};
    other_seconds_ = 0;
    other_steps_ = 0;
  }
  if (options_.callbacks.on_step) options_.callbacks.on_step(report);
}

void Trainer::Impl::LogTrainRow(double lr, double grad_norm, double rate, double mfu) {
  const TrainInterval& interval = now_.interval;
  const double steps = static_cast<double>(interval.steps);
  const double finite = interval.finite > 0 ? static_cast<double>(interval.finite) : kNan;
  MetricsRow row{.step = now_.step, .tokens = now_.tokens, .seconds = now_.seconds, .flops = now_.flops, .values = {}};
  row.values = {{"train/loss", interval.loss / finite},
                {"train/lm_loss", interval.lm / finite},
                {"train/lr", lr},
                {"train/grad_norm", grad_norm},
                {"train/tok_per_sec", rate},
                {"train/mfu", mfu},
                {"train/step_ms", 1e3 * interval.seconds / steps},
                {"train/data_ms", 1e3 * interval.data_seconds / steps},
                {"train/other_ms", 1e3 * other_seconds_ / static_cast<double>(other_steps_)},
                {"train/mem_bytes", ResidentBytes()},
                {"train/skipped", static_cast<double>(guard_.skipped())}};
  for (size_t i = 0; i < nn::kRouterTerms; ++i)
    if (!std::isnan(interval.terms[i]))
      row.values[RouterTermSeries(static_cast<nn::RouterTerm>(i))] = interval.terms[i] / finite;
  experts_.TakeMetrics(&row.values);
  if (block_terms_.chunk() > 0) row.values["blockffn/cs_lambda"] = block_terms_.chunk();
  if (block_terms_.size() > 0) row.values["blockffn/l1_lambda"] = block_terms_.size();
  if (const double hit = optim_->RowsHit(); hit >= 0) row.values["pkm/rows_hit"] = hit;
  if (stage_ >= 0) row.values["train/stage"] = stage_ + 1;
  WriteRow(MetricsSplit::kTrain, std::move(row));
}

// Forward, each document with the keys that its own tokens see.
double Trainer::Impl::FlopsOf(const StepBatches& batches) const {
  const DocumentFlops& count = flops_[static_cast<size_t>(std::max(stage_, 0))];
  double flops = 0;
  for (const TokenBatch& micro : batches.micro)
    for (const int64_t tokens : micro.documents) flops += count(tokens);
  return flops;
}

double Trainer::Impl::PeakFlops() {
  if (peak_flops_ <= 0) peak_flops_ = MeasurePeakFlops(options_.device);
  return peak_flops_;
}

Trainer::Trainer(TrainerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Trainer::~Trainer() = default;
TrainResult Trainer::Run(int64_t until) { return impl_->Run(until); }
nn::Model& Trainer::model() { return impl_->model(); }
int64_t Trainer::step() const { return impl_->step(); }
int64_t Trainer::total_steps() const { return impl_->total_steps(); }
nlohmann::ordered_json Trainer::StateJson() const { return impl_->State().ToJson(); }
NamedTensors Trainer::OptimiserState() const { return impl_->OptimiserState(); }

}  // namespace hydra::train
