// SPDX-License-Identifier: Apache-2.0
// Corpus to shards and back: texts, splits, masks, replacement of an older build, and what a failure leaves.
#include "hydra/data/data_build.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "hydra/base/testing.h"
#include "hydra/io/folder_lock.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

// A byte-level tokenizer without merges: ids 0..255 are the bytes in the order of their characters, 256.. special.
std::string TokenizerJson(const std::vector<std::string>& special) {
  nlohmann::ordered_json vocab = nlohmann::ordered_json::object(), added = nlohmann::ordered_json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[ToByteLevel(std::string(1, static_cast<char>(byte)))] = byte;
  for (size_t i = 0; i < special.size(); ++i)
    added.push_back({{"id", 256 + i},
                     {"content", special[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const nlohmann::ordered_json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocab},
        {"merges", nlohmann::ordered_json::array()}}}};
  return json.dump();
}

class Build : public testing::Test {
 protected:
  void SetUp() override {
    WriteFileAtomic(tokenizer_, TokenizerJson({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}));
    std::string text;
    for (int i = 0; i < 200; ++i) text += StrCat("document ", i, " <|im_end|>\xc3\xa9%%");
    WriteFileAtomic(dir_ / "a.txt", text);
  }
  DataBuildOptions Options() {
    return {.inputs = {dir_ / "a.txt"},
            .tokenizer = tokenizer_,
            .out = dir_ / "out",
            .val_fraction = 0.2,
            .shard_tokens = 1000,
            .input = {.doc_sep = "%%"}};
  }
  // Texts of a split, without the end of text.
  std::vector<std::string> Texts(const std::string& split) {
    const Tokenizer tokenizer = Tokenizer::Load(tokenizer_);
    const TokenDataset data = TokenDataset::Open(dir_ / "out", split);
    data.Verify();
    std::vector<std::string> texts;
    for (int64_t d = 0; d < data.n_docs(); ++d) {
      std::vector<int32_t> ids = data.Document(d);
      EXPECT_EQ(ids.back(), 256);
      ids.pop_back();
      texts.push_back(tokenizer.Decode(ids));
    }
    return texts;
  }
  TempDir dir_;
  const std::string tokenizer_ = dir_ / "tokenizer.json";
};

TEST_F(Build, EveryDocumentIsInOneSplitWholeAndInOrder) {
  const DataBuildResult result = BuildData(Options());
  const auto train = Texts("train"), val = Texts("val");
  EXPECT_EQ(train.size() + val.size(), 200u);
  EXPECT_NEAR(static_cast<double>(val.size()), 40, 28);  // 5 sigma; the hashes are fixed
  size_t t = 0, v = 0;
  int64_t bytes = 0;
  for (int i = 0; i < 200; ++i) {
    TextDocument document;
    document.segments.push_back({.text = StrCat("document ", i, " <|im_end|>\xc3\xa9")});
    bytes += static_cast<int64_t>(document.bytes());
    EXPECT_EQ((IsValidation(document, 0.2) ? val[v++] : train[t++]), document.segments[0].text);
  }
  const SplitCounts a = result.manifest.Totals("train"), b = result.manifest.Totals("val");
  EXPECT_EQ(a.text_bytes + b.text_bytes, bytes);
  EXPECT_EQ(a.tokens + b.tokens, bytes + 200);  // a token a byte (special tokens in text are text), and the ends
  EXPECT_GT(result.manifest.shards.size(), 4u);
  EXPECT_EQ(result.manifest.shards[0].file.substr(0, 15), "train-00001-of-");
  EXPECT_EQ(CheckData(dir_ / "out"), std::vector<std::string>{});
  EXPECT_EQ(ReadFile(dir_ / "out/tokenizer.json"), ReadFile(tokenizer_));
  EXPECT_FALSE(TokenDataset::Open(dir_ / "out", "train").has_mask());
}

TEST_F(Build, DocumentsKeepTheDomainOfTheirLine) {
  std::string lines;
  const std::vector<std::string> names = {"law", "code", ""};
  for (int i = 0; i < 60; ++i) {
    const std::string& name = names[static_cast<size_t>(i) % 3];
    lines += StrCat(R"({"text":"document )", i, R"(")", name.empty() ? "" : StrCat(R"(,"of":")", name, "\""), "}\n");
  }
  WriteFileAtomic(dir_ / "a.jsonl", lines);
  DataBuildOptions options = Options();
  options.inputs = {dir_ / "a.jsonl"};
  options.input = {.domain_field = "of"};
  options.shard_tokens = 200;
  EXPECT_EQ(BuildData(options).manifest.domains, (std::vector<std::string>{"law", "code"}));
  EXPECT_EQ(CheckData(dir_ / "out"), std::vector<std::string>{});
  const Tokenizer tokenizer = Tokenizer::Load(tokenizer_);
  int64_t seen = 0;
  for (const std::string split : {"train", "val"}) {
    const TokenDataset data = TokenDataset::Open(dir_ / "out", split);
    for (int64_t d = 0; d < data.n_docs(); ++d, ++seen) {
      std::vector<int32_t> ids = data.Document(d);
      ids.pop_back();
      const int number = std::stoi(tokenizer.Decode(ids).substr(9));
      EXPECT_EQ(data.Domain(d), number % 3 == 2 ? -1 : number % 3);
    }
  }
  EXPECT_EQ(seen, 60);
  // A list of domains that is too short for what the shards hold.
  std::string manifest = ReadFile(dir_ / "out/data.json");
  const size_t at = manifest.find("\"code\"");
  manifest.replace(manifest.rfind(',', at), at + 6 - manifest.rfind(',', at), "");
  WriteFileAtomic(dir_ / "out/data.json", manifest);
  ExpectError([&] { (void)TokenDataset::Open(dir_ / "out", "train"); }, ErrorCode::kFormat,
              {"domains[", "data.json has 1 domains"});
}

TEST_F(Build, TheSplitIsTheHashOfTheText) {
  TextDocument document;
  document.segments.push_back({.text = "ab"});
  document.segments.push_back({.text = "c"});
  // SHA-256 of "abc" begins with ba7816bf: a fraction of 0.7284.
  EXPECT_TRUE(IsValidation(document, 0.7286));
  EXPECT_FALSE(IsValidation(document, 0.7283));
  EXPECT_FALSE(IsValidation(document, 0));
}

TEST_F(Build, IsTheSameEachTimeAndReplacesAnOlderOne) {
  (void)BuildData(Options());
  const std::string first = ReadFile(dir_ / "out/data.json");
  WriteFileAtomic(dir_ / "out/train-00001.tok.part", "of a killed build");
  WriteFileAtomic(dir_ / "out/notes.txt", "the user's");
  DataBuildOptions options = Options();
  options.shard_tokens = 1 << 20;
  (void)BuildData(options);
  EXPECT_EQ(CheckData(dir_ / "out"), std::vector<std::string>{});  // no shard of the first is left
  EXPECT_TRUE(std::filesystem::exists(dir_ / "out/notes.txt"));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out/train-00001.tok.part"));
  (void)BuildData(Options());
  EXPECT_EQ(ReadFile(dir_ / "out/data.json"), first);
}

TEST_F(Build, ChatsAreMasked) {
  WriteFileAtomic(dir_ / "c.jsonl",
                  R"({"messages":[{"role":"user","content":"U"},{"role":"assistant","content":"A"}]})");
  DataBuildOptions options = Options();
  options.inputs = {dir_ / "c.jsonl", dir_ / "t.txt"};
  WriteFileAtomic(dir_ / "t.txt", "plain");
  options.input.field = "messages";
  options.val_fraction = 0;
  (void)BuildData(options);
  const TokenDataset data = TokenDataset::Open(dir_ / "out", "train");
  ASSERT_EQ(data.n_docs(), 2);
  const std::vector<int32_t> ids = data.Document(0);
  std::vector<uint8_t> mask(ids.size());
  data.ReadMask(0, 0, mask);
  const Tokenizer tokenizer = Tokenizer::Load(tokenizer_);
  std::vector<int32_t> loss;
  for (size_t i = 0; i < ids.size(); ++i)
    if (mask[i] == 1) loss.push_back(ids[i]);
  EXPECT_EQ(tokenizer.Decode(loss), "A<|im_end|>");
  EXPECT_EQ(ids[0], 257);  // markup is special tokens
  std::vector<uint8_t> plain(static_cast<size_t>(data.DocLength(1)));
  data.ReadMask(1, 0, plain);
  EXPECT_EQ(plain, std::vector<uint8_t>(6, 1));
  EXPECT_EQ(CheckData(dir_ / "out"), std::vector<std::string>{});
}

TEST_F(Build, ErrorsLeaveNoHalfBuilds) {
  const auto bad = [&](DataBuildOptions options, ErrorCode code, std::initializer_list<std::string_view> parts) {
    ExpectError([&] { (void)BuildData(options); }, code, parts);
  };
  DataBuildOptions options = Options();
  options.inputs = {dir_ / "a.txt", dir_ / "none.txt"};
  bad(options, ErrorCode::kIo, {"none.txt"});
  WriteFileAtomic(dir_ / "empty.txt", " \n");
  options.inputs = {dir_ / "empty.txt"};
  bad(options, ErrorCode::kData, {"empty.txt", "the corpus is empty"});
  options = Options();
  options.inputs.clear();
  bad(options, ErrorCode::kUsage, {"no input files"});
  options = Options();
  options.val_fraction = 1;
  bad(options, ErrorCode::kUsage, {"--val 1"});
  options = Options();
  options.val_fraction = 0.999999;
  options.input.doc_sep.clear();
  bad(options, ErrorCode::kData, {"--val", "all 1 documents"});
  options = Options();
  options.shard_tokens = 0;
  bad(options, ErrorCode::kUsage, {"--shard-tokens 0"});
  WriteFileAtomic(dir_ / "noend.json", TokenizerJson({"<other>"}));
  options = Options();
  options.tokenizer = dir_ / "noend.json";
  bad(options, ErrorCode::kData, {"noend.json", "<|endoftext|>"});

  // A failure at each write, sync and rename: the folder has one of the two builds, whole.
  const std::string other = dir_ / "other.json";
  WriteFileAtomic(other, TokenizerJson({"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|more|>"}));
  (void)BuildData(Options());
  for (int fail_at = 0;; ++fail_at) {
    int seen = 0;
    FileOps ops = FileOps::Real();
    const auto fails = [&] { return seen++ == fail_at ? (errno = ENOSPC, true) : false; };
    ops.write = [&](int fd, const void* p, size_t n) { return fails() ? -1 : ::write(fd, p, n); };
    ops.pwrite = [&](int fd, const void* p, size_t n, off_t at) { return fails() ? -1 : ::pwrite(fd, p, n, at); };
    ops.fsync = [&](int fd) { return fails() ? -1 : ::fsync(fd); };
    ops.rename = [&](const char* a, const char* b) { return fails() ? -1 : ::rename(a, b); };
    options = Options();
    options.ops = &ops;
    options.shard_tokens = fail_at % 2 == 0 ? 1000 : 700;  // not what is there
    if (fail_at % 3 == 0) options.tokenizer = other;
    bool failed = false;
    try {
      (void)BuildData(options);
    } catch (const Error& e) {
      failed = true;
      EXPECT_EQ(e.code(), ErrorCode::kIo) << e.what();
    }
    for (const auto& entry : std::filesystem::directory_iterator(dir_ / "out")) {
      const std::string name = entry.path().filename().string();
      EXPECT_TRUE(name.ends_with(".tok") || name.ends_with(".json")) << name << " at " << fail_at;
    }
    EXPECT_EQ(CheckData(dir_ / "out"), std::vector<std::string>{}) << fail_at;
    if (!failed) break;
    ASSERT_LT(fail_at, 1000);
  }
}

TEST_F(Build, CheckNamesWhatIsWrong) {
  (void)BuildData(Options());
  const std::string out = dir_ / "out";
  const auto problems = [&](std::string_view part) {
    const auto list = CheckData(out);
    ASSERT_EQ(list.size(), 1u) << testing::PrintToString(list);
    EXPECT_NE(list[0].find(part), std::string::npos) << list[0];
  };
  const std::string name = DataManifest::Load(out).shards[1].file, path = out + "/" + name;
  const std::string good = ReadFile(path);
  std::string bytes = good;
  bytes[4096] ^= 1;
  WriteFileAtomic(path, bytes);
  problems("payload CRC");
  WriteFileAtomic(path, good.substr(0, good.size() / 2));
  problems("incomplete copy");
  std::filesystem::remove(path);
  problems("No such file");
  WriteFileAtomic(path, good);
  WriteFileAtomic(out + "/val-00009-of-00009.tok", "of a build that was killed");
  EXPECT_EQ(CheckData(out), std::vector<std::string>{});
  EXPECT_EQ(CheckData(out, std::string(64, 'a')).size(), 1u);  // another tokenizer than the one given
  WriteFileAtomic(out + "/tokenizer.json", TokenizerJson({"<|endoftext|>", "<x>", "<y>"}));
  problems("tokenizer.json: SHA-256");
  ExpectError([&] { (void)CheckData(dir_.path()); }, ErrorCode::kIo, {"data.json"});
}

TEST_F(Build, ProgressCanStopIt) {
  struct Stop {};
  DataBuildOptions options = Options();
  options.progress = [](const DataBuildProgress& progress) {
    EXPECT_GT(progress.documents, 0);
    throw Stop();
  };
  EXPECT_THROW((void)BuildData(options), Stop);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out"));
}

TEST_F(Build, OneBuildAtATimeInAFolder) {
  (void)BuildData(Options());
  const FolderLock lock(dir_ / "out", "hydralm data build");
  ExpectError([&] { (void)BuildData(Options()); }, ErrorCode::kUsage, {"out", "in use by process", "data build"});
  EXPECT_EQ(CheckData(dir_ / "out"), std::vector<std::string>{});
}

// What a killed build can leave, put there by hand: the earlier one is good, and the next one clears it away.
TEST_F(Build, AKilledBuildLeavesTheEarlierOne) {
  (void)BuildData(Options());
  const std::string out = dir_ / "out/", first = ReadFile(out + "data.json");
  const std::string shard = ReadFile(out + DataManifest::Load(out).shards[0].file);
  WriteFileAtomic(out + "train-00003.tok.part", "half");
  WriteFileAtomic(out + "train-00004.tok.part.tmp-999999999-0", "half");
  WriteFileAtomic(out + "train-00001-of-00099.tok", shard);
  WriteFileAtomic(out + "train-00001-of-00099.2.tok", shard);
  WriteFileAtomic(out + "tokenizer-0123456789abcdef.json", "{}");
  WriteFileAtomic(out + "train-notes.txt", "the user's");
  EXPECT_EQ(CheckData(out), std::vector<std::string>{});
  EXPECT_EQ(Texts("train").size() + Texts("val").size(), 200u);
  DataBuildOptions options = Options();
  options.inputs = {dir_ / "none.txt"};
  EXPECT_THROW((void)BuildData(options), Error);
  EXPECT_EQ(ReadFile(out + "data.json"), first);
  (void)BuildData(Options());
  EXPECT_EQ(ReadFile(out + "data.json"), first);
  std::set<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(out)) left.insert(entry.path().filename());
  for (const DataManifest::Shard& row : DataManifest::Load(out).shards) left.erase(row.file);
  EXPECT_EQ(left, (std::set<std::string>{"data.json", "tokenizer.json", "train-notes.txt"}));
}

TEST_F(Build, ABuildOfOtherTextsHasShardsOfOtherNames) {
  (void)BuildData(Options());
  const std::string out = dir_ / "out";
  const TokenDataset open = TokenDataset::Open(out, "train");  // a run that reads on
  const auto before = DataManifest::Load(out).shards;
  std::string text;
  for (int i = 0; i < 200; ++i) text += StrCat("document ", i, " <|im_end|>\xc3\xa9", i == 0 ? "?" : "", "%%");
  WriteFileAtomic(dir_ / "a.txt", text);
  (void)BuildData(Options());
  EXPECT_EQ(CheckData(out), std::vector<std::string>{});
  const auto after = DataManifest::Load(out).shards;
  EXPECT_EQ(std::count_if(after.begin(), after.end(), [](const auto& s) { return s.file.ends_with(".2.tok"); }) > 0,
            before.size() == after.size());
  for (const auto& shard : before) EXPECT_TRUE(IsPlainFileName(shard.file));
  open.Verify();
}

TEST_F(Build, AnotherTokenizerReplacesThatOfTheEarlierBuild) {
  (void)BuildData(Options());
  const std::string out = dir_ / "out/", other = TokenizerJson({"<|endoftext|>", "<x>"});
  WriteFileAtomic(dir_ / "other.json", other);
  DataBuildOptions options = Options();
  options.tokenizer = dir_ / "other.json";
  (void)BuildData(options);
  EXPECT_EQ(ReadFile(out + "tokenizer.json"), other);
  EXPECT_EQ(CheckData(out), std::vector<std::string>{});
  // As a kill between the two renames leaves it; readers and the next build go on.
  const DataManifest manifest = DataManifest::Load(out);
  std::filesystem::rename(out + "tokenizer.json", out + manifest.NewTokenizerName());
  WriteFileAtomic(out + "tokenizer.json", ReadFile(tokenizer_));
  EXPECT_EQ(CheckData(out), std::vector<std::string>{});
  EXPECT_EQ(ReadFile(manifest.TokenizerPath(out)), other);
  (void)BuildData(Options());
  EXPECT_EQ(CheckData(out), std::vector<std::string>{});
  EXPECT_EQ(ReadFile(out + "tokenizer.json"), ReadFile(tokenizer_));
  EXPECT_FALSE(std::filesystem::exists(out + manifest.NewTokenizerName()));
}

TEST_F(Build, FoldersOfSomethingElseAreLeftAlone) {
  const std::string out = dir_ / "out/", other = TokenizerJson({"<|endoftext|>", "<x>"});
  MakeDirs(out);
  const auto refused = [&](std::initializer_list<std::string_view> parts) {
    ExpectError([&] { (void)BuildData(Options()); }, ErrorCode::kUsage, parts);
  };
  WriteFileAtomic(out + "tokenizer.json", other);
  refused({"tokenizer.json", "another tokenizer", "another folder"});
  EXPECT_EQ(ReadFile(out + "tokenizer.json"), other);
  WriteFileAtomic(out + "data.json", "[1, 2]");
  refused({"data.json", "no earlier build"});
  EXPECT_EQ(ReadFile(out + "data.json"), "[1, 2]");
  std::filesystem::remove(out + "data.json");
  std::filesystem::remove(out + "tokenizer.json");
  WriteFileAtomic(out + "config.json", "{}");
  refused({"config.json", "is of a model"});
  WriteFileAtomic(out + "tokenizer.json", ReadFile(tokenizer_));  // the model's is the one of the data: nothing is lost
  (void)BuildData(Options());
  EXPECT_EQ(ReadFile(out + "config.json"), "{}");
  EXPECT_EQ(CheckData(out), std::vector<std::string>{});
  DataBuildOptions options = Options();
  WriteFileAtomic(dir_ / "other.json", other);
  options.tokenizer = dir_ / "other.json";
  ExpectError([&] { (void)BuildData(options); }, ErrorCode::kUsage, {"config.json", "is of a model"});
}

TEST_F(Build, AStreamIsReadOnce) {
  DataBuildOptions options = Options();
  options.inputs = {"-", dir_ / "a.txt", "/dev/stdin"};
  ExpectError([&] { (void)BuildData(options); }, ErrorCode::kUsage, {"/dev/stdin", "given twice"});
}

}  // namespace
}  // namespace hydra
