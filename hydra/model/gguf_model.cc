// SPDX-License-Identifier: Apache-2.0
// GGUF's keys and tensor names of each family, and the checks that bind them. Names and keys are llama.cpp's; hydra's
// tensors have our names and its config is the text of config.json.
#include "hydra/model/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "hydra/base/error.h"
#include "hydra/model/model_tensors.h"
#include "hydra/model/rope.h"

namespace hydra {
namespace {

using R = TensorRole;

constexpr const char* kArchitecture = "general.architecture";
constexpr const char* kTokens = "tokenizer.ggml.tokens";

// Names in llama.cpp's files; those of a block follow "blk.N.".
struct GgufRoleName {
  TensorRole role;
  const char* name;
};
constexpr GgufRoleName kGgufNames[] = {
    {R::kEmbedding, "token_embd.weight"},
    {R::kHead, "output.weight"},
    {R::kFinalNorm, "output_norm.weight"},
    {R::kBlockNorm, "attn_norm.weight"},
    {R::kAttnQ, "attn_q.weight"},
    {R::kAttnK, "attn_k.weight"},
    {R::kAttnV, "attn_v.weight"},
    {R::kAttnO, "attn_output.weight"},
    {R::kAttnQBias, "attn_q.bias"},
    {R::kAttnKBias, "attn_k.bias"},
    {R::kAttnVBias, "attn_v.bias"},
    {R::kAttnQNorm, "attn_q_norm.weight"},
    {R::kAttnKNorm, "attn_k_norm.weight"},
    {R::kFfnNorm, "ffn_norm.weight"},
    {R::kFfnGate, "ffn_gate.weight"},
    {R::kFfnUp, "ffn_up.weight"},
    {R::kFfnDown, "ffn_down.weight"},
    {R::kSsmInProj, "ssm_in.weight"},
    {R::kSsmConvWeight, "ssm_conv1d.weight"},
    {R::kSsmConvBias, "ssm_conv1d.bias"},
    {R::kSsmALog, "ssm_a"},
    {R::kSsmD, "ssm_d"},
    {R::kSsmDtBias, "ssm_dt.bias"},
    {R::kSsmNorm, "ssm_norm.weight"},
    {R::kSsmOutProj, "ssm_out.weight"},
};

// The f32 that a key holds, as the decimal number that was meant: 1e-5, not 9.99999974e-6.
double Meant(double value) {
  const auto f = static_cast<float>(value);
  return static_cast<double>(f) == value ? std::stod(fmt::format("{}", f)) : value;
}

// Reads one family's keys, "llama.block_count" and so on, each range-checked before its use.
class Keys {
 public:
  Keys(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  [[nodiscard]] std::string Key(const char* name) const { return prefix_ + "." + name; }
  int64_t Count(const char* name) { return Checked(name, file_.Int(Asked(name))); }
  int64_t Count(const char* name, int64_t missing) {
    const auto value = file_.FindInt(Asked(name));
    return value ? Checked(name, *value) : missing;
  }
  double Number(const char* name) { return CheckedNumber(name, file_.Float(Asked(name))); }
  double Number(const char* name, double missing) {
    const auto value = file_.FindFloat(Asked(name));
    return value ? CheckedNumber(name, *value) : missing;
  }
  // A key that may be absent, or be `want`: what else it could say is not computed.
  void OnlyInt(const char* name, int64_t want) {
    const auto value = file_.FindInt(Asked(name));
    if (value && *value != want) file_.Fail(Key(name), fmt::format("= {}: only {} is supported", *value, want));
  }
  void OnlyNumber(const char* name, double want) {
    const auto value = file_.FindFloat(Asked(name));
    if (value && !(std::fabs(*value - want) <= 1e-6 * std::fabs(want)))  // stored as f32; NaN is refused
      file_.Fail(Key(name), fmt::format("= {}: only {} is supported", *value, want));
  }
  void OnlyBool(const char* name, bool want) {
    const auto value = file_.FindBool(Asked(name));
    if (value && *value != want) file_.Fail(Key(name), fmt::format("= {}: only {} is supported", *value, want));
  }
  void OnlyText(const char* name, std::string_view want) {
    const auto value = file_.FindText(Asked(name));
    if (value && *value != want)
      file_.Fail(Key(name), fmt::format("= {}: only {} is supported", OneLine(*value, 60), want));
  }
  // A window of so many tokens: none, or one that no trained length leaves.
  void OnlyWideWindow(const char* name, int64_t context) {
    const auto value = file_.FindInt(Asked(name));
    if (value && *value != 0 && *value < context)
      file_.Fail(Key(name),
                 fmt::format("= {}: sliding windows below context_length = {} are not supported", *value, context));
  }
  void Ignore(std::initializer_list<const char*> names) {
    for (const char* name : names) asked_.insert(Key(name));
  }
  // One warning for all keys of the family that nobody asked for.
  void WarnUnknown(std::vector<std::string>* warnings) const {
    std::string unknown;
    for (const GgufEntry& entry : file_.entries())
      if (entry.key.starts_with(prefix_ + ".") && !asked_.contains(std::string(entry.key)))
        unknown += (unknown.empty() ? "" : ", ") + OneLine(entry.key, 80);
    if (!unknown.empty() && warnings != nullptr)
      warnings->push_back(internal::WithoutControls(fmt::format("{}: ignored keys: {}", file_.path(), unknown)));
  }

 private:
  std::string Asked(const char* name) { return *asked_.insert(Key(name)).first; }
  int64_t Checked(const char* name, int64_t value) const {
    constexpr int64_t kMost = 1 << 30;
    if (value < 1 || value > kMost) file_.Fail(Key(name), fmt::format("= {}: must be 1 to {}", value, kMost));
    return value;
  }
  double CheckedNumber(const char* name, double value) const {
    if (!(value > 0) || std::isinf(value)) file_.Fail(Key(name), fmt::format("= {}: must be positive", value));
    return Meant(value);
  }
  const GgufFile& file_;
  std::string prefix_;
  std::set<std::string> asked_;
};

// Architectures by their names in files. Those of one family have its tensors, its order of rows and its maths.
struct GgufArchitecture {
  const char* name;
  Family family;
};
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", Family::kLlama}, {"mistral3", Family::kLlama}, {"xverse", Family::kLlama},  {"internlm2", Family::kLlama},
    {"qwen2", Family::kQwen2}, {"qwen3", Family::kQwen3},    {"mamba2", Family::kMamba2}, {"hydra", Family::kHydra},
};

std::optional<Family> FamilyOf(std::string_view architecture) {
  for (const GgufArchitecture& known : kArchitectures)
    if (architecture == known.name) return known.family;
  return std::nullopt;
}

// The embedding, which tells the vocabulary's size and whether the head is tied.
void ReadEmbedding(const GgufFile& file, ModelConfig* c) {
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) file.Fail("token_embd.weight", "is missing");
  if (embedding->shape.size() != 2)
    file.Fail("token_embd.weight", fmt::format("shape {}: must have two dimensions", ShapeText(embedding->shape)));
  c->vocab_size = embedding->shape[0];
  c->tie_embeddings = file.FindTensor("output.weight") == nullptr;
  switch (embedding->type) {
    case WeightType::kF32: c->dtype = DType::kF32; break;
    case WeightType::kF16: c->dtype = DType::kF16; break;
    default: c->dtype = DType::kBF16;  // also what quantised matrices are written as elsewhere
  }
}

void ReadTokenIds(const GgufFile& file, ModelConfig* c) {
  const auto id = [&](const char* name) { return file.FindInt(fmt::format("tokenizer.ggml.{}_token_id", name)); };
  c->bos_token_id = id("bos");
  c->eos_token_id = id("eos");
  c->pad_token_id = id("padding");
  for (const char* name : {"eot", "eom"}) {
    const auto end = id(name);
    if (!end) continue;
    const auto known = c->EosTokenIds();
    if (std::ranges::find(known, *end) != known.end()) continue;
    if (c->eos_token_id)
      c->more_eos_token_ids.push_back(*end);
    else
      c->eos_token_id = end;
  }
}

// Keys that llama.cpp's families share and that change what is computed, but for one value each: 0, 1 or false.
void RefuseOtherMaths(Keys& k) {
  for (const char* name : {"expert_count", "expert_used_count", "expert_shared_count", "nextn_predict_layers",
                           "embedding_length_per_layer_input", "attention.q_lora_rank", "attention.kv_lora_rank",
                           "attention.shared_kv_layers", "attention.relative_buckets_count", "rescale_every_n_layers",
                           "token_shift_count", "altup.num_inputs", "n_deepstack_layers"})
    k.OnlyInt(name, 0);
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv",
                           "attention.max_alibi_bias", "attention.temperature_scale", "attention.temperature_length"})
    k.OnlyNumber(name, 0);
  for (const char* name : {"logit_scale", "residual_scale", "embedding_scale", "attention.output_scale",
                           "attention.value_scale", "rope.scaling.attn_factor"})
    k.OnlyNumber(name, 1);
  for (const char* name : {"use_parallel_residual", "swin_norm", "ssm.dt_b_c_rms"}) k.OnlyBool(name, false);
  k.OnlyBool("attention.causal", true);
  // Of no effect without experts, yarn or windows, or notes of how the file was made.
  k.Ignore({"expert_feed_forward_length",   "expert_shared_feed_forward_length",
            "expert_weights_scale",         "expert_weights_norm",
            "expert_gating_func",           "expert_group_count",
            "expert_group_used_count",      "leading_dense_block_count",
            "moe_every_n_layers",           "interleave_moe_layer_step",
            "tensor_data_layout",           "rope.scaling.original_context_length",
            "rope.scaling.finetuned",       "rope.scaling.yarn_log_multiplier",
            "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
            "rope.scaling.yarn_beta_fast",  "rope.scaling.yarn_beta_slow",
            "rope.freq_base_swa",           "rope.dimension_count_swa",
            "attention.key_length_swa",     "attention.value_length_swa",
            "attention.layer_norm_epsilon"});
}

// No scaling, or a linear one by 1. 0 is "not set".
void ReadRopeScaling(const GgufFile& file, Keys& k) {
  const auto type = file.FindText(k.Key("rope.scaling.type"));
  k.OnlyText("rope.scaling.type", type == "linear" ? "linear" : "none");
  for (const char* name : {"rope.scale_linear", "rope.scaling.factor"})
    k.OnlyNumber(name, file.FindFloat(k.Key(name)) == 0.0 ? 0 : 1);
  const char* sections = "rope.dimension_sections";
  k.Ignore({sections});
  if (file.Find(k.Key(sections)) == nullptr) return;
  for (const int64_t width : file.Ints(k.Key(sections)))
    if (width != 0) file.Fail(k.Key(sections), fmt::format("has a section of {}: only 0 is supported", width));
}

void ReadRope(const GgufFile& file, Keys& k, AttentionConfig* a) {
  a->rope_theta = k.Number("rope.freq_base", 10000.0);
  k.OnlyInt("rope.dimension_count", a->head_dim);
  ReadRopeScaling(file, k);
  const GgufTensor* freqs = file.FindTensor(kGgufRopeFreqs);
  if (freqs == nullptr) return;
  const std::vector<int64_t> want{a->head_dim / 2};
  if (freqs->type != WeightType::kF32 || freqs->shape != want)
    file.Fail(kGgufRopeFreqs, fmt::format("is {} {}: must be F32 {}", Info(freqs->type).name, ShapeText(freqs->shape),
                                          ShapeText(want)));
  std::vector<float> values(static_cast<size_t>(want[0]));
  DecodeRow(freqs->type, freqs->data, want[0], values.data());
  for (size_t i = 0; i < values.size(); ++i)
    if (!(values[i] > 0) || std::isinf(values[i]))
      file.Fail(kGgufRopeFreqs, fmt::format("[{}] = {}: must be positive", i, values[i]));
  a->rope_scaling = RopeScalingOf({values.begin(), values.end()}, *a);
}

constexpr int64_t kMaxLayers = 4096;

ModelConfig Sequential(const GgufFile& file, Keys& k, Family family, const LayerConfig& layer) {
  ModelConfig c;
  c.family = family;
  c.wiring = Wiring::kSequential;
  c.chunk_len = 1;
  const int64_t n = k.Count("block_count");
  if (n > kMaxLayers) file.Fail(k.Key("block_count"), fmt::format("= {}: must be 1 to {}", n, kMaxLayers));
  c.layers.assign(static_cast<size_t>(n), layer);
  c.d_model = k.Count("embedding_length");
  c.max_position_embeddings = k.Count("context_length");
  c.norm_eps = k.Number("attention.layer_norm_rms_epsilon");
  k.Ignore({"vocab_size"});
  RefuseOtherMaths(k);
  ReadEmbedding(file, &c);
  ReadTokenIds(file, &c);
  return c;
}

ModelConfig ReadDecoder(const GgufFile& file, Keys& k, Family family) {
  ModelConfig c =
      Sequential(file, k, family, {.ssm = false, .attention = AttentionKind::kFull, .ffn = FfnKind::kDense});
  AttentionConfig& a = c.attention;
  a.qk_norm = family == Family::kQwen3;
  a.qkv_bias = family == Family::kQwen2;
  a.landmark_budget = 0;
  c.d_ff = k.Count("feed_forward_length");
  a.n_heads = k.Count("attention.head_count");
  a.n_kv_heads = k.Count("attention.head_count_kv", a.n_heads);
  a.head_dim = k.Count("attention.key_length", c.d_model / a.n_heads);
  if (file.Find(k.Key("attention.key_length")) == nullptr && c.d_model % a.n_heads != 0)
    file.Fail(k.Key("attention.head_count"),
              fmt::format("= {}: must divide embedding_length = {}", a.n_heads, c.d_model));
  k.OnlyInt("attention.value_length", a.head_dim);
  k.OnlyWideWindow("attention.sliding_window", c.max_position_embeddings);
  const double usual_scale = 1.0 / std::sqrt(static_cast<double>(a.head_dim));
  k.OnlyNumber("attention.scale", file.FindFloat(k.Key("attention.scale")) == 0.0 ? 0 : usual_scale);  // 0: not set
  ReadRope(file, k, &a);
  return c;
}

ModelConfig ReadMamba2(const GgufFile& file, Keys& k) {
  ModelConfig c = Sequential(file, k, Family::kMamba2, LayerConfig{});
  SsmConfig& s = c.ssm;
  const int64_t inner = k.Count("ssm.inner_size");
  s.n_heads = k.Count("ssm.time_step_rank");
  s.d_state = k.Count("ssm.state_size");
  s.d_conv = k.Count("ssm.conv_kernel");
  s.n_groups = s.norm_groups = k.Count("ssm.group_count");
  s.scan_chunk = 256;
  if (inner % c.d_model != 0)
    file.Fail(k.Key("ssm.inner_size"),
              fmt::format("= {}: must be a multiple of embedding_length = {}", inner, c.d_model));
  if (inner % s.n_heads != 0)
    file.Fail(k.Key("ssm.time_step_rank"), fmt::format("= {}: must divide inner_size = {}", s.n_heads, inner));
  s.expand = inner / c.d_model;
  s.head_dim = inner / s.n_heads;
  s.conv_bias = file.FindTensor("blk.0.ssm_conv1d.bias") != nullptr;
  for (const char* name : {"feed_forward_length", "attention.head_count", "attention.head_count_kv"})
    k.OnlyInt(name, 0);  // said for readers that want the keys
  return c;
}

ModelConfig ReadHydra(const GgufFile& file, std::vector<std::string>* warnings) {
  const std::string where = file.path() + ": hydra.config";
  ModelConfig c = ParseConfig(file.Text("hydra.config"), where, warnings);
  if (!GgufCarriesConfig(c.family))
    file.Fail("hydra.config", fmt::format("model_type = \"{}\": must be hydra or minicpm", FamilyName(c.family)));
  return c;
}

void CheckVocabulary(const GgufFile& file, const ModelConfig& c) {
  const GgufEntry* tokens = file.Find(kTokens);
  if (tokens == nullptr) return;
  if (tokens->count != static_cast<uint64_t>(c.vocab_size))
    file.Fail(kTokens, fmt::format("has {} tokens: the embedding has {} rows", WithCommas(tokens->count),
                                   WithCommas(static_cast<uint64_t>(c.vocab_size))));
}

}  // namespace

bool IsGgufFamily(std::string_view architecture) { return FamilyOf(architecture).has_value(); }

std::string GgufName(const ModelConfig& config, const TensorSpec& spec) {
  if (GgufCarriesConfig(config.family)) return spec.name;
  for (const GgufRoleName& row : kGgufNames)
    if (row.role == spec.role) return spec.layer < 0 ? row.name : fmt::format("blk.{}.{}", spec.layer, row.name);
  HYDRA_CHECK(false, spec.name, " has no name in GGUF files");
  return {};
}

std::vector<int64_t> GgufShape(const ModelConfig& config, const TensorSpec& spec) {
  if (config.family != Family::kMamba2) return spec.shape;
  switch (spec.role) {
    case R::kSsmConvWeight: return {spec.shape[0], spec.shape[2]};
    case R::kSsmALog:
    case R::kSsmD: return {spec.shape[0], 1};
    case R::kSsmNorm: return {config.ssm.norm_groups, spec.shape[0] / config.ssm.norm_groups};
    default: return spec.shape;
  }
}

GgufStorage GgufStorageOf(const ModelConfig& config, const TensorSpec& spec) {
  if (config.family == Family::kLlama && (spec.role == R::kAttnQ || spec.role == R::kAttnK))
    return GgufStorage::kPermutedRows;
  if (config.family == Family::kMamba2 && spec.role == R::kSsmALog) return GgufStorage::kNegativeExp;
  return GgufStorage::kSame;
}

ModelConfig ReadGgufConfig(const GgufFile& file, std::vector<std::string>* warnings) {
  const std::string architecture(file.Text(kArchitecture));
  Keys k(file, architecture);
  const auto family = FamilyOf(architecture);
  if (!family) {
    std::string known;
    for (const GgufArchitecture& row : kArchitectures) known += StrCat(known.empty() ? "" : ", ", row.name);
    file.Fail(kArchitecture, fmt::format("= \"{}\": must be one of {}", OneLine(architecture, 60), known));
  }
  ModelConfig c = *family == Family::kHydra    ? ReadHydra(file, warnings)
                  : *family == Family::kMamba2 ? ReadMamba2(file, k)
                                               : ReadDecoder(file, k, *family);
  if (!GgufCarriesConfig(c.family)) k.WarnUnknown(warnings);
  if (file.FindInt("split.count").value_or(1) > 1)
    file.Fail("split.count", "is over 1: a file in parts is not read; join them with llama.cpp's gguf-split --merge");
  c.Validate(file.path());
  CheckVocabulary(file, c);
  return c;
}

GgufModel GgufModel::Open(const std::string& path, std::vector<std::string>* warnings) {
  GgufModel model;
  model.file_ = std::make_shared<const GgufFile>(GgufFile::Open(path));
  model.config_ = ReadGgufConfig(*model.file_, warnings);
  model.CheckTensors();
  return model;
}

const GgufTensor& GgufModel::Tensor(const TensorSpec& spec) const {
  const std::string name = GgufName(config_, spec);
  const GgufTensor* tensor = file_->FindTensor(name);
  if (tensor == nullptr) throw Error(ErrorCode::kTensor, fmt::format("{}: tensor {} is missing", file_->path(), name));
  return *tensor;
}

void GgufModel::CheckTensors() const {
  const std::vector<GgufTensor>& tensors = file_->tensors();
  TensorList list;
  list.path = file_->path();
  list.config_says = "the metadata say";
  list.count = tensors.size();
  list.find = [&](const TensorSpec& spec) {
    const GgufTensor& tensor = Tensor(spec);
    if (GgufStorageOf(config_, spec) == GgufStorage::kNegativeExp && tensor.shape == GgufShape(config_, spec))
      CheckA(spec, tensor);
    return static_cast<size_t>(&tensor - tensors.data());
  };
  list.shape = [&](const TensorSpec& spec, size_t) { return GgufShape(config_, spec); };
  list.name = [&](size_t i) { return tensors[i].name; };
  list.stored_shape = [&](size_t i) { return std::span<const int64_t>(tensors[i].shape); };
  list.other = [&](size_t i) {
    const bool rope = !GgufCarriesConfig(config_.family) && config_.family != Family::kMamba2;
    if ((rope && tensors[i].name == kGgufRopeFreqs) || IsSavedBuffer(config_, tensors[i].name)) return;
    throw Error(ErrorCode::kTensor, fmt::format("{}: tensor {} is not in a {} model of these metadata", file_->path(),
                                                OneLine(tensors[i].name, 80), FamilyName(config_.family)));
  };
  hydra::CheckTensors(config_, list);
}

void GgufModel::CheckA(const TensorSpec& spec, const GgufTensor& tensor) const {
  if (tensor.type != WeightType::kF32)
    throw Error(ErrorCode::kTensor, fmt::format("{}: {}: type {}: must be F32", file_->path(), OneLine(tensor.name, 80),
                                                Info(tensor.type).name));
  std::vector<float> values(static_cast<size_t>(spec.shape[0]));
  DecodeRow(tensor.type, tensor.data, spec.shape[0], values.data());
  for (size_t i = 0; i < values.size(); ++i)
    if (!(values[i] < 0) || std::isinf(values[i]))
      throw Error(ErrorCode::kTensor, fmt::format("{}: {}[{}] = {}: must be negative and finite (it is -exp(A_log))",
                                                  file_->path(), OneLine(tensor.name, 80), i, values[i]));
}

GgufMetadata GgufModelMetadata(const ModelConfig& c) {
  const auto refuse = [&](const std::string& what) { throw Error(ErrorCode::kConfig, what); };
  GgufMetadata m;
  const std::string family = GgufCarriesConfig(c.family) ? "hydra" : FamilyName(c.family);
  m.SetText(kArchitecture, family);
  m.SetText("general.type", "model");
  if (GgufCarriesConfig(c.family)) {
    m.SetText("hydra.config", ConfigJson(c));
    return m;
  }
  if (c.family != Family::kLlama && c.attention.rope_scaling)
    refuse(fmt::format("rope_scaling: GGUF files of {} cannot say it", family));
  const auto key = [&](const char* name) { return family + "." + name; };
  m.SetU32(key("block_count"), c.n_layers());
  m.SetU32(key("context_length"), c.max_position_embeddings);
  m.SetU32(key("embedding_length"), c.d_model);
  m.SetU32(key("vocab_size"), c.vocab_size);
  if (c.family != Family::kMamba2) {
    const AttentionConfig& a = c.attention;
    m.SetU32(key("feed_forward_length"), c.d_ff);
    m.SetU32(key("attention.head_count"), a.n_heads);
    m.SetU32(key("attention.head_count_kv"), a.n_kv_heads);
    m.SetU32(key("attention.key_length"), a.head_dim);
    m.SetU32(key("attention.value_length"), a.head_dim);
    m.SetU32(key("rope.dimension_count"), a.head_dim);
    m.SetF32(key("rope.freq_base"), a.rope_theta);
  } else {
    const SsmConfig& s = c.ssm;
    if (s.dt_limit != std::array<double, 2>{0.0, SsmConfig::kInfinity})
      refuse(fmt::format("time_step_limit = [{}, {}]: GGUF files cannot say it", s.dt_limit[0], s.dt_limit[1]));
    if (s.norm_groups != s.n_groups)
      refuse(fmt::format("mamba_norm_groups = {}: GGUF files can only say n_groups = {}", s.norm_groups, s.n_groups));
    if (!s.conv_bias) refuse("use_conv_bias = false: GGUF's readers need the bias");
    m.SetU32(key("feed_forward_length"), 0);  // llama.cpp's loader asks for these two
    m.SetU32(key("attention.head_count"), 0);
    m.SetU32(key("ssm.conv_kernel"), s.d_conv);
    m.SetU32(key("ssm.inner_size"), s.d_inner());
    m.SetU32(key("ssm.state_size"), s.d_state);
    m.SetU32(key("ssm.time_step_rank"), s.n_heads);
    m.SetU32(key("ssm.group_count"), s.n_groups);
  }
  m.SetF32(key("attention.layer_norm_rms_epsilon"), c.norm_eps);
  return m;
}

std::vector<GgufTensorSlot> GgufTensorSlots(const ModelConfig& config, const TensorTable& table) {
  std::vector<GgufTensorSlot> slots;
  if (config.attention.rope_scaling && !GgufCarriesConfig(config.family))
    slots.push_back({nullptr, kGgufRopeFreqs, {config.attention.head_dim / 2}});
  for (const TensorSpec& spec : table.specs())
    slots.push_back({&spec, GgufName(config, spec), GgufShape(config, spec)});
  return slots;
}

}  // namespace hydra
