// SPDX-License-Identifier: Apache-2.0
// The list's products with weights: every type with every kind of activations; panels and rows, gathered and scattered
// rows, scales, bias, accumulation, SiLU. `size` is N. Dims as in matmul.h.
#include "hydra/kernels/kernel_list_matmul.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <numeric>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"
#include "hydra/kernels/kernel_list.h"
#include "hydra/tensor/weight_block.h"

namespace hydra::kernels {

RandomWeights::RandomWeights(WeightType type, int64_t N, int64_t K, uint64_t seed)
    : bytes(static_cast<size_t>(N * RowBytes(type, K))),
      rows{.type = type, .rows = N, .cols = K, .data = bytes.data()} {
  Rng rng(seed);
  uint64_t word = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i % 8 == 0) word = rng();
    bytes[i] = static_cast<std::byte>(word >> (i % 8 * 8));
  }
  const auto set_half = [&](size_t at, uint16_t bits) { std::memcpy(bytes.data() + at, &bits, 2); };
  const auto f16 = [&](double deviation) { return FloatToF16(static_cast<float>(deviation * rng.Normal())); };
  const auto block_bytes = static_cast<size_t>(Info(type).block_bytes);
  for (size_t at = 0; at < bytes.size(); at += block_bytes) switch (type) {
      case WeightType::kF32: {
        const auto v = static_cast<float>(rng.Normal());
        std::memcpy(bytes.data() + at, &v, 4);
        break;
      }
      case WeightType::kF16: set_half(at, f16(1)); break;
      case WeightType::kBF16: set_half(at, FloatToBF16(static_cast<float>(rng.Normal()))); break;
      case WeightType::kQ6_K: set_half(at + offsetof(BlockQ6_K, d), f16(0.01)); break;
      default:
        set_half(at, f16(0.1));
        if (type != WeightType::kQ8_0 && type != WeightType::kQ4_0 && type != WeightType::kQ5_0)
          set_half(at + 2, f16(1));
    }
  ThreadPool pool(1);
  PackFor(pool);
}

void RandomWeights::PackFor(ThreadPool& pool) {
  const auto allocate = [](int64_t need) {
    auto* p = static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>((need + 63) / 64 * 64)));
    HYDRA_CHECK(p != nullptr);
    return p;
  };
  packed = narrow = rows;
  if (!IsQuantised(rows.type)) {
    narrow_panels.reset(allocate(NarrowBytes(rows.type, rows.rows, rows.cols)));
    narrow = PackNarrow(rows, narrow_panels.get(), pool);
  } else if (const int64_t need = PackedBytes(rows.type, rows.rows, rows.cols); need > 0) {
    panels.reset(allocate(need));
    packed = Pack(rows, panels.get(), pool);
  }
}

// Three times the largest weight (a quant's product, its minimum and offset) times the largest sum of |x|, and what is
// added to it.
double SumOfTerms(const MatMulArgs& a) {
  double weight = 0, x = 0, factor = 1, bias = 0;
  std::vector<float> row(static_cast<size_t>(a.w.cols));
  for (int64_t n = 0; n < a.w.rows; ++n) {
    DecodeMatrixRow(a.w, n, row.data());
    weight = std::max(weight, MaxAbs(row));
    if (a.bias != nullptr) bias = std::max(bias, std::abs(double{a.bias[n]}));
  }
  const int64_t stride = a.x_stride == 0 ? a.w.cols : a.x_stride;
  for (int64_t t = 0; t < a.T; ++t) {
    double sum = 0;
    for (int64_t k = 0; k < a.w.cols; ++k) sum += std::abs(a.x[(a.x_rows != nullptr ? a.x_rows[t] : t) * stride + k]);
    x = std::max(x, sum);
    if (a.row_scale != nullptr) factor = std::max(factor, std::abs(double{a.row_scale[t]}));
  }
  return factor * (3.1 * weight * x + bias) + 1;
}

double ToleranceOf(const MatMulArgs& a) { return Tolerance(DType::kF32, a.w.cols, SumOfTerms(a)); }

namespace {

struct MatMulShape {
  WeightType type;
  ActType act;
  int64_t N, K, T;
  int64_t rows = 0;  // of x and y, in which T are chosen; 0: T
  int64_t gap = 0;
  bool panels = true, narrow = false, gather = false, scatter = false, scale = false, bias = false, accumulate = false,
       silu = false, f32 = false;
};

struct MatMulInputs {
  MatMulInputs(const MatMulShape& s, uint64_t seed)
      : weights(s.type, s.N, s.K, seed),
        x(Normals(std::max(s.rows, s.T) * (s.K + s.gap), seed + 1)),
        scale(Normals(s.T, seed + 2)),
        bias(Normals(s.N, seed + 3)) {
    Rng rng(seed + 4);
    const auto rows = static_cast<size_t>(std::max(s.rows, s.T));
    y_rows.resize(rows);
    std::iota(y_rows.begin(), y_rows.end(), 0);
    for (size_t i = rows; i > 1; --i) std::swap(y_rows[i - 1], y_rows[rng.Below(i)]);
    for (int64_t t = 0; t < s.T; ++t) x_rows.push_back(static_cast<int32_t>(rng.Below(rows)));
  }
  RandomWeights weights;
  std::vector<float> x, scale, bias;
  std::vector<int32_t> x_rows, y_rows;
  MatMulScratch scratch;
};

std::string NameOf(WeightType type, ActType act) {
  return StrCat(Info(type).name, act == ActType::kQ8 ? " int8" : act == ActType::kBF16 ? " bf16" : " f32");
}

std::string ShapeText(const MatMulShape& s) {
  std::string text = StrCat(NameOf(s.type, s.act), " N", s.N, " K", s.K, " T", s.T);
  for (const auto& [has, name] : {std::pair{!s.panels, " as rows"},
                                  {s.gather, " gathered"},
                                  {s.scatter, " scattered"},
                                  {s.scale, " scaled"},
                                  {s.bias, " bias"},
                                  {s.silu, " SiLU"},
                                  {s.f32, " without bf16"},
                                  {s.accumulate, " added"},
                                  {s.narrow, " narrow"}})
    if (has) text += name;
  return text;
}

KernelCase MatMulCase(const MatMulShape& s, uint64_t seed) {
  const auto in = std::make_shared<MatMulInputs>(s, seed);
  const auto args = [=](Arrays& out) {
    return MatMulArgs{.w = s.narrow   ? in->weights.narrow
                           : s.panels ? in->weights.packed
                                      : in->weights.rows,
                      .x = in->x.data(),
                      .y = out.empty() ? nullptr : out[0].data(),
                      .T = s.T,
                      .x_stride = s.K + s.gap,
                      .y_stride = s.N + 2 * s.gap,
                      .x_rows = s.gather ? in->x_rows.data() : nullptr,
                      .y_rows = s.scatter ? in->y_rows.data() : nullptr,
                      .row_scale = s.scale ? in->scale.data() : nullptr,
                      .bias = s.bias ? in->bias.data() : nullptr,
                      .accumulate = s.accumulate,
                      .silu = s.silu,
                      .f32 = s.f32};
  };
  Arrays none;
  const int64_t y = std::max(s.rows, s.T) * (s.N + 2 * s.gap);
  KernelCase c;
  c.text = ShapeText(s);
  c.written = {{"y", s.accumulate ? Normals(y, seed + 5) : Blank(y), s.K, SumOfTerms(args(none))}};
  c.prepare = [=](ThreadPool& pool) { in->weights.PackFor(pool); };
  c.simd = [=](Arrays& out, ThreadPool& pool) { MatMul(args(out), s.act, pool, in->scratch); };
  c.ref = [=](Arrays& out) { ref::MatMul(args(out), s.act); };
  c.flop = 2 * static_cast<double>(s.N * s.K * s.T);
  c.bytes = static_cast<double>(MatrixBytes(in->weights.packed));
  if (s.act == ActType::kBF16) c.arithmetic = Arithmetic::kBf16, c.by_level = true;
  if (s.act == ActType::kQ8 && IsQuantised(s.type))
    c.arithmetic = s.type == WeightType::kQ8_0 ? Arithmetic::kInt8 : Arithmetic::kInt4;
  return c;
}

struct MatMulForm {
  WeightType type;
  ActType act;
  bool narrow;
};

// Tokens around the tiles; K around the vectors and blocks.
MatMulShape RandomShape(const MatMulForm& form, int64_t N, uint64_t seed) {
  constexpr int64_t kT[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 18, 19, 24, 25, 40, 100};
  constexpr int64_t kK[] = {1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 96, 255, 256, 257, 511, 512, 513, 768};
  Rng rng(seed, static_cast<uint64_t>(N));
  MatMulShape s{.type = form.type,
                .act = form.act,
                .N = N,
                .K = kK[rng.Below(18)],
                .T = kT[rng.Below(20)],
                .rows = 110,
                .gap = 3};
  const int64_t block = Info(form.type).block;
  s.K = (s.K + block - 1) / block * block;
  const uint64_t bits = rng();
  s.panels = (bits & 3) != 0;
  s.gather = (bits & 4) != 0, s.scatter = (bits & 8) != 0, s.scale = (bits & 16) != 0;
  s.bias = (bits & 32) != 0, s.accumulate = (bits & 64) != 0;
  s.silu = !s.accumulate && (bits & 128) != 0;
  s.f32 = (bits & 0x300) == 0;
  s.narrow = form.narrow;
  return s;
}

// Decoding reads weights from memory (decode_hot: from the cache), a batch multiplies from the cache, a prompt is
// arithmetic.
void AddBench(WeightType type, std::vector<BenchCase>& bench) {
  const int64_t narrow = Info(type).block == 256 ? 512 : 576, wide = 1536;
  const auto add = [&](const char* name, int64_t N, int64_t K, int64_t T, ActType act = ActType::kQ8) {
    const MatMulShape s{.type = type, .act = act, .N = N, .K = K, .T = T};
    bench.push_back({name, [=](uint64_t seed) { return MatMulCase(s, seed); }, name == std::string("decode")});
  };
  add("decode", 4096, 4096, 1);
  add("decode", 576, narrow, 1);
  add("decode", wide, narrow, 1);
  add("decode_hot", wide, narrow, 1);
  for (const int64_t T : {2, 4, 8, 16}) add("batch", wide, narrow, T);
  add("prefill", 576, narrow, 512);
  add("prefill", wide, narrow, 512);
  add("prefill", 576, wide, 512);
  add("prefill", 2048, 2048, 512);
  if (IsQuantised(type)) add("prefill", wide, narrow, 512, ActType::kF32);
  if (!IsQuantised(type)) add("prefill", wide, narrow, 512, ActType::kBF16);
  if (Info(type).block == 256) return;
  for (const int64_t T : {1, 4, 512}) {  // an expert's half: few columns
    const MatMulShape s{.type = type, .act = ActType::kQ8, .N = wide, .K = 128, .T = T, .narrow = !IsQuantised(type)};
    bench.push_back({"expert", [=](uint64_t seed) { return MatMulCase(s, seed); }, T == 1});
  }
}

}  // namespace

std::vector<Kernel> MatMulKernels() {
  std::vector<MatMulForm> forms;
  Kernel k{.name = "MatMul", .forms = {}, .max_size = 72, .at_random = {}, .bench = {}};
  for (const WeightTypeInfo& info : AllWeightTypes()) {
    for (const ActType act : {ActType::kF32, ActType::kQ8, ActType::kBF16}) {
      if (info.block == 1 && act == ActType::kQ8) continue;  // as one of the others
      forms.push_back({info.type, act, false});
      k.forms.push_back(NameOf(info.type, act));
    }
    if (info.block == 1) {
      forms.push_back({info.type, ActType::kF32, true});
      k.forms.push_back(StrCat(info.name, " narrow"));
    }
    AddBench(info.type, k.bench);
  }
  k.at_random = [forms](size_t form, int64_t size, uint64_t seed) {
    return MatMulCase(RandomShape(forms[form], size, seed), seed);
  };
  return {k};
}

}  // namespace hydra::kernels
