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

TEST_F(TextInputs, ErrorsNameFileLineAndField) {
  Bad("a.jsonl", "{\"text\":\"x\"}\n{\"txt\":1}\n", ErrorCode::kData,
      {"a.jsonl:2", "\"text\" is missing", "did you mean txt"});
  Bad("a.jsonl", "{\"messages\":[]}\n", ErrorCode::kData, {"a.jsonl:1", "--field messages?"});
  Bad("a.jsonl", "{\"text\":5}", ErrorCode::kData, {"a.jsonl:1: text: 5", "string"});
  Bad("a.jsonl", "\n\n[1]", ErrorCode::kData, {"a.jsonl:3", "JSON object"});
  Bad("a.jsonl", "{\"text\":\"x\"", ErrorCode::kFormat, {"a.jsonl:1", "JSON"});
  const TextInputOptions chat{.doc_sep = "", .field = "messages"};
  Bad("a.jsonl", R"({"messages":[{"role":"user"}]})", ErrorCode::kData, {"a.jsonl:1: messages[0].content", "missing"},
      chat);
  Bad("a.jsonl", R"({"messages":[{"role":"user","content":null}]})", ErrorCode::kData, {"messages[0].content: null"},
      chat);
  Bad("a.jsonl", R"({"messages":[{"role":"a\nb","content":""}]})", ErrorCode::kData, {"messages[0].role"}, chat);
  Bad("a.jsonl", R"({"messages":["hi"]})", ErrorCode::kData, {"messages[0]: \"hi\"", "object"}, chat);
  Bad("a.json", "{}", ErrorCode::kData, {"a.json", ".jsonl"});
  Bad("a.txt", std::string("x\ny\0z", 5), ErrorCode::kData, {"a.txt:2", "zero byte"});
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

}  // namespace
}  // namespace hydra
