// SPDX-License-Identifier: Apache-2.0
// Every kernel in one list: arguments at random, the SIMD form, the scalar twin, how close the two must be, and what a
// call costs. kernel_list_test.cc walks it on every SIMD level; bench/ops.cc and bench/kernels.cc measure it. For tests
// and benchmarks only. Not here: edges that no random case meets (ops_rows_test.cc and its neighbours).
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hydra/base/thread_pool.h"
#include "hydra/tensor/dtype.h"

namespace hydra::kernels {

inline constexpr float kUntouched = -12345.5f;  // fills what a kernel must not write

// `n` numbers of mean 0.
[[nodiscard]] std::vector<float> Normals(int64_t n, uint64_t seed, double deviation = 1);

// Half the distance of 1 to the next larger number.
inline double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kF16: return std::ldexp(1.0, -11);
    case DType::kBF16: return std::ldexp(1.0, -8);
    case DType::kF64: return std::ldexp(1.0, -53);
    default: return std::ldexp(1.0, -24);
  }
}

// A sum of `terms` products in any order, each rounded to `dtype`: the error is at most (terms + 1) roundoffs of
// `scale`, the sum of the terms' absolute values (or a bound of it).
inline double Tolerance(DType dtype, int64_t terms, double scale) {
  return static_cast<double>(terms + 1) * UnitRoundoff(dtype) * scale;
}
inline constexpr int64_t kSameBits = -1;  // terms of what must be equal: the tolerance is 0

// An array that a call writes. Ids and rounded numbers lie in it as bytes, and are compared as the f32 of `decode`.
struct Written {
  std::string name;
  std::vector<float> before;  // what it holds before the call: kUntouched where it may be written or must not be
  int64_t terms = 0;          // of the longest sum, and the roundings around it
  double scale = 0;           // as for Tolerance; 0: the largest number that the twin writes in this call, 1 at least
  int64_t own = 0;            // roundoffs of each number itself, added
};
using Arrays = std::vector<std::vector<float>>;  // what one call writes, in the order of KernelCase::written

// What bounds the speed of a product: f32, or int8 dot products with weights of 4 to 6 or of 8 bits.
enum class Arithmetic { kF32, kBf16, kInt4, kInt8 };

// One call with arguments of its own. Calls of a case with different arrays do not know of each other.
struct KernelCase {
  std::string text;  // sizes and options
  std::vector<Written> written;
  std::function<void(ThreadPool&)> prepare;        // for the level in use, before the calls; may be empty
  std::function<void(Arrays&, ThreadPool&)> simd;  // most run on the calling thread and leave the pool alone
  std::function<void(Arrays&)> ref;
  std::function<void(Arrays&)> decode;  // after a call: bytes that it wrote become numbers; may be empty
  double flop = 0, bytes = 0;           // of a call: arithmetic; memory read and written. 0: not said
  Arithmetic arithmetic = Arithmetic::kF32;
  bool by_level = false;  // the twin rounds as the level in use does

  [[nodiscard]] Arrays Before() const;
};

// Bytes as an array holds them, and back.
[[nodiscard]] std::vector<float> FromBytes(const std::vector<std::byte>& bytes);
template <class T>
T* As(std::vector<float>& array) {
  return reinterpret_cast<T*>(array.data());
}

// What is wrong with `got`, in one line: the first number that is too far from `want`, NaN among them; "" if nothing.
[[nodiscard]] std::string Difference(const KernelCase& c, const Arrays& want, const Arrays& got);
// How far the numbers of written[i] may be from `want`, but for what `own` adds.
[[nodiscard]] double ToleranceOf(const KernelCase& c, const Arrays& want, size_t i);

// A case of the benchmark, at a size that models have.
struct BenchCase {
  std::string name;  // "rms_norm"
  std::function<KernelCase(uint64_t seed)> make;
  bool cold = false;  // what it reads comes from memory: several cases or arrays in turn leave the cache
};

struct Kernel {
  std::string name;                // of its function
  std::vector<std::string> forms;  // dtypes and options that are tested at every size
  int64_t max_size;                // of EdgeSizes (testing.h)
  std::function<KernelCase(size_t form, int64_t size, uint64_t seed)> at_random;
  std::vector<BenchCase> bench;
};

[[nodiscard]] std::vector<Kernel> KernelList();

// The parts of the list, each in a file of its name.
[[nodiscard]] std::vector<Kernel> RowKernels();         // kernel_list_rows.cc
[[nodiscard]] std::vector<Kernel> SsmKernels();         // kernel_list_ssm.cc
[[nodiscard]] std::vector<Kernel> AttentionKernels();   // kernel_list_attention.cc
[[nodiscard]] std::vector<Kernel> MatMulKernels();      // kernel_list_matmul.cc
[[nodiscard]] std::vector<Kernel> BlockFfnKernels();    // kernel_list_blockffn.cc
[[nodiscard]] std::vector<Kernel> TrainKernels();       // kernel_list_train.cc
[[nodiscard]] std::vector<Kernel> MambaTrainKernels();  // kernel_list_mamba.cc
[[nodiscard]] std::vector<Kernel> InfluenceKernels();   // kernel_list_influence.cc

// ---- What the parts share ----

// The largest absolute value; kUntouched and what is not finite are left out.
[[nodiscard]] double MaxAbs(const std::vector<float>& x);
// An array of which nothing may be read before it is written.
[[nodiscard]] std::vector<float> Blank(int64_t n);

// Fills in the two calls of a kernel with one args struct: args(arrays) makes it.
template <class MakeArgs, class Args>
void SetCalls(KernelCase& c, MakeArgs args, void (*simd)(const Args&), void (*ref)(const Args&)) {
  c.simd = [=](Arrays& out, ThreadPool&) { simd(args(out)); };
  c.ref = [=](Arrays& out) { ref(args(out)); };
}

}  // namespace hydra::kernels
