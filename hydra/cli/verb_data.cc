// SPDX-License-Identifier: Apache-2.0
// `hydralm data build|info|check`: flags, the progress line, and the results as text or JSON.
// Not here: what is done (data/data_build.h), data items (verb_data_items.h).
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/verb_data_items.h"
#include "hydra/cli/verbs.h"
#include "hydra/data/data_build.h"
#include "hydra/data/token_dataset.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/text/tokenizer.h"

namespace hydra::cli {
namespace {

std::string Count(int64_t n) { return WithCommas(static_cast<uint64_t>(n)); }

double BytesPerToken(const SplitCounts& counts) {
  return counts.tokens == 0 ? 0 : static_cast<double>(counts.text_bytes) / static_cast<double>(counts.tokens);
}

Json CountsJson(const SplitCounts& counts) {
  return {{"documents", counts.documents}, {"tokens", counts.tokens}, {"text_bytes", counts.text_bytes}};
}

Json ManifestJson(const std::string& folder, const DataManifest& manifest) {
  Json shards = Json::array();
  for (const DataManifest::Shard& shard : manifest.shards) {
    Json row = {{"file", shard.file}, {"split", shard.split}};
    row.update(CountsJson(shard.counts));
    shards.push_back(row);
  }
  return {{"folder", folder},
          {"tokenizer_sha256", manifest.tokenizer_sha256},
          {"vocab_size", manifest.vocab_size},
          {"eos_id", manifest.eos_id},
          {"val_fraction", manifest.val_fraction},
          {"domains", manifest.domains},
          {"train", CountsJson(manifest.Totals("train"))},
          {"val", CountsJson(manifest.Totals("val"))},
          {"shards", shards}};
}

void PrintManifest(const std::string& folder, const DataManifest& manifest) {
  for (const char* split : {"train", "val"}) {
    const SplitCounts counts = manifest.Totals(split);
    int64_t shards = 0;
    for (const DataManifest::Shard& shard : manifest.shards) shards += shard.split == split;
    fmt::print("{:<10} {} documents, {} tokens, {} bytes of text ({:.3f} bytes a token), {} shard{}\n", split,
               Count(counts.documents), Count(counts.tokens), Count(counts.text_bytes), BytesPerToken(counts), shards,
               shards == 1 ? "" : "s");
  }
  fmt::print("{:<10} {} tokens, SHA-256 {}, documents end with {}\n", "tokenizer", Count(manifest.vocab_size),
             manifest.tokenizer_sha256.substr(0, 16), manifest.eos_id);
  if (!manifest.domains.empty()) fmt::print("{:<10} {}\n", "domains", fmt::join(manifest.domains, ", "));
  fmt::print("{:<10} {}\n", "folder", folder);
}

// A progress line that is drawn in place on a terminal; with -v, elsewhere, a plain line for each tenth.
class ProgressLine {
 public:
  explicit ProgressLine(const CommonFlags& flags) : flags_(flags) {}
  ~ProgressLine() {
    if (drawn_) fmt::print(stderr, "\r\x1b[K");
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(const DataBuildProgress& p) {
    if (flags_.quiet) return;
    // What is piped has no size beforehand.
    const double share = p.bytes_total == 0
                             ? 0.0
                             : std::min(1.0, static_cast<double>(p.bytes_read) / static_cast<double>(p.bytes_total));
    const std::string text = fmt::format("{:3.0f}% | {} documents | {} tokens | {}", 100 * share, Count(p.documents),
                                         Count(p.tokens), p.file);
    if (StderrIsTerminal()) {
      fmt::print(stderr, "\r\x1b[K{}", text.substr(0, 100));
      std::fflush(stderr);
      drawn_ = true;
    } else if (flags_.verbose && static_cast<int>(share * 10) > tenth_) {
      tenth_ = static_cast<int>(share * 10);
      fmt::print(stderr, "{}\n", text);
    }
  }

 private:
  const CommonFlags& flags_;
  bool drawn_ = false;
  int tenth_ = 0;
};

int RunBuild(DataBuildOptions options, const CommonFlags& flags) {
  InstallStopSignals();
  DataBuildResult result;
  {
    ProgressLine line(flags);
    options.warn = PrintWarnings;
    options.progress = [&line](const DataBuildProgress& progress) {
      ThrowIfStopped();
      line.Show(progress);
    };
    result = BuildData(options);
  }
  const DataManifest& manifest = result.manifest;
  const auto note = [&](const std::string& text) {
    if (!flags.quiet) fmt::print(stderr, "hydralm: {}\n", text);
  };
  if (result.skipped > 0) note(fmt::format("{} blank documents were left out", Count(result.skipped)));
  if (result.mended > 0)
    note(fmt::format("{} documents had invalid UTF-8 or half a surrogate pair, replaced by U+FFFD",
                     Count(result.mended)));
  for (const std::string& text : result.notes) note("warning: " + text);
  if (manifest.Totals("val").documents == 0 && options.val_fraction > 0)
    note(fmt::format("no document fell into the validation split: give more documents{} or a larger --val",
                     options.input.doc_sep.empty() ? " (--doc-sep)" : ""));
  if (flags.json) {
    Json json = ManifestJson(options.out, manifest);
    json["skipped"] = result.skipped;
    json["mended"] = result.mended;
    json["warnings"] = result.notes;
    fmt::print("{}\n", DumpJson(json));
  } else {
    PrintManifest(options.out, manifest);
  }
  return kDone;
}

int RunInfo(const std::string& folder, const CommonFlags& flags) {
  const DataManifest manifest = DataManifest::Load(folder);
  for (const DataManifest::Shard& shard : manifest.shards)  // data.json alone says what shards should be
    CheckShard(TokenShard::Open((std::filesystem::path(folder) / shard.file).string()), shard, manifest);
  if (flags.json) {
    fmt::print("{}\n", DumpJson(ManifestJson(folder, manifest)));
    return kDone;
  }
  PrintManifest(folder, manifest);
  for (const DataManifest::Shard& shard : manifest.shards)
    fmt::print("  {:<26} {} documents, {} tokens, {} bytes of text\n", shard.file, Count(shard.counts.documents),
               Count(shard.counts.tokens), Count(shard.counts.text_bytes));
  return kDone;
}

int RunCheck(const std::string& folder, const std::string& tokenizer, const CommonFlags& flags) {
  const std::string sha = tokenizer.empty() ? "" : Hex(Tokenizer::Load(tokenizer).sha256());
  const std::vector<std::string> problems = CheckData(folder, sha);
  if (flags.json) {
    const Json json = {{"folder", folder}, {"ok", problems.empty()}, {"problems", problems}};
    fmt::print("{}\n", DumpJson(json));
  } else if (problems.empty()) {
    const DataManifest manifest = DataManifest::Load(folder);
    const SplitCounts train = manifest.Totals("train"), val = manifest.Totals("val");
    fmt::print("{}: good: {} shards, {} documents, {} tokens\n", folder, manifest.shards.size(),
               Count(train.documents + val.documents), Count(train.tokens + val.tokens));
  } else {
    for (const std::string& problem : problems) fmt::print("{}\n", problem);
  }
  return problems.empty() ? kDone : kCheckFailed;
}

void AddBuild(CLI::App& data, VerbContext& context) {
  auto options = std::make_shared<DataBuildOptions>();
  auto format = std::make_shared<std::string>("auto");
  CLI::App* verb = context.AddVerb(data, {"build", "text and JSONL files to token shards"},
                                   "hydralm data build books.txt chats.jsonl.zst --tokenizer tokenizer.json -o data/");
  verb->add_option("IN", options->inputs, "corpus files, text or JSON lines, also .gz and .zst; - = stdin")
      ->required()
      ->type_name("FILE");
  verb->add_option("--tokenizer", options->tokenizer, "tokenizer.json or tokenizer.model, or a folder with one")
      ->required()
      ->type_name("FILE");
  verb->add_option("-o,--out", options->out, "folder for the shards; an earlier build there is replaced")
      ->required()
      ->type_name("DIR");
  verb->add_option("--val", options->val_fraction, "share of documents held out for validation")->type_name("SHARE");
  verb->add_option("--doc-sep", options->input.doc_sep,
                   "literal text between the documents of a text file (none: one a file)")
      ->type_name("TEXT");
  verb->add_option("--format", *format, "text, jsonl, or auto: by the name (.txt, .jsonl, .ndjson), else by content")
      ->type_name("NAME");
  verb->add_option("--field", options->input.field, "key of a JSON line: a string, or a list of {role, content}")
      ->type_name("KEY");
  verb->add_option("--domain-field", options->input.domain_field,
                   "key of a JSON line: the document's domain, for routing that is learned from labels")
      ->type_name("KEY");
  verb->add_option("--shard-tokens", options->shard_tokens, "tokens after which a new shard begins")->type_name("N");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [options, format](const CommonFlags& flags) {
    options->input.format = ParseTextFormat(*format);
    return RunBuild(*options, flags);
  });
}

struct FolderOptions {
  std::string folder, tokenizer;
};

}  // namespace

void AddDataVerb(CLI::App& root, VerbContext& context) {
  CLI::App* data = context.AddVerb(root, kDataVerb, "hydralm data build book.txt --tokenizer tokenizer.json -o data/");
  AddBuild(*data, context);

  auto info = std::make_shared<FolderOptions>();
  CLI::App* verb =
      context.AddVerb(*data, {"info", "documents, tokens and bytes of a folder of shards"}, "hydralm data info data/");
  verb->add_option("DIR", info->folder, "folder that data build made")->required()->type_name("");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [info](const CommonFlags& flags) { return RunInfo(info->folder, flags); });

  auto check = std::make_shared<FolderOptions>();
  verb = context.AddVerb(*data, {"check", "read every byte of a folder of shards; exit 1 if something is wrong"},
                         "hydralm data check data/");
  verb->add_option("DIR", check->folder, "folder that data build made")->required()->type_name("");
  verb->add_option("--tokenizer", check->tokenizer, "tokenizer that must have made them (none: the one in DIR)")
      ->type_name("FILE");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [check](const CommonFlags& flags) { return RunCheck(check->folder, check->tokenizer, flags); });

  AddDataItems(*data, context);
}

}  // namespace hydra::cli
