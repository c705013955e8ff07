// SPDX-License-Identifier: Apache-2.0
// Loss curves of a profile, and its file.
#include "hydra/model/influence_profile.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/base/statistics.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/io/safetensors.h"

namespace hydra {
namespace {

constexpr const char* kProfileFormat = "hydralm-profile/1";
constexpr Estimator kEstimators[] = {Estimator::kJabs, Estimator::kJsgn, Estimator::kF};
constexpr int64_t kMostLength = int64_t{1} << 24;

std::string TensorName(int64_t N, Estimator estimator) {
  return StrCat("influence.", N, ".", EstimatorName(estimator));
}

}  // namespace

const char* EstimatorName(Estimator estimator) {
  constexpr const char* kNames[] = {"jabs", "jsgn", "f"};
  return kNames[static_cast<int>(estimator)];
}

Estimator ParseEstimator(const std::string& name, const std::string& where) {
  for (const Estimator estimator : kEstimators)
    if (name == EstimatorName(estimator)) return estimator;
  throw Error(ErrorCode::kUsage, StrCat(where, " ", OneLine(name, 40), ": must be jabs, jsgn or f"));
}

std::vector<double>& InfluenceProfile::Length::of(Estimator estimator) {
  return estimator == Estimator::kJabs ? jabs : estimator == Estimator::kJsgn ? jsgn : f;
}
const std::vector<double>& InfluenceProfile::Length::of(Estimator estimator) const {
  return estimator == Estimator::kJabs ? jabs : estimator == Estimator::kJsgn ? jsgn : f;
}

int64_t InfluenceProfile::Blocks(int64_t N) const { return (N + dense.block_size - 1) / dense.block_size; }

InfluenceProfile::Length InfluenceProfile::Empty(int64_t N) const {
  const auto n = static_cast<size_t>(2 * dense.model.n_layers * dense.model.n_heads * Blocks(N));
  Length out;
  for (const Estimator estimator : kEstimators) out.of(estimator).assign(n, 0);
  return out;
}

int64_t InfluenceProfile::At(int64_t half, int layer, int64_t head, int64_t N) const {
  return ((half * dense.model.n_layers + layer) * dense.model.n_heads + head) * Blocks(N);
}

std::vector<double> InfluenceProfile::Curve(Estimator estimator, int64_t N, int layer, int64_t head,
                                            ProfileHalf half) const {
  const auto found = lengths.find(N);
  HYDRA_CHECK(found != lengths.end(), "no length ", N);
  const int64_t nb = Blocks(N), first = half == ProfileHalf::kOdd ? 1 : 0, last = half == ProfileHalf::kEven ? 0 : 1;
  std::vector<double> curve(static_cast<size_t>(nb + 1));
  int64_t items = 0;
  for (int64_t h = first; h <= last; ++h) {
    const double* from = found->second.of(estimator).data() + At(h, layer, head, N);
    for (int64_t m = 0; m < nb; ++m) curve[static_cast<size_t>(m)] += from[m];
    items += found->second.items[static_cast<size_t>(h)];
  }
  if (estimator == Estimator::kF)  // of bins; what is masked are all from m on
    for (int64_t m = nb - 1; m >= 0; --m) curve[static_cast<size_t>(m)] += curve[static_cast<size_t>(m + 1)];
  for (double& loss : curve) loss /= static_cast<double>(std::max<int64_t>(items, 1));
  const int64_t window = dense.layers[static_cast<size_t>(layer)].window;
  for (int64_t m = 0; m <= nb && window > 0; ++m)
    if (m * dense.block_size >= window) curve[static_cast<size_t>(m)] = 0;
  return curve;
}

std::vector<double> InfluenceProfile::UnitCurve(Estimator estimator, int64_t N, int layer, int64_t kv_head,
                                                ProfileHalf half) const {
  const int64_t group = dense.model.n_heads / dense.model.n_kv_heads;
  std::vector<double> sum = Curve(estimator, N, layer, kv_head * group, half);
  for (int64_t h = kv_head * group + 1; h < (kv_head + 1) * group; ++h) {
    const std::vector<double> one = Curve(estimator, N, layer, h, half);
    for (size_t m = 0; m < sum.size(); ++m) sum[m] += one[m];
  }
  return sum;
}

double InfluenceProfile::HalfCorrelation(Estimator estimator, int64_t N) const {
  const Length& of_length = lengths.at(N);
  if (of_length.items[0] == 0 || of_length.items[1] == 0) return std::nan("");
  std::vector<double> even, odd;
  for (int layer = 0; layer < static_cast<int>(dense.layers.size()); ++layer) {
    const LayerPlan& l = dense.layers[static_cast<size_t>(layer)];
    // A window of at least one block is always seen, and nothing is masked from the widest one on.
    const int64_t most = (dense.DenseSpan(layer, N) - l.n_sinks + dense.block_size - 1) / dense.block_size;
    for (int64_t kv = 0; kv < dense.model.n_kv_heads && !l.rules.empty(); ++kv) {
      const std::vector<double> a = UnitCurve(estimator, N, layer, kv, ProfileHalf::kEven);
      const std::vector<double> b = UnitCurve(estimator, N, layer, kv, ProfileHalf::kOdd);
      even.insert(even.end(), a.begin() + 1, a.begin() + most);
      odd.insert(odd.end(), b.begin() + 1, b.begin() + most);
    }
  }
  return Spearman(even, odd);
}

void InfluenceProfile::Save(const std::string& path) const {
  std::vector<std::string> names;
  std::vector<TensorView> views;
  Json listed = Json::object();
  names.reserve(3 * lengths.size());
  for (const auto& [N, of_length] : lengths) {
    for (const Estimator estimator : {Estimator::kF, Estimator::kJabs, Estimator::kJsgn}) {
      const std::vector<double>& values = of_length.of(estimator);
      names.push_back(TensorName(N, estimator));
      views.push_back({names.back(),
                       DType::kF64,
                       {2, dense.model.n_layers, dense.model.n_heads, Blocks(N)},
                       reinterpret_cast<const std::byte*>(values.data()),
                       static_cast<int64_t>(values.size() * sizeof(double))});
    }
    listed[std::to_string(N)] = {{"items", of_length.items},
                                 {"losses", of_length.losses},
                                 {"ids", of_length.ids},
                                 {"guarded", of_length.guarded}};
  }
  WriteSafeTensors(path, views,
                   {{"format", kProfileFormat},
                    {"model", dense.Text()},
                    {"items_sha256", items_sha256},
                    {"lengths", listed.dump()}});
}

namespace {

const std::string& NeedMeta(const SafeTensors& file, const char* key) {
  const auto it = file.metadata().find(key);
  if (it == file.metadata().end())
    throw Error(ErrorCode::kFormat, StrCat(file.path(), ": __metadata__.", key, " is missing: no profile"));
  return it->second;
}

void ReadLength(const SafeTensors& file, const Json& json, int64_t N, InfluenceProfile* profile) {
  const std::string where = StrCat(file.path(), ": __metadata__.lengths.", N);
  InfluenceProfile::Length length = profile->Empty(N);
  std::vector<int64_t> items;
  for (const char* key : {"items", "losses", "ids", "guarded"})
    if (!json.is_object() || !json.contains(key))
      throw Error(ErrorCode::kFormat, StrCat(where, ".", key, " is missing"));
  ReadJson(json["items"], where + ".items", &items);
  ReadJson(json["losses"], where + ".losses", &length.losses);
  ReadJson(json["ids"], where + ".ids", &length.ids);
  ReadJson(json["guarded"], where + ".guarded", &length.guarded);
  const auto count = static_cast<int64_t>(length.ids.size());
  if (items.size() != 2 || items[0] != (count + 1) / 2 || items[1] != count / 2 ||
      length.losses.size() != length.ids.size())
    throw Error(ErrorCode::kFormat, StrCat(where, ".items = ", JsonExcerpt(json["items"]),
                                           ": must be the even and odd of ", count, " items, each with a loss"));
  length.items = {items[0], items[1]};
  const std::vector<int64_t> shape{2, profile->dense.model.n_layers, profile->dense.model.n_heads, profile->Blocks(N)};
  for (const Estimator estimator : kEstimators) {
    const TensorView& tensor = file.Get(TensorName(N, estimator));
    if (tensor.dtype != DType::kF64 || tensor.shape != shape)
      throw Error(ErrorCode::kFormat, StrCat(file.path(), ": ", tensor.name, ": must be F64 [2, ", shape[1], ", ",
                                             shape[2], ", ", shape[3], "]"));
    std::vector<double>& to = length.of(estimator);
    std::memcpy(to.data(), tensor.data, to.size() * sizeof(double));
    if (!std::ranges::all_of(to, [](double x) { return std::isfinite(x); }))
      throw Error(ErrorCode::kFormat, StrCat(file.path(), ": ", tensor.name, ": a number of it is not finite"));
  }
  profile->lengths[N] = std::move(length);
}

}  // namespace

InfluenceProfile InfluenceProfile::Load(const std::string& path) {
  const SafeTensors file = SafeTensors::Open(path);
  if (NeedMeta(file, "format") != kProfileFormat)
    throw Error(ErrorCode::kFormat, StrCat(path, ": format = \"", OneLine(NeedMeta(file, "format"), 60),
                                           "\": must be \"", kProfileFormat, "\""));
  InfluenceProfile profile;
  profile.dense = AttentionPlan::Parse(NeedMeta(file, "model"), path + ": __metadata__.model");
  profile.items_sha256 = NeedMeta(file, "items_sha256");
  const std::string where = path + ": __metadata__.lengths";
  const Json listed = ParseJson(NeedMeta(file, "lengths"), where);
  if (!listed.is_object()) throw Error(ErrorCode::kFormat, where + ": must be an object");
  for (const auto& [key, value] : listed.items()) {
    const bool digits = !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == std::string::npos;
    const int64_t N = digits ? std::stoll(key) : 0;
    if (N < 1 || N > kMostLength)
      throw Error(ErrorCode::kFormat, StrCat(where, ".", OneLine(key, 40), ": must be a length in tokens"));
    ReadLength(file, value, N, &profile);
  }
  return profile;
}

}  // namespace hydra
