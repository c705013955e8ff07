// SPDX-License-Identifier: Apache-2.0
// The frame of hydralm and hydralm-train: from argv to a verb and from an exception to an exit status.
// Not here: help texts (help.cc), stop signals (signals.cc), verbs.
#include "hydra/cli/cli.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>

#include "hydra/base/error.h"
#include "hydra/base/number.h"
#include "hydra/base/version.h"
#include "hydra/cli/help.h"

namespace hydra::cli {
namespace {

constexpr std::string_view kEnvPrefix = "HYDRALM_ARG_";

// --ctx-size <-> HYDRALM_ARG_CTX_SIZE
std::string EnvName(const std::string& flag) {
  std::string name(kEnvPrefix);
  for (const char c : flag) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::vector<CLI::App*> AllVerbs(CLI::App& app) {
  return app.get_subcommands([](CLI::App*) { return true; });
}

// Names of all flags of an app and its verbs, without dashes.
void CollectFlags(CLI::App& app, std::set<std::string>& flags) {
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      if (name != "help") flags.insert(name);
  for (CLI::App* verb : AllVerbs(app)) CollectFlags(*verb, flags);
}

// This command's folder: the other command lies there too.
std::filesystem::path OwnFolder() {
  std::error_code code;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", code);
  return code ? std::filesystem::path(".") : self.parent_path();
}

// The flags that the other command knows: asked only when a variable is unknown to this one.
std::set<std::string> SiblingFlags(const char* sibling) {
  std::set<std::string> flags;
  const std::filesystem::path path = OwnFolder() / sibling;
  if (access(path.c_str(), X_OK) != 0) return flags;
  std::string command = "'";
  for (const char c : path.string()) command += c == '\'' ? std::string("'\\''") : std::string(1, c);
  command += "' --list-flags";
  const auto close = [](FILE* file) { pclose(file); };
  const std::unique_ptr<FILE, decltype(close)> pipe(popen(command.c_str(), "r"), close);
  std::string line;
  for (int c = 0; pipe && (c = std::fgetc(pipe.get())) != EOF;) {
    if (c != '\n') {
      line += static_cast<char>(c);
    } else {
      flags.insert(std::exchange(line, ""));
    }
  }
  return flags;
}

// A misspelt variable would otherwise be a setting that is silently ignored.
void CheckEnvironment(CLI::App& root, const char* sibling) {
  std::set<std::string> names;
  const auto add = [&](const std::set<std::string>& flags) {
    for (const std::string& flag : flags) names.insert(EnvName(flag));
  };
  std::set<std::string> own;
  CollectFlags(root, own);
  add(own);
  bool asked = false;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (text.substr(0, kEnvPrefix.size()) != kEnvPrefix) continue;
    const std::string name(text.substr(0, text.find('=')));
    if (names.count(name) == 0 && !std::exchange(asked, true)) add(SiblingFlags(sibling));
    if (names.count(name) == 0)
      throw Error(ErrorCode::kUsage, fmt::format("{}: no verb has such a flag{}", name, DidYouMean(name, names)));
  }
}

// Variables count for the verb that was typed only: CLI11 would read them into every verb of the same flag.
void BindEnvironment(CLI::App& root, int argc, char** argv) {
  CLI::App* app = &root;
  for (int i = 1; i < argc; ++i) {
    const std::vector<CLI::App*> verbs = AllVerbs(*app);
    const auto next =
        std::find_if(verbs.begin(), verbs.end(), [&](CLI::App* verb) { return verb->check_name(argv[i]); });
    if (next == verbs.end()) {
      if (app == &root) return;
      continue;
    }
    app = *next;
    for (CLI::Option* option : app->get_options())
      if (!option->get_lnames().empty() && option->get_lnames().front() != "help")
        option->envname(EnvName(option->get_lnames().front()));
  }
}

// The verb that was typed, the innermost one.
const CLI::App* Innermost(const CLI::App& root) {
  const CLI::App* app = &root;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

std::string VerbPath(const CLI::App* app) {
  std::string path;
  for (; app->get_parent() != nullptr; app = app->get_parent())
    path = app->get_name() + (path.empty() ? "" : " ") + path;
  return path;
}

// What was typed and nobody knows: a flag, a verb or one argument too many.
std::string UnknownText(const CLI::App& root, const Program& program) {
  const std::vector<std::string> rest = root.remaining(true);
  const std::string word = rest.empty() ? "" : rest.front();
  const CLI::App* app = Innermost(root);
  const std::string path = VerbPath(app);
  const std::string where = path.empty() ? "" : path + ": ";
  std::vector<std::string> names;
  if (word.size() > 1 && word.front() == '-') {
    const std::string flag = word.substr(0, word.find('='));
    for (const CLI::Option* option : app->get_options())
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    return fmt::format("{}unknown flag {}{}", where, flag, DidYouMean(flag, names));
  }
  for (const CLI::App* verb : app->get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(verb->get_name());
  if (app == &root)
    for (const VerbLine& line : program.handed) names.push_back(line.name);
  if (names.empty()) return fmt::format("{}{}: one argument too many", where, word);
  return fmt::format("{}unknown verb {}{}: hydralm{}{} --help lists them", where, word, DidYouMean(word, names),
                     path.empty() ? "" : " ", path);
}

// CLI11's words brought into the form "--flag value: rule".
std::string ParseErrorText(const CLI::ParseError& error, const CLI::App& root, const Program& program) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) return UnknownText(root, program);
  std::string text = error.what();
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (const std::string prefix = "Could not convert: "; text.rfind(prefix, 0) == 0) {
    text = text.substr(prefix.size());  // "--ctx = abc"
    if (const size_t sign = text.find(" = "); sign != std::string::npos) text.replace(sign, 3, " ");
    const CLI::Option* option = Innermost(root)->get_option_no_throw(text.substr(0, text.find(' ')));
    const bool takes_none = option != nullptr && option->get_items_expected_max() == 0;
    text += takes_none ? ": must be true or false" : ": not a number of the right kind";
  } else if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr && text.rfind("--", 0) == 0) {
    // "--flag: 1 required TYPE missing", "--flag: At most 1 required but received 2"
    const bool twice = text.find("received ") != std::string::npos && text.find("received 0") == std::string::npos;
    text = text.substr(0, text.find(':')) + (twice ? ": given more than once" : ": needs a value");
  } else if (dynamic_cast<const CLI::ValidationError*>(&error) != nullptr && text.rfind("--", 0) == 0) {
    if (const size_t colon = text.find(": "); colon != std::string::npos) text.erase(colon, 1);
    if (const size_t end = text.find(" not in {"); end != std::string::npos) text.replace(end, 7, ": must be one of");
  }
  const std::string flag = text.substr(0, text.find_first_of(" :"));
  if (flag.rfind("--", 0) == 0)
    if (const char* value = std::getenv(EnvName(flag.substr(2)).c_str()); value != nullptr)
      for (const CLI::Option* option : Innermost(root)->get_options())
        if (option->check_name(flag) && option->results() == std::vector<std::string>{value})
          text += fmt::format(" ({} sets it)", EnvName(flag.substr(2)));
  return text;
}

// Replaces this process by `hydralm-train VERB ...`; returns only by throwing.
[[noreturn]] void HandOver(const Program& program, char** argv) {
  const std::string path = (OwnFolder() / program.sibling).string();
  if (access(path.c_str(), F_OK) != 0)
    throw Error(ErrorCode::kNotBuilt, fmt::format("{0} needs {1}, which was not built (no LibTorch was found): "
                                                  "make setup-torch && make",
                                                  argv[1], program.sibling));
  // libgomp's threads spin for milliseconds at each barrier; where another program has a core, the others wait for it
  // that long (measured: 20 times slower). It reads this when it is loaded, so it must be set before.
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "1000", /*overwrite=*/0);
  argv[0] = const_cast<char*>(path.c_str());  // execv does not write to it
  execv(path.c_str(), argv);
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot be started: {}", path, std::strerror(errno)));
}

std::string FirstLine(const char* text) {
  const std::string_view view(text);
  return std::string(view.substr(0, view.find('\n')));
}

int Fail(int status, const char* code, const std::string& message, bool json) {
  std::fflush(stdout);
  if (json) {
    const nlohmann::json body = {{"error", {{"code", code}, {"message", message}}}};
    std::fputs((body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n").c_str(), stdout);
  }
  std::fprintf(stderr, "hydralm: %s\n", message.c_str());
  return status;
}

// A stop on its way from a callback to the exit status.
struct Stopped {};

// Runs `body` and turns what it throws into a line and a status.
int Guarded(bool json, const std::function<int()>& body) {
  try {
    const int status = body();
    errno = 0;
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return Fail(kUserError, ErrorCodeText(ErrorCode::kIo),
                  fmt::format("stdout: {}", errno != 0 ? std::strerror(errno) : "write error"), false);
    return status;
  } catch (const Stopped&) {
    return StopStatus();
  } catch (const Error& error) {
    const int status = error.code() == ErrorCode::kDiverged ? kGuardStopped : kUserError;
    return Fail(status, ErrorCodeText(error.code()), error.what(), json);
  } catch (const std::bad_alloc&) {
    return Fail(kUserError, "out of memory", "out of memory", json);
  } catch (const std::filesystem::filesystem_error& error) {
    return Fail(kUserError, ErrorCodeText(ErrorCode::kIo),
                fmt::format("{}: {}", error.path1().string(), error.code().message()), json);
  } catch (const std::exception& error) {
    return Fail(kBug, "internal error", "internal error: " + FirstLine(error.what()), json);
  }
}

// True when errors are wanted as JSON too; looked up by hand, for it must hold when parsing fails.
bool WantsJson(int argc, char** argv) {
  const char* value = std::getenv("HYDRALM_ARG_JSON");
  if (value != nullptr && (std::strcmp(value, "1") == 0 || std::strcmp(value, "true") == 0)) return true;
  return std::any_of(argv + 1, argv + std::max(argc, 1),
                     [](const char* arg) { return std::strcmp(arg, "--json") == 0; });
}

constexpr const char* kRangeCheck = "range";  // the name of a check that Range() made

bool HasRange(CLI::Option& option) {
  try {
    (void)option.get_validator(kRangeCheck);
    return true;
  } catch (const CLI::OptionNotFound&) {
    return false;
  }
}

// The value of a flag as CLI11 is to read it, which knows hexadecimal and octal. Returns what is wrong with it.
std::string PlainWholeNumber(std::string& text, bool has_range) {
  try {
    text = std::to_string(ParseWholeNumber(text, INT64_MIN, INT64_MAX, ""));
  } catch (const Error&) {
    if (!has_range) return text + ": must be a whole number";  // else that check says which
  }
  return "";
}

std::string PlainNumber(const std::string& text) {
  try {
    (void)ParseNumber(text, "");
    return "";
  } catch (const Error& error) {
    return std::string(error.what()).substr(std::strlen(" = "));  // "TEXT: RULE"
  }
}

// base/number.h for all flags of an app and its verbs.
void ApplyNumberRule(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    const std::string kind = type.substr(0, type.find_first_of(",:"));
    if (kind == "INT" || kind == "UINT" || kind == "N") {
      const bool has_range = HasRange(*option);
      option->transform(
          CLI::Validator([has_range](std::string& text) { return PlainWholeNumber(text, has_range); }, ""));
    } else if (kind == "FLOAT" || kind == "X" || kind == "SHARE") {
      option->transform(CLI::Validator(PlainNumber, ""));
    }
  }
  for (CLI::App* verb : AllVerbs(app)) ApplyNumberRule(*verb);
}

// Parses argv and runs the verb; throws Error.
int ParseAndRun(int argc, char** argv, const Program& program, CLI::App& root, VerbContext& context) {
  context.SetHandOver([&program, argv] { HandOver(program, argv); });
  for (const AddVerbFunction add : program.verbs) add(root, context);
  ApplyNumberRule(root);
  if (argc > 1 && std::strcmp(argv[1], "--list-flags") == 0) {  // not for people: see SiblingFlags
    std::set<std::string> flags;
    CollectFlags(root, flags);
    for (const std::string& flag : flags) std::puts(flag.c_str());
    return kDone;
  }
  CheckEnvironment(root, program.sibling);
  for (const VerbLine& line : program.handed)
    if (argc > 1 && line.name == std::string_view(argv[1])) HandOver(program, argv);
  BindEnvironment(root, argc, argv);
  try {
    root.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const CLI::App* app = Innermost(root);
    std::fputs((app == &root ? RootHelp(root, program.handed) : root.help()).c_str(), stdout);
    return kDone;
  } catch (const CLI::CallForVersion& version) {
    std::puts(version.what());
    return kDone;
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorCode::kUsage, ParseErrorText(error, root, program));
  }
  if (Innermost(root) == &root) {
    std::fputs(RootHelp(root, program.handed).c_str(), stdout);
    return kDone;
  }
  return context.Chosen(root)(context.flags());
}

}  // namespace

CLI::App* VerbContext::AddVerb(CLI::App& parent, const VerbLine& line, const std::string& example) {
  CLI::App* verb = parent.add_subcommand(line.name, line.text);
  verb->footer(example);
  // At most one: otherwise CLI11 takes a file that is called "data" for the verb of that name.
  parent.require_subcommand(0, 1);
  return verb;
}

void VerbContext::AddJsonFlag(CLI::App* verb) {
  verb->add_flag("--json", flags_.json, "the result as one JSON object");
}

void VerbContext::HandOver() const {
  hand_over_();
  throw std::logic_error("the other command did not take over");
}

void VerbContext::OnRun(CLI::App* verb, Run run) {
  verb->add_flag("-q,--quiet", flags_.quiet, "results and errors only");
  verb->add_flag("-v,--verbose", flags_.verbose, "say more, where there is more to say");
  entries_.push_back({verb, std::move(run)});
}

const VerbContext::Run& VerbContext::Chosen(const CLI::App& root) const {
  const CLI::App* verb = Innermost(root);
  for (const Entry& entry : entries_)
    if (entry.verb == verb) return entry.run;
  std::string names;
  for (const CLI::App* sub : verb->get_subcommands([](const CLI::App*) { return true; }))
    names += (names.empty() ? "" : ", ") + sub->get_name();
  HYDRA_CHECK(!names.empty(), "verb ", verb->get_name(), " has neither a function nor verbs of its own");
  throw Error(ErrorCode::kUsage, fmt::format("{}: needs one of: {}", VerbPath(verb), names));
}

CLI::Validator Range(long long low, long long high) {
  const auto check = [low, high](std::string& text) -> std::string {
    try {
      (void)ParseWholeNumber(text, low, high, "");
      return "";
    } catch (const Error&) {
      if (high == LLONG_MAX) return fmt::format("{}: must be a whole number, at least {}", text, low);
      return fmt::format("{}: must be {}..{}", text, low, high);
    }
  };
  return CLI::Validator(check, "", kRangeCheck);
}

int RunProgram(int argc, char** argv, const Program& program) {
  InstallCleanUp();
  InstallBusErrors();
  CLI::App root(StrCat("hydralm ", Version(), ": train and run sparse hybrid language models"), "hydralm");
  VerbContext context;
  root.set_help_flag("-h,--help", "this text");
  root.set_version_flag("--version", StrCat("hydralm ", Version()));
  root.formatter(std::make_shared<VerbFormatter>());
  root.option_defaults()->always_capture_default();
  return Guarded(WantsJson(argc, argv), [&] { return ParseAndRun(argc, argv, program, root, context); });
}

CLI::Option* AddNumbers(CLI::App* verb, const std::string& names, std::vector<int64_t>* numbers,
                        const std::string& text, const CLI::Validator& each) {
  const std::string name = names.substr(names.rfind(',') + 1);
  const auto take = [=](const std::vector<std::string>& given) {
    numbers->clear();
    for (const std::string& list : given)
      for (size_t begin = 0; begin <= list.size();) {
        const size_t end = std::min(list.find(',', begin), list.size());
        std::string number = list.substr(begin, end - begin);
        const std::string fault = number.empty() ? list + ": a number is missing" : each(number);
        if (!fault.empty()) throw CLI::ValidationError(name, fault);
        numbers->push_back(ParseWholeNumber(number, INT64_MIN, INT64_MAX, name));
        begin = end + 1;
      }
    return true;
  };
  const auto shown = [numbers] {
    std::string all;
    for (const int64_t n : *numbers) all += StrCat(all.empty() ? "" : ",", n);
    return all;
  };
  return verb->add_option(names, take, text, true, shown)
      ->type_name("LIST")
      ->expected(1, 1 << 16)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void ThrowIfStopped() {
  if (StopRequested()) throw Stopped();
}

void PrintWarnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) fmt::print(stderr, "hydralm: warning: {}\n", warning);
}

}  // namespace hydra::cli
