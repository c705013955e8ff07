# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
"""pytorch_model.bin as Python's torch writes it: `hydralm convert` makes safetensors with the same bytes of every name
and form that the published family has, says what is wrong with others, and runs nothing of a file; 100 damaged files.

Called with the path of hydralm. Not here: the reader by itself (hydra/convert/torch_file_test.cc)."""
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile
from collections import OrderedDict
from pathlib import Path

try:
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

HYDRALM = os.path.abspath(sys.argv[1])
D, E, DE, LAYERS, HEADS, V = 32, 4, 16, 2, 2, 48
CONFIG = dict(model_type="minicpm", architectures=["MiniCPMForCausalLM"], hidden_size=D, num_hidden_layers=LAYERS,
              num_attention_heads=HEADS, num_key_value_heads=HEADS, vocab_size=V, rms_norm_eps=1e-5, rope_theta=10000.0,
              scale_emb=12, scale_depth=1.4, dim_model_base=16, tie_word_embeddings=False, attention_type="mla",
              q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=12, num_experts=E,
              expert_size=DE, norm_after_router="rms", norm_scale=1.0, router_act="relu", ffn_gated=True,
              ffn_type="block_linear", block_implementation="torch", intermediate_size=5760,
              max_position_embeddings=4096, hidden_act="silu", torch_dtype="bfloat16", pad_token_id=None)
LAYER = {
    "input_layernorm.weight": [D], "post_attention_layernorm.weight": [D], "self_attn.q_a_proj.weight": [24, D],
    "self_attn.q_a_layernorm.weight": [24], "self_attn.q_b_proj.weight": [HEADS * 20, 24],
    "self_attn.kv_a_proj_with_mqa.weight": [28, D], "self_attn.kv_a_layernorm.weight": [20],
    "self_attn.kv_b_proj.weight": [HEADS * 28, 20], "self_attn.o_proj.weight": [D, D],
    "mlp.router_proj.weight": [E, D], "mlp.router_norm.weight": [E], "mlp.up_proj": [E * DE, D],
    "mlp.down_proj": [D, E * DE]}


def make_state(dtype=torch.bfloat16, seed=1):
    """Every tensor of the table, in its names and forms."""
    torch.manual_seed(seed)
    shapes = {"model.embed_tokens.weight": [V, D], "lm_head.weight": [V, D], "model.norm.weight": [D]}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    return OrderedDict((name, torch.randn(shape).to(dtype)) for name, shape in shapes.items())


def as_published(state, form):
    """The same model with experts in one of the forms of block_implementation and ffn_type."""
    out = OrderedDict()
    for name, tensor in state.items():
        root = name.rsplit(".", 1)[0]
        if name.endswith("mlp.up_proj"):
            if form == "3d":
                out[name] = tensor.view(E, DE, D)
            elif form == "fastmoe":
                out[f"{root}.experts.up_proj.weight"] = tensor.view(E, DE, D).contiguous()
            elif form == "megablocks":
                out[f"{root}.mlp.up_proj"] = tensor.contiguous()
            else:
                out[name] = tensor
        elif name.endswith("mlp.down_proj"):
            experts_first = tensor.view(D, E, DE).transpose(0, 1)
            if form == "3d":
                out[name] = experts_first  # a view: not contiguous
            elif form == "fastmoe":
                out[f"{root}.experts.down_proj.weight"] = experts_first.contiguous()
            elif form == "megablocks":
                out[f"{root}.mlp.down_proj"] = tensor.transpose(0, 1).contiguous()
            else:
                out[name] = tensor
        elif name.endswith("router_proj.weight"):
            out[name] = tensor.t().contiguous().t()  # as the converter of the publication leaves it
        else:
            out[name] = tensor
    return out


class Harm:
    """A pickle that would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def run(*args, **options):
    return subprocess.run([HYDRALM, *map(str, args)], capture_output=True, text=True, timeout=60, **options)


class TorchBin(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.root = Path(self.temporary.name)

    def tearDown(self):
        self.temporary.cleanup()

    def folder(self, name, state, changes=None, **options):
        folder = self.root / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**CONFIG, **(changes or {})}))
        if state is not None:
            torch.save(state, folder / "pytorch_model.bin", **options)
        return folder

    def convert(self, folder, *flags):
        out = folder.with_name(folder.name + "-out")
        done = run("convert", folder, "-o", out, "--to", "hf", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        return load_file(out / "model.safetensors")

    def refuse(self, folder, pattern):
        done = run("convert", folder, "-o", self.root / "never", "--to", "hf")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, pattern)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertFalse((self.root / "never").exists())

    def same(self, want, got):
        self.assertEqual(set(want), set(got))
        for name, tensor in want.items():
            self.assertEqual(tensor.dtype, got[name].dtype, name)
            self.assertEqual(tensor.shape, got[name].shape, name)
            self.assertEqual(tensor.contiguous().view(torch.uint8).numpy().tobytes(),
                             got[name].view(torch.uint8).numpy().tobytes(), name)

    def test_every_form_and_type_gives_the_same_bytes(self):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            state = make_state(dtype)
            for form in ("2d", "3d", "fastmoe", "megablocks"):
                with self.subTest(f"{dtype} {form}"):
                    name = f"{str(dtype)[6:]}-{form}"
                    self.same(state, self.convert(self.folder(name, as_published(state, form))))
                    # The same names and forms in safetensors.
                    folder = self.folder(name + "-st", None)
                    save_file({k: t.contiguous() for k, t in as_published(state, form).items()},
                              folder / "model.safetensors")
                    self.same(state, self.convert(folder))

    def test_what_state_dicts_are_made_of(self):
        state = make_state()

        class Module(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = torch.nn.Linear(2, 2)

        metadata = Module().state_dict()._metadata
        with_metadata = OrderedDict(state)
        with_metadata._metadata = metadata
        shared = torch.randn(1000, dtype=torch.bfloat16)
        views = OrderedDict(state)
        want = OrderedDict(state)
        for i, name in enumerate(n for n in state if n.endswith("norm.weight")):
            n = state[name].numel()
            views[name] = shared[i * 50:i * 50 + 2 * n:2]  # one storage, every second number
            want[name] = views[name].clone()
        expanded = OrderedDict(state)
        expanded["model.norm.weight"] = torch.tensor([1.5], dtype=torch.bfloat16).expand(D)
        buffers = OrderedDict(state)
        buffers["model.layers.0.self_attn.rotary_emb.cos_cached"] = torch.zeros(0, 8)
        cases = {
            "ordered": (state, state, {}), "plain": (dict(state), state, {}), "metadata": (with_metadata, state, {}),
            "parameters": (OrderedDict((k, torch.nn.Parameter(t)) for k, t in state.items()), state, {}),
            "views": (views, want, {}), "protocol": (state, state, dict(pickle_protocol=4)),
            "expanded": (expanded, {**state, "model.norm.weight": torch.full((D,), 1.5, dtype=torch.bfloat16)}, {}),
            "buffers": (buffers, state, {})}
        for name, (saved, expected, options) in cases.items():
            with self.subTest(name):
                self.same(expected, self.convert(self.folder(name, saved, **options)))

    def test_tied_models_and_parts(self):
        state = make_state()
        tied = OrderedDict(state)
        tied["lm_head.weight"] = tied["model.embed_tokens.weight"]
        got = self.convert(self.folder("tied", tied, dict(tie_word_embeddings=True)))
        del tied["lm_head.weight"]
        self.same(tied, got)
        folder = self.folder("parts", None)
        names = list(state)
        index = {}
        for part, chosen in enumerate((names[::2], names[1::2])):
            file = f"pytorch_model-{part + 1:05}-of-00002.bin"
            torch.save({name: state[name] for name in chosen}, folder / file)
            index |= {name: file for name in chosen}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        self.same(state, self.convert(folder))
        index.pop(names[0])
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        self.refuse(folder, r"weight_map: model\.embed_tokens\.weight: is in pytorch_model-00001.* not listed")
        index[names[0]] = "../x.bin"
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        self.refuse(folder, "must be a plain file name")

    def test_into_gguf_and_back(self):
        state = make_state()
        folder = self.folder("gguf", as_published(state, "3d"))
        file = self.root / "model.gguf"
        done = run("convert", folder, "-o", file)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = run("convert", file, "-o", self.root / "back")
        self.assertEqual(done.returncode, 0, done.stderr)
        got = load_file(self.root / "back" / "model.safetensors")
        self.assertEqual(set(got), set(state))
        for name, tensor in got.items():  # a GGUF file has small tensors in f32
            self.assertTrue(torch.equal(tensor.float(), state[name].float()), name)
        config = json.loads((self.root / "back" / "config.json").read_text())
        self.assertEqual(config["model_type"], "minicpm")
        for key in ("num_experts", "expert_size", "attention_type", "q_lora_rank", "scale_depth", "dim_model_base"):
            self.assertEqual(config[key], CONFIG[key], key)

    def test_traps_are_named(self):
        state = make_state()
        layer = "model.layers.1."
        changed = dict(
            gate=({f"{layer}mlp.gate_proj": torch.zeros(E * DE, D)}, {}, r"mlp\.gate_proj.*gate are not supported"),
            both=({f"{layer}mlp.mlp.up_proj": torch.zeros(E * DE, D)}, {}, r"mlp\.mlp\.up_proj.*is not in the model"),
            values=({f"{layer}self_attn.o_proj.weight": torch.zeros(D, 24)}, {},
                    r"o_proj\.weight: shape \[32, 24\], config\.json says \[32, 32\]"),
            experts=({}, dict(num_experts=8), r"router_proj\.weight: shape \[4, 32\], config\.json says \[8, 32\]"),
            width=({}, dict(expert_size=32), r"up_proj: shape \[64, 32\], config\.json says \[128, 32\]"),
            double=({f"{layer}mlp.router_norm.weight": torch.zeros(E, dtype=torch.float64)}, {},
                    r"router_norm\.weight: type F64: must be F32, F16 or BF16"),
            ints=({f"{layer}mlp.router_norm.weight": torch.zeros(E, dtype=torch.int64)}, {}, r"type I64"),
            norm=({}, dict(norm_after_router="sum"), r'norm_after_router = "sum": only "rms"'),
            act=({}, dict(router_act="silu"), r'router_act = "silu": only "relu"'),
            scale=({}, dict(norm_scale=2.0), r"norm_scale = 2\.0: only 1"),
            kind=({}, dict(ffn_type="moe"), r'ffn_type = "moe"'),
            absent=({}, dict(scale_emb=None), "scale_emb is missing"),
            other=({"value": 3}, {}, r"data\.pkl: value: is a number: must be a tensor"),
            nested=({"more": {"a": torch.zeros(1)}}, {}, r"data\.pkl: more: is a dictionary"))
        for name, (tensors, config, pattern) in changed.items():
            with self.subTest(name):
                self.refuse(self.folder(name, OrderedDict(state) | tensors, config), pattern)
        short = OrderedDict(state)
        short.pop(f"{layer}mlp.router_norm.weight")
        self.refuse(self.folder("short", short), r"layers\.1\.mlp\.router_norm\.weight: no such tensor")

    def test_only_convert_reads_it(self):
        folder = self.folder("m", make_state())
        for verb in (["generate", "-p", "a"], ["logits", "--ids", "1", "-o", self.root / "x.npy"], ["bench"]):
            done = run(verb[0], "-m", folder, *verb[1:])
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("pytorch_model.bin: the runtime reads no pickles: hydralm convert", done.stderr)

    def test_legacy_files_are_saved_again_by_the_line_that_is_shown(self):
        state = make_state()
        folder = self.folder("old", state, _use_new_zipfile_serialization=False)
        done = run("convert", folder, "-o", self.root / "never", "--to", "hf")
        self.assertEqual(done.returncode, 2)
        line = re.search(r'python3 -c "(.*)"', done.stderr).group(1)
        subprocess.run([sys.executable, "-c", line], check=True)
        os.replace(folder / "pytorch_model.bin.new", folder / "pytorch_model.bin")
        self.same(state, self.convert(folder))

    def test_nothing_of_a_file_is_run(self):
        mark = self.root / "harm"
        folder = self.folder("harm-model", OrderedDict(make_state(), x=Harm(f"touch {mark}")))
        self.refuse(folder, r"data\.pkl: byte \d+: global posix\.system: .*nothing of the file was executed")
        self.assertFalse(mark.exists())

    def test_a_hundred_damaged_files(self):
        state = make_state()
        folder = self.folder("damaged", as_published(state, "3d"))
        file = folder / "pytorch_model.bin"
        good = file.read_bytes()
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        pickle_name = next(name for name in members if name.endswith("/data.pkl"))
        rng = random.Random(5)
        refused = 0
        for case in range(100):
            if case % 2 == 0:  # anywhere in the file: cut, changed, taken out, put in
                bytes_ = bytearray(good)
                at = rng.choice([rng.randrange(len(good)), len(good) - 1 - rng.randrange(3000)])
                kind = case // 2 % 4
                if kind == 0:
                    del bytes_[at:]
                elif kind == 1:
                    bytes_[at] ^= 1 << rng.randrange(8)
                elif kind == 2:
                    del bytes_[at:at + rng.randrange(1, 100)]
                else:
                    bytes_[at:at] = rng.randbytes(rng.randrange(1, 100))
                file.write_bytes(bytes_)
            else:  # in the pickle, under a right checksum
                pickle = bytearray(members[pickle_name])
                for _ in range(rng.randrange(1, 4)):
                    pickle[rng.randrange(len(pickle))] = rng.randrange(256)
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    for name, data in members.items():
                        archive.writestr(name, bytes(pickle) if name == pickle_name else data)
            out = self.root / f"damaged-{case}"
            done = run("convert", folder, "-o", out, "--to", "hf")
            with self.subTest(case):
                if done.returncode == 0:  # what was hit says nothing of the tensors
                    self.same_but_views(state, load_file(out / "model.safetensors"), case)
                    continue
                refused += 1
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertIn("pytorch_model.bin: ", done.stderr)
                self.assertFalse(out.exists())
        self.assertGreater(refused, 60)

    def same_but_views(self, want, got, case):
        """A changed pickle may say another view of the same storage or other flags: names and shapes stay."""
        if case % 2 == 0:
            return self.same(want, got)
        self.assertEqual({n: t.shape for n, t in want.items()}, {n: t.shape for n, t in got.items()})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
