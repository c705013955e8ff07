// SPDX-License-Identifier: Apache-2.0
// The guards' arithmetic and their saved state.
#include "hydra/train/guard.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hydra/base/error.h"

namespace hydra::train {
namespace {

// Of the logarithm of gradient norms: with 6 deviations no norm below 4.5 times the usual one is an outlier. The norms
// of hydra-nano differ by a tenth for hundreds of steps, then a few come with twice to four times the size.
constexpr double kLeastLogDeviation = 0.25;

}  // namespace

const char* CauseName(Guard::Cause cause) {
  switch (cause) {
    case Guard::Cause::kNone: return "none";
    case Guard::Cause::kNonFiniteLoss: return "loss not finite";
    case Guard::Cause::kNonFiniteGrad: return "gradient not finite";
    case Guard::Cause::kLossOutlier: return "loss outlier";
    case Guard::Cause::kGradOutlier: return "gradient outlier";
  }
  return "";
}

bool Guard::IsOutlier(const std::vector<double>& history, double value, bool logarithms, double* mean,
                      double* deviation) const {
  if (config_.sigma <= 0 || static_cast<int64_t>(history.size()) < config_.window) return false;
  // A norm of 0 has no logarithm; it is no outlier in any case.
  const auto judged = [logarithms](double x) {
    return logarithms ? std::log(std::max(x, std::numeric_limits<double>::min())) : x;
  };
  const double n = static_cast<double>(history.size());
  double sum = 0, squares = 0;
  for (const double x : history) sum += judged(x);
  *mean = sum / n;
  for (const double x : history) squares += (judged(x) - *mean) * (judged(x) - *mean);
  *deviation = std::max(std::sqrt(squares / n), logarithms ? kLeastLogDeviation : 0.0);
  return judged(value) > *mean + config_.sigma * *deviation;
}

void Guard::Remember(std::vector<double>& history, double value) const {
  if (config_.sigma <= 0) return;
  history.push_back(value);
  if (static_cast<int64_t>(history.size()) > config_.window) history.erase(history.begin());
}

Guard::Decision Guard::Check(int64_t step, double loss, double grad_norm) {
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) {
    ++nonfinite_;
    ++streak_;
    const bool bad_loss = !std::isfinite(loss);
    Decision decision{Verdict::kSkip, bad_loss ? Cause::kNonFiniteLoss : Cause::kNonFiniteGrad,
                      StrCat(bad_loss ? "loss" : "gradient norm", " is ", bad_loss ? loss : grad_norm)};
    if (config_.nonfinite_stop > 0 && streak_ >= config_.nonfinite_stop) decision.verdict = Verdict::kStop;
    return decision;
  }
  streak_ = 0;
  double mean = 0, deviation = 0;
  const bool loss_high = IsOutlier(losses_, loss, false, &mean, &deviation);
  const bool norm_high = !loss_high && IsOutlier(norms_, grad_norm, true, &mean, &deviation);
  if ((loss_high || norm_high) &&
      static_cast<double>(outliers_ + 1) <= config_.max_skip_share * static_cast<double>(step + 1)) {
    ++outliers_;
    const std::string of_window = StrCat(" of the last ", config_.window, " steps");
    if (loss_high)
      return {Verdict::kSkip, Cause::kLossOutlier,
              StrCat("loss ", loss, " above ", mean, " + ", config_.sigma, " * ", deviation, of_window)};
    return {Verdict::kSkip, Cause::kGradOutlier,
            StrCat("gradient norm ", grad_norm, " above ", std::exp(mean), " * exp(", config_.sigma, " * ", deviation,
                   ")", of_window)};
  }
  Remember(losses_, loss);
  Remember(norms_, grad_norm);
  return {};
}

bool Guard::CheckValidation(int64_t step, double loss) {
  if (std::isfinite(loss) && (best_step_ < 0 || loss < best_val_)) {
    best_val_ = loss;
    best_step_ = step;
    rises_ = 0;
    return false;
  }
  // A loss that is not finite is a rise, too.
  const bool risen = !std::isfinite(loss) || loss > best_val_ + config_.val_rise;
  rises_ = risen ? rises_ + 1 : 0;
  return config_.val_rise > 0 && config_.val_times > 0 && best_step_ >= 0 && rises_ >= config_.val_times;
}

nlohmann::ordered_json Guard::Save() const {
  return {{"losses", losses_},     {"norms", norms_},         {"nonfinite", nonfinite_},
          {"outliers", outliers_}, {"empty", empty_},         {"streak", streak_},
          {"best_val", best_val_}, {"best_step", best_step_}, {"rises", rises_}};
}

void Guard::Load(const nlohmann::ordered_json& json, const std::string& where) {
  const auto read = [&](const char* key, auto* out) {
    if (!json.is_object() || !json.contains(key)) throw Error(ErrorCode::kFormat, StrCat(where, ".", key, ": missing"));
    ReadJson(json[key], StrCat(where, ".", key), out);
  };
  Guard loaded(config_);
  read("losses", &loaded.losses_);
  read("norms", &loaded.norms_);
  read("nonfinite", &loaded.nonfinite_);
  read("outliers", &loaded.outliers_);
  if (json.contains("empty")) read("empty", &loaded.empty_);
  read("streak", &loaded.streak_);
  read("best_val", &loaded.best_val_);
  read("best_step", &loaded.best_step_);
  read("rises", &loaded.rises_);
  if (loaded.losses_.size() != loaded.norms_.size())
    throw Error(ErrorCode::kFormat,
                StrCat(where, ".norms: ", loaded.norms_.size(), " values, losses has ", loaded.losses_.size()));
  // A window that was made smaller keeps the newest.
  for (std::vector<double>* history : {&loaded.losses_, &loaded.norms_}) {
    const auto window = static_cast<size_t>(config_.sigma > 0 ? config_.window : 0);
    if (history->size() > window)
      history->erase(history->begin(), history->end() - static_cast<std::ptrdiff_t>(window));
  }
  *this = std::move(loaded);
}

}  // namespace hydra::train
