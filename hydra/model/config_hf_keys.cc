// SPDX-License-Identifier: Apache-2.0
// Keys that all families have.
#include "hydra/model/config_hf_keys.h"

namespace hydra {
namespace {

// What transformers writes into any config and no forward pass reads: names and versions, training's dropout, defaults
// of generation (generation_config.json has them now), the shape of outputs, tasks with labels.
void IgnoreWithoutEffect(HfKeys& k) {
  k.Ignore({"model_type", "architectures", "transformers_version", "auto_map", "use_cache", "torch_dtype", "dtype",
            "_name_or_path", "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "unsloth_version",
            "unsloth_fixed", "tokenizer_class", "task_specific_params", "max_sequence_length", "pretraining_tp"});
  k.Ignore({"attention_dropout", "hidden_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "embd_pdrop",
            "resid_pdrop", "attn_pdrop", "dropout", "gradient_checkpointing", "residual_dropout"});
  k.Ignore({"do_sample",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "num_beams",
            "num_beam_groups",
            "repetition_penalty",
            "length_penalty",
            "max_length",
            "min_length",
            "early_stopping",
            "bad_words_ids",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
            "diversity_penalty",
            "num_return_sequences",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "suppress_tokens",
            "begin_suppress_tokens",
            "exponential_decay_length_penalty",
            "remove_invalid_values",
            "prefix",
            "sep_token_id",
            "decoder_start_token_id"});
  k.Ignore({"output_attentions", "output_hidden_states", "output_scores", "return_dict", "return_dict_in_generate",
            "torchscript", "tf_legacy_loss", "use_bfloat16", "chunk_size_feed_forward", "pruned_heads", "id2label",
            "label2id", "problem_type", "finetuning_task", "is_decoder", "is_encoder_decoder", "add_cross_attention",
            "cross_attention_hidden_size", "tie_encoder_decoder"});
}

}  // namespace

void ReadCommon(HfKeys& k, ModelConfig* c) {
  k.Need("vocab_size", &c->vocab_size);
  k.Need("hidden_size", &c->d_model);
  k.Get("initializer_range", &c->initializer_range);
  k.GetTokenId("bos_token_id", &c->bos_token_id);
  k.GetTokenId("pad_token_id", &c->pad_token_id);
  if (c->pad_token_id && *c->pad_token_id >= c->vocab_size) c->pad_token_id.reset();  // never looked up
  if (const Json* eos =
          k.Find("eos_token_id")) {  // may be a list: generation stops at each, training appends the first
    std::vector<int64_t> ids;
    if (eos->is_array()) {
      ReadJson(*eos, k.Field("eos_token_id"), &ids);
    } else {
      ReadJson(*eos, k.Field("eos_token_id"), &ids.emplace_back());
      if (ids[0] < 0) ids.clear();  // none, as in GetTokenId
    }
    if (!ids.empty()) {
      c->eos_token_id = ids[0];
      c->more_eos_token_ids.assign(ids.begin() + 1, ids.end());
    }
  }
  std::string dtype = "float32";
  if (!k.Get("dtype", &dtype)) k.Get("torch_dtype", &dtype);
  if (!ParseTorchDType(dtype, &c->dtype))
    k.Refuse("torch_dtype", dtype, "must be float32, bfloat16, float16 or float64");
  if (const Json* q = k.Find("quantization_config"))
    k.Refuse("quantization_config", *q, "quantised Hugging Face models are not supported");
  if (const Json* act = k.Find("hidden_act"); act != nullptr && *act != "silu" && *act != "swish")
    k.Refuse("hidden_act", *act, "only \"silu\" (or \"swish\", its other name) is supported");
  IgnoreWithoutEffect(k);
}

int64_t ReadLayerCount(HfKeys& k) {
  int64_t n = 0;
  k.Need("num_hidden_layers", &n);
  if (n < 1 || n > 4096) k.Refuse("num_hidden_layers", n, "must be 1 to 4096");
  return n;
}

Json WriteCommon(const ModelConfig& c, const char* architecture) {
  Json j;
  j["architectures"] = {architecture};
  j["model_type"] = FamilyName(c.family);
  j["vocab_size"] = c.vocab_size;
  j["hidden_size"] = c.d_model;
  j["num_hidden_layers"] = c.n_layers();
  j["tie_word_embeddings"] = c.tie_embeddings;
  j["torch_dtype"] = TorchDTypeName(c.dtype);
  j["initializer_range"] = c.initializer_range;
  const auto id = [](const std::optional<int64_t>& v) { return v ? Json(*v) : Json(nullptr); };
  j["bos_token_id"] = id(c.bos_token_id);
  j["eos_token_id"] = c.more_eos_token_ids.empty() ? id(c.eos_token_id) : Json(c.EosTokenIds());
  j["pad_token_id"] = id(c.pad_token_id);
  j["hidden_act"] = "silu";
  return j;
}

}  // namespace hydra
