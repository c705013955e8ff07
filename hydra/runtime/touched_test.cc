// SPDX-License-Identifier: Apache-2.0
// The weight bytes that a pass counts are those that it reads: weights lie in memory that may not be read, a fault lets
// a page in and notes it, and what nobody noted is unmapped. Not here: the counts against formulas (generate_test.cc).
#ifndef HYDRA_SANITIZED  // sanitizers handle faults themselves
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <map>
#include <memory>

#include "hydra/runtime/provisional.h"
#include "hydra/runtime/testing.h"

namespace hydra {
namespace {

using testing::Case;
using testing::ExpectSameBits;
using testing::RandomIds;

// What the handler of faults needs.
std::byte* g_base = nullptr;
int64_t g_pages = 0, g_page_bytes = 0;
std::atomic<uint8_t>* g_touched = nullptr;  // [pages]

void LetIn(int signal, siginfo_t* info, void* /*context*/) {
  const auto* at = static_cast<const std::byte*>(info->si_addr);
  const int64_t page = at < g_base ? -1 : (at - g_base) / g_page_bytes;
  if (page < 0 || page >= g_pages) {  // not ours
    std::signal(signal, SIG_DFL);
    return;
  }
  g_touched[page] = 1;
  ::mprotect(g_base + page * g_page_bytes, static_cast<size_t>(g_page_bytes), PROT_READ);
}

// A source's tensors, each from a page's start on, in one mapping.
class Guarded {
 public:
  explicit Guarded(const WeightSource& from) : source_(from) {
    g_page_bytes = ::sysconf(_SC_PAGESIZE);
    const TensorTable table(from.config);
    std::map<std::string, int64_t> places;
    for (const TensorSpec& spec : table.specs()) {
      places[spec.name] = bytes_;
      bytes_ += (from.tensor(spec).nbytes + g_page_bytes - 1) / g_page_bytes * g_page_bytes;
    }
    void* memory =
        ::mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    HYDRA_CHECK(memory != MAP_FAILED);
    g_base = static_cast<std::byte*>(memory);
    g_pages = bytes_ / g_page_bytes;
    touched_ = std::make_unique<std::atomic<uint8_t>[]>(static_cast<size_t>(g_pages));
    g_touched = touched_.get();
    std::byte* base = g_base;
    for (const TensorSpec& spec : table.specs()) {
      const StoredTensor tensor = from.tensor(spec);
      std::memcpy(base + places[spec.name], tensor.data, static_cast<size_t>(tensor.nbytes));
    }
    source_.tensor = [from, places, base](const TensorSpec& spec) {
      StoredTensor tensor = from.tensor(spec);
      tensor.data = base + places.at(spec.name);
      return tensor;
    };
  }
  ~Guarded() { ::munmap(g_base, static_cast<size_t>(bytes_)); }

  [[nodiscard]] const WeightSource& source() const { return source_; }
  // From now on a page is let in when it is first read.
  void Watch() {
    struct sigaction action {};
    action.sa_sigaction = LetIn;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    ::sigaction(SIGSEGV, &action, &before_);
    ::mprotect(g_base, static_cast<size_t>(bytes_), PROT_NONE);
  }
  // Pages that were read since.
  [[nodiscard]] static int64_t Count() {
    return std::count_if(g_touched, g_touched + g_pages, [](const auto& page) { return page != 0; });
  }
  // The same in bytes; all others can no longer be read, nor let in.
  int64_t Unmap() {
    ::sigaction(SIGSEGV, &before_, nullptr);
    int64_t pages = 0;
    for (int64_t page = 0; page < g_pages; ++page) {
      pages += g_touched[page];
      // A new mapping in the old one's place: the memory is gone, and nothing else may come to lie there.
      if (g_touched[page] == 0)
        HYDRA_CHECK(::mmap(g_base + page * g_page_bytes, static_cast<size_t>(g_page_bytes), PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    }
    return pages * g_page_bytes;
  }

 private:
  WeightSource source_;
  int64_t bytes_ = 0;
  std::unique_ptr<std::atomic<uint8_t>[]> touched_;
  struct sigaction before_ {};
};

TEST(Touched, APassReadsTheWeightsThatItCounts) {
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    Guarded guarded(testing::RandomSource(c.config, 61));
    const Model model =
        testing::BuildModel(guarded.source(), {.ctx_size = 64, .act = Activations::kF32, .pack = false});
    ThreadPool pool(1);
    SequenceState state(model, c.config.HasFfn(FfnKind::kChunkMoe) ? Controls{.force_experts = {1}} : Controls{});
    SequenceState again = state.Fork();
    ForwardScratch scratch;
    guarded.Watch();
    const auto logits = model.Step(state, 5, pool, scratch);
    const std::vector<float> want(logits.begin(), logits.end());
    const int64_t touched = guarded.Unmap(), counted = scratch.moved().weights;
    // What is touched is counted, but for the ends of pages; small tensors are counted and lie in copies elsewhere.
    const TensorTable table(c.config);
    const auto slack = static_cast<int64_t>(table.specs().size()) * 3 * g_page_bytes;
    EXPECT_LE(touched, counted + slack);
    // Narrow and absorbed matrices of this family lie in copies; blockffn_test.cc watches those.
    if (!c.config.HasFfn(FfnKind::kBlockFfn)) {
      EXPECT_GT(touched, counted * 8 / 10);
    }
    if (c.config.HasFfn(FfnKind::kChunkMoe)) {
      EXPECT_LT(touched, g_pages * g_page_bytes * 8 / 10);
    }
    // The same step with the rest unmapped.
    ForwardScratch other;
    ExpectSameBits(model.Step(again, 5, pool, other), want);
  }
}

TEST(Touched, ACommitReadsNoWeightMatrix) {
  for (const Case& c : testing::Cases()) {
    SCOPED_TRACE(c.name);
    Guarded guarded(testing::RandomSource(c.config, 62));
    const Model model =
        testing::BuildModel(guarded.source(), {.ctx_size = 128, .act = Activations::kF32, .pack = false});
    ThreadPool pool(1);
    ForwardScratch scratch;
    const auto ids = RandomIds(67, c.config.vocab_size, 63);
    SequenceState state(model), steps(model);
    const std::span drafted = std::span(ids).last(6);
    for (SequenceState* one : {&state, &steps})
      (void)model.Prefill(*one, std::span(ids).first(ids.size() - 6), pool, scratch);
    for (const int32_t id : drafted) (void)model.Step(steps, id, pool, scratch);
    const auto logits = model.Step(steps, 5, pool, scratch);
    const std::vector<float> want(logits.begin(), logits.end());
    Provisional kept(state, 6);
    const Segment segment{&state, drafted, LogitsOf::kNone, &kept};
    (void)model.Forward({&segment, 1}, pool, scratch);
    guarded.Watch();
    model.Commit(state, kept, 6, pool, scratch);
    EXPECT_EQ(guarded.Count(), 0);
    ExpectSameBits(model.Step(state, 5, pool, scratch), want);
    (void)guarded.Unmap();
  }
}

}  // namespace
}  // namespace hydra
#endif  // HYDRA_SANITIZED
