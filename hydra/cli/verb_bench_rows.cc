// SPDX-License-Identifier: Apache-2.0
// Formats of bench rows.
#include "hydra/cli/verb_bench_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "hydra/base/error.h"
#include "hydra/io/json.h"

namespace hydra::cli {
namespace {

// "134.5 M"
std::string Millions(int64_t n) {
  const double v = static_cast<double>(n);
  return v >= 1e9 ? fmt::format("{:.2f} B", v / 1e9) : fmt::format("{:.1f} M", v / 1e6);
}

double PerToken(const BenchRow& row, int64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(std::max<int64_t>(row.test.tokens(), 1));
}
double WeightsPerToken(const BenchRow& row) { return PerToken(row, row.moved.weights); }
double StatePerToken(const BenchRow& row) { return PerToken(row, row.moved.state_read + row.moved.state_written); }
double KvPerToken(const BenchRow& row) { return PerToken(row, row.moved.kv_read + row.moved.kv_written); }

double GbPerSecond(const BenchRow& row) { return row.rate.mean * PerToken(row, row.moved.total()) / 1e9; }

double GflopPerSecond(const BenchRow& row) { return row.rate.mean * row.token_flops / 1e9; }

Json RateJson(const Summary& s) { return {{"mean", s.mean}, {"median", s.median}, {"min", s.min}, {"max", s.max}}; }

// ms of a pass, by a clock on the wall, for what all threads together took.
double PassMs(const PassProfile& p, double seconds) {
  return seconds / p.threads / static_cast<double>(p.passes) * 1e3;
}
// ... without a profile.
double PlainMs(const BenchRow& row) {
  const auto passes = static_cast<double>(row.profile->passes);
  return static_cast<double>(row.test.tokens()) / row.rate.median / passes * 1e3;
}

Json ProfileJson(const BenchRow& row) {
  const PassProfile& p = *row.profile;
  Json parts = Json::array();
  for (const PassProfile::Part& part : p.parts)
    parts.push_back(
        {{"part", part.name}, {"products_ms", PassMs(p, part.products)}, {"tasks_ms", PassMs(p, part.tasks)}});
  return {{"passes", p.passes},
          {"parts", parts},
          {"barriers", static_cast<double>(p.barriers) / static_cast<double>(p.passes)},
          {"waiting_ms", PassMs(p, p.waiting)},
          {"serial_ms", PassMs(p, p.serial * p.threads)},
          {"sum_ms", PassMs(p, p.Sum() * p.threads)},
          {"wall_ms", PassMs(p, p.wall * p.threads)},
          {"without_profile_ms", PlainMs(row)}};
}

// Of a limit, nothing where it was not measured: its 10^9, and the share of it that `giga` is.
std::string Giga(std::optional<double> limit) { return limit ? fmt::format("{}", *limit / 1e9) : ""; }
std::string Share(double giga, std::optional<double> limit) {
  return limit ? fmt::format("{:.2f}", giga * 1e9 / *limit) : "";
}

Json RowJson(const BenchRow& row) {
  Json json = {{"model", row.model},     {"params", row.params}, {"file_bytes", row.file_bytes},
               {"threads", row.threads}, {"target", row.target}, {"kernels", row.kernels}};
  if (row.test.tokens() > 0) {
    json["p"] = row.test.prompt;
    json["n"] = row.test.generate;
    json["provisional"] = row.test.provisional;
    json["d"] = row.test.depth;
    json["b"] = row.test.batch;
    json["tok_per_s"] = RateJson(row.rate);
    json["samples"] = row.samples;
    json["bytes_per_tok"] = {{"weights", WeightsPerToken(row)}, {"state", StatePerToken(row)}, {"kv", KvPerToken(row)}};
    json["kv_bytes"] = row.kv_bytes;
    if (row.disk_bytes) json["disk_bytes_per_tok"] = *row.disk_bytes;
    if (row.test.prompt > 0) json["key_tiles"] = row.moved.key_tiles;
    if (!row.plan.is_null()) json["plan"] = row.plan;
    json["gb_per_s"] = GbPerSecond(row);
    if (row.read_bytes_per_s) json["read_gb_per_s"] = *row.read_bytes_per_s / 1e9;
    if (row.token_flops > 0) json["gflop_per_s"] = GflopPerSecond(row);
    if (row.peak_flops) json["peak_gflop_per_s"] = *row.peak_flops / 1e9;
    if (const auto& plant = row.test.plant) json["planted"] = {{"active", plant->a}, {"reuse", plant->r}};
    if (row.test.accept != 1) json["planted_acceptance"] = row.test.accept;
    if (row.experts.layers > 0)
      json["experts"] = {{"active", row.experts.ActiveShare()}, {"read", row.experts.ReadShare()}};
  }
  if (row.compared)
    json["compare"] = {{"tok_per_s", RateJson(*row.compared)}, {"ratio", row.rate.median / row.compared->median}};
  if (const auto& p = row.perplexity)
    json["perplexity"] = {{"value", p->value},   {"error", p->error}, {"loss", p->loss},
                          {"chunks", p->chunks}, {"chunk", p->chunk}, {"tokens", p->tokens}};
  if (row.profile) json["profile"] = ProfileJson(row);
  return json;
}

}  // namespace

RowFormat ParseRowFormat(const std::string& name) {
  if (name == "md") return RowFormat::kMarkdown;
  if (name == "csv") return RowFormat::kCsv;
  if (name == "json") return RowFormat::kJson;
  if (name == "jsonl") return RowFormat::kJsonLines;
  throw Error(ErrorCode::kUsage, fmt::format("--format {}: must be md, csv, json or jsonl", name));
}

std::string TestName(const SpeedTest& test) {
  const bool steps = test.provisional > 0;
  return fmt::format("{}{}{}{} @ {}{}{}", test.prompt > 0 ? "pp" : "tg", test.prompt > 0 ? test.prompt : test.generate,
                     steps ? fmt::format(" by {}", test.provisional) : "",
                     steps && test.accept != 1 ? fmt::format(" (planted acceptance {:g})", test.accept) : "",
                     test.depth, test.batch > 1 ? fmt::format(" x{}", test.batch) : "",
                     test.plant ? fmt::format(", planted activity {:g} reuse {:g}", test.plant->a, test.plant->r) : "");
}

std::optional<double> CompareRate(const std::string& output) {
  const std::string key = "\"avg_ts\":";
  if (const size_t at = output.rfind(key); at != std::string::npos) {
    const double value = std::strtod(output.c_str() + at + key.size(), nullptr);
    return value > 0 ? std::optional(value) : std::nullopt;
  }
  const size_t last = output.find_last_not_of(" \t\r\n");
  if (last == std::string::npos) return std::nullopt;
  const size_t line = output.find_last_of('\n', last);
  std::optional<double> found;
  for (size_t i = line == std::string::npos ? 0 : line + 1; i <= last;) {
    char* end = nullptr;
    const double value = std::strtod(output.c_str() + i, &end);
    const size_t next = static_cast<size_t>(end - output.c_str());
    if (next > i && value > 0) found = value;
    i = std::max(next, i + 1);
  }
  return found;
}

void RowWriter::WriteStream(const std::vector<StreamRate>& rates) {
  if (format_ == RowFormat::kJson || format_ == RowFormat::kJsonLines) {
    for (const StreamRate& rate : rates)
      WriteJson({{"threads", rate.threads},
                 {"read_gb_per_s", rate.read.bytes_per_s / 1e9},
                 {"pattern", rate.read.pattern.Describe()}});
    return;
  }
  for (const StreamRate& rate : rates)
    fmt::print("{}memory read rate with {} threads: {:.2f} GB/s ({})\n", format_ == RowFormat::kCsv ? "# " : "",
               rate.threads, rate.read.bytes_per_s / 1e9, rate.read.pattern.Describe());
  std::fflush(stdout);
}

void RowWriter::Write(const BenchRow& row) {
  switch (format_) {
    case RowFormat::kMarkdown: WriteMarkdown(row); break;
    case RowFormat::kCsv: WriteCsv(row); break;
    case RowFormat::kJson:
    case RowFormat::kJsonLines: WriteJson(RowJson(row)); return;
  }
  if (row.profile) AddProfile(row);
  ++rows_;
  std::fflush(stdout);
}

void RowWriter::AddProfile(const BenchRow& row) {
  const PassProfile& p = *row.profile;
  const auto line = [&](const std::string& what, double ms, const std::string& about) {
    profiles_ += fmt::format("{}  {:<18} {:9.3f}   {}\n", Comment(), what, ms, about);
  };
  profiles_ += fmt::format("{}{} {}: ms of a pass\n", Comment(), row.model, TestName(row.test));
  for (const PassProfile::Part& part : p.parts)
    line(part.name, PassMs(p, part.products + part.tasks),
         fmt::format("products {:.3f}, tasks {:.3f}", PassMs(p, part.products), PassMs(p, part.tasks)));
  const double barriers = static_cast<double>(p.barriers) / static_cast<double>(p.passes);
  line("waiting", PassMs(p, p.waiting),
       fmt::format("{:.0f} barriers, {:.1f} us at each", barriers,
                   barriers > 0 ? PassMs(p, p.waiting) * 1e3 / barriers : 0.0));
  line("serial", PassMs(p, p.serial * p.threads), "the calling thread alone");
  line("sum", PassMs(p, p.Sum() * p.threads), fmt::format("{:.3f} without the profile", PlainMs(row)));
}

void RowWriter::WriteMarkdown(const BenchRow& row) {
  if (const auto& p = row.perplexity; p && rows_ == 0)
    fmt::print("perplexity {:.4f} +- {:.4f} ({} chunks of {}, {} tokens scored, loss {:.5f})\n", p->value, p->error,
               p->chunks, p->chunk, p->tokens, p->loss);
  if (row.test.tokens() == 0) return;
  if (rows_ == 0) {
    fmt::print(
        "| model | params | threads | target | test | t/s | median (min .. max) | MB/token | GB/s | of read bw | "
        "GFLOP/s "
        "| of peak | kernels |{}{}{}\n",
        row.plan.is_null() ? "" : " plan | density | KV MiB |", row.disk_bytes ? " disk MB/token |" : "",
        row.compared ? " other t/s | ratio |" : "");
    fmt::print("| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |{}{}{}\n",
               row.plan.is_null() ? "" : " --- | ---: | ---: |", row.disk_bytes ? " ---: |" : "",
               row.compared ? " ---: | ---: |" : "");
  }
  const Summary& r = row.rate;
  const bool prompt = row.token_flops > 0;
  fmt::print("| {} | {} | {} | {} | {} | {:.2f} +- {:.2f} | {:.2f} ({:.2f} .. {:.2f}) | {:.2f} | {:.2f} | {} |",
             row.model, Millions(row.params), row.threads, row.target, TestName(row.test), r.mean, r.sd, r.median,
             r.min, r.max, PerToken(row, row.moved.total()) / 1e6, GbPerSecond(row),
             Share(GbPerSecond(row), row.read_bytes_per_s));
  fmt::print(" {} | {} | {} |", prompt ? fmt::format("{:.1f}", GflopPerSecond(row)) : "",
             prompt ? Share(GflopPerSecond(row), row.peak_flops) : "", row.kernels);
  if (!row.plan.is_null())
    fmt::print(" {} | {:.3f} | {:.1f} |", row.plan["name"].get<std::string>(), row.plan["density"].get<double>(),
               static_cast<double>(row.kv_bytes) / (1 << 20));
  if (row.disk_bytes) fmt::print(" {:.2f} |", *row.disk_bytes / 1e6);
  if (row.compared)
    fmt::print(" {:.2f} +- {:.2f} | {:.3f} |", row.compared->mean, row.compared->sd, r.median / row.compared->median);
  fmt::print("\n");
}

void RowWriter::WriteCsv(const BenchRow& row) {
  if (rows_ == 0)
    fmt::print(
        "model,params,file_bytes,threads,target,p,n,d,b,mean,sd,median,min,max,weights,state,kv,gb_per_s,read_gb_per_s,"
        "gflop_per_s,peak_gflop_per_s,kernels,other_median,perplexity,provisional,planted_acceptance,planted_active,"
        "planted_reuse,experts_read,kv_bytes,key_tiles,plan,density,disk\n");
  std::string name = row.model;  // a quoted field
  for (size_t at = 0; (at = name.find('"', at)) != std::string::npos; at += 2) name.insert(at, 1, '"');
  const Summary& r = row.rate;
  fmt::print("\"{}\",{},{},{},{},{},{},{},{},", name, row.params, row.file_bytes, row.threads, row.target,
             row.test.prompt, row.test.generate, row.test.depth, row.test.batch);
  fmt::print("{},{},{},{},{},{},{},{},{},{},{},{},\"{}\",{},{},{},", r.mean, r.sd, r.median, r.min, r.max,
             WeightsPerToken(row), StatePerToken(row), KvPerToken(row), GbPerSecond(row), Giga(row.read_bytes_per_s),
             GflopPerSecond(row), Giga(row.peak_flops), row.kernels,
             row.compared ? fmt::format("{}", row.compared->median) : "",
             row.perplexity ? fmt::format("{}", row.perplexity->value) : "", row.test.provisional);
  const auto& plant = row.test.plant;
  fmt::print("{},{},{},{},", row.test.accept != 1 ? fmt::format("{}", row.test.accept) : "",
             plant ? fmt::format("{}", plant->a) : "", plant ? fmt::format("{}", plant->r) : "",
             row.experts.layers > 0 ? fmt::format("{}", row.experts.ReadShare()) : "");
  fmt::print("{},{},{},{},{}\n", row.kv_bytes, row.moved.key_tiles,
             row.plan.is_null() ? "" : row.plan["rules_sha256"].get<std::string>(),
             row.plan.is_null() ? "" : fmt::format("{}", row.plan["density"].get<double>()),
             row.disk_bytes ? fmt::format("{}", *row.disk_bytes) : "");
}

void RowWriter::WriteJson(const Json& object) {
  if (format_ == RowFormat::kJson) fmt::print("{}", rows_ == 0 ? "[\n" : ",\n");
  fmt::print("{}{}", DumpJson(object), format_ == RowFormat::kJsonLines ? "\n" : "");
  std::fflush(stdout);
  ++rows_;
}

void RowWriter::Finish() {
  if (format_ == RowFormat::kJson) fmt::print("{}", rows_ == 0 ? "[]\n" : "\n]\n");
  if (!profiles_.empty()) fmt::print("\n{}", profiles_);
}

}  // namespace hydra::cli
