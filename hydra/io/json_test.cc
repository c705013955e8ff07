// SPDX-License-Identifier: Apache-2.0
// What is said of bad JSON: our words and places, never the names of the library.
#include "hydra/io/json.h"

#include "hydra/base/testing.h"

namespace hydra {
namespace {

std::string MessageOf(const std::string& text) {
  try {
    (void)ParseJson(text, "x.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    return error.what();
  }
  return "accepted";
}

TEST(Json, MessagesAreOurs) {
  const std::string deep(70, '[');
  const std::pair<std::string, const char*> cases[] = {
      {R"({"a": 1e999})", "the number 1e999 is too large"},
      {R"({"a": [-1e400]})", "the number -1e400 is too large"},
      {R"({"a": })", "at byte"},
      {R"({"a": "\ud800"})", "surrogate"},
      {"{\"a\": \"\xff\"}", "at byte"},
      {R"({"a": 1} 2)", "at byte"},
      {R"({"a": 1, "b": {"c": 1, "c": 2}})", "\"c\" is given twice"},
      {deep, "nested deeper than 64"},
      {"", "empty"},
      {"{\"a\":", "at byte"},
  };
  for (const auto& [text, part] : cases) {
    const std::string message = MessageOf(text);
    EXPECT_EQ(message.rfind("x.json: ", 0), 0u) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    for (const char* theirs : {"json.exception", "parse_error", "out_of_range", "type_error", "line 1, column"})
      EXPECT_EQ(message.find(theirs), std::string::npos) << message;
  }
}

TEST(Json, DumpsAnyBytes) { EXPECT_EQ(DumpJson({{"file", "a\xff"}}), "{\"file\":\"a\xEF\xBF\xBD\"}"); }

}  // namespace
}  // namespace hydra
