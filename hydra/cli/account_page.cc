// SPDX-License-Identifier: Apache-2.0
// The page's tables and plots.
#include "hydra/cli/account_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "hydra/cli/byte_size.h"
#include "hydra/cli/svg_plot.h"

namespace hydra::cli {
namespace {

constexpr const char* kHead = R"html(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { --back: #fbfaf8; --text: #22252a; --dim: #6b7078; --line: #dad7d1; --panel: #ffffff; --a: #1d5fb4;
  --b: #c2410c; --c: #15803d; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181c; --text: #e6e4df; --dim: #9a9fa8; --line: #34383f; --panel: #1f2227; --a: #7db1f5;
    --b: #fb923c; --c: #6fd08c; }
}
body { margin: 0 auto; padding: 1.2rem; max-width: 74rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 .3rem; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { margin: .3rem 0; color: var(--dim); max-width: 60rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .22rem .7rem; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.sum td { font-weight: 600; white-space: nowrap; }
div.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; background: var(--panel); border: 1px solid var(--line); }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg text.title { font-weight: 600; font-size: 13px; }
svg text.tick { fill: var(--dim); font-size: 11px; }
svg path { fill: none; }
svg path.grid { stroke: var(--line); stroke-width: .6; }
svg path.line0 { stroke: var(--a); stroke-width: 2.2; }
svg path.line1 { stroke: var(--b); stroke-width: 1.8; stroke-dasharray: 6 3; }
svg path.line2 { stroke: var(--c); stroke-width: 1.8; stroke-dasharray: 2 3; }
</style>
)html";

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

struct Table {
  explicit Table(const std::vector<std::string>& head, size_t words = 1) : words(words) {
    text = "<div class=\"wide\"><table>\n<tr>";
    for (size_t i = 0; i < head.size(); ++i) text += fmt::format("<th{}>{}</th>", Kind(i), head[i]);
    text += "</tr>\n";
  }
  void Row(const std::vector<std::string>& cells, bool sum = false) {
    text += sum ? "<tr class=\"sum\">" : "<tr>";
    for (size_t i = 0; i < cells.size(); ++i) text += fmt::format("<td{}>{}</td>", Kind(i), cells[i]);
    text += "</tr>\n";
  }
  [[nodiscard]] std::string End() const { return text + "</table></div>\n"; }
  [[nodiscard]] const char* Kind(size_t column) const { return column < words ? "" : " class=\"number\""; }

  size_t words;  // columns of words; the others hold numbers
  std::string text;
};

struct Subject {
  std::string name;
  ModelConfig config;
  RunOptions run;
  [[nodiscard]] RunBytes At(int64_t tokens) const {
    RunOptions options = run;
    options.ctx = tokens;
    return CountRun(config, options);
  }
};

std::vector<Subject> Subjects(const std::string& name, const ModelConfig& config, const RunOptions& run) {
  std::vector<Subject> all{{Escaped(name), config, run}};
  if (config.family != Family::kLlama) all.push_back({"transformer", TransformerOfSize(config), run});
  if (config.family != Family::kMamba2) all.push_back({"Mamba-2", MambaOfSize(config), run});
  return all;
}

std::string Shape(const ModelConfig& c) {
  std::string text = fmt::format("{} blocks of width {}, vocabulary {}", c.n_layers(), c.d_model, Commas(c.vocab_size));
  if (c.d_ff > 0) text += fmt::format(", {} heads, feed-forward width {}", c.attention.n_heads, Commas(c.d_ff));
  if (c.family == Family::kMamba2) text += fmt::format(", {} heads, state {}", c.ssm.n_heads, c.ssm.d_state);
  return text;
}

std::string ParameterTable(const std::vector<Subject>& all) {
  std::vector<std::string> head{"part"};
  for (const Subject& one : all) {
    head.push_back(one.name);
    head.emplace_back("used by a token");
    head.emplace_back("bytes");
  }
  Table table(head);
  std::vector<ParamCounts> counts;
  std::vector<Component> parts;
  for (const Subject& one : all) {
    counts.push_back(CountParams(one.config));
    for (const ComponentParams& row : counts.back().by_component)
      if (std::ranges::find(parts, row.component) == parts.end()) parts.push_back(row.component);
  }
  for (const Component part : parts) {
    std::vector<std::string> cells{ComponentName(part)};
    for (size_t i = 0; i < all.size(); ++i) {
      const auto& rows = counts[i].by_component;
      const auto row = std::ranges::find(rows, part, &ComponentParams::component);
      if (row == rows.end()) {
        cells.insert(cells.end(), 3, "");
        continue;
      }
      const TensorTable tensors(all[i].config);
      int64_t bytes = 0;
      for (const TensorSpec& spec : tensors.specs())
        if (spec.component == part) bytes += DefaultTensorBytes(spec);
      cells.insert(cells.end(), {Commas(row->total), Commas(row->active), Commas(bytes)});
    }
    table.Row(cells);
  }
  std::vector<std::string> sums{"together"};
  for (size_t i = 0; i < all.size(); ++i)
    sums.insert(sums.end(),
                {Commas(counts[i].total), Commas(counts[i].active), Commas(WeightBytes(TensorTable(all[i].config)))});
  table.Row(sums, true);
  return table.End();
}

// What each part of the model costs a token and a sequence, and how that grows with the T tokens before.
std::string GrowthTable(const Subject& subject) {
  const ModelConfig& c = subject.config;
  const ParamCounts params = CountParams(c);
  const StateBytes state = CountState(c, subject.run.kv, subject.run.state);
  const auto linear = [&](Component part) {
    int64_t active = 0;
    for (const ComponentParams& row : params.by_component)
      if (row.component == part) active += row.active;
    return 2 * active;
  };
  const auto at = [&](int64_t tokens) { return FlopsPerToken(c, tokens, FlopForm::kScan); };
  const Flops near = at(1024), far = at(subject.run.ctx);
  Table table({"part", "grows with T as", "formula, FLOPs a token", "FLOPs at 1K",
               fmt::format("FLOPs at {}K", subject.run.ctx / 1024), "bytes of a sequence"},
              3);
  const auto row = [&](const char* name, const char* grows, const char* formula, int64_t first, int64_t last,
                       const std::string& bytes) {
    table.Row({name, grows, formula, Commas(first), Commas(last), bytes});
  };
  if (c.HasSsm()) {
    const int64_t products = linear(Component::kSsm);
    row("SSM", "nothing", "2 parameters + L (2 G Q N + 2 Q d + 4 N d), d = H P", products + near.scan,
        products + far.scan, Commas(state.ssm + state.conv));
  }
  if (c.HasAttention(AttentionKind::kSparse)) {
    const int64_t products = linear(Component::kAttention);
    row("sparse attention", "nothing, once the pool is full", "2 parameters + 4 (window + landmarks) heads Dh a block",
        products + near.attention, products + far.attention, Commas(state.kv + state.landmarks));
  }
  if (c.HasAttention(AttentionKind::kFull)) {
    const int64_t products = linear(Component::kAttention);
    row("full attention", "T", "2 parameters + 4 T heads Dh a block", products + near.attention,
        products + far.attention, Commas(subject.At(subject.run.ctx).kv));
  }
  if (c.HasAttention(AttentionKind::kLatent)) {
    const int64_t products = linear(Component::kAttention);
    row("latent attention", "T", "2 parameters + 2 T heads (Dk + Dv) a block", products + near.attention,
        products + far.attention, Commas(subject.At(subject.run.ctx).kv));
  }
  if (c.HasFfn(FfnKind::kBlockFfn)) {
    const int64_t products = linear(Component::kBlockFfn);
    row("BlockFFN", "nothing", "2 parameters with every expert active", products, products, "0");
  }
  if (c.HasFfn(FfnKind::kChunkMoe)) {
    const int64_t products = linear(Component::kMoe);
    row("experts", "nothing", "2 (router + k of E experts)", products, products, Commas(state.moe));
  }
  if (c.HasFfn(FfnKind::kDense)) {
    const int64_t products = linear(Component::kDense);
    row("feed-forward", "nothing", "2 parameters", products, products, "0");
  }
  if (c.HasWorkspace()) {
    const int64_t products = linear(Component::kWorkspace);
    row("workspace", "nothing", "2 parameters + 8 S r a site", products + near.workspace, products + far.workspace,
        Commas(state.workspace));
  }
  if (c.HasPkm()) {
    const int64_t products = linear(Component::kPkmSite) + linear(Component::kPkmTable);
    row("product-key memory", "nothing; the root of its rows", "2 (site + heads kp dv): n x n rows, 2 n scores",
        products, products, "0");
  }
  const int64_t head = linear(Component::kEmbedding),
                norms = linear(Component::kBlockNorms) + linear(Component::kFinalNorm);
  row("norms and gates", "nothing", "2 parameters", norms, norms, "0");
  row("output head", "nothing", "2 V D", head, head, "0");
  table.Row({"together", "", "", Commas(near.total()), Commas(far.total()),
             Commas(subject.At(subject.run.ctx).state + subject.At(subject.run.ctx).kv)},
            true);
  return table.End();
}

struct Series {
  const char *title, *unit;
  double (*of)(const Subject&, int64_t tokens);
};
constexpr std::array<Series, 4> kSeries = {
    {{"the next token", "FLOPs",
      [](const Subject& one, int64_t tokens) {
        return static_cast<double>(FlopsPerToken(one.config, tokens, FlopForm::kStep).total());
      }},
     {"the whole text forward", "FLOPs",
      [](const Subject& one, int64_t tokens) {
        return static_cast<double>(tokens) * MeanForwardFlops(one.config, tokens);
      }},
     {"memory of a sequence", "bytes",
      [](const Subject& one, int64_t tokens) {
        const RunBytes bytes = one.At(tokens);
        return static_cast<double>(bytes.state + bytes.kv);
      }},
     {"read for the next token", "bytes",
      [](const Subject& one, int64_t tokens) { return static_cast<double>(one.At(tokens).read_per_token); }}}};

std::vector<int64_t> Lengths(int64_t longest) {
  std::vector<int64_t> lengths;
  for (int64_t tokens = 256; tokens < longest; tokens *= 2) lengths.push_back(tokens);
  lengths.push_back(longest);
  return lengths;
}

std::string Plots(const std::vector<Subject>& all, const std::vector<int64_t>& lengths) {
  std::string text = "<div class=\"plots\">\n";
  const std::vector<double> x(lengths.begin(), lengths.end());
  for (const Series& series : kSeries) {
    std::vector<PlotLine> lines;
    for (const Subject& one : all) {
      lines.push_back({one.name, {}});
      for (const int64_t tokens : lengths) lines.back().y.push_back(series.of(one, tokens));
    }
    text += SvgPlot(series.title, series.unit, x, lines);
  }
  return text + "</div>\n";
}

std::string LengthTable(const std::vector<Subject>& all, const std::vector<int64_t>& lengths) {
  std::vector<std::string> head{"what", "model"};
  std::vector<int64_t> shown;
  for (size_t i = lengths.size() % 2 == 0 ? 1 : 0; i < lengths.size(); i += 2) shown.push_back(lengths[i]);
  for (const int64_t tokens : shown)
    head.push_back(tokens < 1024 ? Commas(tokens) : fmt::format("{:g}K", static_cast<double>(tokens) / 1024));
  Table table(head, 2);
  for (const Series& series : kSeries)
    for (const Subject& one : all) {
      std::vector<std::string> cells{&one == &all[0] ? fmt::format("{}, {}", series.title, series.unit) : "", one.name};
      for (const int64_t tokens : shown) {
        const double value = series.of(one, tokens), own = series.of(all[0], tokens);
        cells.push_back(Thousands(value));
        if (&one != &all[0] && own > 0) cells.back() += fmt::format(" ({:.2f}x)", value / own);
      }
      table.Row(cells, &one == &all[0]);
    }
  return table.End();
}

std::string TrainingTable(const std::vector<Subject>& all) {
  constexpr int64_t kTokens = 2048;
  Table table({"model", "weights", "gradients", "moments", "activations of 2,048 tokens, about",
               "with blocks computed again, about", "together with those"});
  for (const Subject& one : all) {
    const TrainMemory whole = CountTrainMemory(one.config, {.tokens = kTokens});
    const TrainMemory again = CountTrainMemory(one.config, {.tokens = kTokens, .checkpoint_blocks = true});
    table.Row({one.name, Commas(whole.weights), Commas(whole.gradients), Commas(whole.moments),
               Commas(whole.activations), Commas(again.activations), Commas(again.total())});
  }
  return table.End();
}

}  // namespace

std::string AccountPage(const std::string& name, const ModelConfig& config, const RunOptions& run) {
  const std::vector<Subject> all = Subjects(name, config, run);
  const std::vector<int64_t> lengths = Lengths(run.ctx);
  std::string page = kHead;
  page += fmt::format("<title>{}</title>\n</head>\n<body>\n<h1>What {} costs</h1>\n", all[0].name, all[0].name);
  page += fmt::format("<p>{}.</p>\n", Shape(config));
  for (size_t i = 1; i < all.size(); ++i)
    page += fmt::format("<p>Beside it a {} of {:+.2f} % parameters: {}.</p>\n", all[i].name,
                        100.0 * (static_cast<double>(CountParams(all[i].config).total) /
                                     static_cast<double>(CountParams(config).total) -
                                 1),
                        Shape(all[i].config));
  page +=
      "<p>All numbers are counted from the shapes; none was measured. FLOPs: two for a multiplication with its "
      "addition. T: tokens of the sequence so far.</p>\n";
  page += "<h2>Parameters</h2>\n" + ParameterTable(all);
  page += fmt::format("<h2>Parts of {}, and how they grow</h2>\n", all[0].name) + GrowthTable(all[0]);
  page += "<h2>By length</h2>\n" + Plots(all, lengths) + LengthTable(all, lengths);
  page += "<h2>Memory of training, f32 with AdamW</h2>\n" + TrainingTable(all);
  return page + "</body>\n</html>\n";
}

}  // namespace hydra::cli
