// SPDX-License-Identifier: Apache-2.0
// Fills ModelWeights from a source: small tensors copied to f32, matrices left where they are or packed.
#include "hydra/runtime/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "hydra/base/error.h"
#include "hydra/base/pages.h"
#include "hydra/io/file.h"
#include "hydra/kernels/target.h"
#include "hydra/model/rope.h"
#include "hydra/runtime/offload.h"

namespace hydra {
namespace {

using kernels::Matrix;
using R = TensorRole;

std::shared_ptr<std::byte> AlignedBytes(int64_t n) {
  constexpr size_t kAlign = 64;
  const size_t size = (static_cast<size_t>(n) + kAlign - 1) / kAlign * kAlign;
  auto* p = static_cast<std::byte*>(std::aligned_alloc(kAlign, std::max(size, kAlign)));
  if (p == nullptr) throw std::bad_alloc();
  return {p, [](std::byte* q) { std::free(q); }};
}

// Advice for whole pages inside these mapped bytes.
void Advise(const std::byte* data, int64_t n, int advice) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(n)) / page * page;
  if (end > begin) (void)::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

// Gives pages back: they are read from the file again if ever needed.
void ReleasePages(const std::byte* data, int64_t n) { Advise(data, n, MADV_DONTNEED); }

class Loader {
 public:
  Loader(const WeightSource& source, ModelWeights* out, ThreadPool& pool)
      : source_(source), table_(source.config), out_(out), pool_(pool) {}

  void Run();

 private:
  const TensorSpec* Spec(R role) const { return table_.Find(role, layer_); }
  StoredTensor Stored(const TensorSpec& spec) const {
    const StoredTensor t = source_.tensor(spec);
    HYDRA_CHECK(t.data != nullptr, spec.name);
    return t;
  }
  // A tensor as f32; empty where the model has none.
  F32 Floats(R role);
  float Scalar(R role) { return Floats(role).at(0); }
  // A matrix [rows, cols]; of `parts` equal ones below one another, the part number `part`.
  Matrix Map(R role, int64_t part = 0, int64_t parts = 1, bool pack = true);
  Matrix MapRows(const TensorSpec& spec, const StoredTensor& t, int64_t first, int64_t rows, bool pack);
  Matrix FromFloats(const F32& values, int64_t rows, int64_t cols);
  // Memory for a copy: among the panels, or by itself where nothing is packed.
  std::byte* Room(int64_t bytes);
  // A matrix that lies elsewhere, into its room: in panels where copies are packed, narrow ones if it is of floats.
  Matrix Narrowed(const Matrix& rows, std::byte* room) const;
  Matrix Packed(const Matrix& rows, std::byte* room) const;
  Matrix Copied(const Matrix& rows, std::byte* room) const;
  // Where all copies lie: in memory, or in a file that may have them already.
  void TakePanels();

  void Block(BlockWeights* w, const LayerConfig& layer);
  void Ssm(SsmWeights* w);
  void Attention(AttentionWeights* w, const LayerConfig& layer);
  void Latent(LatentWeights* w);
  void Moe(MoeWeights* w);
  void BlockFfn(BlockFfnWeights* w);
  Matrix Router(const F32& values);
  void CheckDown(const TensorSpec& spec, WeightType type) const;
  void Workspace(WorkspaceWeights* w);
  void Pkm(PkmWeights* w);

  const WeightSource& source_;
  TensorTable table_;
  ModelWeights* out_;
  ThreadPool& pool_;
  int layer_ = -1;
  std::byte* panels_ = nullptr;  // of all packed matrices, in the order of reading
  int64_t panel_bytes_ = 0;
  std::unique_ptr<OffloadFile> file_;  // that the panels are mapped from
  bool made_ = false;                  // the panels hold what they are to hold: nothing is copied
  float* routers_ = nullptr;           // of all layers
};

F32 Loader::Floats(R role) {
  const TensorSpec* spec = Spec(role);
  if (spec == nullptr) return {};
  const StoredTensor t = Stored(*spec);
  const int64_t cols = spec->shape.empty() ? 1 : spec->shape.back(), n = spec->size();
  F32 values(static_cast<size_t>(n));
  if (!IsQuantised(t.type)) {
    DecodeRow(t.type, t.data, n, values.data());
  } else {
    for (int64_t i = 0; i < n / cols; ++i)
      DecodeRow(t.type, t.data + i * RowBytes(t.type, cols), cols, values.data() + i * cols);
  }
  for (const float v : values)
    if (!std::isfinite(v))
      throw Error(ErrorCode::kTensor, StrCat(source_.path, ": ", spec->name, ": holds ", v, ": must be finite"));
  out_->copied_bytes += n * 4;
  return values;
}

Matrix Loader::Map(R role, int64_t part, int64_t parts, bool pack) {
  const TensorSpec* spec = Spec(role);
  HYDRA_CHECK(spec != nullptr, "tensor role ", static_cast<int>(role), " of layer ", layer_);
  const int64_t rows = spec->size() / spec->shape.back() / parts;
  return MapRows(*spec, Stored(*spec), part * rows, rows, pack);
}

Matrix Loader::MapRows(const TensorSpec& spec, const StoredTensor& t, int64_t first, int64_t rows, bool pack) {
  const int64_t cols = spec.shape.back(), bytes = rows * RowBytes(t.type, cols);
  Matrix m{.type = t.type, .rows = rows, .cols = cols, .data = t.data + first * RowBytes(t.type, cols)};
  if (IsQuantised(t.type)) out_->quantised = true;
  if (pack && out_->options.pack) {
    const int64_t packed = kernels::PackedBytes(t.type, rows, cols);
    if (packed > 0) {
      const Matrix p = Packed(m, Room(packed));
      if (source_.mapped && t.owner == nullptr) ReleasePages(m.data, bytes);
      return p;
    }
  }
  if (t.owner != nullptr) {
    out_->owners.push_back(t.owner);
    out_->copied_bytes += bytes;
  }
  // Of rows here and there, huge pages would read and hold what nobody asks for.
  if (!pack && source_.mapped && t.owner == nullptr) Advise(m.data, bytes, MADV_NOHUGEPAGE);
  const uintptr_t element = t.type == WeightType::kF32 ? 4 : 2;
  if (reinterpret_cast<uintptr_t>(m.data) % element != 0) {  // a foreign file may be unaligned
    out_->owned.push_back(AlignedBytes(bytes));
    std::memcpy(out_->owned.back().get(), m.data, static_cast<size_t>(bytes));
    out_->copied_bytes += bytes;
    m.data = out_->owned.back().get();
  }
  return m;
}

std::byte* Loader::Room(int64_t bytes) {
  if (!out_->options.pack) {
    out_->owned.push_back(AlignedBytes(bytes));
    out_->copied_bytes += bytes;
    return out_->owned.back().get();
  }
  HYDRA_CHECK(out_->packed_bytes + WholeLines(bytes) <= panel_bytes_, bytes, " bytes in layer ", layer_);
  std::byte* room = panels_ + out_->packed_bytes;
  out_->packed_bytes += WholeLines(bytes);
  return room;
}

// A matrix whose panels have been made.
Matrix InPanels(Matrix rows, std::byte* room) {
  rows.packed = true;
  rows.data = room;
  return rows;
}

Matrix Loader::Packed(const Matrix& rows, std::byte* room) const {
  return made_ ? InPanels(rows, room) : kernels::Pack(rows, room, pool_);
}

// Rows as they are, in another place.
Matrix Loader::Copied(const Matrix& rows, std::byte* room) const {
  if (!made_) std::memcpy(room, rows.data, static_cast<size_t>(kernels::MatrixBytes(rows)));
  Matrix copy = rows;
  copy.data = room;
  return copy;
}

Matrix Loader::Narrowed(const Matrix& rows, std::byte* room) const {
  if (!out_->options.pack) return Copied(rows, room);
  if (IsQuantised(rows.type)) return Packed(rows, room);
  return made_ ? InPanels(rows, room) : kernels::PackNarrow(rows, room, pool_);
}

void Loader::TakePanels() {
  const std::string& path = out_->options.offload;
  if (panel_bytes_ == 0) {
    if (!path.empty())
      throw Error(ErrorCode::kUsage, StrCat("--offload ", path, ": no weights of ", source_.path,
                                            " are packed: they are mapped from the model's own file"));
    return;
  }
  if (path.empty()) {
    out_->owned.push_back(MapPages(panel_bytes_));
  } else {
    file_ = std::make_unique<OffloadFile>(path, panel_bytes_, OffloadKey(source_));
    made_ = file_->whole();
    out_->owned.push_back(file_->data());
  }
  panels_ = out_->owned.back().get();
}

Matrix Loader::FromFloats(const F32& values, int64_t rows, int64_t cols) {
  out_->owned.push_back(AlignedBytes(rows * cols * 4));
  std::memcpy(out_->owned.back().get(), values.data(), values.size() * 4);
  return {.type = WeightType::kF32, .rows = rows, .cols = cols, .data = out_->owned.back().get()};
}

float Softplus(float v) { return v > 20 ? v : std::log1p(std::exp(v)); }

void Loader::Ssm(SsmWeights* w) {
  if (source_.config.ssm.kind == SsmKind::kDiagonal) {
    w->param_proj = Map(R::kDiagonalParamProj);
    w->skip_proj = Map(R::kDiagonalSkipProj);
    w->lambda = Floats(R::kDiagonalLambdaLog);
    for (float& v : w->lambda) v = std::exp(v);
    return;
  }
  w->in_proj = Map(R::kSsmInProj);
  w->out_proj = Map(R::kSsmOutProj);
  w->conv_w = Floats(R::kSsmConvWeight);
  w->conv_b = Floats(R::kSsmConvBias);
  w->A = Floats(R::kSsmALog);
  if (!source_.A_is_negative)
    for (float& v : w->A) v = -std::exp(v);
  w->D = Floats(R::kSsmD);
  w->dt_bias = Floats(R::kSsmDtBias);
  w->norm = Floats(R::kSsmNorm);
}

// Head h's rows of kv_b are [Dn] of its key map, then [Dl] of its value map.
void Loader::Latent(LatentWeights* w) {
  const LatentConfig& c = source_.config.attention.latent;
  w->q_down = Map(R::kLatentQDown);
  w->q_norm = Floats(R::kLatentQNorm);
  w->q_up = Map(R::kLatentQUp);
  w->kv_down = Map(R::kLatentKvDown);
  w->kv_norm = Floats(R::kLatentKvNorm);
  const TensorSpec& spec = *Spec(R::kLatentKvUp);
  const StoredTensor t = Stored(spec);
  const WeightType type = AbsorbedType(t.type);
  const int64_t row_bytes = RowBytes(t.type, c.kv_rank), out_bytes = RowBytes(type, c.d_nope);
  F32 rows(static_cast<size_t>(c.d_nope * c.kv_rank)), column(static_cast<size_t>(c.d_nope));
  std::vector<std::byte> turned(static_cast<size_t>(c.kv_rank * out_bytes));
  for (int64_t h = 0; h < source_.config.attention.n_heads; ++h) {
    const int64_t first = h * (c.d_nope + c.d_value);
    for (int64_t i = 0; i < c.d_nope && !made_; ++i)
      DecodeRow(t.type, t.data + (first + i) * row_bytes, c.kv_rank, rows.data() + i * c.kv_rank);
    for (int64_t r = 0; r < c.kv_rank && !made_; ++r) {
      for (int64_t i = 0; i < c.d_nope; ++i)
        column[static_cast<size_t>(i)] = rows[static_cast<size_t>(i * c.kv_rank + r)];
      EncodeRow(type, column.data(), c.d_nope, turned.data() + r * out_bytes);
    }
    const Matrix key{.type = type, .rows = c.kv_rank, .cols = c.d_nope, .data = turned.data()};
    w->key.push_back(Narrowed(
        key, Room(out_->options.pack ? kernels::NarrowBytes(type, c.kv_rank, c.d_nope) : kernels::MatrixBytes(key))));
    w->values.push_back(MapRows(spec, t, first + c.d_nope, c.d_value, true));
  }
}

void Loader::Attention(AttentionWeights* w, const LayerConfig& layer) {
  if (layer.attention == AttentionKind::kLatent) {
    Latent(&w->latent);
    w->o = Map(R::kAttnO);
    return;
  }
  w->q = Map(R::kAttnQ);
  w->k = Map(R::kAttnK);
  w->v = Map(R::kAttnV);
  w->o = Map(R::kAttnO);
  w->q_bias = Floats(R::kAttnQBias);
  w->k_bias = Floats(R::kAttnKBias);
  w->v_bias = Floats(R::kAttnVBias);
  w->q_norm = Floats(R::kAttnQNorm);
  w->k_norm = Floats(R::kAttnKNorm);
  if (layer.attention != AttentionKind::kSparse || !source_.config.HasLandmarks()) return;
  w->scorer = Floats(R::kLandmarkScorerWeight);
  w->scorer_bias = Scalar(R::kLandmarkScorerBias);
  w->lambda = Floats(R::kLandmarkScale);
  for (float& v : w->lambda) v = Softplus(v);
}

void Loader::Moe(MoeWeights* w) {
  w->prev = Floats(R::kRouterPrev);
  w->first = Floats(R::kRouterFirst);
  w->init_summary = Floats(R::kRouterInitSummary);
  w->balance_bias = Floats(R::kRouterBalanceBias);
  const int64_t E = source_.config.moe.n_experts;
  for (int64_t e = 0; e < E; ++e) {
    w->gate_up.push_back(Map(R::kExpertGateUp, e, E));
    w->down.push_back(Map(R::kExpertDown, e, E));
  }
}

// A layer's share of the memory that holds all routers, so that they stay in a cache.
Matrix Loader::Router(const F32& values) {
  const ModelConfig& c = source_.config;
  const auto size = static_cast<int64_t>(values.size());
  if (routers_ == nullptr) {
    const int64_t layers = std::ranges::count(c.layers, FfnKind::kBlockFfn, &LayerConfig::ffn);
    out_->owned.push_back(MapPages(layers * size * 4));
    routers_ = reinterpret_cast<float*>(out_->owned.back().get());
  }
  const Matrix router{.type = WeightType::kF32,
                      .rows = c.moe.n_experts,
                      .cols = c.d_model,
                      .data = reinterpret_cast<const std::byte*>(routers_)};
  routers_ = std::ranges::copy(values, routers_).out;
  return router;
}

void Loader::CheckDown(const TensorSpec& spec, WeightType type) const {
  const int64_t F = source_.config.moe.d_expert, block = Info(type).block;
  if (F % block != 0)
    throw Error(ErrorCode::kTensor,
                StrCat(source_.path, ": ", spec.name, ": type ", Info(type).name, ": its blocks of ", block,
                       " columns cross from one expert to the next, which has ", F));
}

// The columns of an expert, row after row.
std::vector<std::byte> ColumnsOf(const StoredTensor& t, int64_t rows, int64_t cols, int64_t e, int64_t E) {
  const int64_t part = RowBytes(t.type, cols);
  std::vector<std::byte> out(static_cast<size_t>(rows * part));
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(out.data() + r * part, t.data + (r * E + e) * part, static_cast<size_t>(part));
  return out;
}

void Loader::BlockFfn(BlockFfnWeights* w) {
  const ModelConfig& c = source_.config;
  const int64_t E = c.moe.n_experts, F = c.moe.d_expert, D = c.d_model;
  if (c.wiring == Wiring::kSequential) w->norm = Floats(R::kFfnNorm);
  w->router = Router(Floats(R::kBlockRouter));
  w->router_scale = Floats(R::kBlockRouterScale);
  const TensorSpec &up_spec = *Spec(R::kBlockUp), &down_spec = *Spec(R::kBlockDown);
  const StoredTensor up = Stored(up_spec), down = Stored(down_spec);
  CheckDown(down_spec, down.type);
  out_->quantised = out_->quantised || IsQuantised(up.type) || IsQuantised(down.type);
  const bool pack = out_->options.pack;
  const int64_t down_bytes = !pack                    ? D * RowBytes(down.type, F)
                             : IsQuantised(down.type) ? kernels::PackedBytes(down.type, D, F)
                                                      : kernels::NarrowBytes(down.type, D, F);
  std::vector<std::byte*> rooms;
  for (int64_t e = 0; e < E; ++e) {
    w->up.push_back(pack ? Matrix{.type = up.type, .rows = F, .cols = D} : MapRows(up_spec, up, e * F, F, false));
    if (pack)
      rooms.push_back(Room(IsQuantised(up.type) ? kernels::PackedBytes(up.type, F, D) : F * RowBytes(up.type, D)));
    rooms.push_back(Room(down_bytes));
  }
  w->down.resize(static_cast<size_t>(E));
  pool_.For(E, [&](int64_t e, int /*worker*/) {
    const auto i = static_cast<size_t>(e);
    if (pack) {
      Matrix rows = w->up[i];
      rows.data = up.data + e * F * RowBytes(up.type, D);
      w->up[i] = IsQuantised(up.type) ? Packed(rows, rooms[2 * i]) : Copied(rows, rooms[2 * i]);
    }
    const std::vector<std::byte> columns = made_ ? std::vector<std::byte>{} : ColumnsOf(down, D, F, e, E);
    w->down[i] =
        Narrowed({.type = down.type, .rows = D, .cols = F, .data = columns.data()}, rooms[pack ? 2 * i + 1 : i]);
  });
  if (!source_.mapped) return;
  if (pack && up.owner == nullptr) ReleasePages(up.data, up.nbytes);
  if (down.owner == nullptr) ReleasePages(down.data, down.nbytes);
}

void Loader::Workspace(WorkspaceWeights* w) {
  const int64_t r = source_.config.workspace.rank;
  w->norm = Floats(R::kWsNorm);
  w->memory_norm = Floats(R::kWsMemoryNorm);
  w->read_q = Map(R::kWsReadQ);
  w->write_k = Map(R::kWsWriteK);
  w->write_v = Map(R::kWsWriteV);
  const F32 read_k = Floats(R::kWsReadK);
  F32 transposed(read_k.size());
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < r; ++j) transposed[static_cast<size_t>(j * r + i)] = read_k[static_cast<size_t>(i * r + j)];
  w->read_k_t = FromFloats(transposed, r, r);
  w->read_v = Map(R::kWsReadV);
  w->out = Map(R::kWsOut);
  w->slot_queries = Floats(R::kWsSlotQueries);
  w->init_state = Floats(R::kWsInitState);
  w->write_gate = Floats(R::kWsWriteGateWeight);
  w->write_gate_bias = Floats(R::kWsWriteGateBias);
  w->controller = Floats(R::kWsControllerWeight);
  w->controller_bias = Floats(R::kWsControllerBias);
}

void Loader::Pkm(PkmWeights* w) {
  w->norm = Floats(R::kPkmNorm);
  w->query_norm = Floats(R::kPkmQueryNorm);
  w->query = Map(R::kPkmQueryProj);
  w->value = Map(R::kPkmValueProj);
  const int64_t tables = 2 * source_.config.pkm.n_heads;
  for (int64_t i = 0; i < tables; ++i) w->sub_keys.push_back(Map(R::kPkmSubKeys, i, tables));
  w->gate = Floats(R::kPkmGateWeight);
  w->gate_bias = Scalar(R::kPkmGateBias);
}

void Loader::Block(BlockWeights* w, const LayerConfig& layer) {
  const ModelConfig& c = source_.config;
  w->norm = Floats(R::kBlockNorm);
  if (c.wiring == Wiring::kParallel) {
    const F32 gates = Floats(R::kPathGates);
    std::copy(gates.begin(), gates.end(), w->gates);
    w->controller = Floats(R::kControllerWeight);
    w->controller_bias = Floats(R::kControllerBias);
  }
  if (layer.ssm) Ssm(&w->ssm);
  if (layer.attention != AttentionKind::kNone) Attention(&w->attention, layer);
  if (layer.ffn == FfnKind::kDense) {
    w->dense.norm = Floats(R::kFfnNorm);
    w->dense.gate = Map(R::kFfnGate);
    w->dense.up = Map(R::kFfnUp);
    w->dense.down = Map(R::kFfnDown);
  }
  if (layer.ffn == FfnKind::kChunkMoe) Moe(&w->moe);
  if (layer.ffn == FfnKind::kBlockFfn) BlockFfn(&w->block_ffn);
  if (layer.workspace) Workspace(&w->workspace);
  if (layer.pkm) Pkm(&w->pkm);
}

void Loader::Run() {
  for (const TensorSpec& spec : table_.specs()) out_->file_bytes += Stored(spec).nbytes;
  if (out_->options.pack) panel_bytes_ = PackedCopyBytes(source_);
  TakePanels();
  const ModelConfig& c = source_.config;
  out_->embedding = Map(R::kEmbedding, 0, 1, c.tie_embeddings);  // an untied embedding is only looked up
  out_->head = c.tie_embeddings ? out_->embedding : Map(R::kHead);
  if (c.HasPkm()) out_->pkm_table = Map(R::kPkmTable, 0, 1, false);
  out_->final_norm = Floats(R::kFinalNorm);
  for (float& v : out_->final_norm) v *= static_cast<float>(c.head_scale());  // of what the head reads
  out_->blocks.resize(c.layers.size());
  for (layer_ = 0; layer_ < c.n_layers(); ++layer_)
    Block(&out_->blocks[static_cast<size_t>(layer_)], c.layers[static_cast<size_t>(layer_)]);
  source_.CheckUnchanged();  // else what was packed and what is mapped would be of two models
  if (file_) file_->Commit();
}

}  // namespace

namespace {

Activations ResolveActivations(const ModelWeights& w, Activations asked) {
  bool bf16 = false;
  w.ForEachMatrix([&](const std::string&, const Matrix& m) { bf16 = bf16 || m.type == WeightType::kBF16; });
  if (asked == Activations::kAuto)
    asked = w.quantised ? Activations::kQ8 : bf16 ? Activations::kBF16 : Activations::kF32;
  return asked == Activations::kBF16 && !kernels::HasBf16Dots() ? Activations::kF32 : asked;
}

}  // namespace

std::shared_ptr<const ModelWeights> ModelWeights::Build(const WeightSource& source, const LoadOptions& options,
                                                        ThreadPool* pool) {
  auto out = std::make_shared<ModelWeights>();
  out->config = source.config;
  out->options = options;
  if (out->options.ctx_size == 0) out->options.ctx_size = source.config.max_position_embeddings;
  if (out->options.ctx_size < 1)
    throw Error(ErrorCode::kUsage, StrCat("--ctx-size ", options.ctx_size, ": must be 0 or more"));
  if (out->options.ctx_size > kMaxSequenceTokens)
    throw Error(ErrorCode::kUsage,
                StrCat("--ctx-size ", options.ctx_size, ": a sequence has at most ", kMaxSequenceTokens, " tokens"));
  out->path = source.path;
  out->target = kernels::CurrentTarget();
  out->rope_interleaved = source.rope_interleaved;
  out->keep = source.keep;
  out->source = source;
  if (source.config.HasFfn(FfnKind::kBlockFfn) && source.config.moe.routing != BlockRouting::kRelu)
    throw Error(
        ErrorCode::kConfig,
        StrCat(source.path, ": expert_routing: only \"relu\" runs here; the baselines are trained and evaluated"));
  AttentionConfig rotated = source.config.attention;
  if (source.config.HasAttention(AttentionKind::kLatent)) rotated.head_dim = rotated.latent.d_rope;
  out->inv_freq = RopeInvFreq(rotated);
  std::unique_ptr<ThreadPool> own;
  if (pool == nullptr) own = std::make_unique<ThreadPool>(1);
  Loader(source, out.get(), pool != nullptr ? *pool : *own).Run();
  out->options.act = ResolveActivations(*out, out->options.act);
  // Passes over weights in a file measure the disk.
  if (pool != nullptr && options.offload.empty()) out->tuning = ChooseTuning(*out, options.tune, *pool);
  return out;
}

kernels::ActType ModelWeights::act() const {
  switch (options.act) {
    case Activations::kQ8: return kernels::ActType::kQ8;
    case Activations::kBF16: return kernels::ActType::kBF16;
    default: return kernels::ActType::kF32;
  }
}

void ModelWeights::ForEachMatrix(const std::function<void(const std::string&, const Matrix&)>& f) const {
  const auto one = [&](const char* part, const Matrix& w) {
    if (!w.empty()) f(part, w);
  };
  one("embedding", embedding);
  for (const BlockWeights& b : blocks) {
    one("ssm in", b.ssm.in_proj);
    one("ssm parameters", b.ssm.param_proj);
    one("ssm skip", b.ssm.skip_proj);
    one("ssm out", b.ssm.out_proj);
    one("attention q", b.attention.q);
    one("attention k", b.attention.k);
    one("attention v", b.attention.v);
    one("latent q down", b.attention.latent.q_down);
    one("latent kv down", b.attention.latent.kv_down);
    one("latent q up", b.attention.latent.q_up);
    for (const Matrix& w : b.attention.latent.key) one("latent key", w);
    for (const Matrix& w : b.attention.latent.values) one("latent values", w);
    one("attention out", b.attention.o);
    one("ffn gate", b.dense.gate);
    one("ffn up", b.dense.up);
    one("ffn down", b.dense.down);
    for (const Matrix& w : b.moe.gate_up) one("expert gate+up", w);
    for (const Matrix& w : b.moe.down) one("expert down", w);
    one("router", b.block_ffn.router);
    for (const Matrix& w : b.block_ffn.up) one("expert up", w);
    for (const Matrix& w : b.block_ffn.down) one("expert down", w);
    one("workspace q", b.workspace.read_q);
    one("workspace write k", b.workspace.write_k);
    one("workspace write v", b.workspace.write_v);
    one("workspace k", b.workspace.read_k_t);
    one("workspace v", b.workspace.read_v);
    one("workspace out", b.workspace.out);
    one("product-key query", b.pkm.query);
    for (const Matrix& w : b.pkm.sub_keys) one("product-key keys", w);
    one("product-key value", b.pkm.value);
  }
  one("product-key table", pkm_table);
  one("head", head);
}

const std::string& ModelWeights::Fingerprint() const {
  std::call_once(fingerprint_once_, [this] {
    Sha256 hash;
    hash.Update(ConfigJson(config));
    const TensorTable table(config);
    for (const TensorSpec& spec : table.specs()) {
      const StoredTensor t = source.tensor(spec);
      hash.Update(StrCat(spec.name, " ", Info(t.type).name, "\n"));
      hash.Update({t.data, static_cast<size_t>(t.nbytes)});
    }
    CheckUnchanged();
    fingerprint_ = Hex(hash.Finish());
  });
  return fingerprint_;
}

}  // namespace hydra
