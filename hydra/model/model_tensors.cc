// SPDX-License-Identifier: Apache-2.0
// The check of tensors against the table, and what files may hold beside them.
#include "hydra/model/model_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/model/rope.h"
#include "hydra/tensor/weight_type.h"

namespace hydra {
namespace {

constexpr std::string_view kHeadName = "lm_head.weight";
constexpr std::string_view kInvFreq = "rotary_emb.inv_freq";

// Ends of names. The first are transformers', the last is llama.cpp's.
constexpr std::string_view kSavedBuffers[] = {
    kInvFreq,         "rotary_emb.original_inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached",
    "self_attn.bias", "self_attn.masked_bias",        "position_ids",          "attn_rot_embd.weight"};

// Frequencies that differ from the config's: whoever saved them computed with those. Compared with the config's
// loosely, for old files have them in 16 bits.
void WarnOfFrequencies(const ModelConfig& config, const SafeTensors& file, const TensorView& view,
                       std::vector<std::string>* warnings) {
  const std::vector<double> want = RopeInvFreq(config.attention);
  const auto type = WeightTypeOf(view.dtype);
  if (!type || NumElements(view.shape) != static_cast<int64_t>(want.size())) return;
  std::vector<float> saved(want.size());
  DecodeRow(*type, view.data, static_cast<int64_t>(saved.size()), saved.data());
  for (size_t i = 0; i < saved.size(); ++i) {
    if (std::fabs(saved[i] - want[i]) <= 0.01 * want[i] + 1e-6) continue;
    warnings->push_back(StrCat(file.path(), ": ", view.name, "[", i, "] = ", saved[i], ": config.json says ", want[i],
                               ", which is what is used"));
    return;
  }
}

// A tied model that has its matrix under both names must have it twice the same.
void CheckTiedHead(const SafeTensors& file, const TensorView& embedding, const TensorView& head) {
  if (head.dtype == embedding.dtype && head.nbytes == embedding.nbytes &&
      std::memcmp(head.data, embedding.data, static_cast<size_t>(head.nbytes)) == 0)
    return;
  RefuseTiedHead(file.path());
}

}  // namespace

void CheckTensors(const ModelConfig& config, const TensorList& list) {
  std::vector<bool> used(list.count);
  TensorTable::ForEach(config, [&](const TensorSpec& spec) {
    const size_t i = list.find(spec);
    const std::vector<int64_t> want = list.shape(spec, i);
    const auto stored = list.stored_shape(i);
    if (!std::ranges::equal(stored, want))
      throw Error(ErrorCode::kTensor,
                  StrCat(list.path, ": ", list.name(i), ": shape ", ShapeText({stored.begin(), stored.end()}), ", ",
                         list.config_says, " ", ShapeText(want)));
    used[i] = true;
  });
  for (size_t i = 0; i < list.count; ++i)
    if (!used[i]) list.other(i);
}

bool IsSavedBuffer(const ModelConfig& config, std::string_view name) {
  const bool rotated = config.HasAttention(AttentionKind::kFull) || config.HasAttention(AttentionKind::kLatent);
  if (config.family == Family::kHydra || !rotated) return false;
  for (const std::string_view end : kSavedBuffers)
    if (name == end || (name.ends_with(end) && name[name.size() - end.size() - 1] == '.')) return true;
  return false;
}

std::optional<size_t> FindByAnyName(const ModelConfig& config, const TensorSpec& spec, const FindName& find) {
  if (const auto found = find(spec.name)) return found;
  if (config.tie_embeddings && spec.role == TensorRole::kEmbedding) return find(kHeadName);
  for (const OtherForm& form : OtherForms(config, spec))
    if (const auto found = find(form.name)) return found;
  return std::nullopt;
}

StoredShape StoredShapeOf(const ModelConfig& config, const TensorSpec& spec, std::string_view name, size_t dims) {
  StoredShape out{spec.shape};
  for (OtherForm& form : OtherForms(config, spec)) {
    if (form.name != name || (name == spec.name && form.shape.size() != dims)) continue;
    out = {std::move(form.shape), form.order};
  }
  return out;
}

std::vector<std::byte> InTableOrder(const ModelConfig& config, const TensorSpec& spec, StoredOrder order,
                                    const std::byte* stored, int64_t element) {
  std::vector<std::byte> out(static_cast<size_t>(spec.size() * element));
  if (order == StoredOrder::kTable) {
    std::memcpy(out.data(), stored, out.size());
    return out;
  }
  // Runs of one expert's numbers in a row of the table; transposed, they are runs of one.
  const int64_t rows = spec.shape[0], cols = spec.shape[1];
  const int64_t run = order == StoredOrder::kExpertsFirst ? config.moe.d_expert : 1;
  const auto bytes = static_cast<size_t>(run * element);
  for (int64_t part = 0; part < cols / run; ++part)
    for (int64_t row = 0; row < rows; ++row, stored += bytes)
      std::memcpy(out.data() + (row * cols + part * run) * element, stored, bytes);
  return out;
}

FoundTensor FindTensor(const ModelConfig& config, const SafeTensors& file, const TensorSpec& spec) {
  const auto found = FindByAnyName(config, spec, [&](std::string_view name) -> std::optional<size_t> {
    const TensorView* view = file.Find(name);
    return view != nullptr ? std::optional(static_cast<size_t>(view - file.tensors().data())) : std::nullopt;
  });
  const TensorView& view = found ? file.tensors()[*found] : file.Get(spec.name);  // which throws
  return {view, StoredShapeOf(config, spec, view.name, view.shape.size()).order};
}

bool IsHeadOfTied(const ModelConfig& config, std::string_view name) {
  return config.tie_embeddings && name == kHeadName;
}

void RefuseTiedHead(const std::string& path) {
  throw Error(ErrorCode::kTensor,
              StrCat(path, ": ", kHeadName, " differs from the embedding, but config.json says tie_word_embeddings"));
}

void RefuseOther(const ModelConfig& config, const std::string& path, std::string_view name) {
  const bool gate = config.HasFfn(FfnKind::kBlockFfn) && name.find("gate_proj") != std::string_view::npos;
  throw Error(ErrorCode::kTensor,
              StrCat(path, ": tensor ", name,
                     gate ? ": experts with a gate are not supported" : " is not in the model of config.json"));
}

void CheckTensors(const ModelConfig& config, const SafeTensors& file, const CheckTensorsOptions& options) {
  const std::vector<TensorView>& tensors = file.tensors();
  const TensorView* embedding = nullptr;
  TensorList list;
  list.path = file.path();
  list.config_says = "config.json says";
  list.count = tensors.size();
  list.find = [&](const TensorSpec& spec) {
    const TensorView& view = FindTensor(config, file, spec).view;
    if (spec.role == TensorRole::kEmbedding) embedding = &view;
    return static_cast<size_t>(&view - tensors.data());
  };
  list.shape = [&](const TensorSpec& spec, size_t i) {
    return StoredShapeOf(config, spec, tensors[i].name, tensors[i].shape.size()).shape;
  };
  list.name = [&](size_t i) { return std::string_view(tensors[i].name); };
  list.stored_shape = [&](size_t i) { return std::span<const int64_t>(tensors[i].shape); };
  list.other = [&](size_t i) {
    const TensorView& view = tensors[i];
    if (IsHeadOfTied(config, view.name)) return CheckTiedHead(file, *embedding, view);
    if (IsSavedBuffer(config, view.name)) {
      if (options.warnings != nullptr && view.name.ends_with(kInvFreq))
        WarnOfFrequencies(config, file, view, options.warnings);
      return;
    }
    if (options.others == OtherTensors::kRefused) RefuseOther(config, file.path(), view.name);
    if (options.warnings != nullptr)
      options.warnings->push_back(internal::WithoutControls(
          StrCat(file.path(), ": ", view.name, ": no tensor of this config, left out of the sums")));
  };
  CheckTensors(config, list);
}

}  // namespace hydra
