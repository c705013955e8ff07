// SPDX-License-Identifier: Apache-2.0
// Where a run begins and what it leaves: checkpoints found, restored and saved, files watched, the model written.
#include <filesystem>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/version.h"
#include "hydra/nn/model_io.h"
#include "hydra/train/checkpoint.h"
#include "hydra/train/trainer_impl.h"

namespace hydra::train {
namespace {

namespace fs = std::filesystem;
constexpr const char* kHeldRows = "held_rows";  // of state.json: see MetricsLog::Held

}  // namespace

// Finds where to begin, fills weights, opens the logs there.
void Trainer::Impl::Start() {
  torch::manual_seed(static_cast<uint64_t>(options_.run.optim.seed));
  WatchSources();
  validates_ = options_.val && HasTargets(*options_.val);
  if (options_.val && options_.val->n_docs() > 0 && !validates_)
    Warn(StrCat("no token of the ", options_.val->n_docs(),
                " validation documents can be predicted (one token each, or masked): no validation loss"));
  const std::optional<Checkpoint> checkpoint = FirstCheckpoint();
  if (checkpoint) {
    Restore(*checkpoint);
  } else if (!options_.init.empty()) {
    nn::LoadWeights(options_.init, model_);
  } else {
    model_.InitWeights(static_cast<uint64_t>(options_.run.optim.seed));
  }
  if (!folder_.exists()) return;
  OpenLog(checkpoint);
  folder_.WriteRunToml(options_.run);
  auto env = options_.env;
  env["seed"] = std::to_string(options_.run.optim.seed);
  env["device"] = options_.device.device.str();
  env["threads"] = std::to_string(at::get_num_threads());
  env["torch"] = TORCH_VERSION;
  env["hydralm"] = Version();
  folder_.WriteEnv(env);
}

std::optional<Checkpoint> Trainer::Impl::FirstCheckpoint() {
  const std::string& resume = options_.resume;
  if (resume != "auto" && resume != "none") return OpenCheckpoint(resume);
  if (!folder_.exists()) return std::nullopt;
  if (resume == "auto") {
    auto found = FindCheckpoint(folder_.checkpoints(), [this](const std::string& text) { Warn(text); });
    if (found) return found;
  } else if (HoldsCheckpoints(folder_.checkpoints())) {
    throw Error(ErrorCode::kUsage, StrCat("--resume none: ", folder_.checkpoints(),
                                          " holds checkpoints: choose another --run, or remove it"));
  }
  if (std::error_code ignored; fs::exists(folder_.model() + "/config.json", ignored))
    throw Error(ErrorCode::kUsage, StrCat(folder_.model(), ": a finished model, and ", folder_.checkpoints(),
                                          " has no checkpoint to go on from: choose another --run, or remove it"));
  return std::nullopt;
}

// Opens the log where the run goes on. Rows of later checkpoints stay until this session has a checkpoint of its own.
void Trainer::Impl::OpenLog(const std::optional<Checkpoint>& checkpoint) {
  const std::string root = folder_.checkpoints();
  log_.emplace(folder_.path());
  if (checkpoint && checkpoint->state.contains(kHeldRows) && IsLatest(root, checkpoint->folder)) {
    // The first one after going back, and the last one there is: its session may have ended before LeaveLater did.
    const auto& held = checkpoint->state[kHeldRows];
    const int64_t went_back_to = log_->Replay(held, StrCat(checkpoint->folder, "/state.json: ", kHeldRows));
    RemoveLaterCheckpoints(root, went_back_to, now_.step);
  } else if (HoldsLaterCheckpoints(root, now_.step)) {
    went_back_to_ = now_.step;
    log_->HoldAfter(now_.step);
    Note(StrCat("went back to step ", now_.step,
                ": later checkpoints and their rows of the log stay until the next checkpoint; new rows show then"));
    return;
  }
  log_->CutAfter(now_.step);
}

// From here on the tokenizer and the shards must stay what they are.
void Trainer::Impl::WatchSources() {
  options_.train.Watch(&sources_);
  for (const auto& [path, corpus] : options_.mixed) corpus.Watch(&sources_);
  if (options_.val) options_.val->Watch(&sources_);
  const std::string& path = options_.tokenizer_path;
  if (path.empty()) return;
  tokenizer_json_ = ReadFile(path);
  const std::string sha256 = Sha256Hex(tokenizer_json_);
  sources_.Add(path, [path, sha256] { return Sha256Hex(ReadFile(path)) == sha256; });
  if (const DataManifest* manifest = options_.train.manifest(); manifest && manifest->tokenizer_sha256 != sha256)
    throw Error(ErrorCode::kData, path + ": changed while the run began: not the tokenizer that made the data");
}

// What was trained so far is sound: a change after a batch was read shows before the next one is.
void Trainer::Impl::CheckSources() {
  try {
    sources_.Check();
  } catch (const Error& error) {
    if (folder_.exists() && saved_step_ != now_.step && !Save(State()))
      throw Error(ErrorCode::kDiverged, StrCat(error.what(), ": and its checkpoint could not be written: ", Lost()));
    throw;
  }
}

// What a resumed run must find again.
std::string Trainer::Impl::DataText() const {
  std::string text = options_.train.Fingerprint();
  for (const auto& [path, corpus] : options_.mixed) text += "; mixed " + corpus.Fingerprint();
  if (options_.val && options_.val->n_docs() > 0) text += "; val " + options_.val->Fingerprint();
  return text;
}

void Trainer::Impl::Restore(const Checkpoint& checkpoint) {
  const std::string where = checkpoint.folder + "/state.json";
  now_ = TrainState::FromJson(checkpoint.state, where);
  const auto other = [&](const std::string& what) {
    throw Error(ErrorCode::kConfig,
                StrCat(checkpoint.folder, ": made by another run: ", what, ": choose another --run to start anew"));
  };
  const auto differences = CompareConfigs(ParseConfig(now_.config, where + ": config"), options_.model);
  if (!differences.empty()) other("model " + differences.front());
  if (now_.seed != options_.run.optim.seed) other(StrCat("optim.seed: ", now_.seed, " != ", options_.run.optim.seed));
  if (const std::string data = DataText(); now_.data != data) {
    // Checkpoints of before there were checksums end where the checksum begins.
    if (now_.data.empty() || data.find(now_.data + " checksum ") != 0) other(StrCat("data: ", now_.data, " != ", data));
    Warn(StrCat(checkpoint.folder, ": has no checksum of its data: only tokenizer and counts could be compared"));
  }
  rows_.set_position(PositionFromJson(now_.loader, where + ": loader", rows_));
  guard_.Load(now_.guard, where + ": guard");
  experts_.Load(now_.experts, where + ": experts");
  if (block_terms_.any()) {
    if (!now_.experts.contains("blockffn")) throw Error(ErrorCode::kFormat, where + ": experts.blockffn: missing");
    block_terms_.Load(now_.experts["blockffn"], where + ": experts.blockffn");
  }
  RestoreTorchRng(now_.rng, where + ": rng");
  NamedTensors weights;
  for (const auto& [spec, tensor] : model_.Tensors()) weights.emplace_back(spec->name, tensor);
  LoadTensors(checkpoint.weights, weights);
  optim_->LoadState(checkpoint.optimiser);
  const auto changes = CompareRunConfigs(ParseRunConfig(now_.run, where + ": run"), options_.run);
  if (now_.step >= total_steps_ && !changes.empty())
    throw Error(ErrorCode::kUsage, StrCat(folder_.path(), ": finished at step ", now_.step, ", and ", changes.front(),
                                          ": give another --run to train anew, or more steps to go on"));
  for (const std::string& line : changes) Note("changed since the checkpoint: " + line);
  WarnOfLrJump(ParseRunConfig(now_.run, where + ": run"));
  saved_step_ = now_.step;
  newest_ = checkpoint.folder;
  Note(StrCat("resumed at step ", now_.step, " of ", total_steps_, " from ", checkpoint.folder));
}

// Another length or another peak moves the whole schedule: a run that is made longer after its rate came down begins
// its next steps with a rate that it left long ago, and unlearns.
void Trainer::Impl::WarnOfLrJump(const RunConfig& before) {
  constexpr double kRise = 1.1;
  if (now_.step >= total_steps_) return;
  const double was = before.Lr().At(now_.step) * Curriculum(before, options_.model).LrScaleAt(now_.step);
  const double is = lr_.At(now_.step) * curriculum_.LrScaleAt(now_.step);
  if (is > kRise * was) Warn(LrJumpLine(now_.step + 1, was, is));
}

TrainState Trainer::Impl::State() const {
  TrainState state = now_;
  state.seed = options_.run.optim.seed;
  state.data = DataText();
  state.config = ConfigJson(options_.model);
  state.run = RunToml(options_.run);
  state.loader = ToJson(rows_.position());
  state.guard = guard_.Save();
  state.experts = experts_.Save();
  if (block_terms_.any()) state.experts["blockffn"] = block_terms_.Save();
  state.rng = SaveTorchRng();
  return state;
}

void Trainer::Impl::SaveLastModel() {
  CheckSources();
  try {
    nn::SaveModel(folder_.model(), model_, tokenizer_json_);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kIo || saved_step_ == now_.step) throw;
    throw Error(ErrorCode::kDiverged, StrCat(error.what(), ", nor could a checkpoint: ", Lost()));
  }
}

// False when it failed: the run goes on without, up to the third time in a row.
bool Trainer::Impl::Save(const TrainState& state) {
  constexpr int kMostFailures = 3;
  CheckpointContent content{
      .weights = {},
      .optimiser = optim_->State(),
      .state = state.ToJson(),
      .metadata = {{"format", "pt"}, {"hydralm", Version()}, {"config_sha256", Sha256Hex(ConfigJson(options_.model))}}};
  // LeaveLater may have failed after it let the rows go.
  if (Json held = log_ ? log_->Held() : Json(nullptr); !held.is_null()) content.state[kHeldRows] = std::move(held);
  for (const auto& [spec, tensor] : model_.Tensors()) content.weights.emplace_back(spec->name, tensor);
  try {
    if (log_) log_->Sync();
    newest_ = WriteCheckpoint(folder_.checkpoints(), state.step, content, *options_.file_ops);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kIo) throw;
    if (++failed_saves_ >= kMostFailures)
      throw Error(ErrorCode::kDiverged,
                  StrCat(error.what(), ": the third checkpoint in a row that could not be written: ", Lost()));
    Warn(StrCat(error.what(), ": checkpoint of step ", state.step, " not written"));
    return false;
  }
  failed_saves_ = 0;
  saved_step_ = state.step;
  try {
    if (went_back_to_ >= 0) LeaveLater();
    PruneCheckpoints(folder_.checkpoints(), options_.run.checkpoint.keep, saved_step_);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kIo) throw;
    Warn(StrCat(error.what(), ": what the checkpoint of step ", saved_step_, " replaces stays until the next one"));
  }
  return true;
}

// After going back, with a checkpoint that stands: what lay beyond the one that was gone back to makes room.
void Trainer::Impl::LeaveLater() {
  log_->Release();
  RemoveLaterCheckpoints(folder_.checkpoints(), went_back_to_, saved_step_);
  went_back_to_ = -1;
}

// What a run that ends now leaves: "the steps after 4 are lost; newest checkpoint: runs/x/ckpt/step-00000004".
std::string Trainer::Impl::Lost() const {
  if (newest_.empty()) return StrCat("all ", now_.step, " steps are lost");
  return StrCat("the steps after ", saved_step_, " are lost; newest checkpoint: ", newest_);
}

}  // namespace hydra::train
