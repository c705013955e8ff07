// SPDX-License-Identifier: Apache-2.0
// The list's order, and how what a kernel wrote is compared with its twin. Not here: the kernels' cases, which are in
// kernel_list_rows.cc and its neighbours.
#include "hydra/kernels/kernel_list.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "hydra/base/error.h"
#include "hydra/base/rng.h"

namespace hydra::kernels {

std::vector<Kernel> KernelList() {
  std::vector<Kernel> list;
  const auto add = [&](std::vector<Kernel> part) { std::ranges::move(part, std::back_inserter(list)); };
  add(RowKernels());
  add(SsmKernels());
  add(AttentionKernels());
  add(MatMulKernels());
  add(BlockFfnKernels());
  add(TrainKernels());
  add(MambaTrainKernels());
  add(InfluenceKernels());
  return list;
}

Arrays KernelCase::Before() const {
  Arrays arrays;
  for (const Written& w : written) arrays.push_back(w.before);
  return arrays;
}

double ToleranceOf(const KernelCase& c, const Arrays& want, size_t i) {
  const Written& w = c.written[i];
  double scale = w.scale;
  if (scale == 0) {
    scale = 1;
    for (const std::vector<float>& array : want) scale = std::max(scale, MaxAbs(array));
  }
  return Tolerance(DType::kF32, w.terms, scale);
}

namespace {
constexpr double kSubnormal = 2e-38;  // smaller numbers may be 0
}  // namespace

std::string Difference(const KernelCase& c, const Arrays& want, const Arrays& got) {
  HYDRA_CHECK(want.size() == c.written.size() && got.size() == want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    HYDRA_CHECK(want[i].size() == got[i].size());
    const double of_all = ToleranceOf(c, want, i), of_own = static_cast<double>(c.written[i].own);
    for (size_t at = 0; at < want[i].size(); ++at) {
      const double w = want[i][at], g = got[i][at];
      double tolerance = of_all + (of_own > 0 ? of_own * UnitRoundoff(DType::kF32) * std::abs(w) + kSubnormal : 0);
      if (want[i][at] == kUntouched) tolerance = 0;
      if (w == g || std::abs(w - g) <= tolerance) continue;  // NaN is never close
      return StrCat(c.written[i].name, "[", at, "] of ", want[i].size(), ": want ", w, ", got ", g, ", tolerance ",
                    tolerance);
    }
  }
  return "";
}

std::vector<float> Normals(int64_t n, uint64_t seed, double deviation) {
  Rng rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = static_cast<float>(deviation * rng.Normal());
  return x;
}

std::vector<float> FromBytes(const std::vector<std::byte>& bytes) {
  std::vector<float> array((bytes.size() + 3) / 4);
  if (!bytes.empty()) std::memcpy(array.data(), bytes.data(), bytes.size());
  return array;
}

double MaxAbs(const std::vector<float>& x) {
  double max = 0;
  for (const float v : x)
    if (v != kUntouched && std::isfinite(v)) max = std::max(max, std::abs(double{v}));
  return max;
}

std::vector<float> Blank(int64_t n) { return std::vector<float>(static_cast<size_t>(n), kUntouched); }

}  // namespace hydra::kernels
