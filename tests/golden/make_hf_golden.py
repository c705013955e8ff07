# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/hf: tiny random models as Python's `transformers` saves them, and its logits (float32).

Not here: the comparison (hydra/runtime/golden_test.cc). `transformers` and torch are needed only to write the files
again:
    pip install transformers torch; python3 tests/golden/make_hf_golden.py [FOLDER]

FOLDER/NAME/config.json, model.safetensors   the model, untouched
FOLDER/NAME/logits.safetensors               ids [T] I64, logits [T, V] F32
"""
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

T, V = 53, 61
LLAMA = dict(vocab_size=V, hidden_size=24, intermediate_size=37, num_hidden_layers=2, num_attention_heads=3,
             num_key_value_heads=1, max_position_embeddings=128, rope_theta=500.0, hidden_act="silu")
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
MAMBA2 = dict(vocab_size=V, hidden_size=20, num_heads=8, head_dim=5, expand=2, state_size=6, conv_kernel=4,
              chunk_size=16, num_hidden_layers=2, layer_norm_epsilon=1e-5)

MODELS = {
    "llama_untied": (transformers.LlamaConfig, dict(LLAMA, head_dim=8, tie_word_embeddings=False)),
    "llama_tied_llama3_rope": (transformers.LlamaConfig, dict(LLAMA, num_key_value_heads=3, rope_parameters=LLAMA3_ROPE,
                                                              tie_word_embeddings=True)),
    "qwen2": (transformers.Qwen2Config, dict(LLAMA, tie_word_embeddings=False)),
    "qwen3": (transformers.Qwen3Config, dict(LLAMA, head_dim=10, tie_word_embeddings=True)),
    "mamba2_one_group": (transformers.Mamba2Config, dict(MAMBA2, n_groups=1, tie_word_embeddings=True)),
    "mamba2_two_groups": (transformers.Mamba2Config, dict(MAMBA2, n_groups=2, tie_word_embeddings=False,
                                                          use_conv_bias=False, time_step_limit=(0.01, 0.4))),
}


def randomise(model):
    """Unit gain in place of the small initial weights; no ones and no zeros: each tensor matters."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("A_log", "dt_bias")):
                p.add_(0.1 * torch.randn_like(p))
            elif p.dim() == 1:
                p.copy_((1.0 if "norm" in name or name.endswith(".D") else 0.0) + 0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5)


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "hf")
    for seed, (name, (kind, options)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(kind(**options)).float().eval()
        randomise(model)
        ids = torch.randint(V, (1, T))
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0]
        model.save_pretrained(root / name)
        for extra in (root / name).glob("generation_config.json"):
            extra.unlink()
        save_file({"ids": ids[0], "logits": logits.contiguous()}, root / name / "logits.safetensors")
        print(name, "largest logit", float(logits.abs().max()))
    print("transformers", transformers.__version__, "torch", torch.__version__)


if __name__ == "__main__":
    main()
