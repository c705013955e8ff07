// SPDX-License-Identifier: Apache-2.0
// `hydralm state`: shows what a saved state holds, and writes one with parts set back or to zero. Not here: what a
// state is (runtime/sequence_state.h).
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/cli/cli.h"
#include "hydra/cli/model_flags.h"
#include "hydra/cli/verb_runtime.h"
#include "hydra/cli/verbs.h"
#include "hydra/io/file.h"
#include "hydra/io/json.h"
#include "hydra/runtime/state_view.h"

namespace hydra::cli {
namespace {

struct StateFlags {
  ModelFlags model;
  std::string file, output;
  std::vector<std::string> reset, zero;
};

// The parts of a state by the names of its model's parts.
const std::vector<std::pair<std::string, std::vector<StatePart>>>& Parts() {
  static const std::vector<std::pair<std::string, std::vector<StatePart>>> kParts{
      {"ssm", {StatePart::kSsm, StatePart::kConv}},
      {"landmarks", {StatePart::kLandmarks}},
      {"moe", {StatePart::kMoe}},
      {"workspace", {StatePart::kWorkspace}}};
  return kParts;
}

std::string TextAt(const SequenceState& state, const Tokenizer& tokenizer, int64_t position) {
  return TextOfTokens(tokenizer, state.ids().subspan(static_cast<size_t>(position), 1));
}

Json LayerJson(const LayerView& view, const SequenceState& state, const Tokenizer& tokenizer) {
  Json out{{"bytes",
            {{"ssm", view.ssm_bytes},
             {"conv", view.conv_bytes},
             {"kv", view.kv_bytes},
             {"landmarks", view.landmark_bytes},
             {"moe", view.moe_bytes},
             {"workspace", view.workspace_bytes}}}};
  if (view.ssm_bytes > 0) out["ssm_norm"] = view.ssm_norm;
  if (view.kv_positions > 0) out["kv_positions"] = view.kv_positions;
  for (const LandmarkView& one : view.landmarks)
    out["landmarks"].push_back(
        {{"position", one.position}, {"score", one.score}, {"text", TextAt(state, tokenizer, one.position)}});
  if (!view.experts.empty()) out["experts"] = view.experts;
  for (const SlotView& slot : view.slots) out["slots"].push_back({{"norm", slot.norm}, {"moved", slot.moved}});
  return out;
}

void PrintLayer(size_t layer, const LayerView& view, const SequenceState& state, const Tokenizer& tokenizer) {
  const auto kib = [](int64_t bytes) { return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024); };
  const auto line = [&](const char* name, int64_t bytes, const std::string& text) {
    if (bytes > 0) fmt::print("  {:<10} {:>12}  {}\n", name, kib(bytes), text);
  };
  fmt::print("layer {}\n", layer);
  line("ssm", view.ssm_bytes, fmt::format("norm {:.3g}", view.ssm_norm));
  line("conv", view.conv_bytes, "");
  line("keys", view.kv_bytes, fmt::format("{} positions", view.kv_positions));
  std::string texts;
  constexpr size_t kShown = 12;
  for (size_t i = 0; i < std::min(kShown, view.landmarks.size()); ++i) {
    const LandmarkView& one = view.landmarks[i];
    texts += fmt::format(" {} \"{}\"", one.position, OneLine(TextAt(state, tokenizer, one.position), 16));
  }
  line("landmarks", view.landmark_bytes,
       fmt::format("{}:{}{}", view.landmarks.size(), texts, view.landmarks.size() > kShown ? " .." : ""));
  std::string experts;
  for (const int32_t expert : view.experts) experts += fmt::format(" {}", expert);
  line("moe", view.moe_bytes, experts.empty() ? "no open chunk" : "experts of the open chunk:" + experts);
  if (view.slots.empty()) return;
  line("workspace", view.workspace_bytes, fmt::format("{} slots", view.slots.size()));
  std::string slots;
  for (size_t i = 0; i < view.slots.size(); ++i)
    slots += fmt::format("{}{:>3}: {:.2f} ({:.2f} from its initial value)", i % 3 == 0 ? "\n    " : "  ", i,
                         view.slots[i].norm, view.slots[i].moved);
  fmt::print("    slot: norm (distance){}\n", slots);
}

void ShowState(const StateFlags& flags, SequenceState& state, const Tokenizer& tokenizer, bool json) {
  const std::vector<LayerView> views = ViewState(state);
  if (json) {
    Json layers = Json::array();
    for (const LayerView& view : views) layers.push_back(LayerJson(view, state, tokenizer));
    const Json out{{"file", flags.file},
                   {"tokens", state.pos()},
                   {"pending", state.pending().size()},
                   {"bytes", state.bytes()},
                   {"kv_plan", state.plan() ? Json(state.plan().name) : Json()},
                   {"kv_plan_length", state.plan() ? Json(state.plan().length) : Json()},
                   {"controls", Json::parse(ControlsJson(state.controls()))},
                   {"layers", layers}};
    fmt::print("{}\n", out.dump(-1, ' ', false, Json::error_handler_t::replace));
    return;
  }
  constexpr int64_t kLast = 16;
  const std::string text =
      TextOfTokens(tokenizer, state.ids().last(static_cast<size_t>(std::min<int64_t>(kLast, state.pos()))));
  fmt::print("{}: {} tokens read, {} pending, {:.1f} KiB; it ends with \"{}\"\n", flags.file, state.pos(),
             state.pending().size(), static_cast<double>(state.bytes()) / 1024, OneLine(text, 60));
  if (state.plan()) fmt::print("plan     {} at N {}\n", state.plan().name, state.plan().length);
  if (!(state.controls() == Controls())) fmt::print("controls {}\n", ControlsJson(state.controls()));
  for (size_t i = 0; i < views.size(); ++i) PrintLayer(i, views[i], state, tokenizer);
}

void Set(const std::vector<std::string>& names, const char* flag, SequenceState::PartValue value,
         SequenceState* state) {
  for (const std::string& name : names) {
    const auto found = std::ranges::find(Parts(), name, &std::pair<std::string, std::vector<StatePart>>::first);
    if (found == Parts().end()) {
      std::vector<std::string> known;
      for (const auto& [part, ignored] : Parts()) known.push_back(part);
      throw Error(ErrorCode::kUsage, fmt::format("{} {}: must be ssm, landmarks, moe or workspace{}", flag, name,
                                                 DidYouMean(name, known)));
    }
    for (const StatePart part : found->second) state->SetPart(part, value);
  }
}

struct OpenState {
  Runner runner;
  Tokenizer tokenizer;
  SequenceState state;
};

OpenState Open(const StateFlags& flags) {
  Runner runner = OpenRunner(flags.model, {.quiet = true});
  Tokenizer tokenizer = LoadTokenizerOf(runner.model, flags.model);
  SequenceState state = runner.LoadState(flags.file);
  return {std::move(runner), std::move(tokenizer), std::move(state)};
}

int RunShow(const StateFlags& flags, const CommonFlags& common) {
  OpenState open = Open(flags);
  ShowState(flags, open.state, open.tokenizer, common.json);
  return kDone;
}

int RunEdit(const StateFlags& flags, const CommonFlags& common) {
  if (flags.reset.empty() && flags.zero.empty())
    throw Error(ErrorCode::kUsage, "state edit: nothing to do: give --reset PART or --zero PART");
  OpenState open = Open(flags);
  Set(flags.reset, "--reset", SequenceState::PartValue::kInitial, &open.state);
  Set(flags.zero, "--zero", SequenceState::PartValue::kZero, &open.state);
  open.state.Save(flags.output);
  if (!common.quiet) fmt::print(stderr, "{}: {} tokens\n", flags.output, open.state.pos());
  return kDone;
}

CLI::App* AddAction(CLI::App& state, VerbContext& context, const VerbLine& line, const std::string& example,
                    StateFlags* flags) {
  CLI::App* verb = context.AddVerb(state, line, example);
  verb->add_option("FILE", flags->file, "made by generate --state-save or /save")->required()->type_name("");
  verb->add_option("-m,--model", flags->model.model, "the model that it belongs to")->type_name("PATH");
  AddPreFlag(verb, &flags->model.pre);
  AddRuntimeFlags(verb, &flags->model);
  AddMemoryFlags(verb, &flags->model);
  return verb;
}

}  // namespace

void AddStateVerb(CLI::App& root, VerbContext& context) {
  const std::string example = "hydralm state show -m runs/demo/model talk.state";
  CLI::App* state = context.AddVerb(root, kStateVerb, example);
  auto show = std::make_shared<StateFlags>();
  CLI::App* verb =
      AddAction(*state, context, {"show", "sizes, norms, slots and landmarks of a saved state"}, example, show.get());
  context.AddJsonFlag(verb);
  context.OnRun(verb, [show](const CommonFlags& common) { return RunShow(*show, common); });

  auto edit = std::make_shared<StateFlags>();
  verb = AddAction(*state, context, {"edit", "write a saved state with parts set back or to zero"},
                   "hydralm state edit -m runs/demo/model talk.state --reset workspace -o other.state", edit.get());
  verb->add_option("-o,--output", edit->output, "the new file")->required()->type_name("FILE");
  verb->add_option("--reset", edit->reset, "as at the start: ssm, landmarks, moe or workspace; repeatable")
      ->type_name("PART");
  verb->add_option("--zero", edit->zero, "to zero; repeatable")->type_name("PART");
  context.OnRun(verb, [edit](const CommonFlags& common) { return RunEdit(*edit, common); });
}

}  // namespace hydra::cli
