// SPDX-License-Identifier: Apache-2.0
// The list's attention kernels: queries of one KV head, parts of one query's keys and their merge. `size` is the number
// of a key's numbers. Dims as in ops.h.
#include "hydra/kernels/kernel_list_attention.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"

namespace hydra::kernels {
namespace {

// Rows of D numbers in a dtype.
std::vector<std::byte> Rows(KvDtype dtype, int64_t rows, int64_t D, uint64_t seed) {
  const std::vector<float> x = Normals(rows * D, seed);
  const int64_t bytes = KvRowBytes(dtype, D);
  std::vector<std::byte> out(static_cast<size_t>(rows * bytes));
  for (int64_t i = 0; i < rows; ++i) StoreKvRow(dtype, x.data() + i * D, D, out.data() + i * bytes);
  return out;
}

}  // namespace

AttentionInputs::AttentionInputs(const AttentionShape& shape, int64_t q_stride, uint64_t seed)
    : s(shape),
      k_bytes(KvRowBytes(s.dtype, s.Dk)),
      v_bytes(s.latent ? k_bytes : KvRowBytes(s.dtype, s.Dv)),
      q(Normals(s.T * q_stride, seed, 1.5)),
      bias(Normals(s.landmarks, seed + 1)),
      lambda(Normals(s.heads, seed + 2)),
      scratch(static_cast<size_t>(AttentionScratchFloats(s.heads, s.Dk, s.Dv)), NAN),
      k(Rows(s.dtype, s.pos + s.T, s.Dk, seed + 3)),
      pool_k(Rows(s.dtype, s.landmarks, s.Dk, seed + 5)) {
  for (float& x : bias) x = -std::abs(x);
  for (float& x : lambda) x = std::abs(x);
  if (!s.latent) {
    v = Rows(s.dtype, s.pos + s.T, s.Dv, seed + 4);
    pool_v = Rows(s.dtype, s.landmarks, s.Dv, seed + 6);
  }
  Rng rng(seed + 7);
  for (int64_t i = 0; i < s.landmarks; ++i)
    positions.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(s.pos + s.T))));
}

KeySet AttentionInputs::Keys() {
  runs.clear();
  const auto add_landmarks = [&] {
    if (s.landmarks > 0)
      runs.push_back({.k = pool_k.data(),
                      .v = s.latent ? pool_k.data() : pool_v.data(),
                      .n = s.landmarks,
                      .pos = positions.data(),
                      .bias = bias.data()});
  };
  if (s.landmarks_first) add_landmarks();
  int64_t from = 0;
  const auto add = [&](int64_t to) {
    runs.push_back({.k = k.data() + from * k_bytes,
                    .v = (s.latent ? k : v).data() + from * v_bytes,
                    .n = to - from,
                    .first = from});
    from = to;
  };
  for (const int64_t cut : s.cuts) add(cut);
  add(s.pos + s.T);
  if (!s.landmarks_first) add_landmarks();
  return {.runs = runs.data(),
          .n_runs = static_cast<int64_t>(runs.size()),
          .dtype = s.dtype,
          .Dk = s.Dk,
          .Dv = s.Dv,
          .k_stride = k_bytes,
          .v_stride = v_bytes};
}

int64_t AttentionInputs::Terms() const {
  constexpr int64_t kBf16 = 1 << 16;  // two roundings to 8 bits, of an exp and of what it is kept by
  return 2 * s.Dk + std::min(s.window, s.pos + s.T) + s.sinks + s.landmarks + 20 + (s.bf16 ? kBf16 : 0);
}

namespace {

std::string TextOf(const AttentionShape& s) {
  std::string text = StrCat(KvDtypeName(s.dtype), " T", s.T, " keys", std::min(s.window, s.pos + s.T), " heads",
                            s.heads, " Dk", s.Dk, " Dv", s.Dv);
  if (s.sinks > 0) text += StrCat(" sinks", s.sinks);
  if (s.landmarks > 0) text += StrCat(" landmarks", s.landmarks);
  if (s.bf16) text += " bf16 products";
  return text;
}

double Keys(const AttentionShape& s) {
  double keys = 0;
  for (int64_t t = 0; t < s.T; ++t) keys += static_cast<double>(std::min(s.window, s.pos + t + 1) + s.landmarks);
  return keys;
}

constexpr double kLargest = 6;  // values are below so many deviations

KernelCase AttentionCase(const AttentionShape& s, int64_t gap, uint64_t seed) {
  const int64_t qs = s.heads * s.Dk + gap, ys = s.heads * s.Dv + gap / 2;
  const auto in = std::make_shared<AttentionInputs>(s, qs, seed);
  const KeySet keys = in->Keys();
  KernelCase c;
  c.text = TextOf(s);
  c.written = {{"y", Blank(s.T * ys), in->Terms(), kLargest}};
  c.flop = 2 * Keys(s) * static_cast<double>(s.heads * (s.Dk + s.Dv));
  if (s.bf16) c.arithmetic = Arithmetic::kBf16, c.by_level = true;
  if (s.T == 1) c.bytes = Keys(s) * static_cast<double>(keys.k_stride + (s.latent ? 0 : keys.v_stride));
  const auto args = [=](Arrays& out) {
    return AttentionArgs{.q = in->q.data(),
                         .y = out[0].data(),
                         .keys = keys,
                         .heads = s.heads,
                         .pos = s.pos,
                         .window = s.window,
                         .sinks = s.sinks,
                         .scale = 1 / std::sqrt(static_cast<float>(s.Dk)),
                         .t0 = 0,
                         .t1 = s.T,
                         .lambda = in->lambda.data(),
                         .bf16 = s.bf16,
                         .q_stride = qs,
                         .y_stride = ys,
                         .scratch = in->scratch.data()};
  };
  SetCalls(c, args, Attention, ref::Attention);
  return c;
}

// Sizes that are drawn for a kernel of `size` numbers a key.
AttentionShape Drawn(int64_t size, uint64_t seed) {
  Rng rng(seed, static_cast<uint64_t>(size));
  const auto below = [&](uint64_t n) { return static_cast<int64_t>(rng.Below(n)); };
  AttentionShape s{.T = 1 + below(4) * below(25), .heads = 1 + below(5), .Dk = size, .Dv = size, .pos = below(200)};
  const int64_t rows = s.pos + s.T;
  for (int64_t cut = 1 + below(100); cut < rows; cut += 1 + below(100)) s.cuts.push_back(cut);
  return s;
}

Kernel AttentionKernel() {
  constexpr KvDtype kDtypes[] = {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kQ8_0};
  const auto at_random = [=](size_t form, int64_t size, uint64_t seed) {
    AttentionShape s = Drawn(size, seed);
    Rng rng(seed + 1, static_cast<uint64_t>(size));
    const auto draw = [&](uint64_t n) { return static_cast<int64_t>(1 + rng.Below(n)); };
    s.dtype = kDtypes[form < 4 ? form : rng.Below(4)];
    if (form >= 4) s.window = draw(130);
    if (form == 4) s.Dv = draw(96), s.sinks = draw(80);
    if (form == 5) s.landmarks = draw(140);
    if (form == 6) s.latent = true, s.Dv = 1 + s.Dk / 2;
    if (form == 7) s.bf16 = true, s.Dv = draw(96), s.sinks = draw(80), s.landmarks = draw(140);
    return AttentionCase(s, 5, seed);
  };
  Kernel k{.name = "Attention",
           .forms = {"f32", "bf16", "f16", "q8_0", "sinks", "landmarks", "values in keys", "bf16 products"},
           .max_size = 130,
           .at_random = at_random,
           .bench = {}};
  const auto bench = [&](const AttentionShape& s) {
    k.bench.push_back({s.T == 1 ? "attention_step" : "attention",
                       [=](uint64_t seed) { return AttentionCase(s, 0, seed); }, /*cold=*/s.T == 1});
  };
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kF16, KvDtype::kQ8_0}) {
    bench({.T = 2048, .heads = 1, .dtype = dtype});
    bench({.T = 2048, .heads = 3, .dtype = dtype});
    bench({.T = 2048, .heads = 3, .dtype = dtype, .bf16 = true});
    bench({.T = 512, .heads = 1, .pos = 256, .window = 256, .dtype = dtype, .landmarks = 512});
    bench({.T = 1, .heads = 3, .pos = 8191, .dtype = dtype});
    bench({.T = 1, .heads = 1, .pos = 8191, .dtype = dtype});
    bench({.T = 1, .heads = 4, .Dk = 128, .Dv = 128, .pos = 8191, .dtype = dtype});
  }
  bench({.T = 1, .heads = 1, .pos = 1000, .window = 256, .dtype = KvDtype::kF16, .landmarks = 512});
  bench({.T = 4, .heads = 3, .pos = 8000, .dtype = KvDtype::kF16});
  return k;
}

// ---- Parts ----

// Partial results may be to another maximum: their means, then log(sum) + max, are what is compared.
void DecodeParts(std::vector<float>& parts, int64_t Dv) {
  const auto width = static_cast<size_t>(Dv + 2);
  for (size_t row = 0; row + width <= parts.size(); row += width) {
    const float max = parts[row + width - 2], sum = parts[row + width - 1];
    if (max == kUntouched) continue;
    for (size_t i = 0; i + 2 < width; ++i) parts[row + i] /= sum;
    parts[row + width - 2] = max + std::log(sum);
    parts[row + width - 1] = 0;
  }
}

KernelCase PartCase(AttentionShape s, uint64_t seed) {
  s.T = 1;
  std::erase_if(s.cuts, [&](int64_t cut) { return cut > s.pos; });
  const auto in = std::make_shared<AttentionInputs>(s, s.heads * s.Dk, seed);
  const KeySet keys = in->Keys();
  KernelCase c;
  const int64_t begin = s.pos / 2 / kKeyBlock * kKeyBlock;
  c.text = StrCat(TextOf(s), " from ", begin);
  c.written = {{"part", Blank(s.heads * (s.Dv + 2)), in->Terms(), kLargest}};
  c.bytes = static_cast<double>((s.pos + 1 - begin) * (keys.k_stride + keys.v_stride));
  c.decode = [Dv = s.Dv](Arrays& out) { DecodeParts(out[0], Dv); };
  const auto args = [=](Arrays& out) {
    return AttentionPartArgs{.q = in->q.data(),
                             .keys = keys,
                             .heads = s.heads,
                             .begin = begin,
                             .end = s.pos + 1,
                             .scale = 1 / std::sqrt(static_cast<float>(s.Dk)),
                             .part = out[0].data(),
                             .scratch = in->scratch.data()};
  };
  SetCalls(c, args, AttentionPart, ref::AttentionPart);
  return c;
}

Kernel PartKernel() {
  return {.name = "AttentionPart",
          .forms = {"f32", "q8_0"},
          .max_size = 130,
          .at_random =
              [](size_t form, int64_t size, uint64_t seed) {
                AttentionShape s = Drawn(size, seed);
                if (form == 1) s.dtype = KvDtype::kQ8_0;
                return PartCase(s, seed);
              },
          .bench = {{"attention_part",
                     [](uint64_t seed) { return PartCase({.heads = 3, .pos = 1023, .dtype = KvDtype::kF16}, seed); },
                     /*cold=*/true}}};
}

KernelCase MergeCase(int64_t n_parts, int64_t heads, int64_t Dv, uint64_t seed) {
  const auto parts = std::make_shared<std::vector<float>>(Normals(n_parts * heads * (Dv + 2), seed));
  for (int64_t i = 1; i <= n_parts * heads; ++i) {  // sums of exps are positive
    float& sum = (*parts)[static_cast<size_t>(i * (Dv + 2) - 1)];
    sum = 1 + std::abs(sum);
  }
  KernelCase c;
  c.text = StrCat("parts ", n_parts, " heads ", heads, " Dv ", Dv);
  c.written = {{"y", Blank(heads * Dv), 2 * n_parts + 8, 6}};
  const auto args = [=](Arrays& out) {
    return AttentionMergeArgs{.parts = parts->data(), .y = out[0].data(), .n_parts = n_parts, .heads = heads, .Dv = Dv};
  };
  SetCalls(c, args, AttentionMerge, ref::AttentionMerge);
  return c;
}

Kernel MergeKernel() {
  return {.name = "AttentionMerge",
          .forms = {"parts"},
          .max_size = 130,
          .at_random =
              [](size_t, int64_t size, uint64_t seed) {
                Rng rng(seed, static_cast<uint64_t>(size));
                const auto draw = [&](uint64_t n) { return static_cast<int64_t>(1 + rng.Below(n)); };
                return MergeCase(draw(9), draw(5), size, seed);
              },
          .bench = {{"attention_merge", [](uint64_t seed) { return MergeCase(8, 3, 64, seed); }}}};
}

}  // namespace

std::vector<Kernel> AttentionKernels() { return {AttentionKernel(), PartKernel(), MergeKernel()}; }

}  // namespace hydra::kernels
