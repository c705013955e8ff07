// SPDX-License-Identifier: Apache-2.0
// Random numbers whose whole state can be saved and restored, and permutations by index. The same on every machine.
// Not here: torch's generators (hydra/train saves those beside these). Not for secrets.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace hydra {

// One step of SplitMix64, a good mixer of 64 bits: spreads seeds, hashes indices.
[[nodiscard]] uint64_t Mix64(uint64_t x);

// xoshiro256** (Blackman and Vigna, 2018); period 2^256 - 1. A UniformRandomBitGenerator. Not thread-safe: one a
// thread, with different streams.
class Rng {
 public:
  using State = std::array<uint64_t, 4>;
  using result_type = uint64_t;

  // Generators with the same seed and different streams are unrelated.
  explicit Rng(uint64_t seed, uint64_t stream = 0);

  uint64_t operator()();
  // An integer of [0, n), n > 0, each equally likely (Lemire's rejection, no modulo bias).
  uint64_t Below(uint64_t n);
  // [0, 1), 53 random bits; and its float twin, 24 bits.
  double Uniform();
  float UniformF();
  // Mean 0, deviation 1 (Box-Muller; nothing is kept between calls, so the state is the four words alone).
  double Normal();

  [[nodiscard]] const State& state() const { return state_; }
  void set_state(const State& state);

  // The state as 64 hexadecimal digits, and back; Parse throws kFormat on anything else (`where` names the field).
  [[nodiscard]] std::string Text() const;
  [[nodiscard]] static Rng Parse(std::string_view text, std::string_view where);

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return UINT64_MAX; }
  friend bool operator==(const Rng& a, const Rng& b) { return a.state_ == b.state_; }

 private:
  Rng() = default;
  State state_{};
};

// A random order of 0 .. n-1 that needs no memory: operator()(i) is the i-th of it. A Feistel network of 8 rounds over
// the next power of four, walked until the value is below n (fewer than 4 steps on average). Thread-safe.
class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed);
  [[nodiscard]] uint64_t operator()(uint64_t i) const;
  [[nodiscard]] uint64_t size() const { return n_; }

 private:
  static constexpr int kRounds = 8;
  uint64_t n_;
  int half_bits_ = 1;
  std::array<uint64_t, kRounds> keys_{};
};

}  // namespace hydra
