// SPDX-License-Identifier: Apache-2.0
// Files that declare much and hold little: each loader is held to twice the file's size + 1 MiB of memory and to
// seconds. Not here: which files are refused and how (x_test.cc), pytorch_model.bin (convert/torch_memory_test.cc).
#include "hydra/base/rng.h"
#include "hydra/base/testing.h"
#include "hydra/data/token_shard.h"
#include "hydra/io/file.h"
#include "hydra/io/gguf.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"
#include "hydra/io/testing_memory.h"
#include "hydra/model/config.h"
#include "hydra/model/gguf_model.h"
#include "hydra/text/bpe_train.h"
#include "hydra/text/sentencepiece_file.h"
#include "hydra/text/tokenizer.h"
#include "hydra/text/tokenizer_gguf.h"
#include "hydra/text/tokenizer_text.h"

namespace hydra {
namespace {

TEST(HostileMemory, TheCounterSeesAnAllocation) {
  EXPECT_GE(PeakOf("x", [](const std::string&) { std::vector<char> big(5 << 20, 'x'); }), 5 << 20);
  EXPECT_LT(PeakOf("x", [](const std::string&) {}), 1 << 16);
}

TEST(HostileMemory, SafeTensors) {
  const auto load = [](const std::string& path) { (void)SafeTensors::Open(path); };
  const auto file = [](const std::string& header, uint64_t n = 0) {
    return Le(n > 0 ? n : uint64_t{header.size()}) + header;
  };
  ExpectLittle("header-past-end", file("{}", uint64_t{100} << 20), load);
  ExpectLittle("header-over-limit", file("{}", UINT64_MAX), load);
  ExpectLittle("words that are no tensors", file("{" + Repeat("\"data_offsets\"", 300000)), load);
  std::string metadata = "{\"__metadata__\":{";
  for (int i = 0; i < 100000; ++i) metadata += StrCat(i > 0 ? "," : "", "\"", i, "\":\"\"");
  ExpectLittle("many metadata", file(metadata + "}}"), load);
  std::string tensors = "{";
  for (int i = 0; i < 50000; ++i)
    tensors += StrCat(i > 0 ? "," : "", "\"", i, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  ExpectLittle("many tensors", file(tensors + "}"), load);
  ExpectLittle("one huge shape", file(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}})"),
               load);
  ExpectLittle("deep", file("{\"a\":" + std::string(1 << 20, '[')), load);
}

TEST(HostileMemory, Gguf) {
  (void)CharClasses::Get();  // a table of the process, not of a file
  const auto load = [](const std::string& path) { (void)GgufFile::Open(path); };
  const auto head = [](uint64_t tensors, uint64_t keys) { return "GGUF" + Le(uint32_t{3}) + Le(tensors) + Le(keys); };
  ExpectLittle("kv-count-over-file", head(0, uint64_t{1} << 60), load);
  ExpectLittle("tensor-count-over-file", head(uint64_t{1} << 60, 0), load);
  ExpectLittle("key-too-long", head(0, 1) + Le(UINT64_MAX) + std::string(64, 'k'), load);
  for (const uint32_t element : {0u, 8u, 10u})
    ExpectLittle(
        "array-count-wraps",
        head(0, 1) + GgufText("k") + Le(uint32_t{9}) + Le(element) + Le(uint64_t{1} << 61) + std::string(64, '\0'),
        load);
  std::string tensors;
  for (int i = 0; i < 20000; ++i)
    tensors += GgufText(StrCat(i)) + Le(uint32_t{1}) + Le(uint64_t{1}) + Le(uint32_t{0}) +
               Le(uint64_t{32} * static_cast<uint64_t>(i));
  ExpectLittle("many tensors", head(20000, 0) + tensors + std::string(20000 * 32, '\0'), load);
  // A byte of the file that would become a number of eight.
  const std::string types = head(0, 4) + GgufText("tokenizer.ggml.model") + Le(uint32_t{8}) + GgufText("gpt2") +
                            GgufText("tokenizer.ggml.pre") + Le(uint32_t{8}) + GgufText("gpt-2") +
                            GgufText("tokenizer.ggml.tokens") + Le(uint32_t{9}) + Le(uint32_t{8}) + Le(uint64_t{1}) +
                            GgufText("a") + GgufText("tokenizer.ggml.token_type") + Le(uint32_t{9}) + Le(uint32_t{0}) +
                            Le(uint64_t{4 << 20}) + std::string(4 << 20, '\1');
  ExpectLittle("many token types", types, [](const std::string& path) { (void)Tokenizer::Load(path); });
  const std::string layers = head(0, 2) + GgufText("general.architecture") + Le(uint32_t{8}) + GgufText("llama") +
                             GgufText("llama.block_count") + Le(uint32_t{4}) + Le(uint32_t{4096});
  ExpectLittle("huge-layers", layers, [](const std::string& path) { (void)GgufModel::Open(path); });
}

TEST(HostileMemory, GgufTokenizer) {
  (void)CharClasses::Get();  // a table of the process, not of a file
  const auto load = [](const std::string& path) { (void)Tokenizer::Load(path); };
  const auto text = [](const char* key, const char* value) {
    return GgufText(key) + Le(uint32_t{8}) + GgufText(value);
  };
  const auto array = [](const char* key, uint32_t type, int n) {
    return GgufText(key) + Le(uint32_t{9}) + Le(type) + Le(uint64_t(n));
  };
  const auto file = [&](const std::string& tokens, const std::string& types, const std::string& merges) {
    return "GGUF" + Le(uint32_t{3}) + Le(uint64_t{0}) + Le(uint64_t{5}) + text("tokenizer.ggml.model", "gpt2") +
           text("tokenizer.ggml.pre", "gpt-2") + tokens + types + merges;
  };
  constexpr int kMany = 1 << 19;
  const std::string three = array("tokenizer.ggml.tokens", 8, 3) + GgufText("a") + GgufText("b") + GgufText("ab");
  ExpectLittle("many merges",
               file(three, array("tokenizer.ggml.token_type", 5, 3) + Repeat(Le(int32_t{1}), 3),
                    array("tokenizer.ggml.merges", 8, kMany) + Repeat(GgufText("a b"), kMany)),
               load);
  std::string tokens;
  for (int i = 0; i < kMany; ++i) tokens += GgufText(std::to_string(i));
  for (const int32_t type : {1, 3})
    ExpectLittle("many tokens",
                 file(array("tokenizer.ggml.tokens", 8, kMany) + tokens,
                      array("tokenizer.ggml.token_type", 5, kMany) + Repeat(Le(type), kMany),
                      array("tokenizer.ggml.merges", 8, 0)),
                 load);
}

// A piece takes little of such a file: 64 bytes for each are allowed on top, and 60 for each merge that scores make, at
// most eight a piece and some free.
TEST(HostileMemory, TokenizerModel) {
  const auto piece = [](const std::string& text) {
    const std::string fields = "\x0a" + std::string(1, static_cast<char>(text.size())) + text;
    return "\x0a" + std::string(1, static_cast<char>(fields.size())) + fields;
  };
  const auto load = [](const std::string& path) {
    const MappedFile file(path);
    (void)TokenizerFileOf(ReadSentencePiece(file.bytes(), path), {}, path);
  };
  constexpr int kMany = 200000;
  const auto most = [](const std::string& bytes) { return 2 * static_cast<int64_t>(bytes.size()) + (1 << 20); };
  std::string many;
  for (int i = 0; i < kMany; ++i) many += piece(std::to_string(i));
  const std::string twice = Repeat(piece("a"), kMany);
  EXPECT_LE(PeakOf(many, load), most(many) + 64 * kMany);
  EXPECT_LE(PeakOf(twice, load), most(twice) + 64 * kMany);
  ExpectLittle("a long length", "\x0a\xff\xff\xff\xff\x7f", load);
  SentencePieceFile runs;  // "aa" to 126 times "a", each of which is two others in every way
  std::vector<std::string> texts = {"<unk>"};
  for (size_t i = 1; i < 126; ++i) texts.emplace_back(i, 'a');
  runs.types.assign(texts.size(), 1), runs.types[0] = 2;
  runs.scores.assign(texts.size(), 0);
  runs.pieces = TokenTable(std::vector<std::string_view>(texts.begin(), texts.end()));
  const std::string bytes = SentencePieceBytes(runs);
  EXPECT_LE(PeakOf(bytes, load), most(bytes) + 60 * 126 * 125 / 2);
}

TEST(HostileMemory, Config) {
  const auto load = [](const std::string& path) { (void)LoadConfig(path); };
  ExpectLittle("huge-layers", R"({"model_type": "hydra", "num_hidden_layers": 4096})", load);
  ExpectLittle("more layers", R"({"model_type": "hydra", "num_hidden_layers": 9223372036854775807})", load);
  ExpectLittle("too-deep", R"({"model_type": )" + std::string(1 << 19, '['), load);
  ExpectLittle("over its limit", "[" + Repeat("[],", 1 << 20) + "1]", load);
  ExpectLittle("many values", "[" + Repeat("[],", 300000) + "1]", load);
}

TEST(HostileMemory, TokenizerFile) {
  (void)CharClasses::Get();  // a table of the process, not of a file
  const auto load = [](const std::string& path) { (void)Tokenizer::Load(path); };
  ExpectLittle("id-gap", R"({"model": {"vocab": {"a": 268435455}, "merges": []}})", load);
  ExpectLittle("id-gap-added",
               R"({"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": 268435454, "content": "b"}]})",
               load);
  ExpectLittle("too-deep", R"({"x": )" + std::string(1 << 20, '['), load);
  const auto file = [](const std::string& rest) {
    return R"({"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []}, )" + rest + "}";
  };
  ExpectLittle("tree", file("\"x\": [" + Repeat("[],", 1 << 18) + "1]"), load);
  ExpectLittle("one text", file("\"x\": \"" + std::string(1 << 22, 'x') + "\""), load);
  std::string added = "\"added_tokens\": [";
  for (int i = 3; i < 8000; ++i) added += StrCat(i > 3 ? "," : "", R"({"id":)", i, R"(,"content":")", i, "\"}");
  ExpectLittle("many added tokens", file(added + "]"), load);
  const std::string merges =
      R"({"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [)" + Repeat("\"a b\",", 1 << 19) + "\"a b\"]}}";
  ExpectLittle("many merges", merges, load);
  std::string vocab = R"({"model": {"merges": [], "vocab": {"0": 0)";
  for (int i = 1; i < 300000; ++i) vocab += StrCat(",\"", i, "\":", i);
  ExpectLittle("many tokens", vocab + "}}}", load);
}

// Steps that double a text double memory too: each is refused, or little comes of it.
TEST(HostileMemory, TokenizerSteps) {
  (void)CharClasses::Get();  // a table of the process, not of a file
  const auto load = [](const std::string& path) {
    const Tokenizer tokenizer = Tokenizer::Load(path);
    try {
      (void)tokenizer.Decode(tokenizer.Encode("ab ab"));
    } catch (const Error&) {
    }
  };
  const std::string head = R"({"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []}, )";
  const std::string twice = R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"},)";
  const std::string last = R"({"type":"Replace","pattern":{"String":"b"},"content":"b"}]}})";
  ExpectLittle("steps-double-normalizer",
               head + R"("normalizer":{"type":"Sequence","normalizers":[)" + Repeat(twice, 50) + last, load);
  ExpectLittle("steps-double-decoder", head + R"("decoder":{"type":"Sequence","decoders":[)" + Repeat(twice, 50) + last,
               load);
  ExpectLittle("pattern-empty", head + R"("normalizer":{"type":"Replace","pattern":"","content":"x"}})", load);
  ExpectLittle("pattern-empty-decoder", head + R"("decoder":{"type":"Replace","pattern":"","content":"x"}})", load);
  std::string ids;
  for (int i = 0; i < 20000; ++i) ids += i > 0 ? ",0" : "0";
  ExpectLittle("template-multiplies",
               head + R"("post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}})" +
                   Repeat(R"(,{"SpecialToken":{"id":"x"}})", 2000) + R"(],"special_tokens":{"x":{"ids":[)" + ids +
                   "]}}}}",
               load);
}

// Words of three to seven letters, so that a tokenizer of some thousand tokens can be trained.
std::string Words(int n) {
  Rng rng(7);
  std::string text;
  for (int i = 0; i < n; ++i) {
    for (uint64_t k = 3 + rng.Below(5); k > 0; --k) text += static_cast<char>('a' + rng.Below(rng.Below(26) + 1));
    text += ' ';
  }
  return text;
}

// What a good file costs is held to the same: the rule is not one for bad files only.
TEST(HostileMemory, GoodTokenizers) {
  (void)CharClasses::Get();  // a table of the process, not of a file
  const auto load = [](const std::string& path) { (void)Tokenizer::Load(path); };
  const BpeTrainResult trained = TrainBpe({Words(60000)}, {.vocab_size = 12000});
  ASSERT_EQ(trained.vocab_size, 12000);
  ExpectLoads("written by us", trained.json, load);
  auto tree = nlohmann::ordered_json::parse(trained.json);
  ExpectLoads("without spaces", tree.dump(), load);
  for (auto& merge : tree["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    merge = nlohmann::ordered_json::array({text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)});
  }
  ExpectLoads("pairs", tree.dump(), load);
  nlohmann::ordered_json turned = {
      {"model", {{"type", "BPE"}, {"merges", tree["model"]["merges"]}, {"vocab", tree["model"]["vocab"]}}}};
  for (const char* key : {"added_tokens", "pre_tokenizer", "decoder"}) turned[key] = tree[key];
  ExpectLoads("merges first", turned.dump(), load);

  const TempDir dir;
  WriteFileAtomic(dir / "tokenizer.json", trained.json);
  GgufMetadata metadata;
  SetGgufTokenizer(dir / "tokenizer.json", {.vocab_size = trained.vocab_size}, &metadata);
  metadata.SetText("general.architecture", "llama");
  WriteGguf(dir / "x.gguf", metadata, {}, nullptr);
  ExpectLoads("GGUF", ReadFile(dir / "x.gguf"), load);
}

TEST(HostileMemory, GoodJson) {
  const auto load = [](const std::string& path) { (void)LoadConfig(path); };
  for (const std::string& name : PresetNames()) ExpectLoads(name.c_str(), ConfigJson(Preset(name)), load);
  ModelConfig deep = HydraNano();
  deep.layers.resize(4096);
  ExpectLoads("4096 layers", ConfigJson(deep), load);
  // tokenizer_config.json of a tokenizer with many added tokens.
  nlohmann::ordered_json config = {{"bos_token", "<s>"}};
  for (int i = 0; i < 4000; ++i)
    config["added_tokens_decoder"][std::to_string(i)] = {{"content", StrCat("<|reserved_special_token_", i, "|>")},
                                                         {"lstrip", false},
                                                         {"normalized", false},
                                                         {"rstrip", false},
                                                         {"single_word", false},
                                                         {"special", true}};
  const auto parse = [](const std::string& path) { (void)ParseJson(MappedFile(path).text(), path); };
  const std::string text = config.dump(2);
  ExpectLoads("many added tokens", text, parse);
}

TEST(HostileMemory, Json) {
  const auto parse = [](const std::string& path) { (void)ParseJson(MappedFile(path).text(), path); };
  const auto expect = [&](const char* name, const std::string& bytes) { ExpectLittle(name, bytes, parse); };
  for (const int n : {1000, 40000, 400000}) {
    expect("numbers", "[" + Repeat("1,", n) + "1]");
    expect("arrays", "[" + Repeat("[],", n) + "1]");
    expect("objects", "[" + Repeat("{},", n) + "1]");
    expect("texts", "[" + Repeat("\"\",", n) + "1]");
    expect("longer texts", "[" + Repeat("\"0123456789abcdef\",", n) + "1]");
    std::string keys = "{";
    for (int i = 0; i < n; ++i) keys += StrCat("\"", i, "\":1,");
    expect("keys", keys + "\"x\":1}");
    expect("words of Python", "[" + Repeat("NaN,", n) + "1]");
  }
  expect("one text", "[\"" + std::string(1 << 22, 'x') + "\"]");
  expect("one number", "[" + std::string(1 << 22, '1') + "]");
  expect("one key", "{\"" + std::string(1 << 22, 'x') + "\":1}");
  expect("spaces", "[" + std::string(1 << 22, ' ') + "1]");
}

// nlohmann's ordered objects look through all keys for each new one.
TEST(Json, TimeGrowsWithTheKeysNotWithTheirSquare) {
  const auto keys = [](int64_t n) {
    std::string text = "{";
    for (int64_t i = 0; i < n; ++i) text += StrCat("\"key number ", i, "\":\"", std::string(150, 'x'), "\",");
    return text;
  };
  ExpectLessThanQuadraticTime(20000, [&](int64_t n) {
    return [n, text = keys(n) + "\"x\":1}"] { EXPECT_EQ(ParseJson(text, "x").size(), static_cast<size_t>(n) + 1); };
  });
  ExpectError([&] { (void)ParseJson(keys(100) + "\"key number 7\":1}", "x"); }, ErrorCode::kFormat,
              {"x: key \"key number 7\" is given twice"});
}

TEST(HostileMemory, TokenShard) {
  const auto load = [](const std::string& path) { TokenShard::Open(path).Verify(); };
  const TempDir dir;
  TokenShardWriter writer(dir / "a.tok", 500, Sha256::Of("a"));
  writer.AddDocument(std::vector<int32_t>{1, 2, 3});
  writer.Finish();
  const std::string good = ReadFile(dir / "a.tok");
  for (const size_t field : {16u, 24u})  // n_tokens, n_docs
    for (const uint64_t value : {uint64_t{1} << 40, UINT64_MAX, UINT64_MAX / 8}) {
      std::string bytes = good;
      std::memcpy(bytes.data() + field, &value, sizeof(value));
      const uint32_t crc = Crc32(AsBytes(bytes).first(100));
      std::memcpy(bytes.data() + 100, &crc, sizeof(crc));
      ExpectLittle("count-past-file", bytes, load);
    }
}

}  // namespace
}  // namespace hydra
