// SPDX-License-Identifier: Apache-2.0
// Fields of both endpoints, one after another.
#include "hydra/serve/text_call.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <random>
#include <string_view>
#include <utility>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/base/rng.h"
#include "hydra/base/utf8.h"
#include "hydra/io/file.h"
#include "hydra/serve/chat_tools.h"
#include "hydra/serve/prompt_fields.h"
#include "hydra/text/json_schema.h"

namespace hydra::serve {
namespace {

void CheckModel(Fields& body, const ServedModel& served) {
  const auto name = body.Text("model");
  if (!name || *name == served.name || std::ranges::find(served.aliases, *name) != served.aliases.end()) return;
  throw ApiError(kNotFound, "model \"" + OneLine(*name, 60) + "\" is not served here: " + served.name + " is", "model",
                 "model_not_found");
}

// ---- Sampling ----

std::vector<std::pair<int32_t, double>> ReadLogitBias(Fields& body, const ServedModel& served) {
  std::vector<std::pair<int32_t, double>> bias;
  const Json* object = body.Find("logit_bias");
  if (object == nullptr) return bias;
  if (!object->is_object()) body.Refuse("logit_bias", "must be an object of ids and numbers");
  constexpr double kMost = 100;
  for (const auto& [key, value] : object->items()) {
    if (!value.is_number() || !(std::abs(value.get<double>()) <= kMost))
      body.Refuse("logit_bias", StrCat("each value must be a number from ", -kMost, " to ", kMost));
    const int64_t id =
        OfField("logit_bias", [&] { return ParseWholeNumber(key, 0, served.tokenizer.vocab_size() - 1, "id"); });
    bias.emplace_back(static_cast<int32_t>(id), value.get<double>());
  }
  return bias;
}

SamplerOptions ReadSampling(Fields& body, const ServedModel& served) {
  SamplerOptions s = served.sampling;
  constexpr double kMostPenalty = 2, kMostTemperature = 100;
  s.temperature = body.Number("temperature", 0, kMostTemperature).value_or(s.temperature);
  s.top_p = body.Number("top_p", 0, 1).value_or(s.top_p);
  if (s.top_p == 0) body.Refuse("top_p", "must be above 0 and at most 1");
  s.top_k = body.Whole("top_k", 0, INT32_MAX).value_or(s.top_k);
  s.min_p = body.Number("min_p", 0, 1).value_or(s.min_p);
  s.presence_penalty = body.Number("presence_penalty", -kMostPenalty, kMostPenalty).value_or(s.presence_penalty);
  s.frequency_penalty = body.Number("frequency_penalty", -kMostPenalty, kMostPenalty).value_or(s.frequency_penalty);
  s.repeat_penalty = body.Number("repeat_penalty", 0.01, 100).value_or(s.repeat_penalty);
  s.repeat_last_n = body.Whole("repeat_last_n", 0, INT32_MAX).value_or(s.repeat_last_n);
  for (auto& each : ReadLogitBias(body, served)) s.logit_bias.push_back(each);
  const int64_t seed = body.Whole("seed", INT64_MIN, INT64_MAX).value_or(-1);
  s.seed = seed >= 0 ? static_cast<uint64_t>(seed) : std::random_device{}();
  OfField("sampling", [&] { s.Validate(); });
  return s;
}

std::vector<std::string> ReadStops(Fields& body) {
  std::vector<std::string> stops;
  const Json* value = body.Find("stop");
  if (value == nullptr) return stops;
  const auto add = [&](const Json& one) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty() ||
        one.get_ref<const std::string&>().size() > static_cast<size_t>(kMostStopBytes))
      body.Refuse("stop", StrCat("each must be a text of 1 to ", kMostStopBytes, " bytes"));
    stops.push_back(one.get<std::string>());
  };
  if (value->is_string()) {
    add(*value);
  } else if (value->is_array() && static_cast<int64_t>(value->size()) <= kMostStops) {
    for (const Json& one : *value) add(one);
  } else {
    body.Refuse("stop", StrCat("must be a text or a list of at most ", kMostStops));
  }
  return stops;
}

// ---- The object "hydralm" ----

Controls ReadControls(const Json& value, const Controls& base, const ModelConfig& config) {
  const std::string name = "hydralm.controls";
  if (!value.is_object()) throw ApiError(kBadRequest, name + ": must be an object", name);
  return OfField(name, [&] {
    Json all = Json::parse(ControlsJson(base)), given = value;
    if (given.contains("domain")) {
      if (!given["domain"].is_string()) throw Error(ErrorCode::kUsage, "domain: must be the name of one");
      given["ban_experts"] = ExpertsOutside(config.moe, given["domain"].get<std::string>());
      given.erase("domain");
    }
    all.update(given);
    Controls controls = ParseControlsJson(all.dump(), name);
    controls.Validate(config);
    return controls;
  });
}

std::shared_ptr<const MemoryOverlay> ReadMemory(Fields& own, const ServedModel& served) {
  const Json* value = own.Find("memory");
  if (value == nullptr) return served.memory;
  if (!value->is_array()) own.Refuse("memory", "must be a list of names of packs");
  std::vector<WeightedPack> packs;
  for (const Json& name : *value) {
    const auto found = std::ranges::find_if(served.packs, [&](const NamedPack& p) { return IsText(name, p.name); });
    if (found == served.packs.end()) own.Refuse("memory", "each must be the name of a pack of /props");
    packs.push_back(found->pack);
  }
  if (packs.empty()) return nullptr;
  return OfField("hydralm.memory",
                 [&] { return MemoryOverlay::Make(packs, served.model.weights().source, served.add_packs); });
}

// What of "hydralm" each text gets. `state`: the name of a saved one, "" for none.
struct OwnFields {
  std::string state;
  bool trace = false;
};
OwnFields ReadOwn(Fields& body, const ServedModel& served, TextRequest* text, std::vector<std::string>* ignored) {
  OwnFields out;
  text->controls = served.controls;
  text->memory = served.memory;
  auto own = body.Object("hydralm");
  if (!own) return out;
  out.trace = own->Bool("trace").value_or(false);
  out.state = own->Text("state").value_or("");
  text->speculate = own->Bool("speculation").value_or(true);
  text->memory = ReadMemory(*own, served);
  if (const Json* controls = own->Find("controls"))
    text->controls = ReadControls(*controls, served.controls, served.model.config());
  for (const std::string& name : own->Ignored()) ignored->push_back(name);
  return out;
}

// ---- Both ----

// What response_format holds texts to; null: nothing.
std::shared_ptr<GrammarMasks> ReadFormat(Fields& body, const ServedModel& served) {
  auto format = body.Object("response_format");
  if (!format) return nullptr;
  const std::string type = format->Text("type").value_or("");
  if (type == "text") return nullptr;
  if (type == "json_object") return served.forms->Get(type, JsonObjectGrammar);
  if (type != "json_schema") body.Refuse("response_format", "type must be text, json_object or json_schema");
  const std::string where = "response_format.json_schema.schema";
  auto named = format->Object("json_schema");
  const Json* schema = named ? named->Find("schema") : nullptr;
  if (schema == nullptr) throw ApiError(kBadRequest, where + ": is missing", where);
  return WithParam(where, [&] {
    return served.forms->Get("schema " + DumpJson(*schema), [&] { return JsonSchemaGrammar(*schema, where); });
  });
}

// What holds calls of tools to their form; null: no tool may be called.
std::shared_ptr<GrammarMasks> FormOf(const ChatTools& tools, const ServedModel& served) {
  if (tools.allowed.is_null()) return nullptr;
  const ToolGrammarOptions options{.before = std::string(kCallBefore),
                                   .after = std::string(kCallAfter),
                                   .text = !tools.required,
                                   .several = tools.several};
  const std::string key = StrCat("tools ", tools.required, " ", tools.several, " ", DumpJson(tools.allowed));
  return WithParam("tools", [&] {
    return served.forms->Get(key, [&] { return ToolCallGrammar(tools.allowed, "tools", options); });
  });
}

// What all texts of a call have in common, apart from their prompts and lengths.
struct Shared {
  SamplerOptions sampling;
  std::vector<std::string> stops;
  OwnFields own;
  std::shared_ptr<GrammarMasks> form;
  bool endless;  // end tokens never come
};
Shared ReadShared(Fields& body, const ServedModel& served, TextCall* call, TextRequest* text) {
  CheckModel(body, served);
  Shared shared{.sampling = ReadSampling(body, served),
                .stops = ReadStops(body),
                .own = {},
                .form = ReadFormat(body, served),
                .endless = body.Bool("ignore_eos").value_or(false)};
  shared.own = ReadOwn(body, served, text, &call->ignored);
  call->trace = text->trace = shared.own.trace;
  call->seed = static_cast<int64_t>(shared.sampling.seed & INT64_MAX);
  call->choices = static_cast<int>(body.Whole("n", 1, kMostChoices).value_or(1));
  call->stream = body.Bool("stream").value_or(false);
  if (auto options = body.Object("stream_options")) {
    if (!call->stream) body.Refuse("stream_options", "is for streams");
    call->include_usage = options->Bool("include_usage").value_or(false);
    for (const std::string& name : options->Ignored()) call->ignored.push_back(name);
  }
  return shared;
}

// New tokens of a prompt of n: as asked, or to the end of the context.
int64_t LengthOf(std::optional<int64_t> asked, int64_t n, const ServedModel& served, const char* param) {
  const int64_t room = served.context - n;
  if (room < asked.value_or(1))
    throw ApiError(kBadRequest,
                   StrCat("the prompt has ", n, " tokens", asked ? StrCat(", ", *asked, " are to be written") : "",
                          ": the context has ", served.context),
                   param, "context_length_exceeded");
  return asked.value_or(std::min(room, served.longest));
}

// The saved state that a request names, for each of its texts.
void LoadState(const std::string& name, bool has_controls, const ServedModel& served, const Caller& caller,
               TextCall* call) {
  if (caller.states == nullptr)
    throw ApiError(kBadRequest, "hydralm.state: this server keeps no states (--state-dir)", "hydralm.state");
  SequenceState state = caller.states->Load(caller.owner, name, served.model, call->texts[0].memory, served.plan);
  for (TextRequest& text : call->texts) {
    const auto ids = state.ids();
    if (ids.size() >= text.prompt.size() || !std::equal(ids.begin(), ids.end(), text.prompt.begin()))
      throw ApiError(kBadRequest,
                     StrCat("hydralm.state: the prompt of ", text.prompt.size(), " tokens does not begin with the ",
                            ids.size(), " of state ", name, " and go on"),
                     "hydralm.state", "state_mismatch");
    SequenceState own = state.Fork();
    own.SetPending({});
    if (has_controls) OfField("hydralm.controls", [&] { own.SetControls(text.controls); });
    text.base = std::move(own);
  }
}

// The texts of a call: choices of each prompt.
void MakeTexts(std::vector<TextRequest> prompts, const Shared& shared, const ServedModel& served, const Caller& caller,
               TextCall* call) {
  for (TextRequest& prompt : prompts) {
    call->prompt_tokens += static_cast<int64_t>(prompt.prompt.size());
    prompt.sampling = shared.sampling;
    for (const std::string& stop : shared.stops) prompt.stops.push_back(stop);
    for (const int32_t id : served.end_ids) prompt.end_ids.push_back(id);
    constexpr double kNever = -1e30;
    if (shared.endless)
      for (const int32_t id : prompt.end_ids) prompt.sampling.logit_bias.emplace_back(id, kNever);
    prompt.owner = caller.owner;
    for (int choice = 0; choice < call->choices; ++choice) {
      TextRequest& text = call->texts.emplace_back();
      text.prompt = prompt.prompt;
      text.borders = prompt.borders;
      text.max_tokens = prompt.max_tokens;
      text.end_ids = prompt.end_ids;
      text.stops = prompt.stops;
      text.sampling = prompt.sampling;
      if (choice > 0) text.sampling.seed = Mix64(prompt.sampling.seed + static_cast<uint64_t>(choice));
      text.controls = prompt.controls;
      text.memory = prompt.memory;
      text.owner = prompt.owner;
      text.logprobs = call->logprobs;
      text.prompt_logprobs = call->echo && call->logprobs >= 0;
      text.end_logprob = !call->chat;  // as OpenAI lists them
      text.trace = prompt.trace;
      text.speculate = prompt.speculate;
      if (shared.form) text.grammar = std::make_unique<GrammarMatcher>(shared.form, text.end_ids);
    }
  }
}

// Fields that would change the text and are not served.
void RefuseUnserved(Fields& body, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const Json* value = body.Find(name);
    if (value == nullptr || (value->is_array() && value->empty()) || IsText(*value, "none")) continue;
    body.Refuse(name, "is not served");
  }
}

}  // namespace

TextCall ReadChatCall(const Json& json, const ServedModel& served, const Caller& caller) {
  Fields body(json);
  TextCall call;
  call.chat = true;
  TextRequest text;
  Shared shared = ReadShared(body, served, &call, &text);
  RefuseUnserved(body, {"functions", "function_call", "audio"});
  const ChatTools tools = ReadTools(body);
  if (const auto calls = FormOf(tools, served)) {
    if (shared.form) body.Refuse("response_format", "is for texts without tools");
    shared.form = calls;
    call.calls = true;
  }
  TemplateInput input{.messages = ReadMessages(body), .tools = tools.told};
  if (const Json* variables = body.Find("chat_template_kwargs")) {
    if (!variables->is_object()) body.Refuse("chat_template_kwargs", "must be an object");
    input.variables = *variables;
  }
  const ChatPrompter& prompter = PrompterOf(served);
  ChatPrompt prompt = OfField("messages", [&] { return prompter.Render(std::move(input)); });
  if (prompt.ids.empty()) throw ApiError(kBadRequest, "messages: have no tokens", "messages");
  const bool logprobs = body.Bool("logprobs").value_or(false);
  const auto top = body.Whole("top_logprobs", 0, kMostTopLogprobs);
  if (top && !logprobs) body.Refuse("top_logprobs", "needs logprobs = true");
  if (logprobs) call.logprobs = static_cast<int>(top.value_or(0));
  const auto old = body.Whole("max_tokens", 1, INT32_MAX);
  const auto asked = body.Whole("max_completion_tokens", 1, INT32_MAX);
  text.max_tokens = LengthOf(asked ? asked : old, static_cast<int64_t>(prompt.ids.size()), served, "messages");
  text.prompt = std::move(prompt.ids);
  text.borders = std::move(prompt.borders);
  text.end_ids = prompter.EndIds();
  text.stops = prompter.Stops();
  const Json* own = body.Find("hydralm");
  const bool has_controls = own != nullptr && own->contains("controls");
  std::vector<TextRequest> prompts;
  prompts.push_back(std::move(text));
  MakeTexts(std::move(prompts), shared, served, caller, &call);
  if (!shared.own.state.empty()) LoadState(shared.own.state, has_controls, served, caller, &call);
  for (const std::string& name : body.Ignored()) call.ignored.push_back(name);
  return call;
}

TextCall ReadCompletionCall(const Json& json, const ServedModel& served, const Caller& caller) {
  Fields body(json);
  TextCall call;
  TextRequest text;
  const Shared shared = ReadShared(body, served, &call, &text);
  RefuseUnserved(body, {"suffix"});
  if (const auto best = body.Whole("best_of", 1, INT32_MAX); best && *best != call.choices)
    body.Refuse("best_of", "must be n: texts are not compared");
  call.echo = body.Bool("echo").value_or(false);
  call.logprobs = static_cast<int>(body.Whole("logprobs", 0, kMostTopLogprobs).value_or(-1));
  constexpr int64_t kUsual = 16;  // as OpenAI has it
  const int64_t asked = body.Whole("max_tokens", 0, INT32_MAX).value_or(kUsual);
  std::vector<TextRequest> prompts;
  for (GivenPrompt& prompt : ReadPrompts(body, served)) {
    TextRequest& each = prompts.emplace_back();
    each.controls = text.controls;
    each.memory = text.memory;
    each.trace = text.trace;
    each.speculate = text.speculate;
    const auto n = static_cast<int64_t>(prompt.ids.size());
    each.max_tokens = LengthOf(asked, n, served, "prompt");
    constexpr int64_t kWorthIt = 64;  // tokens that a second text of this prompt need not read
    if (n > kWorthIt || call.choices > 1) each.borders = {n - 1};
    each.prompt = std::move(prompt.ids);
    if (call.echo) call.echoed.push_back(std::move(prompt.text));
  }
  const Json* own = body.Find("hydralm");
  const bool has_controls = own != nullptr && own->contains("controls");
  MakeTexts(std::move(prompts), shared, served, caller, &call);
  if (!shared.own.state.empty()) LoadState(shared.own.state, has_controls, served, caller, &call);
  for (const std::string& name : body.Ignored()) call.ignored.push_back(name);
  return call;
}

TextRequest ReadPromptCall(Fields& body, const ServedModel& served) {
  CheckModel(body, served);
  TextRequest text;
  std::vector<std::string> ignored;
  const OwnFields own = ReadOwn(body, served, &text, &ignored);
  if (!own.state.empty())
    throw ApiError(kBadRequest, "hydralm.state: a new state begins at its first token", "hydralm.state");
  if (body.Find("messages") != nullptr) {
    ChatPrompt prompt =
        OfField("messages", [&] { return PrompterOf(served).Render({.messages = ReadMessages(body)}); });
    // A conversation goes on behind its last message: the head of an answer is left to the request that wants one.
    const int64_t end = prompt.borders.empty() ? static_cast<int64_t>(prompt.ids.size()) : prompt.borders.back();
    prompt.ids.resize(static_cast<size_t>(end));
    text.prompt = std::move(prompt.ids);
  } else {
    std::vector<GivenPrompt> prompts = ReadPrompts(body, served);
    if (prompts.size() != 1) body.Refuse("prompt", "must be one text or one list of ids");
    text.prompt = std::move(prompts[0].ids);
  }
  const auto n = static_cast<int64_t>(text.prompt.size());
  if (n > served.context)
    throw ApiError(kBadRequest, StrCat("the prompt has ", n, " tokens: the context has ", served.context), "prompt",
                   "context_length_exceeded");
  return text;
}

}  // namespace hydra::serve
