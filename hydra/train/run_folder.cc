// SPDX-License-Identifier: Apache-2.0
// Files that describe a run.
#include "hydra/train/run_folder.h"

#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "hydra/io/file.h"

namespace hydra::train {
namespace {

namespace fs = std::filesystem;

std::string FirstLineOf(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
  return "";
}

std::string TimeText(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, format, &parts));
}

// Appends to a file, with one write. Throws kIo.
void AppendLine(const std::string& path, const std::string& text) {
  const int fd = OpenForAppending(path);
  const ssize_t n = ::write(fd, text.data(), text.size());
  const int error = n < 0 ? errno : n < static_cast<ssize_t>(text.size()) ? ENOSPC : 0;
  ::close(fd);
  if (error != 0) ThrowIo(path, "cannot append", error);
}

}  // namespace

std::string SourceCommit() {
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (; !error && folder.has_relative_path(); folder = folder.parent_path()) {
    const std::string head = FirstLineOf(folder / ".git" / "HEAD");
    if (head.empty()) continue;
    if (head.rfind("ref: ", 0) != 0) return head;
    const std::string commit = FirstLineOf(folder / ".git" / head.substr(5));
    if (!commit.empty()) return commit;
    std::ifstream packed(folder / ".git" / "packed-refs");
    for (std::string line; std::getline(packed, line);)
      if (line.size() > 41 && line.substr(41) == head.substr(5)) return line.substr(0, 40);
  }
  return "";
}

RunFolder::RunFolder(std::string path, std::function<void(const std::string&)> warn)
    : path_(std::move(path)), warn_(std::move(warn)) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  if (!exists()) return;
  MakeDirs(path_);
  lock_.emplace(path_, "hydralm train");
  RemoveStaleTemporaries(path_);
}

void RunFolder::WriteRunToml(const RunConfig& config) const {
  if (exists()) WriteFileAtomic(path_ + "/run.toml", RunToml(config));
}

void RunFolder::WriteEnv(const std::map<std::string, std::string>& facts) const {
  if (!exists()) return;
  utsname system{};
  uname(&system);
  nlohmann::ordered_json env = {{"commit", SourceCommit()},
                                {"machine",
                                 {{"host", system.nodename},
                                  {"system", StrCat(system.sysname, " ", system.release)},
                                  {"cpu", CpuName()},
                                  {"cores", sysconf(_SC_NPROCESSORS_ONLN)}}},
                                {"time", TimeText("%Y-%m-%dT%H:%M:%SZ")}};
  for (const auto& [key, value] : facts) env[key] = value;
  const auto replace = nlohmann::ordered_json::error_handler_t::replace;  // a command line may hold any bytes
  WriteFileAtomic(path_ + "/env.json", env.dump(1, ' ', false, replace) + "\n");
}

void RunFolder::Log(const std::string& line) const {
  if (!exists()) return;
  try {
    AppendLine(path_ + "/log.txt", TimeText("%H:%M:%S ") + line + "\n");
  } catch (const Error& error) {
    if (const auto warn = std::exchange(warn_, {})) warn(StrCat(error.what(), ": its lines are lost"));
  }
}

}  // namespace hydra::train
