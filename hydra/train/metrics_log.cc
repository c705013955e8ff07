// SPDX-License-Identifier: Apache-2.0
// Appending, cutting and reading of a run's numbers.
#include "hydra/train/metrics_log.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <string_view>
#include <utility>

#include "hydra/io/json.h"
#include "hydra/train/event_file.h"

namespace hydra::train {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 2> kSplitNames = {"train", "val"};
constexpr std::string_view kFixedColumns = "step,tokens,seconds,flops";
constexpr std::string_view kRowStart = "{\"step\":";
constexpr std::string_view kEventPrefix = "events.out.tfevents.";

// Shortest text that reads back as the same number.
std::string NumberText(double value) {
  char buffer[32];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  return std::string(buffer, end);
}
std::string JsonNumber(double value) { return std::isfinite(value) ? NumberText(value) : "null"; }

// A file that grows by whole pieces: a piece that does not fit is taken back.
class AppendFile {
 public:
  explicit AppendFile(std::string path) : path_(std::move(path)) { Open(); }
  ~AppendFile() { Close(); }
  AppendFile(AppendFile&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}
  AppendFile& operator=(AppendFile&&) = delete;

  void Append(std::string_view piece) {
    size_t done = 0;
    while (done < piece.size()) {
      const ssize_t n = ::write(fd_, piece.data() + done, piece.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const int error = n < 0 ? errno : ENOSPC;
        Cut(size_);
        ThrowIo(path_, "cannot append", error);
      }
      done += static_cast<size_t>(n);
    }
    size_ += piece.size();
  }
  // Replaces the whole content atomically.
  void Replace(std::string_view text) {
    WriteFileAtomic(path_, text);
    Close();
    Open();
  }
  void Cut(uint64_t size) {
    // A failure leaves a torn line, which readers skip and the next opening cuts.
    if (::ftruncate(fd_, static_cast<off_t>(size)) == 0) size_ = size;
  }
  void Sync() {
    if (::fsync(fd_) != 0) ThrowIo(path_, "cannot sync", errno);
  }
  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

 private:
  void Open() {
    fd_ = OpenForAppending(path_);
    struct stat info {};
    if (::fstat(fd_, &info) != 0) ThrowIo(path_, "cannot stat", errno);
    if (!S_ISREG(info.st_mode)) throw Error(ErrorCode::kIo, path_ + ": not a regular file");
    size_ = static_cast<uint64_t>(info.st_size);
  }
  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

std::string_view FirstLine(std::string_view text) { return text.substr(0, text.find('\n')); }

template <class F>
void ForEachLine(std::string_view text, F f) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) return;  // torn
    f(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
}

// The step that a line of ours starts with; -1 where there is none.
int64_t LeadingStep(std::string_view line, std::string_view prefix) {
  if (!line.starts_with(prefix)) return -1;
  line.remove_prefix(prefix.size());
  int64_t step = -1;
  std::from_chars(line.data(), line.data() + line.size(), step);
  return step;
}

// A row as a line of JSON, without its end.
std::string RowText(const MetricsRow& row) {
  std::string line = StrCat(kRowStart, row.step, ",\"tokens\":", row.tokens, ",\"seconds\":", JsonNumber(row.seconds),
                            ",\"flops\":", JsonNumber(row.flops));
  for (const auto& [name, value] : row.values) line += ",\"" + name + "\":" + JsonNumber(value);
  return line + "}";
}

// The row of such a line. Throws kFormat or kConfig naming `where` and the field.
MetricsRow ParseRow(std::string_view line, const std::string& where) {
  const auto json = ParseJson(line, where);
  MetricsRow row;
  if (!json.is_object()) throw Error(ErrorCode::kFormat, StrCat(where, ": must be an object"));
  for (const auto& [name, value] : json.items()) {
    const std::string field = StrCat(where, ": ", name);
    if (name == "step") {
      ReadJson(value, field, &row.step);
    } else if (name == "tokens") {
      ReadJson(value, field, &row.tokens);
    } else {
      double number = std::nan("");
      if (!value.is_null()) ReadJson(value, field, &number);
      if (name == "seconds") {
        row.seconds = number;
      } else if (name == "flops") {
        row.flops = number;
      } else {
        row.values[name] = number;
      }
    }
  }
  return row;
}

bool IsSeriesName(const std::string& name) {
  return !name.empty() &&
         std::ranges::all_of(name, [](char c) { return c > ' ' && c < 127 && c != '"' && c != ',' && c != '\\'; });
}

// Refuses a file that no run wrote, before anything of it is cut: train.jsonl may be a user's own data. `start` is what
// a file of ours begins with, be it torn off within that.
void CheckOurs(const std::string& path, std::string_view start) {
  const std::string text = ReadFile(path);
  if (start.substr(0, text.size()) == std::string_view(text).substr(0, start.size())) return;
  throw Error(ErrorCode::kFormat, StrCat(path, ": not the log of a run, which begins with ", start,
                                         " - nothing was changed; give another --run"));
}

// The two text files of one split.
class SplitFiles {
 public:
  SplitFiles(const std::string& folder, const char* split)
      : jsonl_(PathOf(folder, split, ".jsonl")), csv_(PathOf(folder, split, ".csv")) {
    for (AppendFile* file : {&jsonl_, &csv_}) {
      const std::string text = ReadFile(file->path());
      const size_t last = text.rfind('\n');  // what a killed writer left after it is no row
      if (last + 1 < text.size() || last == std::string::npos) file->Cut(last == std::string::npos ? 0 : last + 1);
    }
    ReadColumns(FirstLine(ReadFile(csv_.path())));
  }

  static std::string PathOf(const std::string& folder, const char* split, const char* ending) {
    return (fs::path(folder) / StrCat(split, ending)).string();
  }

  void Row(const MetricsRow& row) {
    AddColumns(row);
    jsonl_.Append(RowText(row) + "\n");
    std::string line = StrCat(row.step, ",", row.tokens, ",", NumberText(row.seconds), ",", NumberText(row.flops));
    for (const std::string& name : columns_) {
      const auto it = row.values.find(name);
      line += ',';
      if (it != row.values.end()) line += NumberText(it->second);
    }
    csv_.Append(line + "\n");
  }

  void CutAfter(int64_t step) {
    std::string kept;
    ForEachLine(ReadFile(jsonl_.path()), [&](std::string_view line) {
      const int64_t at = LeadingStep(line, kRowStart);
      if (at >= 0 && at <= step) kept.append(line).append("\n");
    });
    if (kept.size() != jsonl_.size()) jsonl_.Replace(kept);
    kept.clear();
    ForEachLine(ReadFile(csv_.path()), [&](std::string_view line) {
      const int64_t at = LeadingStep(line, "");
      if (kept.empty() || (at >= 0 && at <= step)) kept.append(line).append("\n");
    });
    if (kept.size() != csv_.size()) csv_.Replace(kept);
  }

  void Sync() {
    jsonl_.Sync();
    csv_.Sync();
  }

 private:
  void ReadColumns(std::string_view header) {
    if (header.empty()) return;
    has_header_ = true;
    size_t at = std::min(header.size(), kFixedColumns.size());
    while (at < header.size()) {
      const size_t end = std::min(header.find(',', at + 1), header.size());
      columns_.emplace_back(header.substr(at + 1, end - at - 1));
      at = end;
    }
  }

  std::string HeaderLine() const {
    std::string line(kFixedColumns);
    for (const std::string& name : columns_) line += "," + name;
    return line;
  }

  // Sees to the header and to a column for each series of the row.
  void AddColumns(const MetricsRow& row) {
    const size_t before = columns_.size();
    for (const auto& [name, value] : row.values) {
      HYDRA_CHECK(IsSeriesName(name), "series name: ", name);
      if (std::ranges::find(columns_, name) == columns_.end()) columns_.push_back(name);
    }
    if (has_header_ && columns_.size() == before) return;
    try {
      if (!has_header_) {
        csv_.Append(HeaderLine() + "\n");
      } else {
        const std::string more(columns_.size() - before, ',');
        std::string text;
        ForEachLine(ReadFile(csv_.path()), [&](std::string_view line) {
          text += text.empty() ? HeaderLine() : std::string(line) + more;
          text += '\n';
        });
        csv_.Replace(text);
      }
    } catch (const Error&) {
      columns_.resize(before);  // the file still has the old ones
      throw;
    }
    has_header_ = true;
  }

  AppendFile jsonl_, csv_;
  bool has_header_ = false;
  std::vector<std::string> columns_;
};

std::vector<std::string> EventFiles(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename().string().starts_with(kEventPrefix)) paths.push_back(entry.path().string());
  std::ranges::sort(paths);
  return paths;
}

// A name after all others of the folder in the order of names, which is the order in which TensorBoard reads files.
std::string NextEventPath(const std::string& folder, double wall_time) {
  auto seconds = static_cast<int64_t>(wall_time);
  for (const std::string& path : EventFiles(folder)) {
    int64_t other = 0;
    const std::string name = fs::path(path).filename().string();
    std::from_chars(name.data() + kEventPrefix.size(), name.data() + name.size(), other);
    seconds = std::max(seconds, other + 1);
  }
  std::string number = std::to_string(seconds);
  number.insert(0, number.size() < 10 ? 10 - number.size() : 0, '0');
  return (fs::path(folder) / (std::string(kEventPrefix) + number + ".hydralm")).string();
}

// Keeps the sound frames with a step of at most `step`.
void CutEventFile(const std::string& path, int64_t step) {
  const std::string file = ReadFile(path);
  std::string kept;
  for (size_t at = 0;;) {
    const auto frame = NextFrame(file, &at);
    if (!frame) break;
    const auto frame_step = EventStep(frame->data);
    if (frame_step && *frame_step <= step) kept += frame->whole;
  }
  if (kept.size() != file.size()) WriteFileAtomic(path, kept);
}

}  // namespace

struct MetricsLog::Files {
  std::string folder;
  Options options;
  std::array<SplitFiles, 2> splits;
  std::unique_ptr<AppendFile> events;  // made with the first row: a run without rows has none
  int64_t held_after = -1;             // the step of HoldAfter; -1: rows are written as they come
  std::vector<std::pair<MetricsSplit, MetricsRow>> held = {};
};

MetricsLog::MetricsLog(const std::string& folder) : MetricsLog(folder, Options{}) {}

MetricsLog::MetricsLog(const std::string& folder, Options options) {
  if (!options.clock)
    options.clock = [] {
      return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    };
  std::error_code error;
  if (!fs::is_directory(folder, error)) ThrowIo(folder, "cannot open the run's folder", ENOENT);
  for (const char* split : kSplitNames) {
    if (const std::string path = SplitFiles::PathOf(folder, split, ".jsonl"); fs::exists(path, error))
      CheckOurs(path, kRowStart);
    if (const std::string path = SplitFiles::PathOf(folder, split, ".csv"); fs::exists(path, error))
      CheckOurs(path, kFixedColumns);
  }
  files_.reset(new Files{
      folder, std::move(options), {SplitFiles(folder, kSplitNames[0]), SplitFiles(folder, kSplitNames[1])}, nullptr});
}

MetricsLog::~MetricsLog() = default;
MetricsLog::MetricsLog(MetricsLog&&) noexcept = default;
MetricsLog& MetricsLog::operator=(MetricsLog&&) noexcept = default;

void MetricsLog::Row(MetricsSplit split, const MetricsRow& row) {
  HYDRA_CHECK(row.step >= 0, "step ", row.step);
  if (files_->held_after >= 0) {
    files_->held.emplace_back(split, row);
  } else {
    Write(split, row);
  }
}

void MetricsLog::Write(MetricsSplit split, const MetricsRow& row) {
  files_->splits[static_cast<size_t>(split)].Row(row);
  if (!files_->options.tensorboard) return;
  const double now = files_->options.clock();
  if (files_->events == nullptr) {
    auto events = std::make_unique<AppendFile>(NextEventPath(files_->folder, now));
    events->Append(EventFileStart(now));
    files_->events = std::move(events);
  }
  files_->events->Append(ScalarEvent(now, row.step, row.values));
}

void MetricsLog::CutAfter(int64_t step) {
  for (SplitFiles& split : files_->splits) split.CutAfter(step);
  files_->events.reset();  // the next row begins a new file
  for (const std::string& path : EventFiles(files_->folder)) CutEventFile(path, step);
}

void MetricsLog::Sync() {
  for (SplitFiles& split : files_->splits) split.Sync();
  if (files_->events != nullptr) files_->events->Sync();
}

void MetricsLog::HoldAfter(int64_t step) {
  HYDRA_CHECK(step >= 0 && files_->held.empty(), "step ", step);
  files_->held_after = step;
}

Json MetricsLog::Held() const {
  if (files_->held_after < 0) return nullptr;
  Json rows = Json::array();
  for (const auto& [split, row] : files_->held) rows.push_back({kSplitNames[static_cast<size_t>(split)], RowText(row)});
  return {{"after", files_->held_after}, {"rows", rows}};
}

void MetricsLog::Release() {
  if (files_->held_after < 0) return;
  CutAfter(files_->held_after);
  for (const auto& [split, row] : files_->held) Write(split, row);
  files_->held_after = -1;
  files_->held.clear();
}

int64_t MetricsLog::Replay(const Json& held, const std::string& where) {
  const auto fail = [&](const char* text) { throw Error(ErrorCode::kFormat, StrCat(where, text)); };
  if (!held.is_object() || !held.contains("after") || !held.contains("rows")) fail(": must have after and rows");
  int64_t after = -1;
  ReadJson(held["after"], where + ": after", &after);
  if (after < 0) fail(": after: must be >= 0");
  std::vector<std::vector<std::string>> lines;
  ReadJson(held["rows"], where + ": rows", &lines);
  std::vector<std::pair<MetricsSplit, MetricsRow>> rows;
  for (const std::vector<std::string>& line : lines) {
    if (line.size() != 2 || std::ranges::find(kSplitNames, line[0]) == kSplitNames.end())
      fail(": rows: each must be [\"train\" or \"val\", line]");
    const auto split = line[0] == kSplitNames[0] ? MetricsSplit::kTrain : MetricsSplit::kVal;
    rows.emplace_back(split, ParseRow(line[1], where + ": rows"));
    for (const auto& [name, value] : rows.back().second.values)
      if (!IsSeriesName(name)) fail(": rows: a series has a name that no series can have");
  }
  CutAfter(after);
  for (const auto& [split, row] : rows) Write(split, row);
  return after;
}

std::vector<MetricsRow> ReadMetrics(const std::string& path) {
  std::vector<MetricsRow> rows;
  ForEachLine(ReadFile(path),
              [&](std::string_view line) { rows.push_back(ParseRow(line, StrCat(path, ":", rows.size() + 1))); });
  return rows;
}

}  // namespace hydra::train
