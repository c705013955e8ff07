// SPDX-License-Identifier: Apache-2.0
// Saves a sequence's state as safetensors and reads it back, exact to the bit. Bytes: docs/formats.md.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/base/version.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"
#include "hydra/runtime/memory_overlay.h"
#include "hydra/runtime/sequence_state.h"
#include "hydra/runtime/weights.h"

namespace hydra {
namespace {

constexpr const char* kFormat = "hydralm-state-1";
constexpr const char* kIds = "ids";
constexpr const char* kPending = "pending";
constexpr const char* kCounts = "counts";
constexpr const char* kPlan = "kv_plan";
constexpr const char* kPlanLength = "kv_plan_length";
constexpr const char* kMemory = "memory_packs";

std::string BufferName(size_t block, const StateBuffer& buffer) { return StrCat("layers.", block, ".", buffer.name); }

const std::string& Meta(const SafeTensors& file, const char* key) {
  const auto it = file.metadata().find(key);
  if (it == file.metadata().end())
    throw Error(ErrorCode::kFormat, StrCat(file.path(), ": __metadata__.", key, " is missing: no saved state"));
  return it->second;
}

void Expect(const SafeTensors& file, const char* key, const std::string& want, const char* rule) {
  const std::string& got = Meta(file, key);
  if (got != want)
    throw Error(ErrorCode::kFormat, StrCat(file.path(), ": ", key, " = ", OneLine(got, 80), ": ", rule, " ", want));
}

// The length that the plan's spans are for; 0 without a plan of rules.
int64_t PlanLengthOf(const SafeTensors& file) {
  const auto it = file.metadata().find(kPlanLength);
  return it == file.metadata().end()
             ? 0
             : ParseWholeNumber(it->second, 1, kMaxSequenceTokens, StrCat(file.path(), ": ", kPlanLength));
}

}  // namespace

int64_t SequenceState::PlanLengthIn(const std::string& path) { return PlanLengthOf(SafeTensors::Open(path)); }

std::vector<std::byte> SequenceState::Packed(const StateBuffer& buffer) const {
  std::vector<std::byte> out;
  out.reserve(static_cast<size_t>(buffer.UsedBytes(pos())));
  buffer.ForUsed(pos(), [&](int64_t at, int64_t n) {
    const std::byte* from = data_.get() + buffer.offset + at;
    out.insert(out.end(), from, from + n);
  });
  return out;
}

void SequenceState::Unpack(const StateBuffer& buffer, std::span<const std::byte> bytes) {
  size_t from = 0;
  buffer.ForUsed(pos(), [&](int64_t at, int64_t n) {
    if (n > 0) std::memcpy(data_.get() + buffer.offset + at, bytes.data() + from, static_cast<size_t>(n));
    from += static_cast<size_t>(n);
  });
}

void SequenceState::Save(const std::string& path) const {
  CheckWhole();
  std::vector<TensorView> views;
  const auto bytes_of_counts = std::as_bytes(std::span(counts_));
  views.push_back({kIds, DType::kI32, {pos()}, reinterpret_cast<const std::byte*>(ids_.data()), pos() * 4});
  views.push_back({kPending,
                   DType::kI32,
                   {static_cast<int64_t>(pending_.size())},
                   reinterpret_cast<const std::byte*>(pending_.data()),
                   static_cast<int64_t>(pending_.size()) * 4});
  views.push_back({kCounts,
                   DType::kI32,
                   {static_cast<int64_t>(counts_.size()), 2},
                   bytes_of_counts.data(),
                   static_cast<int64_t>(bytes_of_counts.size())});
  std::vector<std::vector<std::byte>> packed;
  for (size_t i = 0; i < layout_->buffers.size(); ++i)
    for (const StateBuffer& buffer : layout_->buffers[i]) {
      packed.push_back(Packed(buffer));
      const auto n = static_cast<int64_t>(packed.back().size());
      views.push_back({BufferName(i, buffer), buffer.dtype, {n / DTypeSize(buffer.dtype)}, packed.back().data(), n});
    }
  uint32_t crc = 0;
  for (const TensorView& view : views) crc = Crc32({view.data, static_cast<size_t>(view.nbytes)}, crc);
  SafeTensorsMetadata metadata{{"format", kFormat},
                               {"hydralm", Version()},
                               {"model_sha256", weights_->Fingerprint()},
                               {"kv_dtype", KvDtypeName(layout_->kv)},
                               {"controls", ControlsJson(controls_)},
                               {"crc32", StrCat(crc)}};
  if (plan_) metadata[kPlan] = PlanText();
  if (plan_.length > 0) metadata[kPlanLength] = StrCat(plan_.length);
  if (memory_) metadata[kMemory] = memory_->text();
  WriteSafeTensors(path, views, metadata);
}

SequenceState SequenceState::Load(const std::string& path, const Model& model, const KvPlan& plan,
                                  std::shared_ptr<const MemoryOverlay> memory) {
  const SafeTensors file = SafeTensors::Open(path);
  const ModelWeights& w = model.weights();
  Expect(file, "format", kFormat, "must be");
  Expect(file, "kv_dtype", KvDtypeName(w.options.kv_dtype), "this run has");
  Expect(file, "model_sha256", w.Fingerprint(), "it belongs to another model, this one is");
  const Controls controls = ParseControlsJson(Meta(file, "controls"), StrCat(path, ": controls"));
  try {
    controls.Validate(w.config);
  } catch (const Error& e) {  // it speaks of flags
    throw Error(ErrorCode::kFormat, StrCat(path, ": controls: ", e.what()));
  }
  SequenceState state(model, controls, plan);
  state.SetMemory(std::move(memory));
  const std::string packs = state.memory_ ? state.memory_->text() : "";
  const auto read = file.metadata().find(kMemory);
  if (const std::string has = read == file.metadata().end() ? "" : read->second; has != packs)
    throw Error(ErrorCode::kUsage, StrCat(path, ": was read with --memory \"", OneLine(has, 80), "\": this run has \"",
                                          OneLine(packs, 80), "\""));
  const auto planned = file.metadata().find(kPlan);
  if (const std::string has = planned == file.metadata().end() ? "" : planned->second; has != state.PlanText())
    throw Error(ErrorCode::kUsage, StrCat(path, ": ", kPlan, " = \"", OneLine(has, 80), "\": this run has \"",
                                          OneLine(state.PlanText(), 80), "\""));
  if (const int64_t length = PlanLengthOf(file); length != plan.length)
    throw Error(ErrorCode::kUsage,
                StrCat(path, ": ", kPlanLength, " = ", length, ": this run has ", plan.length, " tokens"));

  uint32_t crc = 0;
  size_t used = 0;
  const auto take = [&](const std::string& name, DType dtype) -> const TensorView& {
    const TensorView& view = file.Get(name);
    if (view.dtype != dtype)
      throw Error(ErrorCode::kFormat,
                  StrCat(path, ": ", name, ": type ", DTypeName(view.dtype), ": must be ", DTypeName(dtype),
                         std::string_view(name).ends_with(".ssm_state") ? ": see --state-dtype" : ""));
    crc = Crc32({view.data, static_cast<size_t>(view.nbytes)}, crc);
    ++used;
    return view;
  };
  const auto copy_ids = [&](const TensorView& view, std::vector<int32_t>* out) {
    out->resize(static_cast<size_t>(view.nbytes / 4));
    if (view.nbytes > 0) std::memcpy(out->data(), view.data, static_cast<size_t>(view.nbytes));
    for (const int32_t id : *out)
      if (id < 0 || id >= w.config.vocab_size)
        throw Error(ErrorCode::kFormat,
                    StrCat(path, ": ", view.name, ": ", id, ": must be 0 to ", w.config.vocab_size - 1));
  };
  const TensorView& ids = take(kIds, DType::kI32);
  const int64_t n = ids.nbytes / 4;
  if (const int64_t most = state.layout_->most_tokens; n > most)
    throw Error(ErrorCode::kUsage, StrCat(path, ": ids: ", n, " tokens: ",
                                          most == w.options.ctx_size ? "--ctx-size is " : "its caches hold ", most));
  copy_ids(ids, &state.ids_);
  copy_ids(take(kPending, DType::kI32), &state.pending_);
  const TensorView& counts = take(kCounts, DType::kI32);
  if (counts.nbytes != static_cast<int64_t>(state.counts_.size() * sizeof(state.counts_[0])))
    throw Error(ErrorCode::kFormat, StrCat(path, ": counts: ", counts.nbytes, " bytes: must be ",
                                           state.counts_.size() * sizeof(state.counts_[0])));
  std::memcpy(state.counts_.data(), counts.data, static_cast<size_t>(counts.nbytes));
  for (const auto& [pool, routes] : state.counts_)
    if (pool < 0 || pool > w.config.attention.landmark_budget || routes < 0 || routes > state.layout_->moe_k)
      throw Error(ErrorCode::kFormat,
                  StrCat(path, ": counts: ", pool, ", ", routes, ": past the room for landmarks or experts"));
  for (size_t i = 0; i < state.layout_->buffers.size(); ++i)
    for (const StateBuffer& buffer : state.layout_->buffers[i]) {
      const TensorView& view = take(BufferName(i, buffer), buffer.dtype);
      const int64_t want = buffer.UsedBytes(n);
      if (view.nbytes != want)
        throw Error(ErrorCode::kFormat, StrCat(path, ": ", view.name, ": ", view.nbytes, " bytes: must be ", want));
      state.Unpack(buffer, {view.data, static_cast<size_t>(view.nbytes)});
      if (std::string_view(buffer.name) != "moe_ids") continue;
      const std::span experts(state.At<int32_t>(buffer.offset), static_cast<size_t>(state.counts_[i][1]));
      for (size_t k = 0; k < experts.size(); ++k) {
        const int32_t id = experts[k];
        if (id < 0 || id >= w.config.moe.n_experts)
          throw Error(ErrorCode::kFormat,
                      StrCat(path, ": ", view.name, ": expert ", id, ": must be 0 to ", w.config.moe.n_experts - 1));
        if (std::ranges::count(experts.first(k), id) > 0)
          throw Error(ErrorCode::kFormat, StrCat(path, ": ", view.name, ": expert ", id, " stands there twice"));
      }
    }
  if (used != file.tensors().size())
    throw Error(ErrorCode::kFormat, StrCat(path, ": holds ", file.tensors().size(), " tensors: must be ", used));
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // the fuzzer is to reach what lies behind
  (void)crc;
#else
  if (Meta(file, "crc32") != StrCat(crc))
    throw Error(ErrorCode::kFormat,
                StrCat(path, ": crc32 = ", OneLine(Meta(file, "crc32"), 20), ": the bytes have ", crc));
#endif
  return state;
}

}  // namespace hydra
