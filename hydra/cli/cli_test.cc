// SPDX-License-Identifier: Apache-2.0
// The frame of the commands, with verbs that are made up here. Not here: the real verbs (tests/commands/cli_test.py).
#include "hydra/cli/cli.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "hydra/base/error.h"
#include "hydra/base/testing.h"
#include "hydra/io/file.h"

namespace hydra::cli {
namespace {

struct CopyOptions {
  std::string file;
  int ctx_size = 8192;
  int64_t offset = 0;
  double rate = 1;
  std::string fail, share, ids;
};

CopyOptions g_copied;  // what the last run of the verb was given
CommonFlags g_common;

void AddCopyVerb(CLI::App& root, VerbContext& context) {
  auto options = std::make_shared<CopyOptions>();
  CLI::App* verb = context.AddVerb(root, {"copy", "copy a file"}, "hydralm copy a.txt --ctx-size 16");
  verb->add_option("FILE", options->file, "what to copy");
  verb->add_option("-c,--ctx-size", options->ctx_size, "tokens a sequence")->check(Range(1, 65535));
  verb->add_option("--offset", options->offset, "a whole number without a range");
  verb->add_option("--rate", options->rate, "a number");
  verb->add_option("--share", options->share, "a number kept as text")->type_name("SHARE");
  verb->add_option("--ids", options->ids, "a whole number kept as text")->type_name("N,..");
  verb->add_option("--fail", options->fail, "how to fail");
  context.AddJsonFlag(verb);
  context.OnRun(verb, [options](const CommonFlags& common) -> int {
    g_copied = *options;
    g_common = common;
    if (options->fail == "error") throw Error(ErrorCode::kConfig, "a.json: top_k = 9: must be 1 to 8");
    if (options->fail == "diverged") throw Error(ErrorCode::kDiverged, "loss is not finite");
    if (options->fail == "bug") throw std::logic_error("broken\nsecond line");
    if (options->fail == "memory") throw std::bad_alloc();
    return options->fail == "check" ? kCheckFailed : kDone;
  });
}

void AddDataVerb(CLI::App& root, VerbContext& context) {
  CLI::App* data = context.AddVerb(root, {"data", "token shards"}, "hydralm data build a.txt");
  auto options = std::make_shared<CopyOptions>();
  CLI::App* build = context.AddVerb(*data, {"build", "build shards"}, "hydralm data build a.txt");
  build->add_option("FILE", options->file, "a text")->required();
  build->add_option("--ctx-size", options->ctx_size, "tokens");
  context.OnRun(build, [options](const CommonFlags&) -> int {
    g_copied = *options;
    return kDone;
  });
  CLI::App* check = context.AddVerb(*data, {"check", "check shards"}, "hydralm data check DIR");
  context.OnRun(check, [](const CommonFlags&) -> int { return kCheckFailed; });
}

struct Outcome {
  int status = -1;
  std::string out, err;
};

Outcome RunWords(std::vector<std::string> words) {
  words.insert(words.begin(), "hydralm");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  g_copied = {};
  g_common = {};
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.status = RunProgram(
      static_cast<int>(words.size()), argv.data(),
      {.verbs = {AddCopyVerb, AddDataVerb}, .handed = {{"train", "train a model"}}, .sibling = "no-such-command"});
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

// A variable of the environment for the length of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

TEST(Cli, AloneListsTheVerbs) {
  const Outcome got = RunWords({});
  EXPECT_EQ(got.status, kDone);
  EXPECT_NE(got.out.find("  train  train a model\n"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("  copy   copy a file\n"), std::string::npos) << got.out;
  EXPECT_EQ(got.err, "");
  EXPECT_EQ(RunWords({"--help"}).out, got.out);
}

TEST(Cli, VersionIsOneLine) {
  const Outcome got = RunWords({"--version"});
  EXPECT_EQ(got.status, kDone);
  EXPECT_EQ(got.out.rfind("hydralm 0.", 0), 0U) << got.out;
}

TEST(Cli, HelpBeginsWithAnExampleAndShowsDefaults) {
  const Outcome got = RunWords({"copy", "--help"});
  EXPECT_EQ(got.status, kDone);
  EXPECT_EQ(got.out.rfind("Example: hydralm copy a.txt --ctx-size 16\n", 0), 0U) << got.out;
  EXPECT_NE(got.out.find("-c, --ctx-size N"), std::string::npos) << got.out;
  EXPECT_NE(got.out.find("tokens a sequence [8192]"), std::string::npos) << got.out;
}

TEST(Cli, FlagsReachTheVerb) {
  EXPECT_EQ(RunWords({"copy", "a.txt", "-c", "16", "-q"}).status, kDone);
  EXPECT_EQ(g_copied.file, "a.txt");
  EXPECT_EQ(g_copied.ctx_size, 16);
  EXPECT_TRUE(g_common.quiet);
  EXPECT_FALSE(g_common.json);
}

TEST(Cli, NumbersAreDecimal) {
  EXPECT_EQ(RunWords({"copy", "a", "-c", "010", "--offset", "-007", "--rate", "-2.5e-3"}).status, kDone);
  EXPECT_EQ(g_copied.ctx_size, 10);  // not eight
  EXPECT_EQ(g_copied.offset, -7);
  EXPECT_EQ(g_copied.rate, -2.5e-3);
  EXPECT_EQ(RunWords({"copy", "a", "-c", "+16", "--rate", "+.5"}).status, kDone);
  EXPECT_EQ(g_copied.ctx_size, 16);
  EXPECT_EQ(g_copied.rate, 0.5);
}

TEST(Cli, EveryVerbTakesQuietAndVerbose) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"copy", "a"}, {"data", "build", "a"}, {"data", "check"}})
    for (const char* flag : {"-q", "--quiet", "-v", "--verbose"}) {
      std::vector<std::string> all = words;
      all.push_back(flag);
      EXPECT_EQ(RunWords(all).err, "") << words.front() << " " << flag;
    }
}

TEST(Cli, AFileCalledLikeAVerbIsAFile) {
  EXPECT_EQ(RunWords({"data", "build", "copy"}).status, kDone);
  EXPECT_EQ(g_copied.file, "copy");
  EXPECT_EQ(RunWords({"data", "build", "build"}).status, kDone);
  EXPECT_EQ(g_copied.file, "build");
  EXPECT_EQ(RunWords({"copy", "data"}).status, kDone);
  EXPECT_EQ(g_copied.file, "data");
}

TEST(Cli, MistakesAreOneLineAndStatusTwo) {
  const struct {
    std::vector<std::string> words;
    const char* line;
  } cases[] = {
      {{"cpy"}, "hydralm: unknown verb cpy (did you mean copy?): hydralm --help lists them\n"},
      {{"tran"}, "hydralm: unknown verb tran (did you mean train?): hydralm --help lists them\n"},
      {{"data", "biuld", "a"}, "hydralm: data: unknown verb biuld"},
      {{"data"}, "hydralm: data: needs one of: build, check\n"},
      {{"data", "build"}, "hydralm: FILE is required\n"},
      {{"copy", "--ctx-sise", "4"}, "hydralm: copy: unknown flag --ctx-sise (did you mean --ctx-size?)\n"},
      {{"copy", "--ctx-sise=4"}, "hydralm: copy: unknown flag --ctx-sise (did you mean --ctx-size?)\n"},
      {{"copy", "a", "b"}, "hydralm: copy: b: one argument too many\n"},
      {{"copy", "-c", "80808"}, "hydralm: --ctx-size 80808: must be 1..65535\n"},
      {{"copy", "-c", "99999999999999999999"}, "hydralm: --ctx-size 99999999999999999999: must be 1..65535\n"},
      {{"copy", "-c", "0.5"}, "hydralm: --ctx-size 0.5: must be 1..65535\n"},
      {{"copy", "-c", "-1"}, "hydralm: --ctx-size -1: must be 1..65535\n"},
      {{"copy", "-c"}, "hydralm: --ctx-size: needs a value\n"},
      {{"data", "build", "a", "--ctx-size", "x"}, "hydralm: --ctx-size x: must be a whole number\n"},
      {{"copy", "-c", "0x10"}, "hydralm: --ctx-size 0x10: must be 1..65535\n"},
      {{"copy", "--offset", "0x10"}, "hydralm: --offset 0x10: must be a whole number\n"},
      {{"copy", "--offset", "1e3"}, "hydralm: --offset 1e3: must be a whole number\n"},
      {{"copy", "--ids", "0x10"}, "hydralm: --ids 0x10: must be a whole number\n"},
      {{"copy", "--rate", "0x1p3"}, "hydralm: --rate 0x1p3: must be a number\n"},
      {{"copy", "--rate", "nan"}, "hydralm: --rate nan: must be a finite number\n"},
      {{"copy", "--rate", "-inf"}, "hydralm: --rate -inf: must be a finite number\n"},
      {{"copy", "--rate", "1e-50"}, "hydralm: --rate 1e-50: is too small: 0, or at least 1.2e-38\n"},
      {{"copy", "--rate", "1e999"}, "hydralm: --rate 1e999: is out of range: 0, or 1.2e-38 to 3.4e38 in size\n"},
      {{"copy", "--rate", ""}, "hydralm: --rate "},
      {{"copy", "--share", "inf"}, "hydralm: --share inf: must be a finite number\n"},
      {{"train", "-C", "x"},
       "hydralm: train needs no-such-command, which was not built (no LibTorch was found): "
       "make setup-torch && make\n"},
  };
  for (const auto& c : cases) {
    const Outcome got = RunWords(c.words);
    SCOPED_TRACE(c.line);
    EXPECT_EQ(got.status, kUserError);
    EXPECT_EQ(got.out, "");
    EXPECT_EQ(got.err.rfind(c.line, 0), 0U) << got.err;
    EXPECT_EQ(got.err.find('\n'), got.err.size() - 1) << got.err;
  }
}

TEST(Cli, ExceptionsBecomeStatuses) {
  EXPECT_EQ(RunWords({"copy", "--fail", "check"}).status, kCheckFailed);
  EXPECT_EQ(RunWords({"data", "check"}).status, kCheckFailed);
  const Outcome error = RunWords({"copy", "--fail", "error"});
  EXPECT_EQ(error.status, kUserError);
  EXPECT_EQ(error.err, "hydralm: a.json: top_k = 9: must be 1 to 8\n");
  const Outcome bug = RunWords({"copy", "--fail", "bug"});
  EXPECT_EQ(bug.status, kBug);
  EXPECT_EQ(bug.err, "hydralm: internal error: broken\n");
  EXPECT_EQ(RunWords({"copy", "--fail", "diverged"}).status, kGuardStopped);
  EXPECT_EQ(RunWords({"copy", "--fail", "memory"}).err, "hydralm: out of memory\n");
}

TEST(Cli, JsonErrorsAreOneObjectOnStdoutToo) {
  const std::string want = "{\"error\":{\"code\":\"" + std::string(ErrorCodeText(ErrorCode::kConfig)) +
                           "\",\"message\":\"a.json: top_k = 9: must be 1 to 8\"}}\n";
  const Outcome got = RunWords({"copy", "--fail", "error", "--json"});
  EXPECT_EQ(got.out, want);
  EXPECT_EQ(got.err, "hydralm: a.json: top_k = 9: must be 1 to 8\n");
  EXPECT_EQ(RunWords({"copy", "--json", "--ctx-sise", "1"}).out.rfind("{\"error\":", 0), 0U);  // while parsing, too
}

TEST(Cli, VariablesSetFlagsAndFlagsWin) {
  const Variable ctx("HYDRALM_ARG_CTX_SIZE", "33");
  EXPECT_EQ(RunWords({"copy", "a"}).status, kDone);
  EXPECT_EQ(g_copied.ctx_size, 33);
  EXPECT_EQ(RunWords({"copy", "a", "-c", "44"}).status, kDone);
  EXPECT_EQ(g_copied.ctx_size, 44);
  EXPECT_EQ(RunWords({"data", "build", "a"}).status, kDone);  // a verb of a verb
  EXPECT_EQ(g_copied.ctx_size, 33);
}

TEST(Cli, AVariableOfAnotherVerbIsLeftAlone) {
  const Variable fail("HYDRALM_ARG_FAIL", "bug");
  EXPECT_EQ(RunWords({"data", "check"}).status, kCheckFailed);
  EXPECT_EQ(RunWords({"copy"}).status, kBug);
}

TEST(Cli, BadVariablesAreErrors) {
  {
    const Variable ctx("HYDRALM_ARG_CTX_SIZE", "70000");
    EXPECT_EQ(RunWords({"copy"}).err, "hydralm: --ctx-size 70000: must be 1..65535 (HYDRALM_ARG_CTX_SIZE sets it)\n");
  }
  const Variable unknown("HYDRALM_ARG_CTX_SISE", "1");
  const Outcome got = RunWords({"copy"});
  EXPECT_EQ(got.status, kUserError);
  EXPECT_EQ(got.err, "hydralm: HYDRALM_ARG_CTX_SISE: no verb has such a flag (did you mean HYDRALM_ARG_CTX_SIZE?)\n");
}

TEST(Cli, StopSignalsSetAFlagOnce) {
  EXPECT_EXIT(
      {
        InstallStopSignals();
        const bool before = StopRequested();
        std::raise(SIGTERM);
        ClearStop();  // forgets an interrupt alone
        std::_Exit(!before && StopRequested() && StopSignal() == SIGTERM ? StopStatus() : 1);
      },
      testing::ExitedWithCode(kTerminated), "");
  EXPECT_EXIT(
      {
        InstallStopSignals();
        std::raise(SIGINT);
        ClearStop();
        std::raise(SIGINT);
        std::raise(SIGINT);  // asked twice: at once
        std::_Exit(1);
      },
      testing::ExitedWithCode(kInterrupted), "");
  EXPECT_EXIT(
      {
        InstallCleanUp();
        InstallStopSignals();
        std::raise(SIGHUP);  // as SIGTERM
        std::_Exit(StopSignal() == SIGTERM ? StopStatus() : 1);
      },
      testing::ExitedWithCode(kTerminated), "");
  EXPECT_EXIT(
      {
        std::signal(SIGHUP, SIG_IGN);  // nohup
        InstallCleanUp();
        InstallStopSignals();
        std::raise(SIGHUP);
        std::_Exit(StopRequested() ? 1 : 5);
      },
      testing::ExitedWithCode(5), "");
}

// As on a full disk: an error that names the file, and nothing is left.
TEST(Cli, ALimitOnFileSizesIsAnError) {
  const TempDir dir;
  EXPECT_EXIT(
      {
        InstallCleanUp();
        rlimit limit{};
        limit.rlim_cur = limit.rlim_max = 1000;
        setrlimit(RLIMIT_FSIZE, &limit);
        try {
          WriteFileAtomic(dir / "a", std::string(5000, 'x'));
        } catch (const Error& error) {
          std::fprintf(stderr, "%s\n", error.what());
          std::_Exit(dir.CountFiles() == 0 ? kUserError : 1);
        }
        std::_Exit(0);
      },
      testing::ExitedWithCode(kUserError), "File too large");
}

}  // namespace
}  // namespace hydra::cli
