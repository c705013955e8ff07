// SPDX-License-Identifier: Apache-2.0
// Saved states that were tampered with, each with a checksum that is right, are refused by field. Not here: states
// that come back equal (state_test.cc).
#include <cstring>
#include <functional>

#include "hydra/base/testing.h"
#include "hydra/io/file.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

// A saved state taken apart: what a test may change before it is written again.
struct Draft {
  SafeTensorsMetadata metadata;
  std::vector<TensorView> tensors;
  std::vector<std::string> bytes;

  size_t IndexOf(const std::string& name) const {
    for (size_t i = 0; i < tensors.size(); ++i)
      if (tensors[i].name == name) return i;
    throw std::logic_error("no tensor " + name);
  }
  void PutI32(const std::string& name, size_t at, int32_t value) {
    std::memcpy(bytes[IndexOf(name)].data() + 4 * at, &value, 4);
  }
  void Resize(const std::string& name, int64_t elements) {
    const size_t i = IndexOf(name);
    tensors[i].shape = {elements};
    bytes[i].resize(static_cast<size_t>(elements * DTypeSize(tensors[i].dtype)));
  }
};

class BadState : public ::testing::Test {
 protected:
  BadState() : model_(Make(HydraNano())) {
    ThreadPool pool(1);
    SequenceState state(model_);
    (void)testing::LogitsInPieces(model_, state, testing::RandomIds(40, 128, 1), {40}, pool);
    state.SetPending({5});
    state.Save(path_);
    good_ = ReadFile(path_);
  }
  static Model Make(ModelConfig config) {
    config.vocab_size = 128;
    config.attention.landmark_budget = 6;
    return testing::BuildModel(testing::RandomSource(config, 1));
  }
  // `name`: its name in specs/product.md, or "".
  void Bad(const char* name, const std::function<void(Draft&)>& change, const char* field,
           std::vector<std::string> found = {}, ErrorCode code = ErrorCode::kFormat) {
    WriteFileAtomic(path_, good_);
    Draft draft;
    {
      const SafeTensors file = SafeTensors::Open(path_);
      draft.metadata = file.metadata();
      draft.tensors = file.tensors();
      for (const TensorView& t : draft.tensors)
        draft.bytes.emplace_back(reinterpret_cast<const char*>(t.data), static_cast<size_t>(t.nbytes));
    }
    change(draft);
    uint32_t crc = 0;
    for (size_t i = 0; i < draft.tensors.size(); ++i) {
      draft.tensors[i].data = reinterpret_cast<const std::byte*>(draft.bytes[i].data());
      draft.tensors[i].nbytes = static_cast<int64_t>(draft.bytes[i].size());
      crc = Crc32(AsBytes(draft.bytes[i]), crc);
    }
    draft.metadata["crc32"] = StrCat(crc);
    WriteSafeTensors(path_, draft.tensors, draft.metadata);
    Refused(name, field, std::move(found), code);
  }
  // The file as it stands.
  void Refused(const char* name, const char* field, std::vector<std::string> found, ErrorCode code) {
    ExpectBadFile(
        {.format = "States", .name = name, .file = path_, .field = field, .found = std::move(found), .code = code},
        [&] { (void)SequenceState::Load(path_, model_); });
  }
  const TempDir dir_;
  const std::string path_ = dir_ / "a.state";
  const Model model_;
  std::string good_;
};

TEST_F(BadState, EachKindIsRefusedByField) {
  (void)SequenceState::Load(path_, model_);  // the base of the cases is good
  Bad("buffer-size", [](Draft& d) { d.Resize("layers.0.ssm_state", 7); }, "layers.0.ssm_state",
      {"28 bytes", "must be"});
  Bad("buffer-size", [](Draft& d) { d.Resize("counts", 2); }, "counts", {"8 bytes", "must be"});
  Bad("ids-over-vocab", [](Draft& d) { d.PutI32("ids", 3, 128); }, "ids", {"128", "0 to 127"});
  Bad("ids-over-vocab", [](Draft& d) { d.PutI32("ids", 0, -1); }, "ids", {"-1", "0 to 127"});
  Bad("ids-over-vocab", [](Draft& d) { d.PutI32("pending", 0, INT32_MAX); }, "pending", {"2147483647"});
  // Counts and experts index memory.
  Bad("", [](Draft& d) { d.PutI32("counts", 0, 7); }, "counts", {"7", "landmarks"});
  Bad("", [](Draft& d) { d.PutI32("counts", 0, -1); }, "counts", {"-1"});
  Bad("", [](Draft& d) { d.PutI32("counts", 1, 3); }, "counts", {"3", "experts"});
  Bad("", [](Draft& d) { d.PutI32("layers.0.moe_ids", 0, 8), d.PutI32("counts", 1, 1); }, "layers.0.moe_ids",
      {"expert 8", "0 to 7"});
  Bad("",
      [](Draft& d) {
        for (size_t k = 0; k < 2; ++k) d.PutI32("layers.0.moe_ids", k, 3);
        d.PutI32("counts", 1, 2);
      },
      "layers.0.moe_ids", {"expert 3", "twice"});
  // Tensors that are not the model's.
  Bad(
      "", [](Draft& d) { d.tensors[d.IndexOf("layers.0.ssm_state")].name = "layers.9.ssm_state"; },
      "layers.0.ssm_state", {}, ErrorCode::kTensor);
  Bad("",
      [](Draft& d) {
        d.tensors.push_back({"odd", DType::kI32, {1}, nullptr, 4});
        d.bytes.emplace_back(4, '\0');
      },
      "holds 46 tensors", {"must be 45"});
  Bad("", [](Draft& d) { d.tensors[d.IndexOf("ids")].dtype = DType::kF32; }, "ids", {"type F32", "I32"});
  // Other versions, controls that the model cannot take.
  Bad("other-model", [](Draft& d) { d.metadata["model_sha256"] = std::string(64, '0'); }, "model_sha256",
      {"another model"});
  Bad(
      "", [](Draft& d) { d.metadata["format"] = "hydralm-state-9"; }, "format = hydralm-state-9");
  Bad("", [](Draft& d) { d.metadata.erase("controls"); }, "__metadata__.controls", {"missing"});
  Bad("", [](Draft& d) { d.metadata["controls"] = "{"; }, "controls", {"JSON"});
  Bad("", [](Draft& d) { d.metadata["controls"] = R"({"moe_top_k": 1000000000})"; }, "controls", {"moe_top_k"});
}

TEST_F(BadState, CutAnywhereIsRefused) {
  for (size_t n = 0; n < good_.size(); n += n < 4000 ? 37 : 9973) {
    WriteFileAtomic(path_, std::string_view(good_).substr(0, n));
    ExpectError([&] { (void)SequenceState::Load(path_, model_); }, ErrorCode::kFormat, {"a.state"});
  }
  const std::string short_data = good_.substr(0, good_.size() - 1);
  WriteFileAtomic(path_, short_data);
  Refused("cut", "layers", {"data_offsets", "incomplete copy"}, ErrorCode::kFormat);
}

}  // namespace
}  // namespace hydra
