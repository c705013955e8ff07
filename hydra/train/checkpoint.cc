// SPDX-License-Identifier: Apache-2.0
// Writing, checking, finding and removing checkpoints.
#include "hydra/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <unordered_map>

#include "hydra/base/error.h"

namespace hydra::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kDone = "DONE";
constexpr const char* kLatest = "latest";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimFile = "optim-00000-of-00001.safetensors";
constexpr const char* kStateFile = "state.json";

// The step of a folder's name, or -1.
int64_t StepOf(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (name.size() < kPrefix.size() + 8 || name.compare(0, kPrefix.size(), kPrefix) != 0) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [at, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && at == end && step >= 0 ? step : -1;
}

Json FileLine(const char* name, uint64_t bytes, uint32_t crc) {
  return {{"name", name}, {"size", bytes}, {"crc32", crc}};
}

WrittenFile WriteTensors(const std::string& path, const NamedTensors& tensors, const SafeTensorsMetadata& metadata,
                         const FileOps& ops) {
  std::vector<TensorView> views;
  std::unordered_map<std::string, torch::Tensor> by_name;
  for (const auto& [name, tensor] : tensors) {
    TensorView view;
    view.name = name;
    view.dtype = DTypeOf(tensor);
    view.shape = tensor.sizes().vec();
    view.nbytes = static_cast<int64_t>(tensor.nbytes());
    views.push_back(view);
    by_name.emplace(name, tensor);
  }
  torch::Tensor host;  // alive until the next call
  return WriteSafeTensors(
      path, views, metadata,
      [&](const TensorView& view) {
        host = by_name.at(view.name).detach().contiguous().cpu();
        return std::span(static_cast<const std::byte*>(host.data_ptr()), static_cast<size_t>(host.nbytes()));
      },
      ops);
}

void WriteFiles(const std::string& folder, const CheckpointContent& content, const FileOps& ops) {
  const WrittenFile model = WriteTensors(folder + "/" + kModelFile, content.weights, content.metadata, ops);
  const WrittenFile optim = WriteTensors(folder + "/" + kOptimFile, content.optimiser, content.metadata, ops);
  const std::string state = content.state.dump(1) + "\n";
  WriteFileAtomic(folder + "/" + kStateFile, state, ops);
  FsyncDir(folder, ops);
  const Json done = {{"version", 1},
                     {"files",
                      {FileLine(kModelFile, model.bytes, model.crc32), FileLine(kOptimFile, optim.bytes, optim.crc32),
                       FileLine(kStateFile, state.size(), Crc32(AsBytes(state)))}}};
  // The last byte is the newline: a DONE that was cut anywhere is seen to be.
  WriteFileAtomic(folder + "/" + kDone, done.dump() + "\n", ops);
}

[[noreturn]] void Refuse(const std::string& file, const std::string& text) {
  throw Error(ErrorCode::kFormat, StrCat(file, ": ", text));
}

// What DONE promises about one file.
struct Promise {
  std::string name;
  int64_t size = 0, crc32 = 0;
};

std::vector<Promise> ReadDone(const std::string& folder) {
  const std::string path = folder + "/" + kDone;
  if (!fs::is_directory(folder)) Refuse(folder, "no such checkpoint");
  if (!fs::exists(path)) Refuse(folder, "not a complete checkpoint: it has no DONE file");
  const std::string text = ReadFile(path, 1 << 20);
  if (text.empty() || text.back() != '\n') Refuse(path, "cut: it does not end with a newline");
  const Json done = ParseJson(text, path);
  if (!done.is_object() || !done.contains("version") || done["version"] != 1) Refuse(path, "version: must be 1");
  if (!done.contains("files") || !done["files"].is_array()) Refuse(path, "files: must be a list");
  std::vector<Promise> out;
  for (const Json& line : done["files"]) {
    Promise& promise = out.emplace_back();
    for (const char* key : {"name", "size", "crc32"})
      if (!line.is_object() || !line.contains(key)) Refuse(path, StrCat("files: an entry lacks ", key));
    ReadJson(line["name"], path + ": name", &promise.name);
    ReadJson(line["size"], path + ": size", &promise.size);
    ReadJson(line["crc32"], path + ": crc32", &promise.crc32);
    if (promise.name.empty() || promise.name.find('/') != std::string::npos || promise.name.front() == '.')
      Refuse(path, StrCat("files: \"", promise.name, "\": must be a plain file name"));
  }
  return out;
}

void CheckFile(const std::string& folder, const Promise& promise) {
  const std::string path = folder + "/" + promise.name;
  if (!fs::exists(path)) Refuse(path, "missing, DONE names it");
  const MappedFile file(path);
  if (static_cast<int64_t>(file.size()) != promise.size)
    Refuse(path, StrCat(WithCommas(file.size()), " bytes, DONE says ", WithCommas(static_cast<uint64_t>(promise.size)),
                        ": incomplete copy?"));
  if (Crc32(file.bytes()) != static_cast<uint32_t>(promise.crc32))
    Refuse(path, "its CRC-32 is not that of DONE: damaged");
}

// One rank writes one optimiser file; a checkpoint of several needs them merged.
void CheckShards(const std::string& folder, const std::vector<Promise>& promises, const Json& state) {
  int64_t found = 0;
  for (const Promise& promise : promises) {
    if (promise.name.rfind("optim-", 0) != 0) continue;
    ++found;
    if (promise.name != kOptimFile)
      Refuse(folder + "/" + promise.name, "optimiser state of several ranks: this program resumes one");
  }
  int64_t ranks = 0;
  if (state.contains("world_size")) ReadJson(state["world_size"], folder + "/state.json: world_size", &ranks);
  if (found != 1 || ranks != 1) Refuse(folder, StrCat(found, " optimiser files of ", ranks, " ranks: must be 1 of 1"));
}

void RemoveFolder(const std::string& folder) noexcept {
  std::error_code ignored;
  fs::remove(folder + "/" + kDone, ignored);  // first: from here on it is not complete
  fs::remove_all(folder, ignored);
}

}  // namespace

std::string CheckpointName(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

std::string WriteCheckpoint(const std::string& root, int64_t step, const CheckpointContent& content,
                            const FileOps& ops) {
  MakeDirs(root);
  RemoveStaleTemporaries(root);
  const std::string name = CheckpointName(step), folder = root + "/" + name;
  RemoveFolder(folder);
  MakeDirs(folder);
  try {
    WriteFiles(folder, content, ops);
    FsyncDir(root, ops);
  } catch (...) {
    RemoveFolder(folder);
    throw;
  }
  // From here on the folder is complete; without `latest` it is still found.
  WriteFileAtomic(root + "/" + kLatest, name + "\n", ops);
  return folder;
}

Checkpoint OpenCheckpoint(const std::string& folder) {
  const std::vector<Promise> promises = ReadDone(folder);
  for (const char* name : {kModelFile, kStateFile})
    if (std::none_of(promises.begin(), promises.end(), [&](const Promise& p) { return p.name == name; }))
      Refuse(folder + "/" + kDone, StrCat("files: ", name, " is not named"));
  for (const Promise& promise : promises) CheckFile(folder, promise);
  const std::string state_path = folder + "/" + kStateFile;
  Json state = ParseJson(ReadFile(state_path, 1 << 30), state_path);
  if (!state.is_object()) Refuse(state_path, "must be an object");
  CheckShards(folder, promises, state);
  if (!state.contains("step")) Refuse(state_path, "step: missing");
  int64_t step = 0;
  ReadJson(state["step"], state_path + ": step", &step);
  return {.folder = folder,
          .step = step,
          .state = std::move(state),
          .weights = SafeTensors::Open(folder + "/" + kModelFile),
          .optimiser = SafeTensors::Open(folder + "/" + kOptimFile)};
}

std::vector<int64_t> ListCheckpoints(const std::string& root) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error))
    if (const int64_t step = StepOf(entry.path().filename().string()); step >= 0 && fs::exists(entry.path() / kDone))
      steps.push_back(step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<Checkpoint> FindCheckpoint(const std::string& root, const std::function<void(const std::string&)>& warn) {
  std::vector<std::string> names;
  const std::string latest_path = root + "/" + kLatest;
  const std::vector<int64_t> steps = ListCheckpoints(root);
  if (fs::exists(latest_path)) {
    std::string name = ReadFile(latest_path, 4096);
    while (!name.empty() && name.back() == '\n') name.pop_back();
    if (StepOf(name) < 0) {
      warn(StrCat(latest_path, ": \"", name.substr(0, 60), "\": names no checkpoint"));
    } else {
      names.push_back(name);
    }
  } else if (!steps.empty()) {
    warn(latest_path + ": missing");
  }
  for (auto step = steps.rbegin(); step != steps.rend(); ++step)
    if (names.empty() || names.front() != CheckpointName(*step)) names.push_back(CheckpointName(*step));
  for (const std::string& name : names) {
    try {
      return OpenCheckpoint(root + "/" + name);
    } catch (const Error& error) {
      warn(StrCat(error.what(), ": passed over"));
    }
  }
  return std::nullopt;
}

int64_t BestCheckpoint(const std::string& root) {
  int64_t best = -1;
  double best_loss = 0;
  for (const int64_t step : ListCheckpoints(root)) {
    const std::string path = root + "/" + CheckpointName(step) + "/" + kStateFile;
    try {
      const Json state = ParseJson(ReadFile(path, 1 << 30), path);
      if (!state.is_object() || !state.contains("val") || !state["val"].is_object() || !state["val"].contains("loss"))
        continue;
      const Json& loss = state["val"]["loss"];
      if (!loss.is_number() || (best >= 0 && !(loss.get<double>() < best_loss))) continue;
      best = step;
      best_loss = loss.get<double>();
    } catch (const Error&) {
      continue;  // damaged: resuming says so
    }
  }
  return best;
}

void PruneCheckpoints(const std::string& root, int64_t keep, int64_t written) {
  std::vector<int64_t> complete = ListCheckpoints(root);
  std::stable_partition(complete.begin(), complete.end(), [&](int64_t step) { return step > written; });
  if (complete.empty()) return;
  const int64_t best = BestCheckpoint(root);
  const auto first_kept = static_cast<int64_t>(complete.size()) - keep;
  for (int64_t i = 0; i < first_kept; ++i) {
    const int64_t step = complete[static_cast<size_t>(i)];
    if (step != best) RemoveFolder(root + "/" + CheckpointName(step));
  }
  std::vector<std::string> torn;  // left by killed processes
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    const int64_t step = StepOf(entry.path().filename().string());
    if (step >= 0 && step < written && !fs::exists(entry.path() / kDone)) torn.push_back(entry.path().string());
  }
  for (const std::string& folder : torn) RemoveFolder(folder);
}

}  // namespace hydra::train
