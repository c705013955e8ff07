// SPDX-License-Identifier: Apache-2.0
// Documents of text and JSONL, plain and compressed, and what is refused with file, line and field.
#include "hydra/data/text_input.h"

#include <zlib.h>
#include <zstd.h>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra {
namespace {

std::string Gzip(const std::string& text) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&z, text.size()) + 32, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string Joined(const TextDocument& document) {
  std::string text;
  for (const TextSegment& segment : document.segments) text += segment.text;
  return text;
}

struct Got {
  std::vector<std::string> texts, where;
  int64_t skipped = 0, mended = 0;
};

Got ReadAll(const std::string& path, const TextInputOptions& options = {}) {
  TextInput input(path, options);
  Got got;
  TextDocument document;
  while (input.Next(&document)) {
    EXPECT_EQ(document.bytes(), Joined(document).size());
    got.texts.push_back(Joined(document));
    got.where.push_back(document.where);
  }
  EXPECT_FALSE(input.Next(&document));
  EXPECT_EQ(input.bytes_read(), input.file_bytes());
  got.skipped = input.skipped();
  got.mended = input.mended();
  return got;
}

class TextInputs : public testing::Test {
 protected:
  Got Read(const std::string& name, const std::string& bytes, const TextInputOptions& options = {}) {
    WriteFileAtomic(dir_ / name, bytes);
    return ReadAll(dir_ / name, options);
  }
  void Bad(const std::string& name, const std::string& bytes, ErrorCode code,
           std::initializer_list<std::string_view> parts, const TextInputOptions& options = {}) {
    WriteFileAtomic(dir_ / name, bytes);
    ExpectError([&] { (void)ReadAll(dir_ / name, options); }, code, parts);
  }
  TempDir dir_;
};

using Texts = std::vector<std::string>;

TEST_F(TextInputs, ATextFileIsOneDocumentOrSplit) {
  EXPECT_EQ(Read("a.txt", "one\n\ntwo").texts, Texts{"one\n\ntwo"});
  const Got got = Read("a.txt", "--one\n--\n--two\n-\n----  \n--", {.doc_sep = "--"});
  EXPECT_EQ(got.texts, (Texts{"one\n", "two\n-\n"}));
  EXPECT_EQ(got.skipped, 2);
  EXPECT_EQ(got.where, (Texts{dir_ / "a.txt:1", dir_ / "a.txt:3"}));
  EXPECT_EQ(Read("a.txt", "").texts, Texts{});
  EXPECT_EQ(Read("noending", "x").texts, Texts{"x"});
  EXPECT_EQ(Read("a.txt", "\xEF\xBB\xBFx").texts, Texts{"x"});
}

TEST_F(TextInputs, SeparatorsAcrossReadsAreFound) {
  // Reads are of 1 MiB: put a separator at each position around the border.
  for (int shift = -4; shift <= 1; ++shift) {
    const std::string a((1 << 20) + shift, 'a');
    EXPECT_EQ(Read("big.txt", a + "<|x|>" + "b", {.doc_sep = "<|x|>"}).texts, (Texts{a, "b"})) << shift;
  }
  const std::string huge(5 << 20, 'h');
  EXPECT_EQ(Read("huge.txt", huge).texts, Texts{huge});
}

TEST_F(TextInputs, JsonLinesByFieldAndCompressed) {
  const std::string lines =
      "{\"text\":\"a\\u00e9\\n\"}\r\n\n{\"id\":7,\"text\":\"b\"}\n{\"text\":\" \"}\n{\"text\":\"c\"}";
  const Texts want = {"a\xc3\xa9\n", "b", "c"};
  for (const auto& [name, bytes] : std::vector<std::pair<std::string, std::string>>{
           {"a.jsonl", lines},
           {"a.jsonl.gz", Gzip(lines)},
           {"b.jsonl.gz", Gzip(lines.substr(0, 5)) + Gzip("") + Gzip(lines.substr(5))},  // members, as gzip -c >> makes
           {"a.jsonl.zst", Zstd(lines)},
           {"b.jsonl.zst", Zstd(lines.substr(0, 9)) + Zstd(lines.substr(9))}}) {
    const Got got = Read(name, bytes);
    EXPECT_EQ(got.texts, want) << name;
    EXPECT_EQ(got.where[1], dir_ / name + ":3");
    EXPECT_EQ(got.skipped, 1);
  }
  EXPECT_EQ(Read("a.txt.zst", Zstd("plain")).texts, Texts{"plain"});
  const std::string big(7 << 20, 'z');  // output much larger than one read
  EXPECT_EQ(Read("big.txt.gz", Gzip(big)).texts, Texts{big});
  EXPECT_EQ(Read("big.txt.zst", Zstd(big)).texts, Texts{big});
}

TEST_F(TextInputs, InvalidUtf8IsMended) {
  const Got got = Read("a.txt", "a\xff\x62|b\xe2\x82|c", {.doc_sep = "|"});
  EXPECT_EQ(got.texts, (Texts{"a\xEF\xBF\xBD"
                              "b",
                              "b\xEF\xBF\xBD", "c"}));
  EXPECT_EQ(got.mended, 2);
  EXPECT_EQ(Read("a.jsonl", "{\"text\":\"a\xff\"}").texts, Texts{"a\xEF\xBF\xBD"});
}

TEST_F(TextInputs, ChatsHaveLossOnAssistantTurnsOnly) {
  WriteFileAtomic(dir_ / "c.jsonl",
                  R"({"messages":[{"role":"system","content":"S"},{"role":"user","content":"U <|im_end|>"},)"
                  R"({"role":"assistant","content":"A"}]})");
  TextInput input(dir_ / "c.jsonl", {.doc_sep = "", .field = "messages"});
  TextDocument document;
  ASSERT_TRUE(input.Next(&document));
  EXPECT_EQ(Joined(document),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU <|im_end|><|im_end|>\n"
            "<|im_start|>assistant\nA<|im_end|>\n");
  EXPECT_FALSE(document.end_has_loss);
  std::string loss, special;
  for (const TextSegment& segment : document.segments) {
    if (segment.loss) loss += segment.text;
    if (segment.special) special += segment.text;
  }
  EXPECT_EQ(loss, "A<|im_end|>");
  EXPECT_EQ(special, "<|im_start|><|im_end|><|im_start|><|im_end|><|im_start|><|im_end|>");  // not the user's own
}

TEST_F(TextInputs, TheNameSaysWhatItIsInAnyCapitals) {
  const std::string lines = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
  for (const char* name : {"a.jsonl", "a.ndjson", "a.jsonlines", "A.JSONL", "a.Ndjson", "a.v2.JsonLines"})
    EXPECT_EQ(Read(name, lines).texts, (Texts{"a", "b"})) << name;
  for (const char* name : {"a.JSONL.GZ", "a.ndjson.Gz"}) EXPECT_EQ(Read(name, Gzip(lines)).texts, (Texts{"a", "b"}));
  EXPECT_EQ(Read("a.NDJSON.ZST", Zstd(lines)).texts, (Texts{"a", "b"}));
  EXPECT_EQ(Read("A.TXT", "x").texts, Texts{"x"});
  Bad("A.JSON", "{}", ErrorCode::kData, {"A.JSON", "JSON lines", "--format jsonl"});
  // The user knows better than the name.
  EXPECT_EQ(Read("a.json", lines, {.format = TextFormat::kJsonLines}).texts, (Texts{"a", "b"}));
  EXPECT_EQ(Read("a.jsonl", lines, {.format = TextFormat::kText}).texts, Texts{lines});
  EXPECT_EQ(ParseTextFormat("jsonl"), TextFormat::kJsonLines);
  ExpectError([] { (void)ParseTextFormat("csv"); }, ErrorCode::kUsage, {"--format csv", "auto, text or jsonl"});
}

TEST_F(TextInputs, ContentSaysItWhereTheNameDoesNot) {
  const std::string lines = "\n{\"text\":\"a\"}\n{\"text\":\"b\"}\n";
  EXPECT_EQ(Read("corpus", "\xEF\xBB\xBF" + lines).texts, (Texts{"a", "b"}));
  EXPECT_EQ(Read("corpus", Gzip(lines)).texts, (Texts{"a", "b"}));
  EXPECT_EQ(Read("corpus", Zstd(lines)).texts, (Texts{"a", "b"}));
  EXPECT_EQ(Read("corpus.txt", Gzip("misnamed")).texts, Texts{"misnamed"});
  for (const std::string text : {"{not json}\n", "{", "[1]\n", "{\"a\":1", "x\n{\"text\":\"a\"}\n"})
    EXPECT_EQ(Read("corpus", text).texts, Texts{text});
  const std::string far = "{\"text\":\"" + std::string(3 << 20, 'x') + "\"}\n{\"text\":\"b\"}";
  EXPECT_EQ(Read("corpus", far).texts.size(), 2u);  // a first line longer than one read
}

TEST_F(TextInputs, JsonLinesUnderANameOfTextAreNoted) {
  WriteFileAtomic(dir_ / "a.txt", "{\"text\":\"a\"}\n");
  const auto notes = [&](const TextInputOptions& options) {
    TextInput input(dir_ / "a.txt", options);
    TextDocument document;
    while (input.Next(&document)) continue;
    return input.notes();
  };
  const auto said = notes({});
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("a.txt: read as text"), std::string::npos) << said[0];
  EXPECT_NE(said[0].find("--format jsonl"), std::string::npos) << said[0];
  EXPECT_TRUE(notes({.format = TextFormat::kText}).empty());
}

TEST_F(TextInputs, HalfASurrogatePairIsMendedAsBytesAre) {
  const auto line = [](const std::string& escapes) { return "{\"text\":\"" + escapes + "\"}\n"; };
  const std::string bad = "\xEF\xBF\xBD", smile = "\xF0\x9F\x98\x80";
  const std::pair<std::string, std::string> cases[] = {
      {R"(a\ud83d)", "a" + bad},
      {R"(\ude00b)", bad + "b"},
      {R"(\uD83D\uDE00)", smile},
      {R"(\ud83d\ud83d\ude00)", bad + smile},
      {R"(\ude00\ud83d)", bad + bad},
      {R"(\ud83d\n)", bad + "\n"},
      {R"(\\ud83d)", "\\ud83d"},  // a backslash, not an escape
      {R"(\\\ud83d)", "\\" + bad},
      {R"(\"\ud83d\")", "\"" + bad + "\""},
      {R"(\u0041)", "A"},
  };
  std::string all;
  Texts want;
  int64_t mended = 0;
  for (const auto& [escapes, text] : cases) {
    all += line(escapes);
    want.push_back(text);
    mended += text.find(bad) != std::string::npos ? 1 : 0;
  }
  const Got got = Read("a.jsonl", all);
  EXPECT_EQ(got.texts, want);
  EXPECT_EQ(got.mended, mended);
  Bad("a.jsonl", line(R"(\ud8)"), ErrorCode::kFormat, {"a.jsonl:1"});
  Bad("a.jsonl", line("\\ud83d\\u12"), ErrorCode::kFormat, {"a.jsonl:1"});
}

TEST_F(TextInputs, ASeparatorThatNeverOccursIsNoted) {
  const auto note = [&](const std::string& text, const std::string& separator) {
    WriteFileAtomic(dir_ / "a.txt", text);
    TextInput input(dir_ / "a.txt", {.doc_sep = separator});
    TextDocument document;
    while (input.Next(&document)) continue;
    return input.notes().empty() ? "" : input.notes()[0];
  };
  const auto has = [](const std::string& text, std::string_view part) { return text.find(part) != text.npos; };
  EXPECT_EQ(note("one\n\ntwo", "\n\n"), "");
  EXPECT_EQ(note("one\n\n", "\n\n"), "");
  EXPECT_EQ(note("", "\n\n"), "");
  EXPECT_TRUE(has(note("one\r\n\r\ntwo", "\n\n"), "--doc-sep $'\\n\\n' does not occur"));
  EXPECT_TRUE(has(note("one\r\n\r\ntwo", "\n\n"), "--doc-sep $'\\r\\n\\r\\n' does"));
  EXPECT_TRUE(has(note("one\n\ntwo", "\\n\\n"), "--doc-sep $'\\n\\n' does"));
  EXPECT_TRUE(has(note("one\r\n\r\ntwo", "\\n\\n"), "--doc-sep $'\\r\\n\\r\\n' does"));
  EXPECT_TRUE(has(note("one\n---\ntwo", "\r\n---\r\n"), "--doc-sep $'\\n---\\n' does"));
  EXPECT_TRUE(has(note("one\ftwo", "\\x0c"), "--doc-sep $'\\f' does"));
  EXPECT_TRUE(has(note("one\ttwo", "\\t"), "--doc-sep $'\\t' does"));
  const std::string none = note("one two", "###");
  EXPECT_TRUE(has(none, "a.txt: the separator --doc-sep $'###' does not occur: the file is one document")) << none;
}

TEST_F(TextInputs, NotesOfManyFilesAreCounted) {
  const TextInputOptions options{.doc_sep = "##"};
  InputNotes notes;
  for (int i = 0; i < 9; ++i) {
    WriteFileAtomic(dir_ / "a.txt", "text");
    TextInput input(dir_ / "a.txt", options);
    TextDocument document;
    while (input.Next(&document)) continue;
    notes.Add(input);
  }
  const auto lines = notes.Lines(options);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines.back(), "and 6 more such warnings");
  EXPECT_EQ(InputNotes().Lines(options).size(), 1u);  // a separator, and only JSON lines
  EXPECT_TRUE(InputNotes().Lines({}).empty());
}

TEST_F(TextInputs, ADocumentOfALineMayBeLong) {
  const std::string text(5 << 20, 'x');
  EXPECT_EQ(Read("a.jsonl", "{\"text\":\"" + text + "\"}\n").texts, Texts{text});
  std::string keys;
  for (int i = 0; i < 40000; ++i) keys += StrCat(",\"key", i, "\":", i);
  EXPECT_EQ(Read("a.jsonl", "{\"text\":\"x\"" + keys + "}\n").texts, Texts{"x"});
}

TEST_F(TextInputs, JsonLinesOfWindowsAndEditors) {
  const std::string text = "\xEF\xBB\xBF{\"text\":\"a\"}\r\n\r\n   \r\n{\"text\":\"b\"}\r\n";
  EXPECT_EQ(Read("a.jsonl", text).texts, (Texts{"a", "b"}));
  Bad("a.jsonl", text + "{\"txt\":1}\r\n", ErrorCode::kData, {"a.jsonl:5", "\"text\" is missing"});
  Bad("a.jsonl", text + "{\"text\":1e999}\r\n", ErrorCode::kFormat, {"a.jsonl:5", "1e999 is too large"});
  Bad("a.jsonl", text + "{\"text\":\"c\"} {}\r\n", ErrorCode::kFormat, {"a.jsonl:5", "not valid JSON"});
}

TEST_F(TextInputs, ErrorsNameFileLineAndField) {
  Bad("a.jsonl", "{\"text\":\"x\"}\n{\"txt\":1}\n", ErrorCode::kData,
      {"a.jsonl:2", "\"text\" is missing", "did you mean txt"});
  Bad("a.jsonl", "{\"messages\":[]}\n", ErrorCode::kData, {"a.jsonl:1", "--field messages?"});
  Bad("a.jsonl", "{\"text\":5}", ErrorCode::kData, {"a.jsonl:1: text: 5", "string"});
  Bad("a.jsonl", "\n\n[1]", ErrorCode::kData, {"a.jsonl:3", "JSON object"});
  Bad("a.jsonl", "{\"text\":\"x\"", ErrorCode::kFormat, {"a.jsonl:1", "JSON"});
  Bad("a.jsonl", R"({"text":"x","of":["law"]})", ErrorCode::kData, {"a.jsonl:1: of: [\"law\"]", "string"},
      {.domain_field = "of"});
  const TextInputOptions chat{.doc_sep = "", .field = "messages"};
  Bad("a.jsonl", R"({"messages":[{"role":"user"}]})", ErrorCode::kData, {"a.jsonl:1: messages[0].content", "missing"},
      chat);
  Bad("a.jsonl", R"({"messages":[{"role":"user","content":null}]})", ErrorCode::kData, {"messages[0].content: null"},
      chat);
  Bad("a.jsonl", R"({"messages":[{"role":"a\nb","content":""}]})", ErrorCode::kData, {"messages[0].role"}, chat);
  Bad("a.jsonl", R"({"messages":["hi"]})", ErrorCode::kData, {"messages[0]: \"hi\"", "object"}, chat);
  Bad("a.json", "{}", ErrorCode::kData, {"a.json", ".jsonl"});
  Bad("a.txt", std::string("x\ny\0z", 5), ErrorCode::kData, {"a.txt:2", "zero byte", "UTF-16"});
  ExpectError([&] { TextInput input(dir_ / "none.txt", {}); }, ErrorCode::kIo, {"none.txt", "No such file"});
  ExpectError([&] { TextInput input(dir_.path(), {}); }, ErrorCode::kIo, {"Is a directory"});
}

TEST_F(TextInputs, DamagedCompressionIsRefused) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += std::to_string(i * i);
  for (const auto& [name, bytes] :
       {std::pair{std::string("a.txt.gz"), Gzip(text)}, {std::string("a.txt.zst"), Zstd(text)}}) {
    for (const size_t keep : {size_t{0}, size_t{1}, size_t{11}, bytes.size() / 2, bytes.size() - 1})
      Bad(name, bytes.substr(0, keep), ErrorCode::kFormat, {name, "incomplete copy"});
    std::string flipped = bytes;
    flipped[0] = static_cast<char>(flipped[0] ^ 0xff);
    Bad(name, flipped, ErrorCode::kFormat, {name, "data"});
  }
  Bad("b.txt.gz", "not gzip at all", ErrorCode::kFormat, {"b.txt.gz", "gzip"});
}

TEST_F(TextInputs, ZerosBehindGzipArePassedOver) {
  for (const size_t zeros : {size_t{1}, size_t{511}, size_t{3} << 20}) {
    EXPECT_EQ(Read("a.txt.gz", Gzip("text") + std::string(zeros, '\0')).texts, Texts{"text"}) << zeros;
    Bad("a.txt.gz", Gzip("text") + std::string(zeros, '\0') + "x", ErrorCode::kFormat, {"a.txt.gz", "is not zero"});
  }
  Bad("a.txt.gz", Gzip("text") + "garbage", ErrorCode::kFormat, {"a.txt.gz", "neither a member nor zeros"});
  Bad("a.txt.gz", std::string(100, '\0'), ErrorCode::kFormat, {"a.txt.gz", "gzip"});  // no member at all
  Bad("a.txt.gz", Gzip("text") + "\x1f", ErrorCode::kFormat, {"a.txt.gz", "incomplete copy"});
}

// The head of a Zstandard frame with a window of 2^log bytes, and its one block, raw.
std::string FrameWithWindow(int log, const std::string& text) {
  std::string frame = "\x28\xb5\x2f\xfd";
  frame += '\0';  // no content size, no checksum
  frame += static_cast<char>((log - 10) << 3);
  const auto block = static_cast<uint32_t>(text.size() << 3 | 1);  // raw, the last
  for (int i = 0; i < 3; ++i) frame += static_cast<char>(block >> (8 * i) & 255);
  return frame + text;
}

TEST_F(TextInputs, ZstandardWindowsAreTakenUpToTwoGibibytes) {
  EXPECT_EQ(Read("a.txt.zst", FrameWithWindow(20, "text")).texts, Texts{"text"});
  EXPECT_EQ(Read("a.txt.zst", FrameWithWindow(28, "text")).texts, Texts{"text"});  // --long=28: over the default limit
  Bad("a.txt.zst", FrameWithWindow(32, "text"), ErrorCode::kFormat, {"a.txt.zst", "2 GiB", "--long=31"});
}

}  // namespace
}  // namespace hydra
