// SPDX-License-Identifier: Apache-2.0
// Rows of weights to panels (matmul_kernels.h) and back to f32. Moves only: no value changes.
// Not here: what computes with panels (matmul_int8.cc).
#include <algorithm>
#include <array>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/kernels/matmul.h"
#include "hydra/kernels/matmul_kernels.h"
#include "hydra/tensor/dtype.h"
#include "hydra/tensor/weight_block.h"

namespace hydra::kernels {
namespace {

constexpr uint32_t kLow = 0x0F0F0F0F, kHigh = 0xF0F0F0F0;

uint32_t Load32(const void* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// 32 columns of one row in panel form, with their scales: up to eight vectors' lane.
struct Lane {
  std::array<uint32_t, 8> vectors{};
  std::array<uint8_t, 4> scales{};
};

// Bit i of qh is the fifth bit of column i; in the panel, bit g of byte j is that of column 4g + j.
uint32_t FifthBits(uint32_t qh) {
  uint32_t out = 0;
  for (uint32_t g = 0; g < 8; ++g)
    for (uint32_t j = 0; j < 4; ++j) out |= (qh >> (4 * g + j) & 1) << (8 * j + g);
  return out;
}

template <class Block>
Lane Nibbles(const Block& b) {
  Lane lane;
  for (size_t v = 0; v < 4; ++v) lane.vectors[v] = Load32(b.qs + 4 * v);
  std::memcpy(lane.scales.data(), &b.d, 2);
  return lane;
}

Lane PackBlock(const BlockQ8_0& b, uint32_t flip) {
  Lane lane;
  for (size_t g = 0; g < 8; ++g) lane.vectors[g] = Load32(b.qs + 4 * g) ^ flip;
  std::memcpy(lane.scales.data(), &b.d, 2);
  return lane;
}
Lane PackBlock(const BlockQ4_0& b, uint32_t) { return Nibbles(b); }
Lane PackBlock(const BlockQ4_1& b, uint32_t) {
  Lane lane = Nibbles(b);
  std::memcpy(lane.scales.data() + 2, &b.m, 2);
  return lane;
}
Lane PackBlock(const BlockQ5_0& b, uint32_t) {
  Lane lane = Nibbles(b);
  lane.vectors[4] = FifthBits(Load32(b.qh));
  return lane;
}
Lane PackBlock(const BlockQ5_1& b, uint32_t) {
  Lane lane = Nibbles(b);
  lane.vectors[4] = FifthBits(Load32(b.qh));
  std::memcpy(lane.scales.data() + 2, &b.m, 2);
  return lane;
}

// Group j (32 columns) of 256.
template <class Block>
Lane NibblesK(const Block& b, int j) {
  Lane lane;
  const uint8_t* qs = b.qs + j / 2 * 32;
  for (size_t v = 0; v < 4; ++v) {
    const uint32_t first = Load32(qs + 4 * v), second = Load32(qs + 16 + 4 * v);
    lane.vectors[v] = j % 2 == 0 ? (first & kLow) | (second & kLow) << 4 : (first >> 4 & kLow) | (second & kHigh);
  }
  const ScaleMin s = ScaleMinK4(b.scales, j);
  lane.scales = {static_cast<uint8_t>(s.scale), static_cast<uint8_t>(s.min)};
  return lane;
}
Lane PackGroup(const BlockQ4_K& b, int j) { return NibblesK(b, j); }
Lane PackGroup(const BlockQ5_K& b, int j) {
  Lane lane = NibblesK(b, j);
  for (uint32_t g = 0; g < 8; ++g) lane.vectors[4] |= (Load32(b.qh + 4 * g) >> j & 0x01010101) << g;
  return lane;
}
Lane PackGroup(const BlockQ6_K& b, int j) {
  Lane lane;
  const int half = j / 4, k = j % 4;
  const uint8_t* ql = b.ql + 64 * half + 32 * (k % 2);
  const uint8_t* qh = b.qh + 32 * half;
  for (uint32_t v = 0; v < 4; ++v) {
    const uint32_t first = Load32(ql + 4 * v), second = Load32(ql + 16 + 4 * v);
    lane.vectors[v] = k < 2 ? (first & kLow) | (second & kLow) << 4 : (first >> 4 & kLow) | (second & kHigh);
    lane.vectors[4] |= (Load32(qh + 4 * v) >> 2 * k & 0x03030303) << 2 * v;
    lane.vectors[5] |= (Load32(qh + 16 + 4 * v) >> 2 * k & 0x03030303) << 2 * v;
  }
  lane.scales = {static_cast<uint8_t>(b.scales[2 * j]), static_cast<uint8_t>(b.scales[2 * j + 1])};
  return lane;
}

// One panel that is written. Sizes are constants of the type: loops over them would cost more than the stores.
template <WeightType kType>
struct Panel {
  static constexpr PanelLayout kShape = PanelShape(kType, 0);
  static constexpr int64_t kScaleSize = kShape.super_bytes > 0 ? 1 : 2;

  int64_t lanes;
  std::byte* data;

  [[nodiscard]] PanelLayout::Block At(int64_t block) const { return PanelShape(kType, lanes).At(block); }
  // Parts of kSize bytes, of a block or 256 columns: those of all lanes follow one another ([part][lane]).
  template <int64_t kTotal, int64_t kSize>
  void StoreParts(int64_t at, int64_t lane, const void* from) const {
    for (int64_t p = 0; p < kTotal / kSize; ++p)
      std::memcpy(data + at + (p * lanes + lane) * kSize, static_cast<const std::byte*>(from) + p * kSize, kSize);
  }
  void Store(int64_t block, int64_t lane, const Lane& from) const {
    const PanelLayout::Block at = At(block);
    for (int64_t v = 0; v < kShape.vectors; ++v)
      std::memcpy(data + at.quants + (v * lanes + lane) * 4, &from.vectors[static_cast<size_t>(v)], 4);
    StoreParts<kShape.scale_bytes, kScaleSize>(at.scales, lane, from.scales.data());
  }
};

// Block by block, so that what is written lies together.
template <WeightType kType, class Block>
void PackRows32(const std::byte* w, int64_t rows, int64_t K, uint8_t flip, const Panel<kType>& panel) {
  const int64_t row_bytes = K / 32 * static_cast<int64_t>(sizeof(Block));
  for (int64_t b = 0; b < K / 32; ++b, w += sizeof(Block))
    for (int64_t r = 0; r < rows; ++r) {
      Block block;
      std::memcpy(&block, w + r * row_bytes, sizeof(block));
      panel.Store(b, r, PackBlock(block, flip * 0x01010101u));
    }
}

uint16_t DminOf(const BlockQ4_K& b) { return b.dmin; }
uint16_t DminOf(const BlockQ5_K& b) { return b.dmin; }
uint16_t DminOf(const BlockQ6_K&) { return 0; }

template <WeightType kType, class Block>
void PackRows256(const std::byte* w, int64_t rows, int64_t K, const Panel<kType>& panel) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t s = 0; s < K / 256; ++s, w += sizeof(Block)) {
      Block block;
      std::memcpy(&block, w, sizeof(block));
      for (int j = 0; j < 8; ++j) panel.Store(8 * s + j, r, PackGroup(block, j));
      const std::array<uint16_t, 2> d{block.d, DminOf(block)};
      panel.template StoreParts<Panel<kType>::kShape.super_bytes, 2>(panel.At(8 * s).super, r, d.data());
    }
}

// ---- Back ----

// One row of a packed panel.
struct LaneReader {
  PanelLayout layout;
  int64_t lane;
  const std::byte* panel;

  [[nodiscard]] uint32_t Byte(int64_t block, int64_t vector, int64_t j) const {
    return static_cast<uint32_t>(panel[layout.At(block).quants + (vector * layout.lanes + lane) * 4 + j]);
  }
  // Column k of a block, 4, 5 or 6 bits by the number of vectors, or 8.
  [[nodiscard]] uint32_t Quant(int64_t block, int64_t k) const {
    const int64_t g = k / 4, j = k % 4;
    if (layout.vectors == 8) return Byte(block, g, j);
    uint32_t q = Byte(block, g % 4, j) >> (g < 4 ? 0 : 4) & 15;
    if (layout.vectors == 5) q |= (Byte(block, 4, j) >> g & 1) << 4;
    if (layout.vectors == 6) q |= (Byte(block, 4 + g / 4, j) >> 2 * (g % 4) & 3) << 4;
    return q;
  }
  [[nodiscard]] const std::byte* Scale(int64_t block, int64_t part, int64_t size) const {
    return panel + layout.At(block).scales + (part * layout.lanes + lane) * size;
  }
  [[nodiscard]] float Half(int64_t block, int64_t part) const {
    uint16_t bits;
    std::memcpy(&bits, Scale(block, part, 2), 2);
    return F16ToFloat(bits);
  }
  [[nodiscard]] int ByteScale(int64_t block, int64_t part) const { return static_cast<int>(*Scale(block, part, 1)); }
  [[nodiscard]] float Super(int64_t block, int64_t part) const {
    uint16_t bits;
    std::memcpy(&bits, panel + layout.At(block).super + (part * layout.lanes + lane) * 2, 2);
    return F16ToFloat(bits);
  }
};

// The formulas of weight_type.cc, in their order.
void DecodeLane(WeightType type, const LaneReader& in, uint8_t flip, int64_t K, float* out) {
  for (int64_t b = 0; b < K / 32; ++b)
    for (int64_t k = 0; k < 32; ++k, ++out) {
      const auto q = static_cast<int>(in.Quant(b, k));
      const auto qf = static_cast<float>(q);
      switch (type) {
        case WeightType::kQ8_0: *out = static_cast<float>(static_cast<int8_t>(q ^ flip)) * in.Half(b, 0); break;
        case WeightType::kQ4_0: *out = static_cast<float>(q - 8) * in.Half(b, 0); break;
        case WeightType::kQ5_0: *out = static_cast<float>(q - 16) * in.Half(b, 0); break;
        case WeightType::kQ4_1:
        case WeightType::kQ5_1: *out = qf * in.Half(b, 0) + in.Half(b, 1); break;
        case WeightType::kQ4_K:
        case WeightType::kQ5_K: {
          const float scale = in.Super(b, 0) * static_cast<float>(in.ByteScale(b, 0));
          *out = scale * qf - in.Super(b, 1) * static_cast<float>(in.ByteScale(b, 1));
          break;
        }
        case WeightType::kQ6_K: {
          const float scale = in.Super(b, 0) * static_cast<float>(static_cast<int8_t>(in.ByteScale(b, k / 16)));
          *out = scale * static_cast<float>(q - 32);
          break;
        }
        default: HYDRA_CHECK(false, "panels hold quantised weights only");
      }
    }
}

}  // namespace

PanelLayout LayoutOf(WeightType type, int64_t K, int64_t lanes) {
  PanelLayout layout = PanelShape(type, lanes);
  if (layout.vectors == 0 || K == 0) return layout;
  const int64_t end = layout.At(K / kBlock - 1).quants + layout.vectors * 4 * lanes;
  layout.bytes = (end + 63) / 64 * 64;
  return layout;
}

void PackPanel(WeightType type, const std::byte* w, int64_t rows, int64_t K, int64_t lanes, uint8_t flip,
               std::byte* out) {
  using T = WeightType;
  if (rows < lanes) std::memset(out, 0, static_cast<size_t>(LayoutOf(type, K, lanes).bytes));
  switch (type) {
    case T::kQ8_0: return PackRows32<T::kQ8_0, BlockQ8_0>(w, rows, K, flip, {lanes, out});
    case T::kQ4_0: return PackRows32<T::kQ4_0, BlockQ4_0>(w, rows, K, flip, {lanes, out});
    case T::kQ4_1: return PackRows32<T::kQ4_1, BlockQ4_1>(w, rows, K, flip, {lanes, out});
    case T::kQ5_0: return PackRows32<T::kQ5_0, BlockQ5_0>(w, rows, K, flip, {lanes, out});
    case T::kQ5_1: return PackRows32<T::kQ5_1, BlockQ5_1>(w, rows, K, flip, {lanes, out});
    case T::kQ4_K: return PackRows256<T::kQ4_K, BlockQ4_K>(w, rows, K, {lanes, out});
    case T::kQ5_K: return PackRows256<T::kQ5_K, BlockQ5_K>(w, rows, K, {lanes, out});
    case T::kQ6_K: return PackRows256<T::kQ6_K, BlockQ6_K>(w, rows, K, {lanes, out});
    default: HYDRA_CHECK(false, "panels hold quantised weights only");
  }
}

int64_t PackedBytes(WeightType type, int64_t rows, int64_t cols) {
  if (!IsQuantised(type)) return 0;
  HYDRA_CHECK(rows >= 0 && cols >= 0 && cols % Info(type).block == 0, Info(type).name, " [", rows, ", ", cols, "]");
  const int64_t lanes = Kernels().lanes;
  return (rows + lanes - 1) / lanes * LayoutOf(type, cols, lanes).bytes;
}

int64_t NarrowBytes(WeightType type, int64_t rows, int64_t cols) {
  HYDRA_CHECK(!IsQuantised(type) && rows >= 0 && cols >= 0, Info(type).name, " [", rows, ", ", cols, "]");
  return (rows + kNarrowRows - 1) / kNarrowRows * kNarrowRows * RowBytes(type, cols);
}

int64_t MatrixBytes(const Matrix& w) {
  if (!w.packed) return w.rows * RowBytes(w.type, w.cols);
  return IsQuantised(w.type) ? PackedBytes(w.type, w.rows, w.cols) : NarrowBytes(w.type, w.rows, w.cols);
}

namespace {

// One panel of up to 16 rows [rows, K] of T.
template <class T>
void PackNarrowPanel(const std::byte* w, int64_t rows, int64_t K, std::byte* out) {
  for (int64_t k = 0; k < K; ++k)
    for (int64_t r = 0; r < kNarrowRows; ++r, out += sizeof(T)) {
      T value{};
      if (r < rows) std::memcpy(&value, w + (r * K + k) * static_cast<int64_t>(sizeof(T)), sizeof(T));
      std::memcpy(out, &value, sizeof(T));
    }
}

}  // namespace

Matrix PackNarrow(const Matrix& rows, std::byte* out, ThreadPool& pool) {
  HYDRA_CHECK(!rows.packed && reinterpret_cast<uintptr_t>(out) % 64 == 0);
  const int64_t panels = (rows.rows + kNarrowRows - 1) / kNarrowRows, row_bytes = RowBytes(rows.type, rows.cols);
  const int64_t panel_bytes = NarrowBytes(rows.type, kNarrowRows, rows.cols);
  constexpr int64_t kPanelsOfTask = 8;
  pool.For((panels + kPanelsOfTask - 1) / kPanelsOfTask, [&](int64_t task, int) {
    for (int64_t p = task * kPanelsOfTask; p < std::min(panels, (task + 1) * kPanelsOfTask); ++p) {
      const std::byte* from = rows.data + p * kNarrowRows * row_bytes;
      const int64_t count = std::min(kNarrowRows, rows.rows - p * kNarrowRows);
      if (rows.type == WeightType::kF32)
        PackNarrowPanel<uint32_t>(from, count, rows.cols, out + p * panel_bytes);
      else
        PackNarrowPanel<uint16_t>(from, count, rows.cols, out + p * panel_bytes);
    }
  });
  Matrix packed = rows;
  packed.packed = true;
  packed.data = out;
  return packed;
}

Matrix Pack(const Matrix& rows, std::byte* out, ThreadPool& pool) {
  if (PackedBytes(rows.type, rows.rows, rows.cols) == 0) return rows;
  HYDRA_CHECK(!rows.packed && reinterpret_cast<uintptr_t>(out) % 64 == 0);
  const LevelKernels kernels = Kernels();
  const int64_t lanes = kernels.lanes, panel_bytes = LayoutOf(rows.type, rows.cols, lanes).bytes;
  const int64_t panels = (rows.rows + lanes - 1) / lanes, row_bytes = RowBytes(rows.type, rows.cols);
  constexpr int64_t kPanelsOfTask = 8;
  pool.For((panels + kPanelsOfTask - 1) / kPanelsOfTask, [&](int64_t task, int) {
    for (int64_t p = task * kPanelsOfTask; p < std::min(panels, (task + 1) * kPanelsOfTask); ++p)
      PackPanel(rows.type, rows.data + p * lanes * row_bytes, std::min(lanes, rows.rows - p * lanes), rows.cols, lanes,
                kernels.q8_flip, out + p * panel_bytes);
  });
  Matrix packed = rows;
  packed.packed = true;
  packed.data = out;
  return packed;
}

void DecodeMatrixRow(const Matrix& w, int64_t row, float* out) {
  HYDRA_CHECK(row >= 0 && row < w.rows, "row ", row, " of ", w.rows);
  if (!w.packed) return DecodeRow(w.type, w.data + row * RowBytes(w.type, w.cols), w.cols, out);
  if (!IsQuantised(w.type)) {
    const int64_t size = RowBytes(w.type, 1);
    const std::byte* at = w.data + (row / kNarrowRows * kNarrowRows * w.cols + row % kNarrowRows) * size;
    for (int64_t k = 0; k < w.cols; ++k) DecodeRow(w.type, at + k * kNarrowRows * size, 1, out + k);
    return;
  }
  const LevelKernels kernels = Kernels();
  const PanelLayout layout = LayoutOf(w.type, w.cols, kernels.lanes);
  const LaneReader reader{layout, row % kernels.lanes, w.data + row / kernels.lanes * layout.bytes};
  DecodeLane(w.type, reader, kernels.q8_flip, w.cols, out);
}

}  // namespace hydra::kernels
