// SPDX-License-Identifier: Apache-2.0
// Corpora in turn.
#include "hydra/train/row_mix.h"

#include <algorithm>
#include <numeric>

#include "hydra/base/error.h"

namespace hydra::train {

RowMix::RowMix(std::vector<std::pair<std::string, Corpus>> corpora, const PackingOptions& options) {
  HYDRA_CHECK(!corpora.empty());
  for (auto& [name, corpus] : corpora) {
    names_.push_back(name);
    packers_.emplace_back(std::move(corpus), options);
  }
  given_.assign(packers_.size(), 0);
  GoOn({});
}

void RowMix::GoOn(const std::vector<std::pair<std::string, double>>& shares) {
  shares_.assign(packers_.size(), 0);
  if (shares.empty()) shares_[0] = 1;
  for (const auto& [name, share] : shares) {
    const auto at = std::ranges::find(names_, name);
    if (at == names_.end()) throw Error(ErrorCode::kUsage, StrCat("data: \"", name, "\": no such corpus was opened"));
    shares_[static_cast<size_t>(at - names_.begin())] += share;
  }
}

void RowMix::Begin(const std::vector<std::pair<std::string, double>>& shares) {
  given_.assign(packers_.size(), 0);
  GoOn(shares);
}

PackedRow RowMix::Next(int64_t row_len) {
  const auto rows = static_cast<double>(std::accumulate(given_.begin(), given_.end(), int64_t{1}));
  size_t chosen = 0;
  double most = 0;
  for (size_t i = 0; i < packers_.size(); ++i) {
    const double behind = shares_[i] * rows - static_cast<double>(given_[i]);
    if (shares_[i] > 0 && behind > most) most = behind, chosen = i;
  }
  ++given_[chosen];
  return {&packers_[chosen].corpus(), packers_[chosen].Next(row_len)};
}

RowMix::Position RowMix::position() const {
  Position position{{}, given_};
  for (const RowPacker& packer : packers_) position.corpora.push_back(packer.position());
  return position;
}

void RowMix::set_position(const Position& position) {
  HYDRA_CHECK(position.corpora.size() == packers_.size() && position.given.size() == packers_.size());
  for (size_t i = 0; i < packers_.size(); ++i) packers_[i].set_position(position.corpora[i]);
  given_ = position.given;
}

Json ToJson(const RowMix::Position& position) {
  if (position.corpora.size() == 1) return ToJson(position.corpora[0]);
  Json corpora = Json::array();
  for (const RowPacker::Position& one : position.corpora) corpora.push_back(ToJson(one));
  return {{"corpora", corpora}, {"given", position.given}};
}

RowMix::Position PositionFromJson(const Json& json, const std::string& where, const RowMix& mix) {
  const std::vector<RowPacker>& packers = mix.packers();
  if (packers.size() == 1) return {{PositionFromJson(json, where, packers[0].corpus())}, {0}};
  RowMix::Position position;
  for (const char* key : {"corpora", "given"})
    if (!json.is_object() || !json.contains(key) || !json[key].is_array() || json[key].size() != packers.size())
      throw Error(ErrorCode::kFormat,
                  StrCat(where, ".", key, ": must be a list of ", packers.size(), ", one for each corpus of the run"));
  ReadJson(json["given"], where + ".given", &position.given);
  for (const int64_t given : position.given)
    if (given < 0) throw Error(ErrorCode::kFormat, StrCat(where, ".given: ", given, ": must be >= 0"));
  for (size_t i = 0; i < packers.size(); ++i)
    position.corpora.push_back(
        PositionFromJson(json["corpora"][i], StrCat(where, ".corpora[", i, "]"), packers[i].corpus()));
  return position;
}

}  // namespace hydra::train
