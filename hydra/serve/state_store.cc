// SPDX-License-Identifier: Apache-2.0
// The files of saved sequences.
#include "hydra/serve/state_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/io/file.h"
#include "hydra/io/safetensors.h"
#include "hydra/serve/api_error.h"

namespace hydra::serve {
namespace {

constexpr std::string_view kEnding = ".state";
constexpr const char* kNobody = "public";  // the owner where there are no keys

// A path through a descriptor, for readers and writers of files that know paths.
std::string PathOf(int fd, const std::string& name = "") {
  return StrCat("/proc/self/fd/", fd, name.empty() ? "" : "/", name);
}

[[noreturn]] void NotThere(const std::string& name) {
  throw ApiError(kNotFound, "state " + name + ": there is none of this name", "state", "state_not_found");
}

void CheckName(const std::string& name) {
  if (!StateStore::IsName(name))
    throw ApiError(kBadRequest,
                   "name = \"" + OneLine(name, 70) + "\": must be 1 to 64 letters, digits, _, - and, not first, dots",
                   "name");
}

int64_t TokensOf(int fd) {
  return SafeTensors::Open(PathOf(fd)).Get("ids").nbytes / static_cast<int64_t>(sizeof(int32_t));
}

}  // namespace

class StateStore::Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool there() const { return fd_ >= 0; }

 private:
  int fd_;
};

bool StateStore::IsName(std::string_view name) {
  constexpr size_t kMost = 64;
  const auto plain = [](char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kMost && plain(name[0]) &&
         std::ranges::all_of(name, [&](char c) { return plain(c) || c == '.'; });
}

StateStore::StateStore(const std::string& folder, int64_t quota) : folder_(folder), quota_(quota) {
  MakeDirs(folder);
  fd_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0) ThrowIo(folder, "cannot open", errno);
}

StateStore::~StateStore() { ::close(fd_); }

StateStore::Descriptor StateStore::OwnerFolder(const std::string& owner, bool make) const {
  const std::string name = owner.empty() ? kNobody : owner;
  constexpr mode_t kOwnerOnly = 0700;
  if (make && ::mkdirat(fd_, name.c_str(), kOwnerOnly) != 0 && errno != EEXIST)
    ThrowIo(folder_, "cannot make a folder in it", errno);
  return Descriptor(::openat(fd_, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

StateStore::Descriptor StateStore::OpenState(const std::string& owner, const std::string& name) const {
  CheckName(name);
  const Descriptor folder = OwnerFolder(owner, false);
  if (!folder.there()) NotThere(name);
  Descriptor file(
      ::openat(folder.get(), (name + std::string(kEnding)).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file.there()) NotThere(name);
  return file;
}

std::vector<StateStore::Entry> StateStore::List(const std::string& owner) const {
  std::vector<Entry> entries;
  Descriptor folder = OwnerFolder(owner, false);
  if (!folder.there()) return entries;
  const int copy = ::fcntl(folder.get(), F_DUPFD_CLOEXEC, 0);  // closedir closes it
  const auto close = [](DIR* dir) { ::closedir(dir); };
  const std::unique_ptr<DIR, decltype(close)> dir(copy < 0 ? nullptr : ::fdopendir(copy), close);
  if (dir == nullptr) ThrowIo(folder_, "cannot list", errno);
  while (const dirent* each = ::readdir(dir.get())) {
    std::string_view name = each->d_name;
    if (!name.ends_with(kEnding)) continue;
    name.remove_suffix(kEnding.size());
    if (!IsName(name)) continue;
    try {
      const Descriptor file = OpenState(owner, std::string(name));
      struct stat info {};
      if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
      entries.push_back({std::string(name), TokensOf(file.get()), static_cast<int64_t>(info.st_size)});
    } catch (const std::exception&) {  // deleted in between, or no state: it cannot be used either
      continue;
    }
  }
  std::ranges::sort(entries, {}, &Entry::name);
  return entries;
}

int64_t StateStore::UsedBytes() const {
  namespace fs = std::filesystem;
  int64_t sum = 0;
  std::error_code ignored;
  for (fs::recursive_directory_iterator at(PathOf(fd_) + "/", ignored), end; at != end; at.increment(ignored))
    if (fs::is_regular_file(at->symlink_status(ignored))) sum += static_cast<int64_t>(at->file_size(ignored));
  return sum;
}

StateStore::Entry StateStore::Save(const std::string& owner, const std::string& name, const SequenceState& state) {
  CheckName(name);
  const std::lock_guard lock(mutex_);
  const Descriptor folder = OwnerFolder(owner, true);
  if (!folder.there()) ThrowIo(folder_, "cannot open a folder in it", errno);
  const std::string file = name + std::string(kEnding);
  struct stat before {};
  const bool exists = ::fstatat(folder.get(), file.c_str(), &before, AT_SYMLINK_NOFOLLOW) == 0;
  if (exists && !S_ISREG(before.st_mode))
    throw ApiError(kConflict, "state " + name + ": something that is no file has this name", "name");
  constexpr int64_t kHead = 65536;  // names of tensors and the like
  const int64_t needs = state.BytesAt(state.pos()) + state.pos() * static_cast<int64_t>(sizeof(int32_t)) + kHead;
  const int64_t used = UsedBytes() - (exists ? static_cast<int64_t>(before.st_size) : 0);
  if (used + needs > quota_)
    throw ApiError(kInsufficientStorage,
                   StrCat("state ", name, ": needs ", needs, " bytes, ", std::max<int64_t>(quota_ - used, 0),
                          " of the quota are left"),
                   "name", "quota_exceeded");
  try {
    state.Save(PathOf(folder.get(), file));
  } catch (const Error& error) {
    const std::string what = error.what();
    for (const int full : {ENOSPC, EDQUOT})
      if (what.find(std::strerror(full)) != std::string::npos)
        throw ApiError(kInsufficientStorage, "state " + name + ": the disk is full", "name", "disk_full");
    throw ApiError(kServerError, "state " + name + ": cannot be written", "name");
  }
  constexpr mode_t kOwnerOnly = 0600;
  (void)::fchmodat(folder.get(), file.c_str(), kOwnerOnly, 0);
  struct stat info {};
  (void)::fstatat(folder.get(), file.c_str(), &info, AT_SYMLINK_NOFOLLOW);
  return {name, state.pos(), static_cast<int64_t>(info.st_size)};
}

SequenceState StateStore::Load(const std::string& owner, const std::string& name, const Model& model,
                               std::shared_ptr<const MemoryOverlay> memory,
                               const std::function<KvPlan(int64_t)>& plan) const {
  const Descriptor file = OpenState(owner, name);
  const std::string path = PathOf(file.get());
  try {
    const int64_t N = SequenceState::PlanLengthIn(path), ctx = model.options().ctx_size;
    if (N > ctx) throw Error(ErrorCode::kUsage, StrCat("its plan is for ", N, " tokens: --ctx-size is ", ctx));
    return SequenceState::Load(path, model, plan ? plan(N > 0 ? N : ctx) : KvPlan(), std::move(memory));
  } catch (const Error& error) {
    std::string what = error.what();
    if (what.starts_with(path)) what = what.substr(std::min(path.size() + 2, what.size()));
    throw ApiError(kBadRequest, "state " + name + ": " + what, "state", "state_mismatch");
  }
}

void StateStore::Delete(const std::string& owner, const std::string& name) {
  CheckName(name);
  const std::lock_guard lock(mutex_);
  const Descriptor folder = OwnerFolder(owner, false);
  if (!folder.there() || ::unlinkat(folder.get(), (name + std::string(kEnding)).c_str(), 0) != 0) NotThere(name);
}

}  // namespace hydra::serve
