// SPDX-License-Identifier: Apache-2.0
// The list's kernels of rows, selection and cached rows. `size` is the width of a row.
// Dims as in ops.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/kernels/ops.h"
#include "hydra/tensor/cache_dtype.h"

namespace hydra::kernels {
namespace {

// ---- RmsNorm ----

struct NormForm {
  const char* name;
  int64_t groups;
  bool z, shared, in_place;
};
constexpr NormForm kNormForms[] = {
    {"one group", 1, false, false, false},         {"in place", 1, false, false, true},
    {"three gated groups", 3, true, false, false}, {"gated in place", 3, true, false, true},
    {"shared weight", 4, false, true, true},       {"gated, shared weight", 2, true, true, false}};

// The rows lie `gap` floats apart, more or less.
KernelCase NormCase(const NormForm& f, int64_t T, int64_t width, int64_t gap, uint64_t seed) {
  struct Inputs {
    std::vector<float> x, z, w;
  };
  const int64_t D = width * f.groups, xs = D + gap, zs = D + gap / 3, ys = f.in_place ? xs : D + 2 * gap;
  const auto in =
      std::make_shared<Inputs>(Inputs{Normals(T * xs, seed), Normals(T * zs, seed + 1, 3), Normals(D, seed + 2)});
  KernelCase c;
  c.text = StrCat("T ", T, " D ", D, " ", f.name);
  // A normalised value is at most sqrt(width); the sum of squares has only positive terms.
  c.written = {
      {"y", f.in_place ? in->x : Blank(T * ys), width + 10, std::sqrt(static_cast<double>(width)) * MaxAbs(in->w)}};
  c.bytes = static_cast<double>((f.z ? 12 : 8) * T * D);
  SetCalls(
      c,
      [=](Arrays& out) {
        return RmsNormArgs{.x = f.in_place ? out[0].data() : in->x.data(),
                           .w = in->w.data(),
                           .y = out[0].data(),
                           .T = T,
                           .D = D,
                           .x_stride = xs,
                           .y_stride = ys,
                           .groups = f.groups,
                           .eps = 1e-3f,
                           .z = f.z ? in->z.data() : nullptr,
                           .z_stride = zs,
                           .shared_weight = f.shared};
      },
      RmsNorm, ref::RmsNorm);
  return c;
}

Kernel NormKernel() {
  Kernel k{.name = "RmsNorm",
           .forms = {},
           .max_size = 130,
           .at_random = [](size_t form, int64_t size,
                           uint64_t seed) { return NormCase(kNormForms[form], 2, size, 3, seed); },
           .bench = {}};
  for (const NormForm& f : kNormForms) k.forms.emplace_back(f.name);
  for (const int64_t T : {512, 1}) {
    k.bench.push_back({"rms_norm", [=](uint64_t seed) {
                         return NormCase({"one group", 1, false, false, false}, T, 1536, 0, seed);
                       }});
    k.bench.push_back({"rms_norm_gated", [=](uint64_t seed) {
                         return NormCase({"gated", 1, true, false, false}, T, 1536, 0, seed);
                       }});
  }
  return k;
}

// ---- Rope ----

// `gap` floats behind each row, and behind each head.
KernelCase RopeCase(bool interleaved, int64_t T, int64_t heads, int64_t Dh, int64_t gap, uint64_t seed) {
  struct Inputs {
    std::vector<int64_t> pos;
    std::vector<double> inv_freq;
  };
  const auto in = std::make_shared<Inputs>();
  Rng rng(seed, 1);
  in->pos = {0, 1, 2, 3, 5, 100, 1000, 131072, 10'000'000};  // quadrants 0 to 3 among them
  in->pos.resize(static_cast<size_t>(T), 0);
  for (int64_t t = 9; t < T; ++t) in->pos[static_cast<size_t>(t)] = static_cast<int64_t>(rng.Below(100'000));
  for (int64_t i = 0; i < Dh / 2; ++i)
    in->inv_freq.push_back(std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(Dh)));
  const int64_t head_stride = Dh + gap, stride = heads * head_stride + gap;
  const std::vector<float> x = Normals(T * stride, seed);
  KernelCase c;
  c.text = StrCat("T ", T, " heads ", heads, " Dh ", Dh, interleaved ? " interleaved" : " halves");
  c.written = {{"x", x, 4, 2 * MaxAbs(x)}};
  c.bytes = static_cast<double>(8 * T * heads * Dh);
  SetCalls(
      c,
      [=](Arrays& out) {
        return RopeArgs{.x = out[0].data(),
                        .pos = in->pos.data(),
                        .inv_freq = in->inv_freq.data(),
                        .T = T,
                        .heads = heads,
                        .Dh = Dh,
                        .x_stride = stride,
                        .interleaved = interleaved,
                        .head_stride = head_stride};
      },
      Rope, ref::Rope);
  return c;
}

Kernel RopeKernel() {
  return {.name = "Rope",
          .forms = {"halves", "interleaved"},
          .max_size = 130,
          .at_random = [](size_t form, int64_t size,
                          uint64_t seed) { return RopeCase(form == 1, 9, 3, 2 * size, 7, seed); },
          .bench = {{"rope", [](uint64_t seed) { return RopeCase(false, 512, 24, 64, 0, seed); }},
                    {"rope", [](uint64_t seed) { return RopeCase(false, 1, 24, 64, 0, seed); }}}};
}

// ---- SwiGlu ----

KernelCase SwiGluCase(bool in_place, int64_t T, int64_t F, int64_t gap, uint64_t seed) {
  const int64_t stride = 2 * F + gap, ys = in_place ? stride : F + gap;
  const auto hidden = std::make_shared<std::vector<float>>(Normals(T * stride, seed, 4));
  KernelCase c;
  c.text = StrCat("T ", T, " F ", F, in_place ? " in place of gate" : "");
  c.written = {{"y", in_place ? *hidden : Blank(T * ys), 6}};
  c.bytes = static_cast<double>(12 * T * F);
  SetCalls(
      c,
      [=](Arrays& out) {
        const float* gate = in_place ? out[0].data() : hidden->data();
        return SwiGluArgs{
            .gate = gate, .up = gate + F, .y = out[0].data(), .T = T, .F = F, .stride = stride, .y_stride = ys};
      },
      SwiGlu, ref::SwiGlu);
  return c;
}

Kernel SwiGluKernel() {
  return {.name = "SwiGlu",
          .forms = {"apart", "in place"},
          .max_size = 130,
          .at_random = [](size_t form, int64_t size, uint64_t seed) { return SwiGluCase(form == 1, 3, size, 3, seed); },
          .bench = {{"swiglu", [](uint64_t seed) { return SwiGluCase(false, 512, 1536, 0, seed); }},
                    {"swiglu", [](uint64_t seed) { return SwiGluCase(false, 1, 1536, 0, seed); }}}};
}

// ---- Softmax ----

struct SoftmaxForm {
  const char* name;
  float scale;
  bool masked, in_place;
};
constexpr SoftmaxForm kSoftmaxForms[] = {
    {"scale 1", 1, false, false},          {"scale 1 in place", 1, false, true},
    {"scale 0.125", 0.125f, false, false}, {"scale 0.125 in place", 0.125f, false, true},
    {"scale -2, masked", -2, true, false}, {"scale -2, masked, in place", -2, true, true}};

KernelCase SoftmaxCase(const SoftmaxForm& f, int64_t T, int64_t D, uint64_t seed) {
  auto x = std::make_shared<std::vector<float>>(Normals(T * D, seed, 20));
  for (int64_t i = 1; f.masked && i < D; i += 3) (*x)[static_cast<size_t>(i)] = f.scale > 0 ? -INFINITY : INFINITY;
  KernelCase c;
  c.text = StrCat("T ", T, " D ", D, " ", f.name);
  // Exponents of about 80 are rounded before exp is taken of them, and so is the largest.
  c.written = {{"y", f.in_place ? *x : Blank(T * D), D + 8 + 160, 1}};
  c.bytes = static_cast<double>(8 * T * D);
  SetCalls(
      c,
      [=](Arrays& out) {
        return SoftmaxArgs{
            .x = f.in_place ? out[0].data() : x->data(), .y = out[0].data(), .T = T, .D = D, .scale = f.scale};
      },
      Softmax, ref::Softmax);
  return c;
}

Kernel SoftmaxKernel() {
  Kernel k{.name = "Softmax",
           .forms = {},
           .max_size = 130,
           .at_random = [](size_t form, int64_t size,
                           uint64_t seed) { return SoftmaxCase(kSoftmaxForms[form], 3, size, seed); },
           .bench = {}};
  for (const SoftmaxForm& f : kSoftmaxForms) k.forms.emplace_back(f.name);
  for (const int64_t T : {512, 1})
    k.bench.push_back({"softmax", [=](uint64_t seed) { return SoftmaxCase(kSoftmaxForms[0], T, 1536, seed); }});
  return k;
}

// ---- Gates of experts ----

// Shares of active experts from none to all; scales of both signs and zeros.
KernelCase ReluGatesCase(double shift, bool in_place, int64_t n, int64_t E, uint64_t seed) {
  const auto raw = std::make_shared<std::vector<float>>(Normals(n * E, seed));
  const auto scale = std::make_shared<std::vector<float>>(Normals(E, seed + 1));
  for (float& v : *raw) v += static_cast<float>(shift);
  for (size_t e = 0; e < scale->size(); e += 5) (*scale)[e] = 0;
  const int64_t words = (E + 31) / 32;
  KernelCase c;
  c.text = StrCat("n ", n, " E ", E, " shift ", shift, in_place ? " in place" : "");
  c.written = {{.name = "gates", .before = in_place ? *raw : Blank(n * E), .own = E + 8},
               {.name = "active", .before = Blank(2 * n * words), .terms = kSameBits}};
  c.bytes = static_cast<double>(8 * n * E);
  SetCalls(
      c,
      [=](Arrays& out) {
        return ReluGatesArgs{.raw = in_place ? out[0].data() : raw->data(),
                             .scale = scale->data(),
                             .gates = out[0].data(),
                             .active = As<uint32_t>(out[1]),
                             .n = n,
                             .E = E};
      },
      ReluGates, ref::ReluGates);
  c.decode = [=](Arrays& out) {  // half a word is a number that an f32 holds
    std::vector<uint32_t> bits(static_cast<size_t>(n * words));
    std::memcpy(bits.data(), out[1].data(), bits.size() * sizeof(bits[0]));
    for (size_t i = 0; i < bits.size(); ++i) {
      out[1][2 * i] = static_cast<float>(bits[i] & 0xFFFF);
      out[1][2 * i + 1] = static_cast<float>(bits[i] >> 16);
    }
  };
  return c;
}

Kernel ReluGatesKernel() {
  return {.name = "ReluGates",
          .forms = {"few active", "half active", "all active", "few active in place"},
          .max_size = 130,
          .at_random =
              [](size_t form, int64_t size, uint64_t seed) {
                constexpr double kShifts[] = {-1, 0, 6, -1};
                return ReluGatesCase(kShifts[form], form == 3, 3, size, seed);
              },
          .bench = {{"relu_gates", [](uint64_t seed) { return ReluGatesCase(-1, false, 1, 48, seed); }},
                    {"relu_gates", [](uint64_t seed) { return ReluGatesCase(-1, false, 512, 128, seed); }}}};
}

// ---- Selection and small dense maps ----

// Scores of few levels, so that ties are everywhere; ids must be equal, not only the scores.
KernelCase TopKCase(uint64_t levels, int64_t n, int64_t k, uint64_t seed) {
  Rng rng(seed, levels);
  auto scores = std::make_shared<std::vector<float>>(static_cast<size_t>(n));
  for (float& s : *scores) s = static_cast<float>(rng.Below(levels)) - 2;
  KernelCase c;
  c.text = StrCat("n ", n, " k ", k, " levels ", levels);
  c.written = {{"ids", Blank(k), kSameBits}, {"values", Blank(k), kSameBits}};
  c.bytes = static_cast<double>(4 * n);
  c.simd = [=](Arrays& out, ThreadPool&) { TopK(scores->data(), n, k, As<int32_t>(out[0]), out[1].data()); };
  c.ref = [=](Arrays& out) { ref::TopK(scores->data(), n, k, As<int32_t>(out[0]), out[1].data()); };
  c.decode = [](Arrays& out) {
    for (float& id : out[0]) {
      int32_t bits;
      std::memcpy(&bits, &id, sizeof(bits));
      id = static_cast<float>(bits);
    }
  };
  return c;
}

Kernel TopKKernel() {
  return {.name = "TopK",
          .forms = {"one level", "three levels", "20 levels", "many levels"},
          .max_size = 200,
          .at_random =
              [](size_t form, int64_t size, uint64_t seed) {
                constexpr uint64_t kLevels[] = {1, 3, 20, 100'000};
                const auto n = static_cast<uint64_t>(size);
                const uint64_t k = seed % 3 == 0 ? n : seed % 3 == 1 ? n / 2 : Rng(seed, n).Below(n + 1);
                return TopKCase(kLevels[form], size, static_cast<int64_t>(k), seed);
              },
          .bench = {{"top_k", [](uint64_t seed) { return TopKCase(100'000, 4096, 2, seed); }},
                    {"top_k", [](uint64_t seed) { return TopKCase(100'000, 4096, 32, seed); }}}};
}

KernelCase DotCase(int64_t n, uint64_t seed) {
  struct Inputs {
    std::vector<float> x, y;
  };
  const auto in = std::make_shared<Inputs>(Inputs{Normals(n, seed), Normals(n, seed + 1)});
  double scale = 1e-30;
  for (size_t i = 0; i < in->x.size(); ++i) scale += std::abs(double{in->x[i]} * in->y[i]);
  KernelCase c;
  c.text = StrCat("n ", n);
  c.written = {{"sum", Blank(1), n, scale}};
  c.bytes = static_cast<double>(8 * n), c.flop = static_cast<double>(2 * n);
  c.simd = [=](Arrays& out, ThreadPool&) { out[0][0] = Dot(in->x.data(), in->y.data(), n); };
  c.ref = [=](Arrays& out) { out[0][0] = ref::Dot(in->x.data(), in->y.data(), n); };
  return c;
}

KernelCase LogSigmoidCase(double deviation, int64_t n, uint64_t seed) {
  const auto x = std::make_shared<std::vector<float>>(Normals(n, seed, deviation));
  KernelCase c;
  c.text = StrCat("n ", n, " deviation ", deviation);
  c.written = {{.name = "y", .before = Blank(n + 1), .terms = kSameBits, .own = 6}};
  c.bytes = static_cast<double>(8 * n);
  c.simd = [=](Arrays& out, ThreadPool&) { LogSigmoid(x->data(), out[0].data(), n); };
  c.ref = [=](Arrays& out) { ref::LogSigmoid(x->data(), out[0].data(), n); };
  return c;
}

KernelCase AxpyCase(int64_t n, uint64_t seed) {
  const auto x = std::make_shared<std::vector<float>>(Normals(n, seed));
  std::vector<float> y = Normals(n, seed + 1);
  const double scale = 2 * MaxAbs(*x) + MaxAbs(y);
  y.push_back(kUntouched);
  KernelCase c;
  c.text = StrCat("n ", n);
  c.written = {{"y", y, 2, scale}};
  c.bytes = static_cast<double>(12 * n), c.flop = static_cast<double>(2 * n);
  c.simd = [=](Arrays& out, ThreadPool&) { Axpy(-1.7f, x->data(), out[0].data(), n); };
  c.ref = [=](Arrays& out) { ref::Axpy(-1.7f, x->data(), out[0].data(), n); };
  return c;
}

// ---- Cached rows ----

constexpr KvDtype kKvDtypes[] = {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kQ8_0};

// The bytes of rows, each as a number; the byte behind them stays.
KernelCase StoreKvCase(KvDtype dtype, int64_t rows, int64_t n, uint64_t seed) {
  const auto x = std::make_shared<std::vector<float>>(Normals(rows * n, seed, 3));
  (*x)[0] = 1.0f + std::ldexp(1.0f, -11);  // half way between two f16
  const int64_t row_bytes = KvRowBytes(dtype, n);
  KernelCase c;
  c.text = StrCat("rows ", rows, " Dh ", n, " ", KvDtypeName(dtype));
  c.written = {{"row", FromBytes(std::vector<std::byte>(static_cast<size_t>(rows * row_bytes + 1), std::byte{0xA5})),
                kSameBits}};
  c.bytes = static_cast<double>(rows * (4 * n + row_bytes));
  const auto call = [=](Arrays& out, auto store) {
    for (int64_t i = 0; i < rows; ++i) store(dtype, x->data() + i * n, n, As<std::byte>(out[0]) + i * row_bytes);
  };
  c.simd = [=](Arrays& out, ThreadPool&) { call(out, StoreKvRow); };
  c.ref = [=](Arrays& out) { call(out, ref::StoreKvRow); };
  c.decode = [](Arrays& out) {
    const auto* bytes = As<uint8_t>(out[0]);
    out[0] = std::vector<float>(bytes, bytes + 4 * out[0].size());
  };
  return c;
}

KernelCase LoadKvCase(KvDtype dtype, int64_t n, uint64_t seed) {
  const std::vector<float> x = Normals(n, seed, 3);
  const auto row = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(KvRowBytes(dtype, n)));
  ref::StoreKvRow(dtype, x.data(), n, row->data());
  KernelCase c;
  c.text = StrCat("Dh ", n, " ", KvDtypeName(dtype));
  c.written = {{"x", Blank(n + 1), kSameBits}};
  c.simd = [=](Arrays& out, ThreadPool&) { LoadKvRow(dtype, row->data(), n, out[0].data()); };
  c.ref = [=](Arrays& out) { ref::LoadKvRow(dtype, row->data(), n, out[0].data()); };
  return c;
}

Kernel StoreKvKernel() {
  Kernel k{
      .name = "StoreKvRow",
      .forms = {},
      .max_size = 130,
      .at_random = [](size_t form, int64_t size, uint64_t seed) { return StoreKvCase(kKvDtypes[form], 1, size, seed); },
      .bench = {}};
  for (const KvDtype dtype : kKvDtypes) k.forms.emplace_back(KvDtypeName(dtype));
  for (const int64_t rows : {12288, 24})
    for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kBF16, KvDtype::kQ8_0})
      k.bench.push_back({"store_kv", [=](uint64_t seed) { return StoreKvCase(dtype, rows, 64, seed); }});
  return k;
}
Kernel LoadKvKernel() {
  Kernel k = StoreKvKernel();
  k.name = "LoadKvRow", k.bench = {};
  k.at_random = [](size_t form, int64_t size, uint64_t seed) { return LoadKvCase(kKvDtypes[form], size, seed); };
  return k;
}

}  // namespace

std::vector<Kernel> RowKernels() {
  return {NormKernel(),
          RopeKernel(),
          SwiGluKernel(),
          SoftmaxKernel(),
          StoreKvKernel(),
          LoadKvKernel(),
          ReluGatesKernel(),
          TopKKernel(),
          {.name = "Dot",
           .forms = {"any"},
           .max_size = 300,
           .at_random = [](size_t, int64_t size, uint64_t seed) { return DotCase(size, seed); },
           .bench = {{"dot", [](uint64_t seed) { return DotCase(1536, seed); }}}},
          {.name = "LogSigmoid",
           .forms = {"small", "large"},
           .max_size = 130,
           .at_random = [](size_t form, int64_t size,
                           uint64_t seed) { return LogSigmoidCase(form == 0 ? 1 : 40, size, seed); },
           .bench = {{"log_sigmoid", [](uint64_t seed) { return LogSigmoidCase(1, 1536, seed); }}}},
          {.name = "Axpy",
           .forms = {"any"},
           .max_size = 300,
           .at_random = [](size_t, int64_t size, uint64_t seed) { return AxpyCase(size, seed); },
           .bench = {{"axpy", [](uint64_t seed) { return AxpyCase(1536, seed); }}}}};
}

}  // namespace hydra::kernels
