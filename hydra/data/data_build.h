// SPDX-License-Identifier: Apache-2.0
// Corpus files in, a folder of token shards out (`hydralm data build`), and its check (`data check`).
// Not here: reading documents (text_input.h), the shard's bytes (token_shard.h), batches (hydra/train).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hydra/data/text_input.h"
#include "hydra/data/token_dataset.h"
#include "hydra/io/file.h"
#include "hydra/text/tokenizer.h"

namespace hydra {

struct DataBuildProgress {
  int64_t documents = 0, tokens = 0;
  uint64_t bytes_read = 0, bytes_total = 0;  // of the files as they lie on disk
  std::string file;                          // being read
};

struct DataBuildOptions {
  std::vector<std::string> inputs;     // read in this order
  std::string tokenizer;               // tokenizer.json or a folder with one; copied to the output
  std::string out;                     // folder; made if missing; an earlier build there is replaced at the end
  double val_fraction = 0.005;         // see IsValidation
  int64_t shard_tokens = 100'000'000;  // a shard ends with the document that reaches this
  TextInputOptions input = {};
  // Called about ten times a second; throw from it to stop (nothing is left behind).
  std::function<void(const DataBuildProgress&)> progress = {};
  // Called once, before the first text is read, with what the tokenizer's files say and is not obeyed.
  std::function<void(const std::vector<std::string>&)> warn = {};
  const FileOps* ops = &FileOps::Real();
};

struct DataBuildResult {
  DataManifest manifest;
  int64_t skipped = 0;             // blank documents
  int64_t mended = 0;              // documents with invalid UTF-8 or half a surrogate pair
  std::vector<std::string> notes;  // see InputNotes
};

// Streams: memory is one document, its tokens, and per open shard 8 bytes a document and a bit a token. Each document
// gets the tokenizer's <|endoftext|>, or else its eos, appended; special tokens spelled in a corpus are plain text.
// The new shards get names that an earlier build's do not have, and data.json is written last: until then the folder is
// the earlier build, whole, whatever stops this one, and from then on the new one. Its old shards go after that.
// Throws kUsage where another build is at work in the folder, or where it holds a tokenizer.json or data.json of
// something else; kData for an empty corpus or a tokenizer without end of text; and what reading and writing throw.
[[nodiscard]] DataBuildResult BuildData(const DataBuildOptions& options);

// True where the first 8 bytes of the SHA-256 of the document's text (its segments joined), read big-endian as a
// fraction of 2^64, are below `fraction`. So a document is in the same split whatever file or order it comes in.
[[nodiscard]] bool IsValidation(const TextDocument& document, double fraction);

// Reads every byte of a folder. Returns what is wrong, a line each; empty is good. `tokenizer_sha256` (hexadecimal)
// is one that the folder must have been made with; empty: the tokenizer.json in it. Shards that data.json does not list
// are left over from a build that was stopped and are not looked at. Throws kIo without data.json.
[[nodiscard]] std::vector<std::string> CheckData(const std::string& folder, const std::string& tokenizer_sha256 = "");

}  // namespace hydra
