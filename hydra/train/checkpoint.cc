// SPDX-License-Identifier: Apache-2.0
// Writing, checking, finding and removing checkpoints.
#include "hydra/train/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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
constexpr const char* kPart = ".part";
constexpr const char* kOld = ".old";

// The step of a folder's name, or -1.
int64_t StepOf(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (name.size() < kPrefix.size() + 8 || name.compare(0, kPrefix.size(), kPrefix) != 0) return -1;
  int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [at, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && at == end && step >= 0 && CheckpointName(step) == name ? step : -1;
}

// True where the name is there, whatever it is: a link that leads nowhere too.
bool IsThere(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 || errno != ENOENT;
}

// Names in a folder; none where there is no such folder. Throws kIo where it cannot be listed: what lies there is then
// not known, which is not the same as nothing.
std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  if (!IsThere(folder)) return names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  if (error) ThrowIo(folder, "cannot be listed", error.value());
  return names;
}

enum class Look {
  kDone,    // has DONE, and its files may be read
  kTorn,    // a folder without DONE: a save that was broken off
  kUnseen,  // no folder, a link that leads nowhere or in a circle, or without permission to read it
};

Look LookAt(const std::string& folder) {
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return Look::kUnseen;
  if (::access(folder.c_str(), R_OK | X_OK) != 0) return Look::kUnseen;
  if (!IsThere(folder + "/" + kDone)) return Look::kTorn;
  for (const char* name : {kDone, kModelFile, kOptimFile, kStateFile})
    if (::access((folder + "/" + name).c_str(), R_OK) != 0 && errno != ENOENT) return Look::kUnseen;
  return Look::kDone;
}

struct Found {
  int64_t step;
  Look look;
};

// The folders with the name of a checkpoint, by step. Throws kIo as NamesIn.
std::vector<Found> Scan(const std::string& root) {
  std::vector<Found> found;
  for (const std::string& name : NamesIn(root))
    if (const int64_t step = StepOf(name); step >= 0) found.push_back({step, LookAt(root + "/" + name)});
  std::ranges::sort(found, {}, &Found::step);
  return found;
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
  std::error_code error;
  const bool is_folder = fs::is_directory(folder, error);
  if (error && error != std::errc::no_such_file_or_directory) ThrowIo(folder, "cannot be looked at", error.value());
  if (!is_folder) Refuse(folder, "no such checkpoint");
  if (!IsThere(path)) Refuse(folder, "not a complete checkpoint: it has no DONE file");
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
  if (!IsThere(path)) Refuse(path, "missing, DONE names it");
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
  if (found != 1) Refuse(folder + "/" + kDone, StrCat("files: ", found, " of optimisers: must be 1"));
  if (ranks != 1) Refuse(folder + "/" + kStateFile, StrCat("world_size = ", ranks, ": must be 1"));
}

void RemoveFolder(const std::string& folder) noexcept {
  std::error_code ignored;
  if (!fs::is_symlink(folder, ignored))         // what a link leads to is not ours
    fs::remove(folder + "/" + kDone, ignored);  // first: from here on it is not complete
  fs::remove_all(folder, ignored);
}

bool IsComplete(const std::string& folder) { return IsThere(folder + "/" + kDone); }

// A complete NAME.part becomes NAME. What has that name stays as NAME.old until then.
void GiveName(const std::string& part, const std::string& folder, const FileOps& ops) {
  const std::string old = folder + kOld;
  if (IsThere(folder)) {
    RemoveFolder(old);
    if (ops.rename(folder.c_str(), old.c_str()) != 0) ThrowIo(folder, "cannot be renamed to " + old, errno);
  }
  if (ops.rename(part.c_str(), folder.c_str()) != 0) ThrowIo(part, "cannot be renamed to " + folder, errno);
  FsyncDir(fs::path(folder).parent_path().string(), ops);
  RemoveFolder(old);
}

// What a process left that ended within GiveName or WriteFiles: a complete NAME.part is finished where nothing else has
// the name, NAME.old gets its name back where there is no newer one, and all else goes.
void FinishReplacements(const std::string& root) {
  for (const std::string_view ending : {kPart, kOld}) {  // in this order: the new one first
    for (const std::string& left : NamesIn(root)) {
      if (!left.ends_with(ending)) continue;
      const std::string name = left.substr(0, left.size() - ending.size());
      if (StepOf(name) < 0) continue;
      const std::string from = root + "/" + left, to = root + "/" + name;
      if (IsComplete(from) && !IsThere(to)) {
        if (::rename(from.c_str(), to.c_str()) != 0) ThrowIo(from, "cannot be renamed to " + to, errno);
      } else {
        RemoveFolder(from);
      }
    }
  }
}

// The name in `latest`, or "": then `warn` has the reason.
std::string ReadLatest(const std::string& root, const std::function<void(const std::string&)>& warn) {
  const std::string path = root + "/" + kLatest;
  std::error_code ignored;
  try {
    if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored)) Refuse(path, "not a regular file");
    std::string name = ReadFile(path, 4096);
    while (!name.empty() && name.back() == '\n') name.pop_back();
    if (StepOf(name) < 0) Refuse(path, StrCat("\"", name.substr(0, 60), "\": names no checkpoint"));
    return name;
  } catch (const Error& error) {
    warn(StrCat(error.what(), ": passed over"));
    return "";
  }
}

// Renamed into place. Anything but a file that has the name goes first: it would be written through, or not at all.
void WriteLatest(const std::string& root, const std::string& name, const FileOps& ops) {
  const std::string path = root + "/" + kLatest;
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    std::error_code error;
    if (!fs::remove(path, error)) ThrowIo(path, "not a regular file, and cannot be removed", error.value());
  }
  WriteFileAtomic(path, name + "\n", ops);
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
  FinishReplacements(root);
  const std::string name = CheckpointName(step), folder = root + "/" + name, part = folder + kPart;
  try {
    MakeDirs(part);
    WriteFiles(part, content, ops);
    GiveName(part, folder, ops);
  } catch (...) {
    // A complete one whose name could not be given is the only one of its step: it is kept, and finished the next time.
    if (!IsComplete(part) || IsThere(folder)) RemoveFolder(part);
    throw;
  }
  // From here on the folder is complete; without `latest` it is still found.
  WriteLatest(root, name, ops);
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
  for (const Found& found : Scan(root))
    if (found.look == Look::kDone) steps.push_back(found.step);
  return steps;
}

bool HoldsCheckpoints(const std::string& root) {
  return HoldsLaterCheckpoints(root, -1) || IsThere(root + "/" + kLatest);
}

bool HoldsLaterCheckpoints(const std::string& root, int64_t step) {
  return std::ranges::any_of(Scan(root),
                             [step](const Found& found) { return found.step > step && found.look != Look::kTorn; });
}

std::optional<Checkpoint> FindCheckpoint(const std::string& root, const std::function<void(const std::string&)>& warn) {
  FinishReplacements(root);
  if (!HoldsCheckpoints(root)) return std::nullopt;
  std::vector<std::string> names;
  if (IsThere(root + "/" + kLatest)) {
    if (const std::string name = ReadLatest(root, warn); !name.empty()) names.push_back(name);
  } else {
    warn(root + "/" + kLatest + ": missing");
  }
  std::vector<Found> found = Scan(root);
  std::ranges::reverse(found);
  for (const auto& [step, look] : found)
    if (const std::string name = CheckpointName(step); look != Look::kTorn && (names.empty() || names.front() != name))
      names.push_back(name);
  std::string tried;
  for (const std::string& name : names) {
    try {
      return OpenCheckpoint(root + "/" + name);
    } catch (const Error& error) {
      warn(StrCat(error.what(), ": passed over"));
      tried += (tried.empty() ? "" : ", ") + name;
    }
  }
  Refuse(root, StrCat("none of its checkpoints can be opened", tried.empty() ? "" : " (" + tried + ")",
                      ": nothing was changed; mend or restore one, or give another --run to start anew"));
}

bool IsLatest(const std::string& root, const std::string& folder) {
  if (!IsThere(root + "/" + kLatest)) return false;
  const std::string name = ReadLatest(root, [](const std::string&) {});
  std::error_code ignored;
  return !name.empty() && fs::equivalent(root + "/" + name, folder, ignored);
}

int64_t BestCheckpoint(const std::string& root, int64_t last) {
  int64_t best = -1;
  double best_loss = 0;
  for (const int64_t step : ListCheckpoints(root)) {
    if (step > last) break;
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

void RemoveLaterCheckpoints(const std::string& root, int64_t step, int64_t written) {
  for (const int64_t other : ListCheckpoints(root))
    if (other > step && other != written) RemoveFolder(root + "/" + CheckpointName(other));
}

void PruneCheckpoints(const std::string& root, int64_t keep, int64_t written) {
  std::vector<int64_t> complete, torn;
  for (const auto& [step, look] : Scan(root)) {
    if (look == Look::kDone) complete.push_back(step);
    if (look == Look::kTorn && step < written) torn.push_back(step);  // left by killed processes
  }
  std::stable_partition(complete.begin(), complete.end(), [&](int64_t step) { return step > written; });
  if (complete.empty()) return;
  const int64_t best = BestCheckpoint(root, written);
  const auto first_kept = static_cast<int64_t>(complete.size()) - keep;
  for (int64_t i = 0; i < first_kept; ++i) {
    const int64_t step = complete[static_cast<size_t>(i)];
    if (step != best) RemoveFolder(root + "/" + CheckpointName(step));
  }
  for (const int64_t step : torn) RemoveFolder(root + "/" + CheckpointName(step));
}

}  // namespace hydra::train
