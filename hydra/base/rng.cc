// SPDX-License-Identifier: Apache-2.0
// xoshiro256**, SplitMix64 and the Feistel permutation.
#include "hydra/base/rng.h"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <numbers>

#include "hydra/base/error.h"

namespace hydra {

uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

Rng::Rng(uint64_t seed, uint64_t stream) {
  uint64_t x = Mix64(seed) ^ Mix64(~stream);
  for (uint64_t& word : state_) word = x = Mix64(x);
  state_[3] |= state_ == State{} ? 1 : 0;  // all zero is the one state that xoshiro cannot leave
}

uint64_t Rng::operator()() {
  State& s = state_;
  const uint64_t result = std::rotl(s[1] * 5, 7) * 9;
  const uint64_t t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = std::rotl(s[3], 45);
  return result;
}

uint64_t Rng::Below(uint64_t n) {
  HYDRA_CHECK(n > 0, "Below(0)");
  __extension__ using U128 = unsigned __int128;
  U128 product = U128{(*this)()} * n;
  if (static_cast<uint64_t>(product) < n) {
    const uint64_t threshold = -n % n;  // 2^64 mod n: so many low parts would make some results likelier
    while (static_cast<uint64_t>(product) < threshold) product = U128{(*this)()} * n;
  }
  return static_cast<uint64_t>(product >> 64);
}

double Rng::Uniform() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }
float Rng::UniformF() { return static_cast<float>((*this)() >> 40) * 0x1p-24f; }

double Rng::Normal() {
  const double u = 1.0 - Uniform();  // (0, 1]: the logarithm is finite
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * Uniform());
}

void Rng::set_state(const State& state) {
  HYDRA_CHECK(state != State{}, "the state of all zeros");
  state_ = state;
}

std::string Rng::Text() const {
  return fmt::format("{:016x}{:016x}{:016x}{:016x}", state_[0], state_[1], state_[2], state_[3]);
}

Rng Rng::Parse(std::string_view text, std::string_view where) {
  const auto fail = [&](const char* rule) -> Error {
    return Error(ErrorCode::kFormat, fmt::format("{}: \"{}\": {}", where, text.substr(0, 80), rule));
  };
  if (text.size() != 64) throw fail("a generator's state must have 64 hexadecimal digits");
  Rng rng;
  for (size_t i = 0; i < 4; ++i) {
    const char* const end = text.data() + 16 * (i + 1);
    const auto [at, error] = std::from_chars(end - 16, end, rng.state_[i], 16);
    if (error != std::errc() || at != end) throw fail("a generator's state must have 64 hexadecimal digits");
  }
  if (rng.state_ == State{}) throw fail("a generator's state must not be all zeros");
  return rng;
}

Permutation::Permutation(uint64_t n, uint64_t seed) : n_(n) {
  while (half_bits_ < 32 && (uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
  for (size_t round = 0; round < keys_.size(); ++round) keys_[round] = Mix64(seed ^ Mix64(round + 1));
}

uint64_t Permutation::operator()(uint64_t i) const {
  HYDRA_CHECK(i < n_, "index ", i, " of a permutation of ", n_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  do {
    uint64_t left = i >> half_bits_, right = i & mask;
    for (const uint64_t key : keys_) {
      const uint64_t mixed = left ^ (Mix64(right ^ key) & mask);
      left = right;
      right = mixed;
    }
    i = (left << half_bits_) | right;
  } while (i >= n_);
  return i;
}

}  // namespace hydra
