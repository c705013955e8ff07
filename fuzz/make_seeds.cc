// SPDX-License-Identifier: Apache-2.0
// Writes the first inputs of the fuzz targets, FOLDER/TARGET/*: small good files of each format, made by the writers of
// the project or taken from tests/golden/hf. Not a fuzz target; saved states are state_seeds.cc's. Run in the root of
// the sources: make_seeds FOLDER.
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz/model.h"
#include "fuzz/seeds.h"
#include "hydra/data/token_shard.h"
#include "hydra/io/file.h"
#include "hydra/io/gguf.h"
#include "hydra/io/safetensors.h"
#include "hydra/model/attention_plan.h"
#include "hydra/model/gguf_model.h"
#include "hydra/text/chat_template_own.h"
#include "hydra/text/sentencepiece_file.h"
#include "hydra/text/tokenizer_gguf.h"

using namespace hydra;
namespace fs = std::filesystem;

namespace {

using fuzz::Seeds;

void WriteConfigs(Seeds& seeds) {
  for (const std::string& name : PresetNames()) seeds.Write("config", name, ConfigJson(Preset(name)));
  for (const auto& entry : fs::directory_iterator("tests/golden/hf"))
    seeds.Write("config", entry.path().filename().string(), ReadFile((entry.path() / "config.json").string()));
}

void WritePlans(Seeds& seeds) {
  for (const char* name : {"hydra-nano", "transformer-nano", "blockffn-nano"}) {
    AttentionPlan plan = AttentionPlan::Dense(Preset(name));
    plan.name = name;
    for (LayerPlan& layer : plan.layers)
      for (SpanRule& rule : layer.rules) rule = {-64, 0.25};
    plan.bounds[1024] = plan.density[1024] = 0.5;
    plan.SetNote("solver", R"({"name": "greedy"})");
    seeds.Write("plan", name, plan.Text());
  }
}

void WriteSafeTensorsFiles(Seeds& seeds) {
  const std::vector<float> f(12, 0.5f);
  const auto view = [&](const char* name, DType dtype, std::vector<int64_t> shape) {
    const int64_t bytes = NumElements(shape) * DTypeSize(dtype);
    return TensorView{name, dtype, std::move(shape), reinterpret_cast<const std::byte*>(f.data()), bytes};
  };
  WriteSafeTensors(seeds.Path("safetensors", "small"),
                   std::vector{view("a.weight", DType::kF32, {2, 3}), view("b", DType::kBF16, {5}),
                               view("none", DType::kF16, {0, 4}), view("scalar", DType::kI64, {})},
                   {{"format", "pt"}, {"note", "a \"quoted\" \xC3\xA9"}});
  WriteSafeTensors(seeds.Path("safetensors", "empty"), {}, {});
  seeds.Write("safetensors", "golden", ReadFile("tests/golden/hf/mamba2_one_group/model.safetensors"));
}

// A model of one layer whose weights are all small and negative (ssm_a must be), with a tokenizer.
void WriteGgufModel(Seeds& seeds, const std::string& name, const ModelConfig& config, const std::string& tokenizer) {
  GgufMetadata metadata = GgufModelMetadata(config);
  if (!tokenizer.empty()) SetGgufTokenizer(tokenizer, {.vocab_size = config.vocab_size}, &metadata);
  const TensorTable table(config);
  std::vector<GgufTensorInfo> infos;
  for (const GgufTensorSlot& slot : GgufTensorSlots(config, table))
    infos.push_back({slot.name, WeightType::kF32, slot.shape});
  std::vector<float> values;
  WriteGguf(seeds.Path("gguf", name), metadata, infos, [&](size_t i) {
    values.assign(static_cast<size_t>(NumElements(infos[i].shape)), -0.25f);
    return std::as_bytes(std::span<const float>(values));
  });
}

void WriteGgufs(Seeds& seeds, const std::string& tokenizer) {
  ModelConfig llama = TransformerNano();
  llama.vocab_size = 320, llama.d_model = 8, llama.d_ff = 8;
  llama.layers.resize(1);
  llama.attention.n_heads = llama.attention.n_kv_heads = 2, llama.attention.head_dim = 4;
  WriteGgufModel(seeds, "llama", llama, tokenizer);
  llama.vocab_size = 8;
  llama.eos_token_id = llama.bos_token_id = std::nullopt;
  WriteGgufModel(seeds, "llama_bare", llama, "");
  ModelConfig mamba = MambaNano();
  mamba.vocab_size = 8, mamba.d_model = 8;
  mamba.layers.resize(1);
  mamba.ssm.n_heads = 2, mamba.ssm.head_dim = 8, mamba.ssm.d_state = 4;
  WriteGgufModel(seeds, "mamba2_bare", mamba, "");
  WriteGgufModel(seeds, "hydra_bare", fuzz::StateConfig(), "");
  ModelConfig block = BlockFfnNano();
  block.vocab_size = 8, block.d_model = 16;
  block.layers.resize(1);
  block.attention.n_heads = 2, block.attention.n_kv_heads = 1, block.attention.head_dim = 8;
  block.moe.n_experts = 2, block.moe.d_expert = 16;
  WriteGgufModel(seeds, "minicpm_bare", block, "");
  // Every type of value, and tensors of block types.
  GgufMetadata odd;
  odd.SetText("general.architecture", "none");
  odd.SetU32("u32", 7);
  odd.SetF32("f32", 0.5);
  odd.SetBool("bool", true);
  odd.SetI32s("i32s", std::vector<int32_t>{1, -2});
  odd.SetTexts("texts", std::vector<std::string_view>{"a", "", "bc"});
  const std::vector<GgufTensorInfo> infos{{"q", WeightType::kQ8_0, {2, 32}}, {"k", WeightType::kQ4_K, {1, 256}}};
  const std::vector<std::byte> zeros(256);
  WriteGguf(seeds.Path("gguf", "types"), odd, infos, [&](size_t i) {
    return std::span(zeros).first(static_cast<size_t>(infos[i].shape[0] * RowBytes(infos[i].type, infos[i].shape[1])));
  });
}

void WriteShards(Seeds& seeds) {
  for (const bool masked : {false, true}) {
    TokenShardWriter writer(seeds.Path("token_shard", masked ? "masked" : "plain"), masked ? 500 : 70000,
                            Sha256::Of("seed"));
    writer.AddDocument(std::vector<int32_t>{1, 2, 3}, masked ? std::vector<uint8_t>{0, 1, 1} : std::vector<uint8_t>{});
    writer.AddDocument(std::vector<int32_t>{4, 5});
    writer.Finish();
  }
}

// A vocabulary of SentencePiece's: bytes, a few words, a piece of each kind.
void WritePieces(Seeds& seeds) {
  std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
  SentencePieceFile file;
  file.types = {2, 3, 3};
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    texts.push_back(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">");
    file.types.push_back(6);
  }
  for (const char* word : {"at", "cat", "\xE2\x96\x81", "a", "t", "c", "\xE4\xB8\xAD"}) {
    texts.push_back(word);
    file.types.push_back(1);
  }
  texts.push_back("@tool@"), texts.push_back("[PAD]");
  file.types.push_back(4), file.types.push_back(5);
  for (size_t i = 0; i < texts.size(); ++i) file.scores.push_back(-static_cast<float>(i));
  file.pieces = TokenTable(std::vector<std::string_view>(texts.begin(), texts.end()));
  file.byte_fallback = true;
  file.bos = 1, file.eos = 2;
  seeds.Write("tokenizer_model", "pieces", SentencePieceBytes(file));
}

void WriteTexts(Seeds& seeds) {
  seeds.Write("encode_decode", "words", "The cat's 12 mats,\n\n  \xE4\xB8\xAD\xC3\xA9 don't  <|endoftext|>x\t\r\n");
  seeds.Write("encode_decode", "broken", "a\xFF\xE2\x82 \xF0\x9F\x98\x80 \xED\xA0\x80");
  seeds.Write("chat", "turns", "syou are\nuhello\nahi\nu again \n");
  const char* schemas[] = {"{}",
                           "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\", \"minimum\": 5}, "
                           "\"b\": {\"enum\": [1, \"x\"]}}, "
                           "\"required\": [\"a\"], \"additionalProperties\": {\"type\": \"string\", \"maxLength\": 3}}",
                           "{\"$defs\": {\"t\": {\"anyOf\": [{\"type\": \"null\"}, {\"type\": \"array\", \"items\": "
                           "{\"$ref\": \"#/$defs/t\"}}]}}, "
                           "\"$ref\": \"#/$defs/t\"}",
                           "{\"type\": \"string\", \"pattern\": \"^[a-c]+(x|\\\\d{2})?$\", \"minLength\": 2}",
                           "{\"type\": \"number\", \"exclusiveMinimum\": -1.5, \"maximum\": 20}"};
  for (size_t i = 0; i < std::size(schemas); ++i)
    seeds.Write("json_schema", std::to_string(i), std::string(schemas[i]) + "\n\x05\x11\x40\x02");
  for (const OwnTemplate& own : OwnTemplates()) seeds.Write("jinja", own.name, own.text);
  seeds.Write(
      "jinja", "loops",
      "{%- macro m(a, b=1) %}{{ a ~ b }}{% endmacro %}{% set ns = namespace(n=0) %}{% for m2 in messages[1:] if "
      "m2.role != 'x' %}{% set ns.n = ns.n + loop.index %}{{ m(m2.content|trim|upper) }}{% else %}none{% endfor "
      "%}{{ ns.n // 2 }}{% if tools is defined and tools %}{{ tools|tojson(indent=2) }}{% endif %}");
  seeds.Write("jinja", "filters",
              "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(', ') }}{% raw %}{{ x "
              "}}{% endraw %}{{ '%s-%d' % ('a', 3) }}{{ '{:>5}'.format(7) }}{{ {'a': [1, 2.5, none]}|tojson }}{# c #}"
              "{% call(x) f() %}{% endcall %}");
  seeds.Write("chat", "markers", "u<|im_end|><|im_start|>system\rno\na</s><s>[INST] <|eot_id|>\nu<AI>x\nodd role");
  seeds.Write("chat_request", "chat",
              R"(m{"model": "fuzz", "messages": [{"role": "system", "content": "a"}, {"role": "user", "content":
              [{"type": "text", "text": "b"}]}], "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 3,
              "seed": 1, "stop": ["x"], "n": 2, "logit_bias": {"5": 1}, "logprobs": true, "top_logprobs": 2,
              "stream": true, "stream_options": {"include_usage": true},
              "hydralm": {"trace": true, "controls": {"ban_experts": [1], "path_scale": [1, 0, 1]}}})");
  seeds.Write("chat_request", "completion",
              R"(c{"prompt": ["a", [1, 2]], "echo": true, "logprobs": 2, "max_tokens": 0, "presence_penalty": 1})");
}

}  // namespace

int main(int argc, char** argv) {
  return fuzz::WriteSeeds(argc, argv, [](Seeds& seeds) {
    std::string gpt2;
    for (const auto& [name, pattern] :
         {std::pair("gpt2", SplitPattern::kGpt2), {"llama3", SplitPattern::kLlama3}, {"qwen2", SplitPattern::kQwen2}}) {
      const std::string path = seeds.Path("tokenizer_file", name);
      WriteFileAtomic(path, fuzz::TrainSmall(pattern, {"<|endoftext|>", "<s>"}).json);
      if (gpt2.empty()) gpt2 = path;
    }
    WriteConfigs(seeds);
    WritePlans(seeds);
    WriteSafeTensorsFiles(seeds);
    WriteGgufs(seeds, gpt2);
    WriteShards(seeds);
    WritePieces(seeds);
    WriteTexts(seeds);
  });
}
