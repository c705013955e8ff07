// SPDX-License-Identifier: Apache-2.0
// Text and tokens side by side.
#include "hydra/serve/text_writer.h"

#include <utility>

namespace hydra::serve {

void TextWriter::Add(PickedToken token, TextPiece* piece) {
  const std::string_view bytes = tokenizer_.TokenBytes(token.id);
  said_ += static_cast<int64_t>(bytes.size());
  held_.push_back({std::move(token), said_});
  const std::string text = stops_.Feed(utf8_.Push(bytes));
  piece->words += text;
  shown_ += static_cast<int64_t>(text.size());
  Release(shown_, piece);
}

void TextWriter::Finish(TextPiece* piece) {
  if (!stopped()) {
    std::string rest = stops_.Feed(utf8_.Finish());
    rest += stops_.Finish();
    piece->words += rest;
    if (!stopped()) return Release(INT64_MAX, piece);
    shown_ += static_cast<int64_t>(rest.size());
  }
  // The token in which the stop string begins has said something too.
  const auto begin = [this] {
    const Held& first = held_.front();
    return first.end - static_cast<int64_t>(tokenizer_.TokenBytes(first.token.id).size());
  };
  while (!held_.empty() && begin() < shown_) Release(held_.front().end, piece);
}

void TextWriter::Release(int64_t bytes, TextPiece* piece) {
  for (; !held_.empty() && held_.front().end <= bytes; held_.pop_front())
    piece->tokens.push_back(std::move(held_.front().token));
}

}  // namespace hydra::serve
