// SPDX-License-Identifier: Apache-2.0
// Products with stored weights, y = W x: matrix-vector for few rows of x, blocked matrix-matrix for many.
// Scalar twins are in namespace ref (matmul_ref.cc). Not here: attention, scans, norms (ops.h).
// Dims: N outputs (rows of W), K inputs (columns of W), T rows of x (tokens).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "hydra/base/thread_pool.h"
#include "hydra/tensor/weight_type.h"

namespace hydra::kernels {

// How activations enter products with quantised weights.
enum class ActType {
  kF32,   // weights are widened; sums in f32
  kQ8,    // x is rounded to int8 in blocks of 32 with an f32 scale; int8 dot products. Float weights: bf16 ones as with
          // kBF16, others as with kF32
  kBF16,  // where the level has dot products of bf16 (HasBf16Dots), x and W are rounded to bf16 and sums are f32, but
          // for float weights times few rows of x; elsewhere as kF32
};

// A weight matrix as the products read it. It does not own the bytes.
struct Matrix {
  WeightType type = WeightType::kF32;
  bool packed = false;         // in panels (Pack, PackNarrow), else rows as files hold them
  int64_t rows = 0, cols = 0;  // N, K
  const std::byte* data = nullptr;
  [[nodiscard]] bool empty() const { return data == nullptr; }
};

// Bytes of W in panels for the current target; 0 where rows are as good (then nothing is packed).
[[nodiscard]] int64_t PackedBytes(WeightType type, int64_t rows, int64_t cols);
// Copies rows into panels; `out` has PackedBytes, 64-byte aligned. The values are the same to the bit.
[[nodiscard]] Matrix Pack(const Matrix& rows, std::byte* out, ThreadPool& pool);
// The same for float weights of few columns, such as one expert's half of a feed-forward: panels of 16 rows, column by
// column, of whose products with few tokens the sums stay in the lanes. Equal on every target. `out` has NarrowBytes,
// 64-byte aligned.
[[nodiscard]] int64_t NarrowBytes(WeightType type, int64_t rows, int64_t cols);
[[nodiscard]] Matrix PackNarrow(const Matrix& rows, std::byte* out, ThreadPool& pool);
// Bytes of W as products read them.
[[nodiscard]] int64_t MatrixBytes(const Matrix& w);
// Row i of W as f32, packed or not. out [K]
void DecodeMatrixRow(const Matrix& w, int64_t row, float* out);

// y[y_row(t), n] (+)= row_scale[t] * f(sum_k W[n, k] x[x_row(t), k] + bias[n]), f = SiLU where asked for.
// The sum's order depends on K and the target only, for T <= kSmallBatch and for the first `steps` rows (so a
// sequence's numbers do not depend on its batch), and never on the thread count.
inline constexpr int64_t kSmallBatch = 32;
struct MatMulArgs {
  Matrix w;                  // [N, K]
  const float* x = nullptr;  // [*, K]
  float* y = nullptr;        // [*, N]; must not alias x
  int64_t T = 0;
  int64_t x_stride = 0, y_stride = 0;  // floats from row to row; 0 = K, N
  const int32_t* x_rows = nullptr;     // [T] row of x for each t; null: t
  const int32_t* y_rows = nullptr;     // [T] row of y for each t, all different; null: t
  const float* row_scale = nullptr;    // [T]; null: 1
  const float* bias = nullptr;         // [N]; null: 0
  bool accumulate = false;             // += instead of =
  bool silu = false;                   // not with accumulate
  bool f32 = false;                    // nothing is rounded to bf16, whatever the type of activations
  int64_t steps = 0;                   // the first `steps` rows get the bits of T = 1, however many there are
  int owner = 0;                       // whose time a profile counts it as
};

inline constexpr int64_t kStreams = 4;

// What one machine does faster than another with few rows of x (at most kSmallBatch), where W comes from memory. No
// choice moves a bit of a result.
struct Tuning {
  int64_t ahead = 0;    // bytes between what is used and what is asked for of W; 0: the processor's own reading ahead
  int64_t streams = 1;  // places of W that a thread reads side by side for one row of x: 1, or kStreams
  int threads = 0;      // that take part; 0: all of the pool
  bool operator==(const Tuning&) const = default;
};

// Where the time of tasks is added up; no data: nowhere.
struct TaskTimes {
  double* seconds = nullptr;  // [threads, owners]
  int owners = 0;
};

// How products are computed.
struct MatMulOptions {
  MatMulOptions(ActType act, const Tuning& tuning = {}, const TaskTimes& times = {})  // NOLINT: a type alone will do
      : act(act), tuning(tuning), times(times) {}
  ActType act;
  Tuning tuning;
  TaskTimes times;
};

// Working memory of products: grows to the largest call, then never again. One for each concurrent caller.
class MatMulScratch {
 public:
  MatMulScratch();
  ~MatMulScratch();
  MatMulScratch(MatMulScratch&&) noexcept;
  MatMulScratch& operator=(MatMulScratch&&) noexcept;
  [[nodiscard]] int64_t bytes() const;
  struct Data;
  [[nodiscard]] Data& data() { return *data_; }

 private:
  std::unique_ptr<Data> data_;
};

// All maps in one region (few rows; more for T > kSmallBatch). Maps may share x (it is rounded once) and may share y:
// then each row of y gets their terms in the order of the list, whatever the thread count.
void MatMul(std::span<const MatMulArgs> maps, const MatMulOptions& options, ThreadPool& pool, MatMulScratch& scratch);
inline void MatMul(const MatMulArgs& map, const MatMulOptions& options, ThreadPool& pool, MatMulScratch& scratch) {
  MatMul({&map, 1}, options, pool, scratch);
}

namespace ref {
// Sums in double, one thread. With kQ8 and kBF16, x and W are rounded as the fast one rounds them.
void MatMul(const MatMulArgs& map, ActType act);
}  // namespace ref

}  // namespace hydra::kernels
