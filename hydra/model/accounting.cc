// SPDX-License-Identifier: Apache-2.0
// The formulas of specs/hydra.md 8 and 10, each with its derivation beside it. Parameters and weight bytes are sums
// over the tensor table, so they cannot drift from what is allocated and written.
#include "hydra/model/accounting.h"

#include <algorithm>
#include <cmath>

#include "hydra/base/error.h"
#include "hydra/model/kept_layout.h"
#include "hydra/model/state_layout.h"

namespace hydra {
namespace {

int64_t CountLayers(const ModelConfig& c, bool (*has)(const LayerConfig&)) {
  return std::count_if(c.layers.begin(), c.layers.end(), has);
}
int64_t SsmLayers(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.ssm; });
}
int64_t FullLayers(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.attention == AttentionKind::kFull; });
}
int64_t LatentLayers(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.attention == AttentionKind::kLatent; });
}
int64_t SparseLayers(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.attention == AttentionKind::kSparse; });
}
int64_t WorkspaceSites(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.workspace; });
}
int64_t PkmSites(const ModelConfig& c) {
  return CountLayers(c, [](const LayerConfig& l) { return l.pkm; });
}

bool IsExpert(TensorRole role) { return role == TensorRole::kExpertGateUp || role == TensorRole::kExpertDown; }

// Rows of the PKM table that one token reads: each head keeps kp of them, at each site.
int64_t PkmRowsPerToken(const ModelConfig& c) { return PkmSites(c) * c.pkm.n_heads * c.pkm.top_k; }

// Parameters of one tensor that one token uses.
int64_t ActiveSize(const ModelConfig& c, const TensorSpec& spec) {
  if (IsExpert(spec.role)) return spec.size() / c.moe.n_experts * c.moe.top_k;
  if (spec.role == TensorRole::kPkmTable) return PkmRowsPerToken(c) * c.pkm.d_value;
  // A look-up multiplies nothing: an untied model's active map is its head. Tied, embedding and head are one tensor.
  if (spec.role == TensorRole::kEmbedding && !c.tie_embeddings) return 0;
  return spec.size();
}

// 2 FLOPs for each weight that is multiplied. Hydra: 2 x active, norms included, as its golden numbers are. The
// other families: matrices and conv taps only, which is what is quoted for them elsewhere.
int64_t LinearFlops(const ModelConfig& c) {
  const TensorTable table(c);
  int64_t weights = 0;
  for (const TensorSpec& spec : table.specs())
    if (spec.parameter && (c.family == Family::kHydra || spec.shape.size() > 1)) weights += ActiveSize(c, spec);
  return 2 * weights;
}

// Per token and block. Scan: Cm.Bm inside a chunk 2 G Q N; times x 2 Q di; chunk state in and out 4 N di.
// Step: decay, write (2) and read (2) of h [H,P,N]: 5 N di. Diagonal, either form: the same 5 for its D channels.
int64_t ScanFlops(const ModelConfig& c, FlopForm form) {
  const SsmConfig& s = c.ssm;
  if (s.kind == SsmKind::kDiagonal) return SsmLayers(c) * 5 * c.d_model;
  if (form == FlopForm::kStep) return SsmLayers(c) * 5 * s.d_state * s.d_inner();
  return SsmLayers(c) *
         (2 * s.n_groups * s.scan_chunk * s.d_state + 2 * s.scan_chunk * s.d_inner() + 4 * s.d_state * s.d_inner());
}

// Score and weighted sum: 2 Dh each for every query head and key.
int64_t FlopsPerKey(const ModelConfig& c) { return 4 * c.attention.n_heads * c.attention.head_dim; }

// The same in a latent layer, expanded to heads as training has it: keys and values of each head.
int64_t LatentFlopsPerKey(const ModelConfig& c) {
  const LatentConfig& l = c.attention.latent;
  return 2 * c.attention.n_heads * (l.d_key() + l.d_value);
}

// Read: scores against S slots and their sum, 2 S r each; write: the same for the token's share of every slot.
int64_t WorkspaceFlops(const ModelConfig& c) { return WorkspaceSites(c) * 8 * c.workspace.n_slots * c.workspace.rank; }

// Landmarks in the pool of a sequence with `chunks` closed chunks.
int64_t PoolSize(const ModelConfig& c, int64_t chunks) {
  if (c.attention.landmark_budget <= 0) return 0;
  return std::min(c.attention.landmark_budget, c.attention.landmarks_per_chunk * chunks);
}

// Landmarks that the token at position t sees: those of the pool at or before t - W. Which ones those are is the
// scorer's choice; with promoted positions spread evenly over the closed chunks their share is (t - W + 1) / (c C).
double VisibleLandmarks(const ModelConfig& c, int64_t t, int64_t window) {
  const int64_t chunk = t / c.chunk_len, old = t - window + 1;
  if (old <= 0 || chunk == 0) return 0;
  return static_cast<double>(PoolSize(c, chunk)) * static_cast<double>(old) / static_cast<double>(chunk * c.chunk_len);
}

// Keys that the token at position t sees in a sparse layer of this window.
double SparseKeys(const ModelConfig& c, int64_t t, int64_t window) {
  return static_cast<double>(std::min(t + 1, window)) + VisibleLandmarks(c, t, window);
}
double SparseKeys(const ModelConfig& c, int64_t t) { return SparseKeys(c, t, c.attention.window); }

// f(span, whether the layer is a sparse one) for each query head of the layers with keys and values of heads;
// INT64_MAX: it sees all.
template <class F>
void ForSpans(const ModelConfig& c, const KvPlan& plan, F&& f) {
  const int64_t group = c.attention.n_heads / c.attention.n_kv_heads;
  for (int layer = 0; layer < c.n_layers(); ++layer) {
    const AttentionKind kind = c.layers[static_cast<size_t>(layer)].attention;
    if (kind != AttentionKind::kFull && kind != AttentionKind::kSparse) continue;
    const bool sparse = kind == AttentionKind::kSparse;
    for (int64_t h = 0; h < c.attention.n_kv_heads; ++h) {
      const auto filling = plan(layer, h);
      for (int64_t q = 0; q < group; ++q) {
        const auto own = filling ? filling->own_windows() : std::span<const int64_t>();
        const int64_t window = !own.empty() ? own[static_cast<size_t>(q)]
                               : filling    ? filling->window()
                               : sparse     ? c.attention.window
                                            : INT64_MAX;
        f(window == INT64_MAX ? window : window + (filling ? filling->sinks() : 0), sparse);
      }
    }
  }
}

// Keys that the tokens 0 .. n - 1 see together in a head of this span.
double KeysOfDocument(const ModelConfig& c, int64_t span, bool sparse, int64_t n) {
  if (!sparse) {
    const auto triangle = [](int64_t m) { return static_cast<double>(m) * static_cast<double>(m + 1) / 2; };
    return span >= n ? triangle(n) : triangle(span) + static_cast<double>(n - span) * static_cast<double>(span);
  }
  double sum = 0;
  for (int64_t t = 0; t < n; ++t) sum += SparseKeys(c, t, span);
  return sum;
}

// Of a token in the scan form, attention left out.
double FlopsWithoutKeys(const ModelConfig& c) {
  return static_cast<double>(LinearFlops(c) + ScanFlops(c, FlopForm::kScan) + WorkspaceFlops(c));
}

// Working memory of a pass, part by part as runtime/part_*.cc has it: bytes that a token takes.
struct TokenScratch {
  int64_t held = 0;     // in the parts' own buffers, which all of a model's kinds have side by side
  int64_t widest = 0;   // numbers of the inputs of the widest round of products, which are prepared together
  int64_t workers = 0;  // floats of one thread, whatever the tokens
};

int64_t UpToVector(int64_t n) { return (n + 15) / 16 * 16; }

// SSD over a chunk of Q tokens, as kernels/ops_ssd.cc lays it out: B three times (packed, transposed, and C), C_i B_j
// of all pairs, x and y of a head, its state twice, and 11 rows of Q (6 of mixing weights; dt, both halves of its sums,
// decays, tails); and a head's state once more, for provisional passes.
int64_t SsdFloats(const SsmConfig& s, int64_t tokens) {
  const int64_t Q = std::min(s.scan_chunk, tokens), P = s.head_dim, N = s.d_state, Qp = UpToVector(Q);
  return N * Qp + 2 * Q * UpToVector(N) + Q * Qp + 2 * Q * UpToVector(P) + N * UpToVector(P) + 2 * P * N + 11 * Qp;
}

// A tile of queries, as kernels/ops_attention_blocks.h lays it out: queries, scores, sums, keys and values twice, and 7
// rows of numbers and limits.
int64_t AttentionFloats(int64_t heads, int64_t Dk, int64_t Dv) {
  constexpr int64_t kMostRows = 128, kMostQueries = 64, kKeys = 64;
  const int64_t Dkp = UpToVector(Dk), Dvp = UpToVector(Dv);
  const int64_t rows = UpToVector(std::clamp<int64_t>(kMostRows / heads, 1, kMostQueries) * heads);
  return Dk * rows + kKeys * rows + rows * Dvp + 2 * kKeys * (Dkp + Dvp) + 7 * rows;
}

TokenScratch ScratchOf(const ModelConfig& c, KvDtype kv, int64_t tokens, bool planned) {
  const SsmConfig& s = c.ssm;
  const AttentionConfig& a = c.attention;
  const auto has = [&](auto&& f) { return std::any_of(c.layers.begin(), c.layers.end(), f); };
  const int64_t width = a.n_heads * a.head_dim, D = c.d_model;
  TokenScratch t;
  const auto add = [&](int64_t numbers, int64_t widest, int64_t workers) {
    t.held += numbers * kF32Bytes;
    t.widest = std::max(t.widest, widest);
    t.workers = std::max(t.workers, workers);
  };
  int64_t outputs = 0;  // of a parallel block's paths, which are one round
  const auto output = [&](int64_t n) { outputs = c.wiring == Wiring::kParallel ? outputs + n : std::max(outputs, n); };
  if (c.HasSsm() && s.kind == SsmKind::kMamba2) {
    add(s.in_proj_dim() + s.conv_dim() + s.n_heads + s.d_inner(), D, SsdFloats(s, tokens));
    output(s.d_inner());
  } else if (c.HasSsm()) {
    add(5 * D, D, 0);
  }
  for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kSparse}) {
    if (!c.HasAttention(kind)) continue;
    add(2 * width + 2 * a.n_kv_heads * a.head_dim, D,
        AttentionFloats(a.n_heads / a.n_kv_heads, a.head_dim, a.head_dim));
    const bool aside = kind == AttentionKind::kSparse || planned;  // new rows stand beside the ring
    t.held +=
        (kind == AttentionKind::kSparse ? kF32Bytes : 0) + (aside ? 2 * a.n_kv_heads * KvRowBytes(kv, a.head_dim) : 0);
    output(width);
  }
  if (c.HasAttention(AttentionKind::kLatent)) {  // groups of at most 4 heads
    const LatentConfig& l = a.latent;
    constexpr int64_t kHeads = 4;
    add(l.q_rank + l.cache_width() + a.n_heads * (l.d_key() + l.cache_width() + l.kv_rank + l.d_value),
        std::max(D, a.n_heads * l.kv_rank), AttentionFloats(kHeads, l.cache_width(), l.kv_rank));
    output(a.n_heads * l.d_value);
  }
  if (c.HasFfn(FfnKind::kBlockFfn)) {  // at worst all experts run; inputs of two passes are gathered at a time
    const int64_t E = c.moe.n_experts, hidden = E * c.moe.d_expert;
    add(4 * E + hidden, 4 * D, 0);
    output(hidden);
  }
  if (c.HasFfn(FfnKind::kDense)) add(2 * c.d_ff, c.d_ff, 0);
  if (c.HasFfn(FfnKind::kChunkMoe)) {
    add(c.moe.top_k * (2 * c.moe.d_expert + 4) + 1, c.moe.top_k * D, 2 * c.moe.n_experts);
    output(c.moe.top_k * c.moe.d_expert);
  }
  if (has([](const LayerConfig& l) { return l.workspace; })) {
    const WorkspaceConfig& w = c.workspace;
    add(5 * w.rank + 2, D, w.n_slots * (w.rank + 4));
  }
  if (has([](const LayerConfig& l) { return l.pkm; })) {
    const PkmConfig& p = c.pkm;
    add(2 * p.n_heads * (p.d_key + p.n_keys) + p.d_value + 1, std::max(D, 2 * p.n_heads * p.d_key),
        p.top_k * (p.top_k + 6) + p.d_value);
  }
  t.widest = std::max(t.widest, outputs);
  return t;
}

// Working memory of a pass: the residual stream and its norm, positions, factors of paths, rows that are wanted; the
// parts; prepared inputs of products; threads; logits of each sequence.
int64_t ScratchBytes(const ModelConfig& c, const RunOptions& o) {
  const int64_t tokens = std::min(kPassTokens, o.ctx);
  const TokenScratch t = ScratchOf(c, o.kv, tokens, static_cast<bool>(o.plan));
  const int64_t own = (2 * c.d_model + 2 + (c.wiring == Wiring::kParallel ? 3 : 0) + 2) * kF32Bytes;
  int64_t prepared = tokens * (o.int8 ? t.widest * 3 / 2 : t.widest * kF32Bytes);  // blocks of 32: 48 bytes
  const bool latent = c.HasAttention(AttentionKind::kLatent), experts = c.HasFfn(FfnKind::kBlockFfn);
  // Absorbed key maps and routers are floats whatever the weights are; a few tokens have long lists together.
  constexpr int64_t kFew = 32, kFewGathered = 1024;
  if (latent) prepared = std::max(prepared, tokens * c.attention.n_heads * c.attention.latent.d_nope * kF32Bytes);
  if (experts && o.int8)
    prepared = std::max(prepared, (std::min(kFewGathered, kFew * c.moe.n_experts) + kFew) * c.d_model * 3 / 2);
  constexpr int64_t kProductWorker = 2 * 16 * (256 + 480 + 16) * kF32Bytes;  // a slab of float weights and its sums
  const int64_t worker = UpToVector(t.workers) * kF32Bytes + (o.int8 && !latent && !experts ? 0 : kProductWorker);
  return tokens * (own + t.held) + prepared + o.threads * worker + o.batch * (c.vocab_size + c.d_model) * kF32Bytes;
}

// Of the key and value maps of latent attention as a pass reads them: quantised blocks cannot be transposed.
int64_t AbsorbedBytes(const ModelConfig& c, const TensorSpec& spec, int64_t bytes) {
  constexpr int64_t kHalf = 2;
  if (bytes >= kHalf * spec.size()) return bytes;
  const LatentConfig& l = c.attention.latent;
  const int64_t keys = spec.size() / (l.d_nope + l.d_value) * l.d_nope;
  return keys * kHalf + bytes / (l.d_nope + l.d_value) * l.d_value;
}

int64_t RoundedShare(int64_t bytes, double share) {
  return static_cast<int64_t>(std::llround(static_cast<double>(bytes) * share));
}

}  // namespace

int64_t ParamCounts::Of(Component component) const {
  for (const ComponentParams& row : by_component)
    if (row.component == component) return row.total;
  return 0;
}

ParamCounts CountParams(const ModelConfig& config) {
  ParamCounts counts;
  const TensorTable table(config);
  for (const TensorSpec& spec : table.specs()) {
    if (!spec.parameter) {
      counts.buffers += spec.size();
      continue;
    }
    auto row = std::find_if(counts.by_component.begin(), counts.by_component.end(),
                            [&](const ComponentParams& r) { return r.component == spec.component; });
    if (row == counts.by_component.end()) row = counts.by_component.insert(row, {spec.component, 0, 0});
    const int64_t active = ActiveSize(config, spec);
    row->total += spec.size();
    row->active += active;
    counts.total += spec.size();
    counts.active += active;
  }
  return counts;
}

Flops FlopsPerToken(const ModelConfig& config, int64_t ctx, FlopForm form, const KvPlan& plan) {
  HYDRA_CHECK(ctx > 0, "ctx ", ctx);
  const int64_t pool = PoolSize(config, ctx / config.chunk_len);
  Flops flops;
  flops.linear = LinearFlops(config);
  flops.attention = LatentFlopsPerKey(config) * LatentLayers(config) * ctx;
  if (plan) {
    const int64_t per_key = FlopsPerKey(config) / config.attention.n_heads;
    ForSpans(config, plan, [&](int64_t span, bool sparse) {
      flops.attention += per_key * (std::min(ctx, span) + (sparse ? pool : 0));
    });
  } else {
    const int64_t sparse_keys = std::min(ctx, config.attention.window) + pool;
    flops.attention += FlopsPerKey(config) * (FullLayers(config) * ctx + SparseLayers(config) * sparse_keys);
  }
  flops.scan = ScanFlops(config, form);
  flops.workspace = WorkspaceFlops(config);
  return flops;
}

double MeanForwardFlops(const ModelConfig& config, int64_t tokens, const KvPlan& plan) {
  HYDRA_CHECK(tokens > 0, "tokens ", tokens);
  if (plan) {
    double keys = static_cast<double>(LatentLayers(config) * LatentFlopsPerKey(config)) *
                  KeysOfDocument(config, INT64_MAX, false, tokens);
    ForSpans(config, plan, [&](int64_t span, bool sparse) {
      keys += static_cast<double>(FlopsPerKey(config)) / static_cast<double>(config.attention.n_heads) *
              KeysOfDocument(config, span, sparse, tokens);
    });
    return FlopsWithoutKeys(config) + keys / static_cast<double>(tokens);
  }
  const double full = static_cast<double>(tokens + 1) / 2;  // position t sees t + 1 keys
  double sparse = 0;
  if (SparseLayers(config) > 0)
    for (int64_t t = 0; t < tokens; ++t) sparse += SparseKeys(config, t);
  const double keys = static_cast<double>(FullLayers(config)) * full +
                      static_cast<double>(SparseLayers(config)) * sparse / static_cast<double>(tokens);
  const double latent = static_cast<double>(LatentLayers(config) * LatentFlopsPerKey(config)) * full;
  return FlopsWithoutKeys(config) + keys * static_cast<double>(FlopsPerKey(config)) + latent;
}

DocumentFlops::DocumentFlops(const ModelConfig& config, int64_t longest)
    : per_token_(FlopsWithoutKeys(config)),
      per_key_(static_cast<double>(FlopsPerKey(config))),
      full_layers_(static_cast<double>(FullLayers(config)) +
                   (LatentLayers(config) > 0 ? static_cast<double>(LatentLayers(config) * LatentFlopsPerKey(config)) /
                                                   static_cast<double>(FlopsPerKey(config))
                                             : 0)),
      sparse_layers_(static_cast<double>(SparseLayers(config))),
      sparse_keys_(static_cast<size_t>(longest) + 1) {
  for (size_t t = 0; t + 1 < sparse_keys_.size() && sparse_layers_ > 0; ++t)
    sparse_keys_[t + 1] = sparse_keys_[t] + SparseKeys(config, static_cast<int64_t>(t));
}

double DocumentFlops::operator()(int64_t tokens) const {
  HYDRA_CHECK(tokens > 0 && static_cast<size_t>(tokens) < sparse_keys_.size(), "tokens ", tokens);
  const auto n = static_cast<double>(tokens);
  const double keys = full_layers_ * n * (n + 1) / 2 + sparse_layers_ * sparse_keys_[static_cast<size_t>(tokens)];
  return n * per_token_ + keys * per_key_;
}

StateBytes CountState(const ModelConfig& config, KvDtype kv, StateDtype state) {
  const StateLayout layout(config, kv, state, /*ctx_size=*/0, config.moe.top_k);
  StateBytes bytes;
  for (const auto& block : layout.buffers)
    for (const StateBuffer& buffer : block) switch (buffer.part) {
        case StatePart::kSsm: bytes.ssm += buffer.bytes; break;
        case StatePart::kConv: bytes.conv += buffer.bytes; break;
        case StatePart::kKv: bytes.kv += buffer.bytes; break;
        case StatePart::kLandmarks: bytes.landmarks += buffer.bytes; break;
        case StatePart::kMoe: bytes.moe += buffer.bytes; break;
        case StatePart::kWorkspace: bytes.workspace += buffer.bytes; break;
      }
  return bytes;
}

int64_t KvBytesPerToken(const ModelConfig& config, KvDtype kv) {
  const StateLayout layout(config, kv, StateDtype::kF32, /*ctx_size=*/1, config.moe.top_k);
  int64_t bytes = 0;
  for (const auto& block : layout.buffers)
    for (const StateBuffer& buffer : block) bytes += buffer.growing_bytes();
  return bytes;
}

int64_t DefaultTensorBytes(const TensorSpec& spec) { return spec.size() * DTypeSize(spec.dtype); }

int64_t WeightBytes(const TensorTable& table, const TensorBytes& bytes) {
  int64_t sum = 0;
  for (const TensorSpec& spec : table.specs()) sum += bytes(spec);
  return sum;
}

int64_t StepWeightBytes(const ModelConfig& config, const TensorTable& table, int64_t batch, const TensorBytes& bytes,
                        double active) {
  HYDRA_CHECK(batch > 0, "batch ", batch);
  const MoeConfig& moe = config.moe;
  const double unread =
      std::pow(1.0 - static_cast<double>(moe.top_k) / static_cast<double>(moe.n_experts), static_cast<double>(batch));
  int64_t sum = 0;
  for (const TensorSpec& spec : table.specs()) {
    if (IsExpert(spec.role)) {
      sum += RoundedShare(bytes(spec), 1.0 - unread);
    } else if (spec.role == TensorRole::kPkmTable) {
      const int64_t rows = spec.shape[0];
      sum += bytes(spec) / rows * std::min(rows, batch * PkmRowsPerToken(config));
    } else if (spec.role == TensorRole::kEmbedding && !config.tie_embeddings) {
      sum += bytes(spec) / spec.shape[0] * std::min(spec.shape[0], batch);
    } else if (spec.role == TensorRole::kBlockUp || spec.role == TensorRole::kBlockDown) {
      sum += RoundedShare(bytes(spec), active);
    } else if (spec.role == TensorRole::kBlockRouter) {
      sum += spec.size() * kF32Bytes;
    } else if (spec.role == TensorRole::kLatentKvUp) {
      sum += AbsorbedBytes(config, spec, bytes(spec));
    } else {
      sum += bytes(spec);
    }
  }
  return sum;
}

RunBytes CountRun(const ModelConfig& config, const RunOptions& options, const TensorBytes& bytes) {
  const TensorTable table(config);
  const StateLayout layout(config, options.kv, options.state, options.ctx, config.moe.top_k, options.plan);
  int64_t state = 0, kv = 0;
  for (const auto& block : layout.buffers)
    for (const StateBuffer& buffer : block) {
      const int64_t bounded = buffer.bounded_bytes();
      kv += bounded, state += buffer.bytes - bounded;
    }
  RunBytes run;
  run.weights = WeightBytes(table, bytes);
  run.state = options.batch * state;
  run.kv_per_token = options.plan ? 0 : KvBytesPerToken(config, options.kv);
  run.kv = options.batch * kv;
  run.snapshot = state > 0 ? layout.snapshot_bytes() : 0;  // caches that grow go back by truncation
  run.scratch = ScratchBytes(config, options);
  if (options.provisional > 0) {
    const KeptLayout kept(config, layout, options.provisional);
    run.provisional = options.batch * (kept.bytes + kept.undo_bytes);
  }
  run.read_per_token =
      (StepWeightBytes(config, table, options.batch, bytes, options.active) + run.state + run.kv) / options.batch;
  return run;
}

Fit CheckFit(const ModelConfig& config, const RunOptions& options, int64_t have, const TensorBytes& bytes) {
  const auto need = [&](const RunOptions& o) { return CountRun(config, o, bytes).total(o.batch); };
  Fit fit{.have = have, .need = need(options), .ok = false, .advice = {}};
  fit.ok = fit.need <= have;
  if (fit.ok) return fit;
  // One flag, the least painful first: a smaller KV type, then fewer tokens (multiples of 256), then fewer sequences.
  RunOptions other = options;
  other.kv = KvDtype::kQ8_0;
  if (KvRowBytes(options.kv, 32) > KvRowBytes(other.kv, 32) && need(other) <= have) {
    fit.advice = "--kv-dtype q8_0";
    return fit;
  }
  constexpr int64_t kCtxStep = 256;
  int64_t low = 0, high = options.ctx / kCtxStep;  // the longest ctx that fits lies in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    other = options;
    other.ctx = middle * kCtxStep;
    (need(other) <= have ? low : high) = middle;
  }
  if (low > 0) {
    fit.advice = StrCat("--ctx ", low * kCtxStep);
    return fit;
  }
  for (int64_t batch = options.batch - 1; batch > 0; --batch) {
    other = options;
    other.batch = batch;
    if (need(other) <= have) {
      fit.advice = StrCat("--batch ", batch);
      return fit;
    }
  }
  return fit;
}

}  // namespace hydra
