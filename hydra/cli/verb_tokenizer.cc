// SPDX-License-Identifier: Apache-2.0
// `hydralm tokenizer train|encode|decode|info`. Not here: chat (verb_tokenizer_chat.cc), the tokenizer itself
// (text/tokenizer.h, text/bpe_train.h).
#include <fmt/format.h>

#include <charconv>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hydra/base/clock.h"
#include "hydra/base/error.h"
#include "hydra/base/utf8.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_tokenizer_chat.h"
#include "hydra/cli/verbs.h"
#include "hydra/data/text_input.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/text/bpe_train.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {
namespace {

constexpr size_t kOutputBytes = 1 << 16;

// Results on stdout, in large pieces; a full disk or a closed pipe is an error, not silence.
class Output {
 public:
  void Add(std::string_view text) {
    buffer_.append(text);
    if (buffer_.size() >= kOutputBytes) Flush();
  }
  void AddNumber(int64_t value) {
    char digits[24];
    const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
    Add({digits, static_cast<size_t>(end - digits)});
  }
  void Flush() {
    if (std::fwrite(buffer_.data(), 1, buffer_.size(), stdout) != buffer_.size() || std::fflush(stdout) != 0) {
      ThrowIo("stdout", "cannot be written", errno);
    }
    buffer_.clear();
  }

 private:
  std::string buffer_;
};

void Print(const Json& json) {
  Output out;
  out.Add(DumpJson(json) + "\n");
  out.Flush();
}

std::string InputName(const std::string& path) { return path.empty() || path == "-" ? "stdin" : path; }
std::string ReadInput(const std::string& path) { return ReadText(path.empty() ? "-" : path); }

// The lines of `text` without their ends; a last line needs none.
template <class Line>
void ForEachLine(std::string_view text, Line&& line) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    line(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

// ---- train ----

struct TrainFlags {
  std::vector<std::string> files;
  std::string out = "tokenizer.json";
  int vocab = 32768;
  std::string pattern = "gpt2";
  std::vector<std::string> special = {"<|endoftext|>"};
  uint64_t min_count = 1;
  std::string field = "text", doc_sep, format = "auto";
};

// A line that is redrawn on a terminal, or one now and then with -v.
class TrainProgressLine {
 public:
  explicit TrainProgressLine(const CommonFlags& common)
      : draw_(!common.quiet && StderrIsTerminal()), lines_(common.verbose && !draw_), pace_(draw_ ? 0.1 : 2.0) {}
  void operator()(const BpeTrainProgress& p) {
    if (!draw_ && !lines_) return;
    const bool counting = p.phase == BpeTrainProgress::Phase::kCount;
    const bool last = !counting && p.done == p.total;
    if (!pace_.Due() && !last) return;
    const std::string text = counting ? fmt::format("counting words: {:.1f} MB", static_cast<double>(p.done) / 1e6)
                                      : fmt::format("merging pairs: {} of {} tokens", p.done, p.total);
    std::fprintf(stderr, draw_ ? "\r\x1b[K%s" : "%s\n", text.c_str());
    drawn_ = draw_;
  }
  void Clear() {
    if (drawn_) std::fputs("\r\x1b[K", stderr);
  }

 private:
  bool draw_, lines_, drawn_ = false;
  Pace pace_;
};

int RunTrain(const TrainFlags& flags, const CommonFlags& common) {
  TrainProgressLine line(common);
  BpeTrainer trainer({.vocab_size = flags.vocab,
                      .pattern = flags.pattern == "llama3" ? SplitPattern::kLlama3 : SplitPattern::kGpt2,
                      .special_tokens = flags.special,
                      .min_count = flags.min_count,
                      .progress = [&](const BpeTrainProgress& p) { line(p); }});
  const auto start = Seconds();
  const TextInputOptions options{
      .doc_sep = flags.doc_sep, .field = flags.field, .format = ParseTextFormat(flags.format)};
  InputNotes notes;
  int64_t mended = 0;
  for (const auto& file : flags.files) {
    TextInput input(file, options);
    for (TextDocument document; input.Next(&document);) {
      for (const TextSegment& segment : document.segments) {
        if (!segment.special) trainer.Add(segment.text);  // markup is no text to learn words from
      }
    }
    notes.Add(input);
    mended += input.mended();
  }
  if (trainer.empty())
    throw Error(ErrorCode::kData, StrCat(flags.files.front(), ": the corpus is empty: a tokenizer needs text"));
  const double count_seconds = Seconds() - start;
  const auto merge_start = Seconds();
  const BpeTrainResult result = trainer.Train();
  const double merge_seconds = Seconds() - merge_start;
  line.Clear();
  WriteFileAtomic(flags.out, result.json);
  const auto warn = [&](const std::string& text) {
    if (!common.quiet) fmt::print(stderr, "hydralm: warning: {}\n", text);
  };
  if (mended > 0)
    warn(fmt::format("{} documents had invalid UTF-8 or half a surrogate pair, replaced by U+FFFD", mended));
  for (const std::string& text : notes.Lines(options)) warn(text);
  if (result.vocab_size < flags.vocab)
    warn(fmt::format("{} tokens, not {}: the text has no more pairs to merge", result.vocab_size, flags.vocab));
  const double bytes = static_cast<double>(result.bytes);
  if (common.json) {
    Print({{"file", flags.out},
           {"vocab_size", result.vocab_size},
           {"pattern", flags.pattern},
           {"bytes", result.bytes},
           {"words", result.words},
           {"distinct_words", result.distinct},
           {"count_seconds", count_seconds},
           {"merge_seconds", merge_seconds}});
  } else if (!common.quiet) {
    std::fputs(fmt::format("{}: {} tokens from {:.1f} MB, {} distinct words, {:.2f} s\n", flags.out, result.vocab_size,
                           bytes / 1e6, result.distinct, count_seconds + merge_seconds)
                   .c_str(),
               stderr);
  }
  return kDone;
}

void AddTrain(CLI::App& parent, VerbContext& context) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* verb = context.AddVerb(parent, {"train", "train a byte-level BPE and write it as tokenizer.json"},
                                   "hydralm tokenizer train corpus.txt more.jsonl.gz --vocab 32768 -o tokenizer.json");
  verb->add_option("FILES", flags->files, "text or JSON lines, also .gz and .zst; - = stdin")->required();
  verb->add_option("-o,--out", flags->out, "the file to write");
  verb->add_option("--vocab", flags->vocab, "tokens, with the 256 bytes and the special ones")
      ->check(Range(257, 1 << 24));
  verb->add_option("--pattern", flags->pattern, "how text is split: gpt2 or llama3")
      ->check(CLI::IsMember({"gpt2", "llama3"}));
  verb->add_option("--special", flags->special, "special tokens, ids 0, 1, ... (repeatable)")->allow_extra_args(false);
  verb->add_option("--min-count", flags->min_count, "merge no pair that is rarer")->check(Range(0, LLONG_MAX));
  verb->add_option("--format", flags->format,
                   "text, jsonl, or auto: by the name (.txt, .jsonl, .ndjson), else by content")
      ->type_name("NAME");
  verb->add_option("--field", flags->field, "key of the text in a JSON line");
  verb->add_option("--doc-sep", flags->doc_sep, "text between the documents of a .txt (none: one document)");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunTrain(*flags, common); });
}

// ---- encode ----

struct CodeFlags {
  std::string model = ".", pre, file;
  bool lines = false;
  bool no_special = false, add_special = false, unescape = false;  // encode
  bool skip_special = false;                                       // decode
};

// A text as one line, and back again.
std::string EscapedLine(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\\': out += "\\\\"; break;
      default: out += c;
    }
  }
  return out;
}

std::string UnescapedLine(std::string_view line, const std::string& where) {
  std::string out;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\') {
      out += line[i];
      continue;
    }
    const char next = ++i < line.size() ? line[i] : '\0';
    if (next != 'n' && next != 'r' && next != '\\')
      throw Error(ErrorCode::kData, fmt::format("{}: byte {}: a backslash before {}: with --unescape it must be one of "
                                                "\\n, \\r, \\\\, as decode --lines writes them",
                                                where, i, next == '\0' ? "the line's end" : OneLine({&next, 1})));
    out += next == 'n' ? '\n' : next == 'r' ? '\r' : '\\';
  }
  return out;
}

int RunEncode(const CodeFlags& flags, const CommonFlags& common) {
  const Tokenizer tokenizer = LoadTokenizer(flags.model, flags.pre);
  const EncodeOptions options{.parse_special = !flags.no_special, .add_special = flags.add_special};
  if (flags.unescape && !flags.lines)
    throw Error(ErrorCode::kUsage, "--unescape: is for --lines, to read what decode --lines wrote");
  const std::string text = ReadInput(flags.file), name = InputName(flags.file);
  Tokenizer::Scratch scratch;
  std::vector<int32_t> ids;
  Output out;
  Json all = Json::array();
  const auto emit = [&](std::string_view part) {
    ids.clear();
    tokenizer.Encode(part, options, scratch, ids);
    if (common.json) {
      all.push_back(ids);
      return;
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) out.Add(" ");
      out.AddNumber(ids[i]);
    }
    out.Add("\n");
  };
  if (flags.lines) {
    int64_t number = 0;
    ForEachLine(text, [&](std::string_view line) {
      ++number;
      emit(flags.unescape ? UnescapedLine(line, fmt::format("{}:{}", name, number)) : std::string(line));
    });
  } else {
    emit(text);
  }
  if (common.json) Print(flags.lines ? Json{{"lines", all}} : Json{{"ids", all[0]}});
  out.Flush();
  return kDone;
}

void AddModelFlag(CLI::App* verb, std::string& model, std::string& pre) {
  verb->add_option("-m,--model", model, "model folder, tokenizer.json, tokenizer.model or .gguf");
  AddPreFlag(verb, &pre);
}

void AddEncode(CLI::App& parent, VerbContext& context) {
  auto flags = std::make_shared<CodeFlags>();
  CLI::App* verb = context.AddVerb(parent, {"encode", "text to token ids, separated by spaces"},
                                   "echo 'In the beginning' | hydralm tokenizer encode -m model/");
  AddModelFlag(verb, flags->model, flags->pre);
  verb->add_option("FILE", flags->file, "the text (none or -: stdin)");
  verb->add_flag("--lines", flags->lines, "each line by itself: one line of ids for each");
  verb->add_flag("--unescape", flags->unescape,
                 "with --lines: \\n, \\r and \\\\ in a line are what decode --lines wrote");
  verb->add_flag("--no-special", flags->no_special, "special tokens in the text are plain characters");
  verb->add_flag("--add-special", flags->add_special, "put around the text what the file's post-processor says");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunEncode(*flags, common); });
}

// ---- decode ----

// The numbers of `text`, with the place of a bad one in the message.
std::vector<int32_t> ParseIds(std::string_view text, const std::string& where) {
  std::vector<int32_t> ids;
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == ','; };
  for (size_t at = 0; at < text.size();) {
    if (is_space(text[at])) {
      ++at;
      continue;
    }
    size_t end = at;
    while (end < text.size() && !is_space(text[end])) ++end;
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end) {
      std::string mended;
      const std::string word(MendUtf8(text.substr(at, std::min<size_t>(end - at, 40)), mended));
      throw Error(ErrorCode::kData, fmt::format("{}: '{}' is not a token id", where, word));
    }
    ids.push_back(id);
    at = end;
  }
  return ids;
}

int RunDecode(const CodeFlags& flags, const CommonFlags& common) {
  const Tokenizer tokenizer = LoadTokenizer(flags.model, flags.pre);
  const std::string input = ReadInput(flags.file);
  const std::string name = InputName(flags.file);
  const DecodeOptions options{.skip_special = flags.skip_special};
  Output out;
  if (!flags.lines) {
    const std::string text = tokenizer.Decode(ParseIds(input, name), options);
    if (common.json) {
      Print({{"text", text}});
    } else {
      out.Add(text);
    }
  } else {
    Json all = Json::array();
    int64_t number = 0;
    ForEachLine(input, [&](std::string_view line) {
      const std::string text = tokenizer.Decode(ParseIds(line, fmt::format("{}:{}", name, ++number)), options);
      if (common.json) {
        all.push_back(text);
      } else {
        out.Add(EscapedLine(text) + "\n");
      }
    });
    if (common.json) Print({{"lines", all}});
  }
  out.Flush();
  return kDone;
}

void AddDecode(CLI::App& parent, VerbContext& context) {
  auto flags = std::make_shared<CodeFlags>();
  CLI::App* verb = context.AddVerb(parent, {"decode", "token ids to text"},
                                   "hydralm tokenizer encode -m model/ a.txt | hydralm tokenizer decode -m model/");
  AddModelFlag(verb, flags->model, flags->pre);
  verb->add_option("FILE", flags->file, "ids separated by white space or commas (none or -: stdin)");
  verb->add_flag("--lines", flags->lines,
                 "each line by itself; line ends and backslashes in a text are written \\n, \\r, \\\\");
  verb->add_flag("--skip-special", flags->skip_special, "leave special tokens out");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunDecode(*flags, common); });
}

// ---- info ----

struct InfoFlags {
  std::string model = ".", pre, file;
};

// What encoding a file shows.
struct Measured {
  uint64_t bytes = 0, tokens = 0;
  double seconds = 0;
  [[nodiscard]] double BytesPerToken() const {
    return tokens == 0 ? 0.0 : static_cast<double>(bytes) / static_cast<double>(tokens);
  }
};

Measured Measure(const Tokenizer& tokenizer, const std::string& file) {
  const std::string text = ReadInput(file);
  const auto start = Seconds();
  const size_t tokens = tokenizer.Encode(text).size();
  return {text.size(), tokens, Seconds() - start};
}

int RunInfo(const InfoFlags& flags, const CommonFlags& common) {
  const Tokenizer tokenizer = LoadTokenizer(flags.model, flags.pre);
  const auto named = [&](std::optional<int32_t> id) {
    return id ? fmt::format("{} ({})", *id, tokenizer.TokenText(*id)) : std::string("none");
  };
  const bool measure = !flags.file.empty();
  const Measured measured = measure ? Measure(tokenizer, flags.file) : Measured{};
  if (common.json) {
    Json special = Json::array();
    for (const int32_t id : tokenizer.SpecialIds()) special.push_back({{"id", id}, {"text", tokenizer.TokenText(id)}});
    const auto or_null = [](std::optional<int32_t> id) { return id ? Json(*id) : Json(nullptr); };
    Json json = {{"vocab_size", tokenizer.vocab_size()},
                 {"pattern", tokenizer.pattern()},
                 {"bos_id", or_null(tokenizer.bos_id())},
                 {"eos_id", or_null(tokenizer.eos_id())},
                 {"special", special},
                 {"sha256", Hex(tokenizer.sha256())}};
    if (measure) {
      json["file"] = {{"bytes", measured.bytes},
                      {"tokens", measured.tokens},
                      {"bytes_per_token", measured.BytesPerToken()},
                      {"seconds", measured.seconds}};
    }
    Print(json);
    return kDone;
  }
  Output out;
  out.Add(fmt::format("vocabulary   {}\npattern      {}\nbos          {}\neos          {}\n", tokenizer.vocab_size(),
                      tokenizer.pattern(), named(tokenizer.bos_id()), named(tokenizer.eos_id())));
  const auto special = tokenizer.SpecialIds();
  constexpr size_t kShown = 16;
  for (size_t i = 0; i < std::min(special.size(), kShown); ++i) {
    out.Add(fmt::format("{:13}{}\n", i == 0 ? "special" : "", named(special[i])));
  }
  if (special.size() > kShown) out.Add(fmt::format("{:13}and {} more\n", "", special.size() - kShown));
  out.Add(fmt::format("sha256       {}\n", Hex(tokenizer.sha256())));
  if (measure) {
    const double speed = measured.seconds > 0 ? static_cast<double>(measured.bytes) / 1e6 / measured.seconds : 0.0;
    out.Add(fmt::format("file         {} bytes, {} tokens, {:.3f} bytes per token, {:.1f} MB/s\n", measured.bytes,
                        measured.tokens, measured.BytesPerToken(), speed));
  }
  out.Flush();
  return kDone;
}

void AddInfo(CLI::App& parent, VerbContext& context) {
  auto flags = std::make_shared<InfoFlags>();
  CLI::App* verb = context.AddVerb(parent, {"info", "describe a tokenizer; with a file, its bytes per token"},
                                   "hydralm tokenizer info -m model/ corpus.txt");
  AddModelFlag(verb, flags->model, flags->pre);
  verb->add_option("FILE", flags->file, "a text to measure bytes per token and speed on (-: stdin)");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [flags](const CommonFlags& common) { return RunInfo(*flags, common); });
}

}  // namespace

void AddTokenizerVerb(CLI::App& root, VerbContext& context) {
  CLI::App* verb = context.AddVerb(root, kTokenizerVerb, "hydralm tokenizer info -m model/");
  AddTrain(*verb, context);
  AddEncode(*verb, context);
  AddDecode(*verb, context);
  AddTokenizerChat(*verb, context);
  AddInfo(*verb, context);
}

}  // namespace hydra::cli
