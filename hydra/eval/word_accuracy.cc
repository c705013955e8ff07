// SPDX-License-Identifier: Apache-2.0
// Rows of held-out documents, their first choices, and the words that these make.
#include "hydra/eval/word_accuracy.h"

#include <algorithm>
#include <map>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/train/batches.h"

namespace hydra::eval {
namespace {

bool BeginsWord(const Tokenizer& tokenizer, int64_t id) {
  if (tokenizer.IsSpecial(static_cast<int32_t>(id))) return false;
  const std::string_view bytes = tokenizer.TokenBytes(static_cast<int32_t>(id));
  return !bytes.empty() && (bytes[0] == ' ' || bytes[0] == '\n' || bytes[0] == '\t' || bytes[0] == '\r');
}

// The first choices [T] behind each position of a row.
torch::Tensor FirstChoices(nn::Model& model, const nn::Batch& batch, const nn::ForwardOptions& options) {
  constexpr int64_t kPiece = 1024;  // positions whose logits are held at once
  const torch::NoGradGuard no_grad;
  const torch::Tensor hidden = model.Forward(batch, options).hidden.squeeze(0);  // [T, D]
  std::vector<torch::Tensor> choices;
  for (int64_t t = 0; t < hidden.size(0); t += kPiece)
    choices.push_back(model.Logits(hidden.narrow(0, t, std::min(kPiece, hidden.size(0) - t))).argmax(-1));
  return torch::cat(choices).to(torch::kCPU, torch::kInt64).contiguous();
}

class Counter {
 public:
  explicit Counter(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // A token that was predicted, and whether rightly.
  void Token(int64_t id, bool right) {
    if (tokenizer_.IsSpecial(static_cast<int32_t>(id))) return End();
    if (BeginsWord(tokenizer_, id)) {
      End();
      open_ = true;
    }
    if (!open_) return;
    word_.push_back(id);
    right_ = right_ && right;
  }
  // The text goes on elsewhere.
  void End() {
    if (open_) {
      ++result_.words;
      if (right_) ++result_.right;
      result_.commonest = std::max(result_.commonest, ++seen_[word_]);
    }
    open_ = false;
    right_ = true;
    word_.clear();
  }
  [[nodiscard]] const WordAccuracy& result() const { return result_; }

 private:
  const Tokenizer& tokenizer_;
  bool open_ = false, right_ = true;
  std::vector<int64_t> word_;
  std::map<std::vector<int64_t>, int64_t> seen_;
  WordAccuracy result_;
};

}  // namespace

WordAccuracy MeasureWords(nn::Model& model, const Tokenizer& tokenizer, const train::Corpus& corpus,
                          const std::string& name, const PerplexityOptions& options) {
  const int64_t chunk = model.config().chunk_len;
  const int64_t ctx = options.ctx > 0 ? options.ctx : std::min<int64_t>(8192, model.config().max_position_embeddings);
  train::RowPacker packer(corpus,
                          {.chunk_len = chunk, .seed = 0, .shuffle = true, .repeat = false, .cut_to_fill = false});
  Counter counter(tokenizer);
  for (int64_t seen = 0; options.max_tokens == 0 || seen < options.max_tokens;) {
    const train::TokenBatch batch = train::NextBatch(packer, 1, (ctx + chunk - 1) / chunk * chunk);
    if (batch.n_rows == 0) break;
    seen += batch.n_tokens;
    const train::AutocastScope autocast(options.device);
    const torch::Tensor choices = FirstChoices(model, batch.batch.To(options.device.device), options.forward);
    const int64_t* targets = batch.batch.targets.data_ptr<int64_t>();
    const int64_t* choice = choices.data_ptr<int64_t>();
    for (int64_t t = 0; t < choices.numel(); ++t)
      targets[t] < 0 ? counter.End() : counter.Token(targets[t], choice[t] == targets[t]);
    counter.End();
  }
  if (counter.result().words == 0) throw Error(ErrorCode::kData, StrCat(name, ": there is no word to predict"));
  return counter.result();
}

WordAccuracy MeasureWords(nn::Model& model, const Tokenizer& tokenizer, const std::string& folder,
                          const std::string& split, const PerplexityOptions& options) {
  return MeasureWords(model, tokenizer, OpenSplit(model, tokenizer, folder, split), folder, options);
}

}  // namespace hydra::eval
